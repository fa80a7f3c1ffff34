// A long table a page at a time, without a server: the words and links of its pager.

import { element, whole } from "./dom.js";
import { here } from "./place.js";

export const ROWS = 100; // on a page

// A query with other values.
export function changed(state, values) {
  const made = new URLSearchParams(state);
  for (const [name, value] of Object.entries(values)) made.set(name, value);
  return made;
}

// Where the page begins that a query asks for; from behind the end, that of the last page.
export function firstRow(query, total) {
  const at = Math.max(0, Math.floor(Number(query.get("at")) || 0));
  return at < total ? at : Math.floor(Math.max(0, total - 1) / ROWS) * ROWS;
}

// Which rows of `total` are shown, from `first` on, and the ways to those beside them.
export function turning(path, noun, total, first, state) {
  const last = Math.min(total, first + ROWS);
  const said = total ? `${first + 1}–${last} of ${whole(total)} ${noun}` : `No ${noun}.`;
  const way = (rel, at, words) => element("a", { rel, href: here(`${path}?${changed(state, { at })}`), textContent: words });
  return [
    element("span", { textContent: said }),
    ...(first > 0 ? [way("prev", Math.max(0, first - ROWS), "← previous")] : []),
    ...(first + ROWS < total ? [way("next", first + ROWS, "next →")] : []),
  ];
}
