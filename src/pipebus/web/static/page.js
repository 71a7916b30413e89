// The page of a bus: it asks what the bus consists of, follows its figures, and shows one view at a time.

import { $, count, make, put, rate, text } from "./show.js";
import { ask, connection, follow, onOpened } from "./connect.js";
import { startTabs } from "./tabs.js";
import * as conversation from "./conversation.js";
import * as graph from "./graph.js";
import * as letters from "./letters.js";
import * as messages from "./messages.js";
import * as path from "./path.js";

const SILENCE = 25_000; // milliseconds without figures, after which the connection counts as lost
const HISTORY = 120; // points of a line, when it has gone on for a minute
const FEW = 20; // points that fill its width until there are more
const tiles = new Map();
let stop;
let waiting;
let tabs;

async function describe() {
  let bus;
  try {
    bus = await ask("api/bus");
  } catch (error) {
    return connection(error);
  }
  $("#name").replaceChildren(text(bus.name));
  document.title = `${$("#name").textContent} – pipebus`;
  $("#url").replaceChildren(text(bus.url), ` pipebus ${bus.version}`);
  put($("#state"), bus.state);
  graph.describe(bus);
  $("#trace button").disabled = !bus.dry_run;
  if (!bus.dry_run) $("#trace .problem").textContent = "The publish chain of this bus cannot be run dry.";
}

function start() {
  stop?.();
  stop = follow(
    "api/events",
    {
      opened: describe,
      changed: describe,
      lost: (error) => connection(error ?? true),
      refused: connection,
      problem: ({ error }) => put($("#connection"), error),
      figures: draw,
    },
    SILENCE,
  );
}

/** One drawing a frame, of the latest figures. */
function draw(figures) {
  if (!waiting) requestAnimationFrame(() => {
    drawn(waiting);
    waiting = undefined;
  });
  waiting = figures;
}

function drawn(figures) {
  connection();
  put($("#state"), figures.state);
  health(figures.health);
  const { messages: found, rates, subscriptions } = figures;
  const total = (reasons) => Object.values(reasons ?? {}).reduce((sum, one) => sum + (typeof one === "number" ? one : total(one)), 0);
  tile("Published", found.published, rates.published);
  tile("Accepted", found.accepted, rates.accepted);
  tile("Handled", undefined, rates.handled);
  tile("Refused", total(found.rejected) + total(found.errors), undefined, "bad");
  tile("Dropped", total(found.dropped) + total(subscriptions.map(({ dropped }) => total(dropped))), undefined, "warn");
  tile("Unrouted", found.unrouted, undefined, "warn");
  tile("Dead letters", found.dead_letters, undefined, "bad");
  put($("#dead-count"), count(found.dead_letters));
  $("#dead-count").hidden = !found.dead_letters;
  (tabs.current() === "graph" ? graph.draw : graph.keep)(figures);
  if (tabs.current() === "dead") letters.changed(found.dead_letters);
}

function health({ live, ready, degraded, reasons }) {
  const word = !live ? "Not live" : !ready ? "Not ready" : degraded ? "Degraded" : "Ready";
  const said = JSON.stringify([word, reasons]);
  const node = $("#health");
  if (node.said === said) return;
  node.said = said;
  node.className = !live || !ready ? "bad" : degraded ? "warn" : "good";
  node.replaceChildren(make("b", "", word), reasons.length ? ": " : "", text(reasons.join("; "), { most: 1000 }));
}

/** A figure with its rate, and a line of how the rate went. */
function tile(name, total, now, tone = "") {
  let found = tiles.get(name);
  if (!found) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    line.setAttribute("aria-hidden", "true");
    line.setAttribute("preserveAspectRatio", "none");
    line.append(document.createElementNS(line.namespaceURI, "polyline"));
    found = { value: make("dd", "value"), more: make("span", "quiet"), line, history: [] };
    found.box = make("div", "", make("dt", "", name), found.value, ...(now === undefined ? [] : [make("dd", "more", found.more, line)]));
    tiles.set(name, found);
    $("#tiles").append(found.box);
  }
  put(found.value, now === undefined ? count(total) : rate(now));
  put(found.more, now === undefined || total === undefined ? "" : `${count(total)} in all`);
  found.box.className = total ? tone : "";
  if (now === undefined) return;
  found.history = [...found.history, now].slice(-HISTORY);
  const most = Math.max(1, ...found.history);
  const wide = Math.max(FEW, found.history.length);
  const points = found.history.map((one, at) => `${wide - found.history.length + at},${(22 - (20 * one) / most).toFixed(1)}`);
  found.line.setAttribute("viewBox", `0 0 ${wide - 1} 24`);
  found.line.firstChild.setAttribute("points", points.join(" "));
}

tabs = startTabs({ graph, path, messages, conversation, dead: letters });
onOpened(() => {
  start();
  tabs.again();
});
// A window that nobody looks at holds no stream, and costs the bus nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stop?.();
    messages.hide();
  } else {
    start();
    if (tabs.current() === "messages") messages.show();
  }
});
if (!document.hidden) start();
