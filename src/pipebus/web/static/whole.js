// One message as a whole, in a window of its own.

import { $, fact, make, moment, text } from "./show.js";

const MOST = 20_000;

/** Open the window. `more` are facts and texts that a message alone does not have: `[[term, node]]` and `{title: text}`. */
export function showWhole(message, title, { facts = [], texts = {} } = {}) {
  $("#whole-title").replaceChildren(title);
  const subscriptions = message.subscriptions ?? [];
  const known = [
    ["Subject", text(message.subject)],
    ["Time", moment(message.time)],
    ["Id", text(message.id)],
    message.key && ["Key", text(message.key)],
    message.correlation_id && ["Correlation id", text(message.correlation_id)],
    message.causation_id && ["Caused by", text(message.causation_id)],
    subscriptions.length && ["Subscriptions", text(subscriptions.join(", "), { most: 1000 })],
  ];
  $("#whole-facts").replaceChildren(...[...known.filter(Boolean), ...facts].map(([term, value]) => fact(term, value)));
  const blocks = { Body: message.body, Headers: message.headers, ...texts };
  $("#whole-texts").replaceChildren(...Object.entries(blocks).flatMap(([name, value]) => block(name, value)));
  if (message.cut) $("#whole-texts pre").append(make("span", "cut", "\n… the bus has cut this body"));
  link("#whole-path", message.number, "path");
  link("#whole-talk", message.correlation_id ?? message.id, "conversation");
  $("#whole").showModal();
}

/** A button that opens the window, with what it is about as its text. */
export function opener(message, open) {
  const button = make("button", "plain code", text(message.subject, { most: 120 }));
  button.type = "button";
  button.addEventListener("click", open);
  return button;
}

function block(name, value) {
  const shown = text(value, { most: MOST, lines: true });
  const pre = make("pre", "", shown.childNodes.length ? shown : "(empty)");
  pre.tabIndex = 0;
  const heading = make("h3", "", name);
  heading.id = `whole-${name}`;
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-labelledby", heading.id);
  return [heading, pre];
}

function link(selector, value, view) {
  const found = $(selector);
  found.hidden = value === undefined || value === null;
  found.href = `#${view}=${encodeURIComponent(value ?? "")}`;
  found.onclick = () => $("#whole").close();
}
