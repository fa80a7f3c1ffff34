// The live lab of a feature's page and of a member's: analyses that are asked for by a button, each of which runs on the
// server as a job that is followed by Server-Sent Events. On a feature's page one types a text, and sees where the feature
// fires while typing. A request is in the address, so a link repeats it.

import { controlsFor } from "./controls.js";
import { element } from "./dom.js";
import { follow } from "./live.js";
import { panelFor } from "./panel.js";
import { tokenStrip } from "./tokens.js";

const TYPING_MS = 250;
const AS_TYPED = "activations"; // the analysis that runs while one types
const LONGEST_LINK = 8000; // characters of one value in the address

async function start(lab) {
  const { page, dictionaries, feature } = lab.dataset;
  const of = { dictionaries, member: Number(lab.dataset.member), ...(feature === undefined ? {} : { feature: Number(feature) }) };
  const most = Number(lab.dataset.max ?? NaN) || null;
  const answer = await fetch("/api/live");
  const offered = Object.entries(await answer.json()).filter(([name, analysis]) => analysis.page === page && name !== AS_TYPED);
  const analyses = Object.fromEntries(offered);
  const results = element("div", { className: "lab-results" });
  lab.append(element("h2", {}, "Live"));
  const text = offered.some(([, analysis]) => "prompt" in analysis.parameters) ? typing(lab, of, most) : null;

  function ask(name, values) {
    const long = Object.keys(values).filter((key) => !fits(values[key])).join(", ");
    const panel = panelFor(analyses[name], link(name, shared(values)), most, undefined, long);
    results.prepend(panel.root);
    panel.watch(follow(name, { ...of, ...values }, panel));
  }

  const shared = (values) => (text?.value() ? { prompt: text.value(), ...values } : values); // the text is kept by every link

  const controls = {}, groups = new Map();
  for (const [name, analysis] of offered) {
    controls[name] = controlsFor(name, analysis, (values) => {
      const all = "prompt" in analysis.parameters ? { prompt: text.value(), ...values } : values;
      if (all.prompt === "") {
        text.wanted(analysis.label);
        return;
      }
      history.replaceState(null, "", link(name, shared(all)));
      ask(name, all);
    });
    if (!groups.has(analysis.group)) groups.set(analysis.group, []);
    groups.get(analysis.group).push(controls[name].root);
  }
  for (const [question, roots] of groups) {
    const actions = element("div", { className: "lab-actions", role: "group" }, ...roots);
    actions.setAttribute("aria-label", question || "Analyses");
    lab.append(...(question ? [element("h3", { className: "lab-question" }, question)] : []), actions);
  }
  lab.append(results);

  function replay() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (text && given.get("prompt")) text.set(given.get("prompt"));
    const name = given.get("lab");
    if (!Object.hasOwn(controls, name ?? "")) return;
    const values = controls[name].set(given);
    if (values === null) return; // something is missing that no address can hold
    const all = "prompt" in analyses[name].parameters ? { prompt: text.value(), ...values } : values; // as a button gives them
    if (all.prompt !== "") ask(name, all);
  }
  addEventListener("hashchange", replay);
  replay();
}

// The text that analyses read, and where the feature fires in it, as one types.
function typing(lab, of, most) {
  const text = element("textarea", { id: "lab-text", rows: 3, maxLength: 4000, spellcheck: false, dir: "auto" });
  const typed = element("div", { className: "lab-typed" });
  const typedSaid = element("p", { className: "dim" });
  lab.append(element("label", { htmlFor: "lab-text" }, "Text for the model to read"), text, typed, typedSaid);
  let pending = 0;
  let running = null;
  text.addEventListener("input", () => {
    clearTimeout(pending);
    pending = setTimeout(readTyped, TYPING_MS);
  });

  function readTyped() {
    keep(text.value);
    running?.drop();
    running = null;
    typedSaid.textContent = "";
    if (!text.value) {
      typed.replaceChildren();
      return;
    }
    typed.setAttribute("aria-busy", "true");
    running = follow(AS_TYPED, { ...of, prompt: text.value }, {
      done(data) {
        typed.removeAttribute("aria-busy");
        typed.replaceChildren(...data.strips.map((strip) => tokenStrip(strip.tokens, strip.values, most, { label: strip.label })));
      },
      failed(said) {
        typed.removeAttribute("aria-busy");
        typed.replaceChildren();
        typedSaid.textContent = said;
      },
      said(words) { typedSaid.textContent = words; },
    });
  }

  return {
    value: () => text.value,
    set(value) {
      text.value = value;
      readTyped();
    },
    wanted(label) {
      text.focus();
      typedSaid.textContent = `“${label}” needs a text.`;
    },
  };
}

// The text, in the address: it is there again when the page is loaded again.
function keep(prompt) {
  const given = new URLSearchParams(location.hash.slice(1));
  if ((given.get("prompt") ?? "") === prompt) return;
  if (prompt) given.set("prompt", prompt);
  else given.delete("prompt");
  history.replaceState(null, "", `${location.pathname}${location.search}#${given}`);
}

const fits = (value) => String(value).length <= LONGEST_LINK;

// What is too long for an address is left out of it.
function link(name, values) {
  const kept = Object.entries(values).filter(([, value]) => fits(value));
  return `${location.pathname}${location.search}#${new URLSearchParams({ lab: name, ...Object.fromEntries(kept) })}`;
}

const lab = document.getElementById("lab");
if (lab) start(lab);
