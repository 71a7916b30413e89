// Dead letters: what could not be handled, and why.

import { $, count, make, moment, onSubmit, saying, text } from "./show.js";
import { ask } from "./connect.js";
import { opener, showWhole } from "./whole.js";

const form = $("#search");
const problem = $("#panel-dead > .problem");
const rows = $("#letters");
let last = "";
let known;
let turned = false;

export const show = () => saying(problem, () => load(false));

/** Load the first page again if the number of letters has changed, and nobody has turned the page or is in the table. */
export function changed(letters) {
  if (letters === known || turned || rows.contains(document.activeElement)) return;
  known = letters;
  show();
}

async function load(older) {
  const wanted = Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
  const query = new URLSearchParams(older ? { ...wanted, after: last } : wanted);
  const found = await ask(`api/dead?${query}`);
  turned = older;
  if (!older) rows.replaceChildren();
  rows.append(...found.letters.map(row));
  last = found.letters.at(-1)?.id ?? last;
  const shown = rows.rows.length;
  $("#total").textContent = found.total ? `${count(shown)} of ${count(found.total)} are shown` : "There are none.";
  $("#more").hidden = !found.letters.length || shown >= found.total;
}

function row(letter) {
  const open = () => saying(problem, async () => whole(await ask(`api/dead/${encodeURIComponent(letter.id)}`)));
  return make(
    "tr",
    "",
    make("td", "time", moment(letter.time)),
    make("td", "", opener(letter, open)),
    make("td", "", text(letter.place, { most: 100 })),
    make("td", "bad body", text(letter.error, { most: 200 })),
    make("td", "extra number", count(letter.attempts)),
  );
}

function whole(letter) {
  const facts = [["Place", text(letter.place)], ["Attempts", count(letter.attempts)], ["Error", text(letter.error, { most: 2000 })]];
  showWhole({ ...letter, ...letter.message, subscriptions: [] }, "Dead letter", { facts, texts: { Traceback: letter.traceback ?? "" } });
}

onSubmit(form, problem, () => load(false));
$("#more").addEventListener("click", () => saying(problem, () => load(true)));
