// Where pages and their data lie: each at an address of its own; or all in one file (a static export), where the place
// after # tells which is shown. Addresses look the same either way: a path, and a grid or an index by its name.

import { dataOf, element } from "./dom.js";

export const oneFile = "oneFile" in document.documentElement.dataset;

// What the browser goes to for an address.
export const here = (address) => (oneFile ? `#${address}` : address);

// The path and the query of an address, without the part of the page that it names.
export function parts(whole) {
  const [address] = whole.split("#"), mark = address.indexOf("?");
  return mark < 0 ? [address, new URLSearchParams()] : [address.slice(0, mark), new URLSearchParams(address.slice(mark))];
}

const OF = { grid: ["grid"], features: ["index"], token: ["index", "q"], compare: ["grid", "a", "b"], mcs: ["grid", "a"], splitting: ["grid", "members", "level"], atlas: ["grid", "members", "codes"] };

// What the page of an address is called in the one file: its path, and what of its query says which page it is.
export function pageName(address) {
  const [path, query] = parts(address);
  const values = (OF[path.split("/")[1]] ?? []).map((name) => query.get(name) || dataOf("first")[name] || "");
  if (path === "/token") values[1] = encodeURIComponent(values[1]); // any text: with blanks at its ends, and line ends
  return [path, ...values].join(" ").trim();
}

const packs = new Map([...document.querySelectorAll("script[data-page]")].flatMap((pack) =>
  [pack.dataset.page, pack.dataset.also].filter((name) => name !== undefined).map((name) => [name, pack])));

// The element that holds that page, packed; undefined where the file does not have it.
export const packOf = (address) => packs.get(pageName(address));

// A link to a page; in one file that does not have the page, its words alone.
export function link(address, ...words) {
  return oneFile && !packOf(address) ? element("span", {}, ...words) : element("a", { href: here(address) }, ...words);
}

// The JSON of an address; in one file it lies in the page that asks for it.
export async function twin(address) {
  if (oneFile) return JSON.parse(document.querySelector(`script[data-twin="${CSS.escape(address)}"]`).textContent);
  return (await fetch(address)).json();
}
