// The path of a message: each filter, what it changed, the outcome, and the mailboxes.

import { $, fact, make, onSubmit, saying, seconds, text } from "./show.js";
import { ask } from "./connect.js";
import { arrow, hops, settingsOf } from "./chain.js";

const form = $("#trace");
const problem = $(".problem", form);
const way = $("#way");

/** Show the path of a recent message, if the URL has its number. */
export async function show(number) {
  if (!number) return;
  way.replaceChildren();
  await saying(problem, async () => draw(await ask("api/path", { number: Number(number) })));
}

onSubmit(form, problem, async (data) => {
  way.replaceChildren();
  const headers = data.get("headers").trim();
  draw(
    await ask("api/path", {
      subject: data.get("subject"),
      body: value(data.get("body")),
      headers: headers ? object(headers) : {},
      key: data.get("key") || null,
    }),
  );
});

function value(written) {
  if (!written.trim()) return null;
  try {
    return JSON.parse(written);
  } catch {
    return written;
  }
}

function object(written) {
  try {
    const found = JSON.parse(written);
    if (found && typeof found === "object" && !Array.isArray(found)) return found;
  } catch {
    // the error below says it
  }
  throw new Error('Headers are a JSON object, as in {"tenant": "acme"}.');
}

function draw({ steps, outcome, mailboxes }) {
  $("#came").textContent = `${outcome.outcome} after ${steps.length} filters, ${mailboxes.length} mailboxes`;
  way.replaceChildren(
    make("h3", "", "Filters"),
    steps.length ? make("ol", "chain", ...steps.map(step)) : make("p", "quiet", "No filter applies."),
    make("h3", "", "Outcome"),
    result(outcome),
    make("h3", "", "Mailboxes"),
    mailboxes.length ? make("ul", "plain", ...mailboxes.map(mailbox)) : make("p", "quiet", "No mailbox gets it."),
  );
}

function step({ filter, why, place, settings, took, message, changes = [] }) {
  const box = make("div", "box", make("b", "what", text(filter)), " ", make("span", "settings code", settingsOf(settings ?? {})));
  if (took !== null && took !== undefined) box.append(make("span", "took quiet", seconds(took)));
  box.append(make("span", "place quiet code", text(place)));
  if (why) box.append(make("p", "quiet", text(why)));
  if (changes.length) box.append(difference(changes));
  else box.append(make("p", message ? "quiet" : "bad", message ? "unchanged" : "ends here"));
  return make("li", "step", box);
}

function difference(changes) {
  const head = ["Field", "Before", "After"].map((name) => Object.assign(make("th", "", name), { scope: "col" }));
  const cell = (tag, value) => make("td", "code", value === undefined ? "–" : make(tag, "", text(value, { most: 500 })));
  const rows = changes.map(({ path, before, after }) =>
    make("tr", "", make("td", "code", text(path)), cell("del", before), cell("ins", after)),
  );
  const caption = make("caption", "unseen", "What it changed");
  return make("table", "diff", caption, make("thead", "", make("tr", "", ...head)), make("tbody", "", ...rows));
}

function result({ outcome, by, reason }) {
  const good = outcome === "accepted";
  return make(
    "dl",
    `facts ${good ? "good" : outcome === "unrouted" || outcome === "dropped" ? "warn" : "bad"}`,
    fact("Outcome", make("b", "", text(outcome))),
    ...(by ? [fact("By", text(by))] : []),
    ...(reason ? [fact("Reason", text(reason, { most: 2000, lines: true }))] : []),
  );
}

function mailbox({ subscription, on, filters, handler }) {
  return make("li", "box", make("b", "", text(subscription)), " on ", make("span", "code", text(on.join(", "))), " ", arrow(), ...hops([...filters, handler ?? "read by the program"]));
}
