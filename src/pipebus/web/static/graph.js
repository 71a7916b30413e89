// The graph: publish chain, transport, subscriptions. Only what is visible is changed when figures come.

import { $, cloned, count, make, put, rate, seconds, text } from "./show.js";
import { around, arrow, hop, hops, losses, matches, namesIn, steps } from "./chain.js";
import { states } from "./state.js";

const RESORT = 2000; // milliseconds
const FIRST = 100; // cards that are kept in order while figures come: to move a thousand would take longer than a frame
const list = $("#subscriptions");
const filter = $("#filter");
const sort = $("#sort");
const cards = new Map(); // by name
const visible = new Set();
const ends = new Map(); // for each publish filter, the list of what it ended
const published = new Map(); // where each publish filter shows its state
let figures = new Map(); // of subscriptions, by name
let latest;
let sorted = 0;

const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const card = cards.get(target.dataset.name);
      if (card?.item !== target) continue;
      if (!isIntersecting) visible.delete(card);
      else {
        visible.add(card);
        fill(card);
        update(card);
      }
    }
  },
  { rootMargin: "200px" },
);

/** Draw what the bus consists of. */
export function describe({ describe: bus, url }) {
  $("#transport").replaceChildren(text(url));
  ends.clear();
  published.clear();
  const chain = steps(bus.publish, published, ends);
  $("#publish").replaceChildren(...(chain.length ? chain : [make("li", "quiet", "no filter")]));
  $("#schedules").hidden = !bus.schedules.length;
  $("#schedules ul").replaceChildren(...bus.schedules.map(schedule));
  renew(bus);
  arrange();
  if (latest) draw(latest);
}

/** Catch up with the figures that came while another view was shown. */
export const show = () => latest && draw(latest);

/** Keep figures for when the graph is shown. */
export const keep = (found) => (latest = found);

/** Draw how the bus is doing. */
export function draw(found) {
  latest = found;
  figures = new Map(found.subscriptions.map((one) => [one.name, one]));
  const { messages, rates } = found;
  put($("#rate-published"), rate(rates.published));
  put($("#rate-accepted"), rate(rates.accepted));
  const { rejected = {}, dropped = {}, errors = {} } = messages;
  for (const [name, node] of ends) losses(node, { rejected: rejected[name] ?? {}, dropped: dropped[name] ?? {} });
  const other = { unrouted: messages.unrouted ? { "": messages.unrouted } : {}, rejected: {}, dropped: {}, errors };
  for (const [what, all] of [["rejected", rejected], ["dropped", dropped]]) {
    for (const [name, reasons] of Object.entries(all)) {
      if (!ends.has(name)) for (const [reason, n] of Object.entries(reasons)) other[what][`${name}: ${reason}`] = n;
    }
  }
  losses($("#losses"), other);
  states(published, found.filters);
  for (const card of visible) update(card);
  if (sort.value !== "name" && performance.now() - sorted > RESORT && !list.matches(":hover, :focus-within")) arrange(FIRST);
}

/** Make cards for what is new, and leave the others as they are: somebody may be reading them. */
function renew(bus) {
  const before = new Map(cards);
  const listeners = JSON.stringify(bus.subscriptions.map(({ name, subjects }) => [name, subjects]));
  const delivery = JSON.stringify(bus.delivery);
  cards.clear();
  for (const one of bus.subscriptions) {
    const said = JSON.stringify(one) + delivery + (one.to ? listeners : "");
    const known = before.get(one.name);
    cards.set(one.name, known?.said === said ? known : { ...skeleton(one), said, one, bus });
  }
  for (const [name, card] of before) {
    if (cards.get(name) === card) continue;
    watcher.unobserve(card.item);
    visible.delete(card);
    card.item.remove();
  }
}

function schedule(one) {
  const when = one.every === undefined ? `cron ${one.cron} ${one.timezone ?? ""}` : `every ${seconds(one.every)}`;
  return make("li", "code", text(when), " → ", text(one.subject));
}

/** The part of a card that is always there; the rest is made when it is first seen. */
function skeleton(one) {
  const heading = make("h4", "", text(one.name));
  heading.tabIndex = -1;
  const box = make("div", "box", make("div", "head", heading));
  const flow = make("span", "rate");
  const item = make("li", "", make("div", "edge right", make("span", "unseen", "in "), flow), box);
  item.dataset.name = one.name;
  const words = [one.name, ...one.subjects, one.handler ?? "", one.to ?? ""].join("\n").toLowerCase();
  watcher.observe(item);
  return { item, box, heading, flow, edge: item.firstElementChild, words };
}

function fill(card) {
  if (card.parts) return;
  const { one, bus, box } = card;
  const made = cloned("subscription");
  const part = (name) => made.querySelector(`.${name}`);
  card.parts = Object.fromEntries(
    ["depth", "bound", "out", "oldest", "p50", "p99", "in_flight", "dead", "losses"].map((name) => [name, part(name)]),
  );
  card.parts.paused = make("span", "pill warn");
  $(".head", box).append(card.parts.paused);
  card.parts.bound.setAttribute("aria-label", "depth");
  part("on").append(text(one.subjects.join(", ")));
  const chain = [...around(bus.delivery, one), ...one.filters];
  const workers = one.workers > 1 ? `${one.run}, ${one.workers} workers` : one.run;
  const handler = make("span", "hop end", text(one.handler ?? "read by the program"), make("span", "quiet", ` ${workers}`));
  card.states = new Map();
  card.inside = new Map();
  part("hops").append(...hops([...namesIn(chain).map((name) => hop(name, card.states)), handler]), ...(one.to ? goes(one, card) : []));
  const details = part("inside").parentElement;
  details.addEventListener("toggle", () => inside(card, details, chain), { once: true });
  box.append(...made.childNodes);
}

function inside(card, details, chain) {
  const { one } = card;
  const { size, overflow, timeout } = one.mailbox;
  const bound = `${overflow} at ${count(size)}${overflow === "block" ? `, ${seconds(timeout)}` : ""}`;
  const rest = [`mailbox: ${bound}`, `attempts: ${one.attempts}`, `begins with: ${one.deliver}`, one.reads ? `reads ${one.reads}` : ""];
  details.lastElementChild.append(
    make("ol", "chain", ...steps(chain, card.inside)),
    make("p", "quiet", text(rest.filter(Boolean).join("; "))),
    make("p", "quiet code", text(one.place)),
  );
  update(card);
}

/** Where returned values go, and who listens there. */
function goes(one, card) {
  const to = make("span", "to code", text(one.to));
  card.parts.returned = make("span", "quiet");
  const listeners = [...cards.values()].filter((other) => other.one.subjects.some((pattern) => matches(pattern, one.to)));
  const links = listeners.slice(0, 8).map((other) => {
    const button = make("button", "hop plain", text(other.one.name));
    button.type = "button";
    button.addEventListener("click", () => reveal(other));
    return button;
  });
  if (listeners.length > links.length) links.push(make("span", "quiet", ` and ${count(listeners.length - links.length)} more`));
  return [arrow(), to, card.parts.returned, " ", ...(links.length ? [arrow(), ...links] : [make("span", "quiet", " nobody listens")])];
}

function reveal(card) {
  if (card.item.hidden) {
    filter.value = "";
    arrange();
  }
  card.heading.focus();
  card.item.scrollIntoView({ block: "center" });
}

function update({ parts, one, flow, edge, states: words, inside: lists }) {
  const found = figures.get(one.name);
  if (!found || !parts) return;
  const { size, pending, in_flight: busy } = found;
  const depth = pending + busy;
  const full = size ? Math.min(1, depth / size) : 0;
  put(flow, rate(found.in));
  edge.style.setProperty("--thick", `${(1 + Math.min(5, Math.log10(1 + found.in))).toFixed(1)}px`);
  edge.classList.toggle("idle", !found.in);
  const said = size ? `${count(depth)} of ${count(size)}` : count(depth);
  if (parts.depth.said !== said) {
    put(parts.depth, said);
    parts.bound.setAttribute("aria-valuemax", size ?? depth);
    parts.bound.setAttribute("aria-valuenow", depth);
    parts.bound.setAttribute("aria-valuetext", said);
    parts.bound.className = `bound ${full < 0.7 ? "" : full < 0.9 ? "warn" : "bad"}`;
    parts.bound.firstElementChild.style.setProperty("--full", full.toFixed(3));
  }
  put(parts.out, rate(found.out));
  put(parts.oldest, seconds(found.oldest));
  put(parts.p50, seconds(found.p50));
  put(parts.p99, seconds(found.p99));
  put(parts.in_flight, count(busy));
  put(parts.dead, count(found.dead));
  parts.dead.classList.toggle("bad", found.dead > 0);
  parts.paused.hidden = !found.paused;
  const why = ["paused", found.paused_by.join(" and ")].filter(Boolean).join(" by ");
  if (parts.paused.said !== why) parts.paused.replaceChildren(text((parts.paused.said = why)));
  for (const places of [words, lists]) states(places, found.filters);
  if (parts.returned) put(parts.returned, ` at most ${rate(found.out)}`);
  losses(parts.losses, { dropped: found.dropped ?? {} });
}

const values = {
  depth: ({ pending, in_flight: busy }) => pending + busy,
  age: ({ oldest }) => oldest ?? -1,
  rate: (found) => found.in,
};

/** Put the cards in order, and hide those that the filter leaves out. */
function arrange(first = Infinity) {
  sorted = performance.now();
  const wanted = filter.value.trim().toLowerCase();
  const value = values[sort.value] ?? (() => 0);
  const keyed = [...cards.values()].map((card) => ({ card, key: figures.has(card.one.name) ? value(figures.get(card.one.name)) : -1 }));
  keyed.sort((one, other) => other.key - one.key || (one.card.one.name < other.card.one.name ? -1 : 1));
  let at = list.firstElementChild;
  let shown = 0;
  for (const [place, { card }] of keyed.entries()) {
    const { item } = card;
    item.hidden = !card.words.includes(wanted);
    shown += !item.hidden;
    if (place >= first) continue;
    if (item === at) at = at.nextElementSibling;
    else list.insertBefore(item, at);
  }
  put($("#shown"), shown === cards.size ? count(shown) : `${count(shown)} of ${count(cards.size)}`);
}

filter.addEventListener("input", () => arrange());
sort.addEventListener("change", () => arrange());
