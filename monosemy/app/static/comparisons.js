// Comparisons of dictionaries without a server: order, filters and pages of a table, and one feature's tree. The page has
// all rows; what they are sorted and filtered by lies beside them (monosemy/app/export_across.py).

import { dataOf, element } from "./dom.js";
import { ROWS, changed, firstRow, turning } from "./paging.js";
import { here, link } from "./place.js";

// Make the page in `main` the one that a query asks for.
export function showComparison(main, path, query) {
  const data = dataOf("rows-data"), table = main.querySelector(`table[aria-label="${data.table}"]`);
  const state = new URLSearchParams([...query].filter(([name, value]) => value && name !== "at" && name !== "feature"));
  const rows = [...table.tBodies[0].rows], found = ordered(data, query), first = firstRow(query, found.length);
  table.tBodies[0].replaceChildren(...found.slice(first, first + ROWS).map((place) => rows[place]));
  if (data.columns) for (const heading of table.tHead.querySelectorAll("th:has(> a)")) sortable(heading, path, data, state);
  for (const pager of main.querySelectorAll(".pager")) pager.replaceChildren(...turning(path, data.noun, found.length, first, state));
  for (const form of main.querySelectorAll("form.filters")) {
    for (const field of form.elements) if (field.name && state.has(field.name)) field.value = state.get(field.name);
  }
  if (data.levels) showTree(main, path, data, changed(state, first ? { at: first } : {}), query.get("feature"));
}

function ordered({ marks, filters, columns, sort }, query) { // the places of the rows that a query asks for
  if (!columns) {
    const asked = filters.map((name) => query.get(name) || "any");
    const fits = (mark) => asked.every((value, part) => value === "any" || String(mark[part]) === value);
    return marks.map((_, place) => place).filter((place) => marks[place].some(fits));
  }
  const keys = columns[query.get("sort")] ?? columns[sort], falling = query.get("desc") !== "0", sign = falling ? -1 : 1;
  const last = (key) => key === null; // what has no value, either way
  const places = columns.id.map((_, place) => place);
  return places.sort((a, b) => last(keys[a]) - last(keys[b]) || sign * (keys[a] - keys[b]) || columns.id[a] - columns.id[b]);
}

function sortable(heading, path, { sort, rising }, state) { // leads to the table sorted by it, or turned
  const column = heading.classList[0], mine = (state.get("sort") || sort) === column, falling = state.get("desc") !== "0";
  const turned = mine ? !falling : !rising.includes(column);
  heading.querySelector("a").href = here(`${path}?${changed(state, { sort: column, desc: Number(turned) })}`);
  if (mine) heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  else heading.removeAttribute("aria-sort");
}

function showTree(main, path, { level, levels }, state, asked) { // where the address names a feature
  for (const each of main.querySelectorAll('a[href$="#tree"]')) { // of the list that is shown
    const feature = new URLSearchParams(each.getAttribute("href").split("?")[1].split("#")[0]).get("feature");
    each.href = here(`${path}?${changed(state, { feature })}#tree`);
  }
  const root = Number(asked);
  if (asked === null || !(root in levels[level].children)) return;
  const cosine = level > 0 ? levels[level - 1].children.flat().find(([child]) => child === root)?.[1] : undefined;
  const heading = element("h2", { textContent: `Feature ${root} and what it becomes` });
  const section = element("section", { id: "tree", ariaLabel: "One feature's tree" }, heading,
    element("ul", { className: "tree" }, branch(levels, level, root, cosine ?? null)));
  main.querySelector('form[aria-label="Filter"]').before(section);
}

function branch(levels, level, feature, cosine) {
  const { member, index, fates, children } = levels[level];
  const said = [`member ${member}`, ...(cosine === null ? [] : [`cosine ${cosine.toFixed(3)}`]), ...(fates ? [fates[feature]] : [])];
  const name = index === null ? String(feature) : link(`/features/${feature}?${new URLSearchParams({ index })}`, feature);
  const below = (children[feature] ?? []).map(([child, near]) => branch(levels, level + 1, child, near));
  return element("li", {}, name, " ", element("span", { className: "dim", textContent: said.join(" · ") }), ...(below.length ? [element("ul", {}, ...below)] : []));
}
