// What every page has: theme, keyboard, tables, charts, visible tokens. A page's own parts start where they are there.

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

byId("theme").addEventListener("click", turnTheme);
byId("keys").addEventListener("click", () => byId("help").showModal());
dark.addEventListener("change", redraw);
listen({ t: turnTheme });
sortTables();
showTokens(document);
readOut();
showFeature();
drawAll();
