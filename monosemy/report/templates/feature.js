"use strict";
// One feature. Text from the corpus reaches the page through textContent alone.

const byId = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// --- numbers ----------------------------------------------------------------

const known = (value) => value !== null && value !== undefined;
const whole = (value) => value.toLocaleString("en");

function short(value) {
  if (!known(value)) return "";
  const size = Math.abs(value);
  if (value === 0 || (size >= 0.001 && size < 1e5)) return String(Number(value.toPrecision(4)));
  return value.toExponential(2);
}

function digits(value, count) { // ending zeros kept, so that numbers below one another compare
  const size = Math.abs(value);
  return size >= 0.01 && size < 1000 ? value.toPrecision(count) : short(Number(value.toPrecision(count)));
}

function compare(a, b, order) {
  if (!known(a) || !known(b)) return known(a) ? -1 : known(b) ? 1 : 0; // what is undefined comes last either way
  return order * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}

// --- text -------------------------------------------------------------------

// Blanks, control characters, and marks that would turn the line's direction: all shown.
const UNSEEN = /([\u0000-\u0020\u007f-\u00a0\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff])/;
const GLYPHS = { "\n": "⏎", "\r": "␍", "\t": "⇥" };

function visible(text) {
  if (text === "") return [element("span", { className: "glyph", textContent: "◦" })]; // belongs to the character before
  return text.split(UNSEEN).filter((part) => part !== "").map((part) => {
    if (part === " ") return element("span", { className: "blank", textContent: " " });
    if (part.length > 1 || !UNSEEN.test(part)) return part;
    const code = "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return element("span", { className: "glyph", textContent: GLYPHS[part] || `‹${code}›` });
  });
}

// --- one feature ------------------------------------------------------------

function featureContent(row, data) {
  const rarity = row.density > 0 ? `${short(row.density)} (1 in ${whole(Math.round(1 / row.density))} tokens)` : "0";
  const numbers = { density: rarity, active: `${whole(row.count)} tokens`, max: short(row.max), mean: short(row.mean),
    "MCS with the other seed": short(row.mcs_other_seed) };
  const list = element("dl", { className: "numbers" });
  for (const [name, text] of Object.entries(numbers)) {
    if (text !== "") list.append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: text })));
  }
  if (row.packed) return [list, evidence(row.packed, data), ...examples(row, data)];
  const why = row.dead ? "Dead: never active on the tokens searched." : "Not among the densest features, whose examples are on this page.";
  return [list, element("p", { textContent: why })];
}

function evidence(packed, data) {
  const parts = [];
  if (packed.counts.length) parts.push(histogram(packed.edges, packed.counts));
  if (packed.top.length) parts.push(logits("Top logits", packed.top, data));
  if (packed.bottom.length) parts.push(logits("Bottom logits", packed.bottom, data));
  return element("div", { className: "evidence" }, ...parts);
}

function histogram(edges, counts) {
  const create = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const ends = [short(edges[0]), short(edges[edges.length - 1])], most = Math.max(...counts);
  const label = `Firings by activation from ${ends[0]} to ${ends[1]}; the highest bar is ${whole(most)} tokens`;
  const svg = create("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": label });
  counts.forEach((count, place) => {
    const width = 100 / counts.length, height = count ? Math.max(1, 98 * count / most) : 0;
    const bar = create("rect", { x: (place + 0.05) * width, y: 100 - height, width: 0.9 * width, height });
    bar.append(create("title", {}));
    bar.firstChild.textContent = `${short(edges[place])} – ${short(edges[place + 1])}: ${whole(count)} tokens`;
    svg.append(bar);
  });
  const log = edges[0] > 0 && Math.abs(edges[1] / edges[0] - edges[edges.length - 1] / edges[edges.length - 2]) < 0.01;
  const note = `tokens, highest bar ${whole(most)}`;
  return element("div", { className: "histogram" },
    element("h4", {}, "Activations ", element("span", { textContent: note })), svg,
    element("div", { className: "ends dim" }, ends[0], element("span", { textContent: log ? "log scale" : "" }), ends[1]));
}

function logits(heading, pairs, data) {
  const body = element("tbody");
  for (const [token, value] of pairs) {
    body.append(element("tr", {}, element("td", { dir: "auto" }, ...visible(data.tokens[token])),
      element("td", { textContent: digits(value, 3), title: String(value) })));
  }
  return element("div", { className: "logits" }, element("h4", { textContent: heading }), element("table", {}, body));
}

function examples(row, data) {
  const groups = new Map();
  for (const example of row.packed.examples) groups.set(example[0], [...(groups.get(example[0]) || []), example]);
  const peak = (example) => example[5][example[3]];
  const quantiles = [...groups.keys()].filter((group) => typeof group === "number").sort((a, b) => b - a);
  const nodes = [element("div", { className: "scale" }, "0", element("i"), short(row.max), element("span", { className: "peak", textContent: " peak " }))];
  const add = (group, heading, note) => {
    if (!groups.has(group)) return;
    nodes.push(element("h4", {}, heading, element("span", { textContent: note })));
    nodes.push(...groups.get(group).map((example) => exampleLine(example, row, data)));
  };
  add("top", "Top activations ", "one a document");
  (groups.get("uniform") || []).reverse(); // strongest first, as above
  add("uniform", "Equal steps of activation ", "one of each");
  quantiles.forEach((group, place) => {
    groups.get(group).reverse();
    const peaks = groups.get(group).map(peak);
    const rank = quantiles.length === 1 ? "" : place === 0 ? ", strongest" : place === quantiles.length - 1 ? ", weakest" : "";
    add(group, `Quantile ${quantiles.length - place} of ${quantiles.length}${rank} `, `${short(Math.min(...peaks))} – ${short(Math.max(...peaks))}`);
  });
  add("random", "Random ", "where the feature is not active");
  const box = element("div", { className: "examples" }, ...nodes);
  readout(box);
  return [box];
}

function exampleLine([group, document_, position, peak, tokens, values], row, data) {
  const name = data.documents[document_];
  const text = element("div", { className: "text", dir: "auto", tabIndex: 0, role: "group" });
  text.setAttribute("aria-label", `${name}: arrow keys read token by token`);
  tokens.forEach((token, place) => {
    const silent = data.tokens[token] === "" && values[place] === 0 && place !== peak;
    const span = element("span", { className: "t", title: String(values[place]) }, ...(silent ? [] : visible(data.tokens[token])));
    if (values[place] > 0 && row.max > 0) span.style.setProperty("--a", Math.min(1, values[place] / row.max).toFixed(3));
    if (place === peak && group !== "random") span.classList.add("peak");
    const own = position + place - peak; // below 0 in the document before, which shares the row
    span.dataset.source = own < 0 ? `before ${name}` : `${name} · token ${whole(own)}`;
    text.append(span);
  });
  const value = group === "random" ? "" : digits(values[peak], 4);
  const source = `${name} · token ${whole(position)}`;
  return element("div", { className: "example" }, element("span", { className: "value", textContent: value }), text,
    element("span", { className: "source", title: source }, element("bdi", { dir: "ltr", textContent: source })));
}

function readout(box) {
  const say = (token) => {
    box.querySelectorAll(".cursor").forEach((other) => other.classList.remove("cursor"));
    token.classList.add("cursor");
    const label = element("b", {}, ...visible(token.textContent));
    byId("readout").replaceChildren(label, `  ${token.title}   ${token.dataset.source}`);
  };
  for (const kind of ["mouseover", "click"]) {
    box.addEventListener(kind, (event) => { const token = event.target.closest(".t"); if (token) say(token); });
  }
  box.addEventListener("focusin", (event) => {
    if (event.target.matches(".text:focus-visible")) say(event.target.querySelector(".peak, .t"));
  });
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], line = event.target.closest(".text");
    if (!by || !line) return;
    event.preventDefault();
    const tokens = [...line.querySelectorAll(".t")];
    const place = tokens.findIndex((token) => token.classList.contains("cursor"));
    say(tokens[Math.min(tokens.length - 1, Math.max(0, place + by))]);
  });
}
