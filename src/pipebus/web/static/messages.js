// A tap: the latest messages of a pattern. It listens only while it is looked at.

import { $, make, moment, onSubmit, put, text } from "./show.js";
import { follow } from "./connect.js";
import { opener, showWhole } from "./whole.js";

const ROWS = 200;
const form = $("#tap");
const rows = $("#passing");
const pauseButton = $("#pause");
const problem = $("#panel-messages > .problem");
let stop;
let paused = false;
let held = [];
const shown = new Map(); // rows by the id of their message, the oldest first
let pattern = form.pattern.value;

export function show() {
  hide();
  if (paused) return;
  problem.replaceChildren();
  stop = follow(`api/messages?pattern=${encodeURIComponent(pattern)}`, {
    messages: add,
    refused: (error) => problem.replaceChildren(text(error.message)),
  });
}

export function hide() {
  stop?.();
  stop = undefined;
}

/** Rows do not move while somebody points at one. A message that is taken again comes again, with all that took it. */
function add({ sampled, messages }) {
  held = [...held, ...messages].slice(-ROWS);
  if (rows.matches(":hover, :focus-within")) return put($("#seen"), "Held while you point at the list");
  put($("#seen"), sampled ? "A sample: more messages pass than are shown" : "All messages are shown");
  for (const message of held) {
    shown.get(message.id)?.remove();
    shown.delete(message.id);
    shown.set(message.id, row(message));
    rows.prepend(shown.get(message.id));
  }
  held = [];
  for (const [id, old] of [...shown].slice(0, Math.max(0, shown.size - ROWS))) {
    old.remove();
    shown.delete(id);
  }
}

function row(message) {
  const open = () => showWhole(message, "Message");
  return make(
    "tr",
    "",
    make("td", "time", moment(message.time)),
    make("td", "", opener(message, open)),
    make("td", "extra code", text(message.key ?? "", { most: 60 })),
    make("td", "code body", text(message.body, { most: 120 })),
    make("td", "extra", text((message.subscriptions ?? []).join(", "), { most: 80 })),
  );
}

onSubmit(form, problem, () => {
  pattern = form.pattern.value;
  rows.replaceChildren();
  shown.clear();
  held = [];
  setPaused(false);
});

pauseButton.addEventListener("click", () => setPaused(!paused));

function setPaused(now) {
  paused = now;
  pauseButton.setAttribute("aria-pressed", paused);
  put($("#seen"), paused ? "Paused" : "");
  show();
}
