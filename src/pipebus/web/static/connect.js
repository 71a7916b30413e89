// Requests to the bus and streams of events, with the form for the token when it asks for one.

import { $, onSubmit, put } from "./show.js";

const opened = new EventTarget();

/** The answer as JSON. With `body` it is a POST. An error has the bus's own text. */
export async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await answer(path, body === undefined ? {} : post)).json();
}

/**
 * Follow a stream of events until the function that is returned is called. A stream that ends, or is silent for `patience`
 * milliseconds, is opened again; one that the bus refuses is not.
 *
 * @param on - a function for each kind of event; `opened` is called without data, `lost` and `refused` with the error.
 */
export function follow(path, on, patience = Infinity) {
  const ended = new AbortController();
  const run = async () => {
    for (let wait = 250; !ended.signal.aborted; wait = Math.min(wait * 2, 8000)) {
      const turn = new AbortController();
      const stop = () => turn.abort();
      let silence, problem;
      const alive = () => {
        clearTimeout(silence);
        if (patience < Infinity) silence = setTimeout(stop, patience);
      };
      ended.signal.addEventListener("abort", stop);
      try {
        alive();
        const response = await answer(path, { signal: turn.signal });
        on.opened?.();
        for await (const [name, data] of events(response, alive)) {
          wait = 250;
          queueMicrotask(() => on[name]?.(data)); // its own errors are no problem of the connection
        }
      } catch (error) {
        if (error instanceof Refused) return on.refused?.(error);
        problem = error;
      } finally {
        clearTimeout(silence);
        ended.signal.removeEventListener("abort", stop);
      }
      if (ended.signal.aborted) return;
      on.lost?.(problem);
      await pause(wait, ended.signal);
    }
  };
  run();
  return () => ended.abort();
}

/** Call `again` each time a token was accepted. */
export const onOpened = (again) => opened.addEventListener("opened", again);

/** What the bus has answered, in its own words. */
class Answered extends Error {}

class Refused extends Answered {}

async function answer(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  if (response.status === 401) {
    askForToken();
    throw new Refused("the bus asks for its token");
  }
  const said = await response.json().catch(() => ({}));
  const problem = said.error ?? `the server answered ${response.status} ${response.statusText}`;
  throw response.status < 500 ? new Refused(problem) : new Answered(problem);
}

async function* events(response, alive) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).map((line) => line.match(/^(event|data): ?(.*)$/)).filter(Boolean);
      const data = lines.filter(([, field]) => field === "data").map(([, , value]) => value).join("\n");
      if (data) yield [lines.find(([, field]) => field === "event")?.[2] ?? "message", JSON.parse(data)];
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", resolve);
  });
}

const form = $("#login");

function askForToken() {
  if (!form.hidden) return;
  form.hidden = false;
  document.body.classList.add("locked");
  form.token.focus();
}

onSubmit(form, $(".problem", form), async () => {
  const token = form.token.value;
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("login", { method: "POST", headers, body: JSON.stringify({ token }) });
  if (!response.ok) throw new Error(response.status === 401 ? "That is not the token." : "The server did not take the token.");
  form.token.value = "";
  form.hidden = true;
  document.body.classList.remove("locked");
  opened.dispatchEvent(new Event("opened"));
  $("#main").focus();
});

/** Say how the connection is; `problem` is an error, or undefined if all is well. */
export function connection(problem) {
  const why = problem instanceof Answered ? problem.message : "";
  const lost = ["Connection lost, trying again", why].filter(Boolean).join(": ");
  put($("#connection"), problem instanceof Refused ? why : problem ? lost : "");
}
