// The live lab of a feature's page: type a text, see where the feature fires, and ask for analyses of it. Each runs on
// the server as a job that is followed by Server-Sent Events; its request is in the address, so a link repeats it.

import { element } from "./dom.js";
import { follow } from "./live.js";
import { panelFor } from "./panel.js";
import { tokenStrip } from "./tokens.js";

const TYPING_MS = 250;
const AS_TYPED = "activations"; // the analysis that runs while one types

async function start(lab) {
  const feature = {
    dictionaries: lab.dataset.dictionaries,
    member: Number(lab.dataset.member),
    feature: Number(lab.dataset.feature),
  };
  const most = Number(lab.dataset.max);
  const answer = await fetch("/api/live");
  const analyses = await answer.json();

  const text = element("textarea", { id: "lab-text", rows: 3, maxLength: 4000, spellcheck: false, dir: "auto" });
  const typed = element("div", { className: "lab-typed" });
  const typedSaid = element("p", { className: "dim" });
  const results = element("div", { className: "lab-results" });
  lab.append(
    element("h2", {}, "Live"),
    element("label", { htmlFor: "lab-text" }, "Text for the model to read"),
    text, typed, typedSaid,
  );

  let pending = 0;
  let running = null;
  text.addEventListener("input", () => {
    clearTimeout(pending);
    pending = setTimeout(readTyped, TYPING_MS);
  });

  function readTyped() {
    running?.drop();
    running = null;
    typedSaid.textContent = "";
    if (!text.value) {
      typed.replaceChildren();
      return;
    }
    typed.setAttribute("aria-busy", "true");
    running = follow(AS_TYPED, { ...feature, prompt: text.value }, {
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

  function ask(name, values) {
    const request = { ...feature, ...values };
    const panel = panelFor(analyses[name], link(name, values), most);
    results.prepend(panel.root);
    panel.watch(follow(name, request, panel));
  }

  const controls = {};
  for (const [name, analysis] of Object.entries(analyses)) {
    if (name === AS_TYPED || analysis.page !== "/features") continue;
    controls[name] = controlsFor(name, analysis, (values) => {
      const all = "prompt" in analysis.parameters ? { prompt: text.value, ...values } : values;
      if (all.prompt === "") {
        text.focus();
        typedSaid.textContent = `“${analysis.label}” needs a text.`;
        return;
      }
      history.replaceState(null, "", link(name, all));
      ask(name, all);
    });
  }
  lab.append(element("div", { className: "lab-actions" }, ...Object.values(controls).map((each) => each.root)), results);

  function replay() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (given.get("prompt")) {
      text.value = given.get("prompt");
      readTyped();
    }
    const name = given.get("lab");
    if (!Object.hasOwn(controls, name ?? "")) return;
    const values = controls[name].set(given);
    const all = "prompt" in analyses[name].parameters ? { prompt: text.value, ...values } : values; // as a button gives them
    if (all.prompt !== "") ask(name, all);
  }
  addEventListener("hashchange", replay);
  replay();
}

// A button and the fields of what else the analysis takes; `set` fills them from an address and gives their values.
function controlsFor(name, analysis, press) {
  const fields = {};
  const button = element("button", { type: "button", title: analysis.help }, analysis.label);
  const root = element("span", { className: "lab-action", role: "group", ariaLabel: analysis.label }, button);
  for (const [key, parameter] of Object.entries(analysis.parameters)) {
    if (parameter.kind === "text") continue;
    const id = `lab-${name}-${key}`;
    const field = fieldFor(parameter, id);
    fields[key] = { field, parameter };
    root.append(element("label", { htmlFor: id, title: parameter.help }, key.replaceAll("_", " ")), field);
    if (field.type === "range") {
      const shown = element("output", { htmlFor: id }, field.value);
      field.addEventListener("input", () => { shown.textContent = field.value; });
      root.append(shown);
    }
  }
  const values = () => Object.fromEntries(Object.entries(fields).map(([key, { field, parameter }]) =>
    [key, parameter.kind === "choice" ? field.value : Number(field.value)]));
  button.addEventListener("click", () => {
    const wrong = Object.values(fields).find(({ field }) => !field.reportValidity());
    if (!wrong) press(values());
  });
  const set = (given) => {
    for (const [key, { field }] of Object.entries(fields)) {
      if (!given.has(key)) continue;
      field.value = given.get(key);
      field.dispatchEvent(new Event("input"));
    }
    return values();
  };
  return { root, set };
}

function fieldFor(parameter, id) {
  if (parameter.kind === "choice") {
    const options = parameter.choices.map((word) => element("option", { value: word }, word));
    const field = element("select", { id }, ...options);
    field.value = parameter.default;
    return field;
  }
  const { low, high } = parameter;
  const step = parameter.kind === "whole" ? 1 : parameter.slider ? (high - low) / 80 : "any";
  return element("input", {
    id, type: parameter.slider ? "range" : "number", min: low, max: high, step, required: true, value: parameter.default,
  });
}

function link(name, values) {
  return `${location.pathname}${location.search}#${new URLSearchParams({ lab: name, ...values })}`;
}

const lab = document.getElementById("lab");
if (lab) start(lab);
