// What every page starts with: once theme, keyboard and read-out; then tables, charts and visible tokens of what is shown.

import { drawAll, redraw } from "./charts.js";
import { byId } from "./dom.js";
import { showFeature } from "./feature.js";
import { listen } from "./keys.js";
import { sortTables } from "./table.js";
import { readOut, showTokens } from "./tokens.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

function turnTheme() { // the system's choice is not kept, so that a page follows it again
  const root = document.documentElement;
  const now = root.dataset.theme || (dark.matches ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  const system = next === (dark.matches ? "dark" : "light");
  if (system) delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    if (system) localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
  } catch {
    // Kept for this page only.
  }
  redraw();
}

// Once a document.
export function startFrame() {
  byId("theme").addEventListener("click", turnTheme);
  byId("keys").addEventListener("click", () => byId("help").showModal());
  dark.addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw); // paper is light
  readOut(); // before the page's own keys: in an example the arrows are the example's
  listen({ t: turnTheme });
}

// For each page that is shown in it. A page's own parts start where they are there.
export function startPage() {
  sortTables();
  showTokens(document);
  showFeature();
  drawAll();
}
