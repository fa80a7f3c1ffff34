// Going through features by keyboard: 1 to 5 give the verdict, n opens the note, Enter keeps both and goes on, u takes
// the last one back. A timer counts two minutes down; what is written and not yet kept outlives a reload.

import { byId, element } from "./dom.js";
import { post, said } from "./live.js";
import { exampleLine, visible } from "./tokens.js";

const SECONDS = 120; // S1's time for a feature
const AGAIN_MS = 2000; // after a request that found no server

async function json(address) {
  const answer = await fetch(address);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function posted(address, data, tell) { // until the server answers
  for (;;) {
    const answer = await post(address, data);
    if (!answer.unreachable) return answer;
    tell("Not saved: the server does not answer; trying again.");
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function kept(key, value) { // drafts and the reviewer's name; a browser may forbid the store
  try {
    if (value === undefined) return localStorage.getItem(key) ?? "";
    if (value) localStorage.setItem(key, value);
    else localStorage.removeItem(key);
  } catch {
    // Then they last as long as the page.
  }
  return value ?? "";
}

function startForm(form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(form));
    const request = { ...given, count: Number(given.count), seed: Number(given.seed) };
    const answer = await post("/api/reviews/sessions", request);
    if (answer.href) location.assign(answer.href);
    else byId("review-said").textContent = answer.error ?? "The server does not answer.";
  });
}

async function begin(root, reviewer) {
  const number = Number(root.dataset.session);
  const session = await json(`/review/${number}.json?reviewer=${encodeURIComponent(reviewer)}`);
  const verdicts = new Map(session.said.map((review) => [review.feature, review]));
  const clock = element("span", { className: "review-clock", role: "timer" });
  const place = element("span", { className: "review-place" });
  const words = element("p", { role: "status", ariaLive: "polite" });
  const shown = element("div", { className: "review-feature" });
  const note = element("textarea", { id: "review-note", rows: 2, maxLength: 10000, dir: "auto" });
  const choices = session.verdicts.map((verdict, key) => {
    const input = element("input", { type: "radio", name: "verdict", value: verdict });
    return element("label", {}, input, element("kbd", {}, String(key + 1)), ` ${verdict}`);
  });
  const next = element("button", { type: "button" }, "Next (Enter)");
  const undo = element("button", { type: "button" }, "Undo (u)");
  root.replaceChildren(
    element("p", { className: "review-bar" }, place, clock),
    element("fieldset", {}, element("legend", {}, "Verdict"), ...choices),
    element("label", { htmlFor: note.id }, "Note (n)"), note,
    element("p", {}, next, undo), words, shown,
  );
  root.hidden = false;
  const table = byId("review-table"); // where the session is blind, it is the reviewer's own until all is judged
  table.querySelector("a").href = `/api/reviews/${number}/table.csv?reviewer=${encodeURIComponent(reviewer)}`;
  table.hidden = false;

  let at = 0;
  let feature = null;
  let spent = 0;
  let since = null; // when the page was last seen, null where it is not
  let busy = false;
  const seconds = () => spent + (since === null ? 0 : (performance.now() - since) / 1000);
  const draft = () => `review-note-${number}-${reviewer}-${feature}`;
  const radios = () => [...root.querySelectorAll("input[name=verdict]")];

  function tick() {
    const left = Math.round(SECONDS - seconds());
    const size = Math.abs(left);
    clock.textContent = feature === null ? "" : `${left < 0 ? "+" : ""}${Math.floor(size / 60)}:${String(size % 60).padStart(2, "0")}`;
    clock.classList.toggle("review-over", left < 0);
  }
  setInterval(tick, 250);
  document.addEventListener("visibilitychange", () => { // an unseen page costs no time
    spent = seconds();
    since = document.hidden ? null : performance.now();
  });

  async function show(where) {
    at = where;
    feature = session.queue[at] ?? null;
    spent = 0;
    since = document.hidden ? null : performance.now();
    place.textContent = feature === null
      ? `All ${session.queue.length} features have a verdict.`
      : `${at + 1} of ${session.queue.length} · feature ${feature} · ${verdicts.size} with a verdict `;
    for (const radio of radios()) radio.checked = radio.value === verdicts.get(feature)?.verdict;
    note.value = feature === null ? "" : kept(draft()) || (verdicts.get(feature)?.note ?? "");
    shown.replaceChildren();
    tick();
    if (feature === null) return;
    const wanted = feature;
    try {
      const data = await json(`/api/reviews/${number}/features/${wanted}`);
      if (feature === wanted) shown.replaceChildren(...nodes(data));
    } catch (error) {
      if (feature === wanted) words.textContent = `The feature cannot be shown: ${error.message}`;
    }
  }

  const firstOpen = (from) => {
    const order = [...session.queue.keys()].map((step) => (from + step) % session.queue.length);
    return order.find((where) => !verdicts.has(session.queue[where])) ?? session.queue.length;
  };

  async function keep() {
    if (busy || feature === null) return;
    const verdict = radios().find((radio) => radio.checked)?.value;
    if (!verdict) {
      words.textContent = "Choose a verdict first: 1 to 5.";
      return;
    }
    busy = true;
    const request = { session: number, feature, reviewer, verdict, note: note.value, seconds: Math.min(seconds(), 86400) };
    const answer = await posted("/api/reviews", request, (what) => { words.textContent = what; });
    busy = false;
    if (!answer.review) {
      words.textContent = `Not saved: ${answer.error}`;
      return;
    }
    kept(draft(), "");
    verdicts.set(feature, answer.review);
    words.textContent = `Saved: feature ${feature}, ${verdict}.`;
    note.blur();
    await show(firstOpen(at + 1));
  }

  async function takeBack() {
    if (busy) return;
    busy = true;
    const answer = await posted("/api/reviews/undo", { session: number, reviewer }, (what) => { words.textContent = what; });
    busy = false;
    if (!answer.undone) {
      words.textContent = answer.error ?? "There is nothing to take back.";
      return;
    }
    const before = answer.undone;
    verdicts.delete(before.feature);
    words.textContent = `Taken back: feature ${before.feature}, ${before.verdict}.`;
    await show(session.queue.indexOf(before.feature));
    if (!note.value) note.value = before.note;
  }

  note.addEventListener("input", () => kept(draft(), note.value));
  next.addEventListener("click", keep);
  undo.addEventListener("click", takeBack);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.target.closest("dialog, header, button, select, #agreement, #review-who")) return;
    const inNote = event.target === note;
    const act = inNote ? { Enter: event.shiftKey ? null : keep, Escape: () => note.blur() }[event.key] : {
      Enter: keep, n: () => note.focus(), u: takeBack,
    }[event.key] ?? choiceOf(event.key);
    if (!act) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    act();
  }, true);

  function choiceOf(key) {
    const radio = /^[1-9]$/.test(key) ? radios()[Number(key) - 1] : undefined;
    return radio && (() => {
      radio.checked = true;
      words.textContent = radio.value;
    });
  }

  await show(firstOpen(0));
}

// What a reviewer sees of a feature; the server has left the scores out where the session is blind.
function nodes(data) {
  const scores = data.density === undefined ? [] : ["density", "max", "mcs_other_seed"];
  const list = element("dl", { className: "numbers" }, ...scores.map((name) =>
    element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, said(data[name])))));
  const groups = data.groups.flatMap((group) => [
    element("h3", {}, group.heading),
    ...group.examples.map((example) => exampleLine(example, data.max, group.kind === "silent")),
  ]);
  const logits = (heading, pairs) => element("p", {}, `${heading}: `,
    ...pairs.slice(0, 10).flatMap(([text]) => [element("bdi", { className: "token" }, ...visible(text, true)), " "]));
  return [
    ...(data.explanations ?? []).map((each) => element("p", {}, element("bdi", {}, each.text))),
    ...(scores.length ? [list] : []),
    ...(data.has_logits ? [logits("Top logits", data.top_logits), logits("Bottom logits", data.bottom_logits)] : []),
    ...(groups.length ? groups : [element("p", { className: "note" }, "It fires on no token that was searched.")]),
  ];
}

function startAgreement(section) {
  const told = section.querySelector("[role=status]");
  section.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const names = new URLSearchParams(new FormData(event.target));
    try {
      const found = await json(`/api/reviews/${byId("review").dataset.session}/agreement?${names}`);
      const range = (pair) => (pair === null ? "" : ` (95 %: ${pair.map(said).join(" to ")})`);
      told.replaceChildren(
        element("p", {}, `${found.count} features judged by both. The same verdict: ${said(found.share)}${range(found.share_interval)}. `
          + `Cohen's κ: ${said(found.kappa)}${range(found.kappa_interval)}.`),
        element("p", {}, found.differ.length ? `They differ on features ${found.differ.join(", ")}.` : "They differ on none."),
      );
    } catch (error) {
      told.textContent = error.message;
    }
  });
}

if (byId("review-new")) startForm(byId("review-new"));
if (byId("agreement")) startAgreement(byId("agreement"));
const who = byId("review-who");
if (who) {
  byId("reviewer").value = kept("reviewer");
  who.addEventListener("submit", async (event) => {
    event.preventDefault();
    const reviewer = byId("reviewer").value.trim();
    if (!reviewer) return;
    kept("reviewer", reviewer);
    who.hidden = true;
    try {
      await begin(byId("review"), reviewer);
    } catch (error) {
      who.hidden = false;
      byId("review-said").textContent = error instanceof TypeError ? "The server does not answer; begin again when it is back." : error.message;
    }
  });
}
