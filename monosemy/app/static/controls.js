// A button and the fields of what an analysis takes, made from what the server says of its parameters.

import { element } from "./dom.js";

// `press(values)` is called where all fields are right; `set(given)` fills them from an address and gives their values,
// null where one that must be there is empty. The text that all analyses of a page share is not among the fields.
export function controlsFor(name, analysis, press) {
  const fields = {};
  const button = element("button", { type: "button", title: analysis.help }, analysis.label);
  const root = element("span", { className: "lab-action", role: "group", ariaLabel: analysis.label }, button);
  for (const [key, parameter] of Object.entries(analysis.parameters)) {
    if (parameter.kind === "text") continue;
    const id = `lab-${name}-${key}`;
    const field = fieldFor(parameter, id);
    fields[key] = { field, parameter };
    const label = element("label", { htmlFor: id, title: parameter.help }, parameter.kind === "labelled" ? sentence(parameter.help) : key.replaceAll("_", " "));
    if (parameter.kind === "labelled") root.prepend(label, field);
    else root.append(label, field);
    if (field.type === "range") {
      const shown = element("output", { htmlFor: id }, field.value);
      field.addEventListener("input", () => { shown.textContent = field.value; });
      root.append(shown);
    }
  }
  const values = () => Object.fromEntries(Object.entries(fields).map(([key, { field, parameter }]) =>
    [key, ["whole", "real"].includes(parameter.kind) ? Number(field.value) : field.value]));
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
    return Object.values(fields).some(({ field, parameter }) => parameter.kind === "labelled" && !field.value) ? null : values();
  };
  return { root, set };
}

const sentence = (words) => words[0].toUpperCase() + words.slice(1);

function fieldFor(parameter, id) {
  if (parameter.kind === "choice") {
    const options = parameter.choices.map((word) => element("option", { value: word }, word));
    const field = element("select", { id }, ...options);
    field.value = parameter.default;
    return field;
  }
  if (parameter.kind === "word") return element("input", { id, type: "text", maxLength: parameter.longest, value: parameter.default, spellcheck: false });
  if (parameter.kind === "labelled") {
    const field = element("textarea", { id, rows: 5, maxLength: parameter.longest, required: true, spellcheck: false, dir: "auto" });
    field.addEventListener("keydown", typeTab);
    return field;
  }
  const { low, high } = parameter;
  const step = parameter.kind === "whole" ? 1 : parameter.slider ? (high - low) / 80 : "any";
  return element("input", {
    id, type: parameter.slider ? "range" : "number", min: low, max: high, step, required: true, value: parameter.default,
  });
}

// A tab between the label at the start of a line and its text; elsewhere the key leaves the field, as it does everywhere.
function typeTab(event) {
  if (event.key !== "Tab" || event.shiftKey || event.altKey || event.ctrlKey || event.metaKey) return;
  const { target } = event;
  const before = target.value.slice(0, target.selectionStart);
  const line = before.slice(before.lastIndexOf("\n") + 1);
  if (!line || line.includes("\t")) return;
  event.preventDefault();
  target.setRangeText("\t", target.selectionStart, target.selectionEnd, "end");
}
