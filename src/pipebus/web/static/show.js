// Texts and elements. What comes from the bus reaches the page through `text` and `put` only: never as markup.

const ODD = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;
const ODD_BUT_LINES = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const $ = (selector, within = document) => within.querySelector(selector);

export function make(tag, className = "", ...inside) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...inside);
  return made;
}

export function cloned(template) {
  return document.getElementById(template).content.firstElementChild.cloneNode(true);
}

/** Change a text only if it is another one: the browser lays out nothing for the others. */
export function put(node, value) {
  if (node.said !== value) node.textContent = node.said = value;
}

/**
 * A text of the bus as an element: isolated from the direction of what surrounds it, cut, and with an escape in place of each
 * character that cannot be seen, or that changes the order of others.
 */
export function text(value, { most = 300, lines = false } = {}) {
  const whole = typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value, null, lines ? 2 : 0);
  const odd = lines ? ODD_BUT_LINES : ODD;
  const made = make("bdi");
  const shown = cut(whole, most);
  if (!odd.test(shown)) made.append(shown);
  else for (const part of shown.split(new RegExp(`(${odd.source})`, "u"))) {
    if (part) made.append(odd.test(part) ? make("span", "escaped", escaped(part)) : part);
  }
  if (shown.length < whole.length) {
    const note = lines ? `\n… cut: these are ${count(shown.length)} of ${count(whole.length)} characters` : "…";
    made.append(make("span", "cut", note));
  }
  return made;
}

function cut(whole, most) {
  const half = whole.length > most && /[\uD800-\uDBFF]/.test(whole[most - 1]);
  return whole.slice(0, half ? most - 1 : most);
}

function escaped(character) {
  const code = character.codePointAt(0).toString(16);
  return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
}

export const count = (number) => NUMBER.format(number);

export const rate = (number) => `${0.05 < number && number < 9.95 ? number.toFixed(1) : count(number)}/s`;

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${Number((value * 1000).toPrecision(3))} ms`;
  if (value < 60) return `${Number(value.toPrecision(3))} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 172800) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${count(Math.floor(value / 86400))} days`;
}

export function moment(unix) {
  const date = new Date(unix * 1000);
  if (Number.isNaN(date.getTime())) return make("span", "", "–");
  const clock = `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  const today = date.toDateString() === new Date().toDateString();
  const made = make("time", "", today ? clock : `${date.toLocaleDateString("sv")} ${clock}`);
  made.dateTime = date.toISOString();
  return made;
}

/** A form that asks the bus: its problem is shown below it, in words of the bus. */
export function onSubmit(form, problem, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await saying(problem, () => work(new FormData(form)));
  });
}

export async function saying(problem, work) {
  problem.replaceChildren();
  try {
    await work();
  } catch (error) {
    problem.append(text(error.message, { most: 2000, lines: true }));
  }
}

/** A term with what it is, for a list of facts. */
export function fact(term, ...value) {
  return make("div", "", make("dt", "", term), make("dd", "", ...value));
}
