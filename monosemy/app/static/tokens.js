// Tokens as a reader sees them: what is blank shown, shaded by activation on the one scale that all pages share.

import { byId, element, whole } from "./dom.js";

// Blanks, control characters, and marks that would turn the line's direction: all shown; joiners where they stand alone.
const UNSEEN = /([\u0000-\u0020\u007f-\u00a0\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]|^[\u034f\u200c\u200d\ufe00-\ufe0f]$)/;
const GLYPHS = { "\n": "⏎", "\r": "␍", "\t": "⇥" };

// The nodes of one token's text. `alone`: outside running text, where a blank at the edge is told only by a mark.
export function visible(text, alone = false) {
  if (text === "") return [element("span", { className: "glyph", textContent: "◦" })]; // part of the character before
  return text.split(UNSEEN).filter((part) => part !== "").map((part) => {
    if (part === " ") {
      return alone ? element("span", { className: "glyph", textContent: "␣" }) : element("span", { className: "blank", textContent: " " });
    }
    if (part.length > 1 || !UNSEEN.test(part)) return part;
    const code = "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return element("bdi", { className: "glyph", textContent: GLYPHS[part] || `‹${code}›` }); // its letter is not the line's
  });
}

// The same as plain text, for axes and drawings; a blank within stays one.
export const seen = (text) => visible(text, true).map((part, place, all) => {
  if (typeof part === "string") return part;
  return part.textContent === "␣" && within(all, place) ? " " : part.textContent;
}).join("");

const within = (parts, place) => [parts.slice(0, place), parts.slice(place + 1)].every((side) => side.some((part) => typeof part === "string"));

// A token that is no text: its letters do not tell the line's direction.
const SPECIAL = /^(<\S+>|\[[A-Z]+\])$/;

// A line of tokens, each shaded by values[i] / max; pointing at one, or the arrow keys, tell its value.
// `peak`: the token to outline. `sources[i]`: where it stands. `label`: what the line is, for those who hear it.
export function tokenStrip(tokens, values, max, { peak = null, sources = null, label = "text" } = {}) {
  const strip = element("div", { className: "strip", dir: "auto", tabIndex: 0, role: "group" });
  strip.setAttribute("aria-label", `${label}: arrow keys read token by token`);
  tokens.forEach((token, place) => {
    const value = values[place];
    const part = token === ""; // of the character before, whose letters a mark would part: a shaded space, where it has a value
    const silent = part && !value && place !== peak;
    const span = element(SPECIAL.test(token) ? "bdi" : "span", { className: part && !silent ? "t part" : "t", title: value === null ? "" : String(value) }, ...(part ? [] : visible(token)));
    shade(span, value, max);
    if (place === peak) span.classList.add("peak");
    if (sources) span.dataset.source = sources[place];
    span.dataset.text = token;
    strip.append(span);
  });
  return strip;
}

export function shade(span, value, max) {
  const share = value > 0 && max > 0 ? Math.min(1, value / max) : 0;
  if (share > 0) span.style.setProperty("--a", share.toFixed(3));
  else span.style.removeProperty("--a");
}

// One example of a feature: the value at its peak, its text, where it is from.
export function exampleLine(example, max, silent) {
  const { document: name, position, peak, tokens, values } = example;
  const sources = tokens.map((_, place) => {
    const own = position + place - peak; // below 0 in the document before, which shares the row
    return own < 0 ? `before ${name}` : `${name} · token ${whole(own)}`;
  });
  const source = `${name} · ${whole(position)}`;
  return element("div", { className: "example" },
    element("span", { className: "value", textContent: silent ? "" : values[peak].toPrecision(4) }),
    tokenStrip(tokens, values, max, { peak: silent ? null : peak, sources, label: name }),
    element("span", { className: "source", title: source }, element("bdi", { dir: "ltr", textContent: source })));
}

// Tokens that the server wrote as plain text, made visible.
export function showTokens(root) {
  for (const node of root.querySelectorAll("[data-token]")) node.replaceChildren(...visible(node.dataset.token, true));
}

// Pages that have a line for it tell what the token under the pointer or the cursor is.
export function readOut() {
  const say = (token) => {
    const line = byId("readout");
    if (!line) return;
    document.querySelectorAll(".t.cursor").forEach((other) => other.classList.remove("cursor"));
    token.classList.add("cursor");
    const shown = element("b", {}, ...visible(token.dataset.text, true));
    line.hidden = false;
    line.replaceChildren(shown, ` ${token.title} `, element("span", { className: "dim" }, element("bdi", { dir: "ltr", textContent: token.dataset.source || "" })));
  };
  for (const kind of ["mouseover", "click"]) {
    document.addEventListener(kind, (event) => {
      const token = event.target.closest?.(".strip .t");
      if (token) say(token);
    });
  }
  document.addEventListener("focusin", (event) => {
    if (event.target.matches(".strip:focus-visible")) say(event.target.querySelector(".peak, .t"));
  });
  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], strip = event.target.closest?.(".strip");
    if (!by || !strip || !byId("readout")) return;
    event.preventDefault();
    const turn = getComputedStyle(strip).direction === "rtl" ? -by : by; // the arrow points where the eye goes
    const all = [...strip.querySelectorAll(".t")];
    const place = all.findIndex((token) => token.classList.contains("cursor"));
    say(all[Math.min(all.length - 1, Math.max(0, place + turn))]);
  });
}
