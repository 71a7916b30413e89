// What filters show of their state: a word next to the name, and all figures in a list.

import { count, fact, make, text } from "./show.js";

const BROKEN = ["open", "half_open"];

/** Where one filter shows its state: a `badge`, and perhaps a `list`. It is entered by a name that differs from the others. */
export function enter(places, name, place) {
  let free = name;
  for (let number = 2; places.has(free); number++) free = `${name} ${number}`; // as the bus calls the second one of a name
  places.set(free, place);
}

export const badge = () => make("span", "pill state");

/** Show what the bus has found; a filter that says nothing has no word. */
export function states(places, filters) {
  const found = new Map(Object.entries(filters));
  for (const [name, { badge, list }] of places) {
    const figures = found.get(name) ?? {};
    const said = JSON.stringify(figures);
    if (badge.said === said) continue;
    badge.said = said;
    const words = brief(figures);
    badge.replaceChildren(...(words ? [" ", text(words, { most: 40 })] : []));
    badge.classList.toggle("warn", BROKEN.includes(figures.state));
    list?.replaceChildren(...Object.entries(figures).map(([figure, value]) => fact(text(figure), shown(value))));
  }
}

/** The two figures that people look for: `state`, a text, and `waiting`, a number. */
function brief({ state, waiting }) {
  return [typeof state === "string" && state, waiting > 0 && `${shown(waiting)} waiting`].filter(Boolean).join(", ");
}

function shown(value) {
  if (typeof value !== "number") return text(value);
  return Number.isInteger(value) && Math.abs(value) < 1e15 ? count(value) : String(Number(value.toPrecision(4)));
}
