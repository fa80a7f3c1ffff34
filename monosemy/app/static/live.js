// What live pages share: requests, jobs that are followed by Server-Sent Events, and words for what came back.

import { short, whole } from "./dom.js";

// A value for reading: a number with four significant digits, nothing as a dash.
export function said(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? whole(value) : short(value);
}

// POST as JSON. Gives the answer's JSON; {unreachable: true} where there is none.
export async function post(address, data) {
  try {
    const answer = await fetch(address, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(data),
    });
    const text = await answer.text();
    try {
      return JSON.parse(text);
    } catch { // said by what stands before the app
      return { error: text.trim() || `The server answered ${answer.status}.` };
    }
  } catch {
    return { unreachable: true };
  }
}

// Words in a live region, changed at most every two seconds: a screen reader says each change.
export function report(place, words) {
  const now = performance.now();
  if (now - Number(place.dataset.told ?? -Infinity) < 2000) return;
  place.dataset.told = String(now);
  place.textContent = words;
}

// Ask for an analysis and tell `watcher` what becomes of it, through broken connections and a server that restarts:
// asking again joins the job that is there.
export function follow(name, request, watcher) {
  let source = null;
  let id = null;
  let given = false; // the end was told, or nobody here wants to hear of it
  let leaving = false;

  async function ask() {
    if (given) return;
    const answer = await post(`/api/live/${name}`, request);
    if (answer.job) {
      id = answer.job;
      listen();
    } else if (given) {
      return;
    } else if (answer.unreachable) {
      watcher.said?.("The server does not answer; asking again.");
      setTimeout(ask, 2000);
    } else {
      finish();
      watcher.failed(answer.error);
    }
  }

  function listen() {
    source = new EventSource(`/api/jobs/${id}/events`);
    const on = (kind, then) => source.addEventListener(kind, (event) => { if (!given) then(JSON.parse(event.data)); });
    on("progress", (data) => watcher.progress?.(data));
    on("partial", (data) => watcher.partial?.(data));
    on("done", (data) => { finish(); watcher.done(data, id); });
    on("failed", (data) => { finish(); watcher.failed(data.text); });
    on("cancelled", (data) => { finish(); watcher.failed(data.text); });
    source.onopen = () => { if (leaving) leave(); };
    source.onerror = () => {
      if (given) {
        source.close();
        return;
      }
      watcher.said?.("The connection is lost; waiting for the server.");
      if (source.readyState === EventSource.CLOSED) setTimeout(ask, 1000);
    };
  }

  function finish() {
    given = true;
    source?.close();
  }

  // The server stops a job for which one listens, and leaves it to the others where there are more. So the stream is
  // closed after the answer, and nothing is sent before the stream is open: this page must be counted.
  async function leave() {
    leaving = true;
    if (source?.readyState !== EventSource.OPEN) return;
    let over = null; // what is said where the stream does not tell that it was cancelled
    try {
      const answer = await fetch(`/api/jobs/${id}`, { method: "DELETE" });
      if ((await answer.json()).left) over = "left; another page waits for it";
    } catch { // out of reach: what nobody listens to ends by itself
      over = "cancelled";
    }
    if (given) {
      source.close();
    } else if (over !== null) {
      finish();
      watcher.failed(over);
    }
  }

  ask();
  return {
    // Stop it, or leave it to the other pages that wait for it, and hear which.
    cancel() {
      if (given) return;
      if (source?.readyState !== EventSource.OPEN) {
        given = true; // let go of as soon as the server counts this page
        watcher.failed("cancelled");
      }
      leave();
    },
    // The same, and hear no more of it.
    drop() {
      if (given) return;
      given = true;
      leave();
    },
  };
}
