// The table of features without a server: the orders, filters and pages that the server's has (analysis/feature_query.py).

import { element, short } from "./dom.js";
import { ROWS, changed, firstRow, turning } from "./paging.js";
import { here, link } from "./place.js";
import { visible } from "./tokens.js";

const LIST = ["sort", "desc", "dead", "verdict", "q", "explanation"]; // of an address; with the bounds, ending in _min and _max, they say which list it is
const BOUND = /^(.+)_(min|max)$/;

// The parameters of a query that say which list it is, and of which index.
export function listState(query) {
  const kept = [...query].filter(([name, value]) => value && (name === "index" || LIST.includes(name) || BOUND.test(name)));
  return new URLSearchParams(kept);
}

// The rows that a query asks for, in its order.
export function listed(rows, query) {
  const column = query.get("sort") || "id", sign = query.get("desc") === "1" ? -1 : 1;
  const text = lower(query.get("q") || ""), dead = query.get("dead") || "any", verdict = query.get("verdict") || "any";
  const tests = [];
  if (text) tests.push((row) => row.top_token !== null && lower(row.top_token).includes(text));
  const meaning = lower(query.get("explanation") || "");
  if (meaning) tests.push((row) => row.explanation && lower(row.explanation).includes(meaning));
  if (dead !== "any") tests.push((row) => row.dead === (dead === "yes"));
  if (verdict !== "any") tests.push((row) => row.verdict === verdict);
  for (const [name, value] of query) {
    const [, bounded, side] = BOUND.exec(name) || [];
    if (!bounded || !value.trim()) continue;
    const bound = Number(value);
    tests.push((row) => row[bounded] !== null && (side === "min" ? row[bounded] >= bound : row[bounded] <= bound));
  }
  const found = rows.filter((row) => tests.every((test) => test(row)));
  return found.sort((a, b) => sign * (compare(a[column], b[column]) || a.id - b.id));
}

const lower = (text) => text.replace(/[A-Z]/g, (letter) => letter.toLowerCase()); // as SQLite: ASCII alone

function compare(a, b) { // what has no value is smallest; texts by code points
  if (a === null || b === null) return (a !== null) - (b !== null);
  return typeof a === "string" ? compareTexts([...a], [...b]) : a - b;
}

function compareTexts(a, b) {
  const place = a.findIndex((character, i) => character !== b[i]);
  if (place < 0) return a.length - b.length;
  return place < b.length ? a[place].codePointAt(0) - b[place].codePointAt(0) : 1;
}

// The addresses of the rows before and after a feature that `has` a page, in the list of a query that holds it.
export function beside(rows, feature, query, has) {
  const asked = listed(rows, query);
  const found = asked.some((row) => row.id === feature);
  const list = found ? asked : listed(rows, new URLSearchParams());
  const kept = found ? listState(query) : new URLSearchParams({ index: query.get("index") || "" });
  const place = list.findIndex((row) => row.id === feature);
  const addressOf = (row) => row && `/features/${row.id}?${kept}`;
  const shown = (row) => has(`/features/${row.id}?${kept}`);
  return [addressOf(list.slice(0, place).findLast(shown)), addressOf(list.slice(place + 1).find(shown))];
}

// Make the page in `main` the one that a query asks for.
export function showList(main, rows, query) {
  const state = listState(query), found = listed(rows, query), first = firstRow(query, found.length);
  fill(main.querySelector("form.filters"), state);
  const columns = [...main.querySelectorAll("table.data thead th")].map((heading) => sortable(heading, state));
  main.querySelector("table.data tbody").replaceChildren(...found.slice(first, first + ROWS).map((row) => line(row, columns, state)));
  for (const pager of main.querySelectorAll(".pager")) pager.replaceChildren(...turning("/features", "features", found.length, first, state));
}

function fill(form, state) {
  for (const field of form.elements) {
    if (!field.name || field.name === "index") continue;
    const otherwise = { sort: "id", desc: "0", dead: "any", verdict: "any" }[field.name] || "";
    field.value = state.get(field.name) || otherwise;
  }
}

function sortable(heading, state) { // the heading leads to the list sorted by it, or turned; gives its column
  const column = heading.classList[0], mine = (state.get("sort") || "id") === column, descending = state.get("desc") === "1";
  const turned = mine ? !descending : !["id", "top_token", "verdict", "explanation"].includes(column);
  heading.querySelector("a").href = here(`/features?${changed(state, { sort: column, desc: Number(turned) })}`);
  if (mine) heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  else heading.removeAttribute("aria-sort");
  return column;
}

function line(row, columns, state) {
  const cells = columns.map((column) => {
    if (column === "id") return element("th", { scope: "row" }, link(`/features/${row.id}?${state}`, row.id));
    if (column === "dead") return element("td", { className: "word", textContent: row.dead ? "dead" : "" });
    if (column === "verdict") return element("td", { className: "word", textContent: row.verdict, title: likest(row) });
    if (column === "explanation") return element("td", { className: "word said", title: row.explanation ?? "" }, element("bdi", {}, (row.explanation ?? "").split("\n")[0]));
    if (column !== "top_token") return element("td", { title: row[column] ?? "", textContent: short(row[column]) });
    return element("td", { className: "word" }, ...(row.top_token ? [element("bdi", { className: "token" }, ...visible(row.top_token, true))] : []));
  });
  const made = element("tr", { className: row.dead ? "dead" : "" }, ...cells);
  made.dataset.row = "";
  return made;
}

const likest = (row) => (row.neuron >= 0 ? `most like neuron ${row.neuron}, correlation ${short(row.correlation)}` : "");
