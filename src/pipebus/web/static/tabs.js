// The views: which one is shown is in the fragment of the URL, as in `#conversation=ID`.

import { $ } from "./show.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

/**
 * Show the view that the URL names, now and whenever it changes.
 *
 * @param views - for each name what to do when it is shown (`show(argument)`) and left (`hide()`).
 */
export function startTabs(views) {
  let current;
  const select = () => {
    const [, named, argument] = location.hash.match(/^#(\w+)=?(.*)$/) ?? [null, "graph", ""];
    const name = named in views ? named : "graph";
    for (const tab of tabs) {
      const chosen = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", chosen);
      tab.tabIndex = chosen ? 0 : -1;
      $(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
    }
    $("#whole").close();
    if (current !== name) views[current]?.hide?.();
    current = name;
    views[name].show?.(decoded(argument));
  };
  for (const tab of tabs) tab.addEventListener("keydown", (event) => move(event, tab));
  addEventListener("hashchange", select);
  select();
  return { again: select, current: () => current };
}

function move(event, tab) {
  const at = tabs.indexOf(tab);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1, " ": at }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = tabs[(to + tabs.length) % tabs.length];
  next.focus();
  location.hash = next.hash;
}

function decoded(argument) {
  try {
    return decodeURIComponent(argument);
  } catch {
    return argument;
  }
}
