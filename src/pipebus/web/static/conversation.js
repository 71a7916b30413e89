// A conversation: the messages of one correlation id, each below the one that caused it.

import { $, count, make, moment, onSubmit, saying, text } from "./show.js";
import { ask } from "./connect.js";
import { opener, showWhole } from "./whole.js";

const DEEPEST = 32;
const form = $("#talk");
const problem = $("#panel-conversation > .problem");

export async function show(id) {
  form.elements.id.value = id;
  if (id) await saying(problem, async () => draw((await ask(`api/conversation/${encodeURIComponent(id)}`)).messages));
}

/** Causes are placed first. Those that go round in a circle, because their ids are wrong, are cut open. */
function draw(messages) {
  const known = new Map(messages.map((message) => [message.id, message]));
  const placed = new Map();
  const roots = make("ul");
  for (const message of [...messages].sort((one, other) => one.time - other.time)) {
    const line = [];
    for (let at = message; at && !placed.has(at.id) && !line.includes(at); at = known.get(at.causation_id)) line.unshift(at);
    for (const one of line) {
      const cause = placed.get(one.causation_id);
      const item = leaf(one);
      const list = !cause ? roots : cause.depth < DEEPEST ? below(cause.item) : cause.item.parentElement;
      list.append(item);
      placed.set(one.id, { item, depth: (cause?.depth ?? 0) + 1 });
    }
  }
  $("#tree").replaceChildren(...roots.childNodes);
  const many = `${count(messages.length)} message${messages.length === 1 ? "" : "s"} of this conversation`;
  $("#talked").textContent = messages.length ? `${many}, among the latest of the bus` : "None of the latest messages belongs to it.";
}

function below(item) {
  if (item.lastElementChild.tagName !== "UL") item.append(make("ul"));
  return item.lastElementChild;
}

function leaf(message) {
  const to = (message.subscriptions ?? []).join(", ");
  return make(
    "li",
    "",
    opener(message, () => showWhole(message, "Message")),
    make("span", "quiet", " ", moment(message.time), to ? " to " : "", text(to, { most: 120 })),
    make("div", "code body", text(message.body, { most: 160 })),
  );
}

onSubmit(form, problem, (data) => {
  const hash = `#conversation=${encodeURIComponent(data.get("id"))}`;
  if (location.hash === hash) return show(data.get("id"));
  location.hash = hash;
});
