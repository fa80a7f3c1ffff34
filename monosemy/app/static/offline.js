// All pages of a run in one file, without a server: the place after # says which is shown. Each lies packed in a script
// element that no browser runs; a link to a page that is not in the file is plain text.

import { forget } from "./charts.js";
import { showComparison } from "./comparisons.js";
import { byId, element } from "./dom.js";
import { beside, showList } from "./list.js";
import { here, packOf, parts } from "./place.js";
import { startFrame, startPage } from "./start.js";

const lists = new Map(); // index → its rows
let shown = null;

const address = () => (location.hash.startsWith("#/") ? location.hash.slice(1) : "/");

async function unpacked(pack) {
  const bytes = Uint8Array.from(atob(pack.textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function show() {
  const asked = address();
  if (asked === shown) return;
  const pack = packOf(asked) || byId("missing");
  const page = new DOMParser().parseFromString(await unpacked(pack), "text/html");
  const rows = pack.dataset.index === undefined ? null : await rowsOf(pack.dataset.index);
  if (page.querySelector(".charts, #histogram")) await loadPlotly();
  if (asked !== address()) return; // another was asked for meanwhile
  const [path, query] = parts(asked), main = byId("main"), turned = shown !== null;
  shown = asked;
  document.title = page.title;
  main.replaceChildren(...page.querySelector("main").childNodes);
  if (path === "/features" && rows) showList(main, rows, query);
  else if (byId("rows-data")) showComparison(main, path, query);
  else if (rows) stepThrough(main.querySelector(".step"), rows, Number(path.split("/")[2]), query);
  for (const each of main.querySelectorAll('a[href^="#/"]')) {
    if (!packOf(each.getAttribute("href").slice(1))) each.replaceWith(...each.childNodes);
  }
  for (const each of document.querySelectorAll("nav a")) {
    const place = each.getAttribute("href").slice(1);
    if (path === place || (place !== "/" && path.startsWith(`${place}/`))) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  forget();
  startPage();
  const marked = asked.includes("#") && byId(asked.split("#")[1]); // a part of the page
  if (marked) marked.scrollIntoView({ behavior: "instant" });
  else scrollTo({ top: 0, behavior: "instant" });
  if (turned) main.focus({ preventScroll: true });
}

async function rowsOf(index) {
  if (!lists.has(index)) {
    const columns = JSON.parse(await unpacked(document.querySelector(`script[data-list="${CSS.escape(index)}"]`)));
    const names = Object.keys(columns);
    lists.set(index, columns.id.map((_, place) => Object.fromEntries(names.map((name) => [name, columns[name][place]]))));
  }
  return lists.get(index);
}

async function loadPlotly() { // run as text that the page's policy knows by its hash
  if (!window.Plotly) document.head.append(element("script", { textContent: await unpacked(byId("plotly")) }));
}

function stepThrough(step, rows, feature, query) { // previous and next in the list that one came from, of those with a page
  const [previous, next] = beside(rows, feature, query, packOf);
  step.querySelectorAll("[rel]").forEach((each) => each.remove());
  if (next) step.prepend(element("a", { rel: "next", href: here(next), title: "Next feature (j)", textContent: "next →" }));
  if (previous) step.prepend(element("a", { rel: "prev", href: here(previous), title: "Previous feature (k)", textContent: "← previous" }), " ");
}

// A number opens that feature, the text of a token what fires on it; of another text, the features whose most frequent token has it.
function search(text) {
  const index = parts(address())[1].get("index") || "";
  const number = /^\s*#?(\d+)\s*$/.exec(text);
  if (number) return `/features/${Number(number[1])}?${new URLSearchParams({ index })}`;
  const token = `/token?${new URLSearchParams({ index, q: text })}`;
  if (packOf(token)) return token;
  return `/features?${new URLSearchParams({ index, q: text, sort: "density", desc: 1 })}`;
}

document.addEventListener("submit", (event) => {
  if (event.target.method === "dialog") return;
  event.preventDefault();
  const wrong = [...event.target.elements].find((field) => field.inputMode === "decimal" && Number.isNaN(Number(field.value)));
  if (wrong) {
    wrong.addEventListener("input", () => wrong.setCustomValidity(""), { once: true });
    wrong.setCustomValidity("must be a number, as 0.001 or 1e-3");
    wrong.reportValidity();
    return;
  }
  const given = new FormData(event.target);
  const filled = new URLSearchParams([...given].filter(([, value]) => value !== ""));
  location.hash = event.target.role === "search" ? search(given.get("q")) : `${event.target.getAttribute("action").slice(1)}?${filled}`;
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // what is after # says which page it is
  byId("main").focus();
});
addEventListener("hashchange", show);
startFrame();
if ("DecompressionStream" in window) show();
else byId("main").append(element("p", { className: "note", textContent: "This browser cannot unpack the pages in this file; one of 2023 or later can." }));
