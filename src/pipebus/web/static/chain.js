// Chains of filters, as the description of the bus has them.

import { cloned, count, make, text } from "./show.js";
import { badge, enter } from "./state.js";

const REASONS = 5;

/**
 * Items for a list of steps. `places` gets where each filter shows its state; `found`, if it is given, for each name of a filter
 * the list for what that filter ended.
 */
export function steps(nodes, places, found) {
  return nodes.map((node) => {
    const item = cloned("step");
    const [what, state, settings, place, list] = item.firstElementChild.children;
    what.append(text(titleOf(node)));
    settings.append(settingsOf(node.settings ?? {}));
    place.append(text(node.place));
    if (node.filter) enter(places, node.filter, { badge: state, list });
    if (node.filter && found && !found.has(node.filter)) found.set(node.filter, item.querySelector(".losses"));
    if (!node.filter) {
      item.classList.add("group");
      const inside = item.lastElementChild;
      inside.hidden = false;
      inside.append(...steps(node.filters, places, found));
    }
    return item;
  });
}

export function titleOf(node) {
  if ("filter" in node) return node.filter;
  if ("pipeline" in node) return node.pipeline === "default" ? "Pipeline" : `Pipeline, on error ${node.pipeline}`;
  const kind = ["when", "branch", "switch", "otherwise"].find((name) => name in node);
  const test = node[kind];
  if (test === true) return kind;
  return `${kind} ${typeof test === "string" ? `"${test}"` : Object.values(test).join(", ")}`;
}

/** Settings that are set: those that are off, or have nothing in them, are left out. */
export function settingsOf(settings) {
  const chosen = Object.entries(settings).filter(([, value]) => value && (typeof value !== "object" || Object.keys(value).length));
  return text(chosen.map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", "));
}

export function arrow() {
  const made = make("span", "arrow", "→");
  made.setAttribute("aria-hidden", "true");
  return made;
}

/** The name of a filter on its way, with a place for its state. */
export function hop(name, places) {
  const state = badge();
  enter(places, name, { badge: state });
  return make("span", "hop", text(name), state);
}

/** Names, or elements of this class, with an arrow between one and the next. */
export function hops(stops) {
  const made = stops.map((one) => (typeof one === "string" ? make("span", "hop", text(one)) : one));
  return made.flatMap((one, at) => (at ? [arrow(), one] : [one]));
}

export const namesIn = (nodes) => nodes.flatMap((node) => (node.filter ? [node.filter] : namesIn(node.filters)));

/** The bus's delivery filters that apply: a reader has no handler, so those that wrap one do not. */
export function around(nodes, subscription) {
  if (subscription.handler) return nodes;
  return nodes.flatMap((node) => {
    if (node.filter) return node.shape === "transform" ? [node] : [];
    return [{ ...node, filters: around(node.filters, subscription) }];
  });
}

/** Whether a pattern of a subscription matches a subject: `*` is one token, `>` at the end one or more. */
export function matches(pattern, subject) {
  const wanted = pattern.split(".");
  const tokens = subject.split(".");
  const open = wanted.at(-1) === ">";
  if (open ? tokens.length < wanted.length : tokens.length !== wanted.length) return false;
  return wanted.every((token, at) => token === "*" || (open && at === wanted.length - 1) || token === tokens[at]);
}

/** Show what was lost and why, as in `{rejected: {"no price": 3}}`; nothing is touched while nothing changes. */
export function losses(list, found) {
  const said = JSON.stringify(found);
  if (list.said === said) return;
  list.said = said;
  list.replaceChildren(...Object.entries(found).flatMap(([what, reasons]) => reasonsOf(what, reasons)));
}

function reasonsOf(what, reasons) {
  const most = Object.entries(reasons).filter(([, number]) => number).sort(([, one], [, other]) => other - one);
  const items = most.slice(0, REASONS).map(([reason, number]) => item(what, number, reason));
  const rest = most.slice(REASONS);
  const others = rest.reduce((sum, [, number]) => sum + number, 0);
  return rest.length ? [...items, item(what, others, `${count(rest.length)} other reasons`)] : items;
}

function item(what, number, reason) {
  return make("li", what, make("b", "", `${count(number)} ${what}`), reason ? " " : "", text(reason, { most: 160 }));
}
