// The keyboard: see the help that `?` opens.

import { byId } from "./dom.js";
import { here } from "./place.js";

const GO = { r: "/", g: "/grid", f: "/features", c: "/compare", i: "/circuits", v: "/review" };
let going = false;

export function listen(actions) { // actions: what other keys do here
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable], dialog")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const act = going && GO[event.key] ? () => goTo(GO[event.key]) : actions[event.key] || KEYS[event.key];
    going = event.key === "g" && !going;
    if (act) {
      event.preventDefault();
      act();
    }
  });
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => follow("next"),
  ArrowLeft: () => follow("prev"),
  "/": () => byId("search")?.focus(),
  "?": () => byId("help").showModal(),
  g: () => {},
};

function goTo(path) {
  if (document.querySelector(`nav a[href="${here(path)}"]`)) location.assign(here(path));
}

function follow(rel) {
  document.querySelector(`a[rel="${rel}"]`)?.click();
}

function step(by) { // through the rows of a table; where there is none, or beyond its end, to the page beside this one
  const rows = [...document.querySelectorAll("tr[data-row]")];
  const place = rows.findIndex((row) => row.contains(document.activeElement));
  const next = place < 0 ? rows[by > 0 ? 0 : -1] : rows[place + by];
  const link = next?.querySelector("a");
  if (link) link.focus();
  else follow(by > 0 ? "next" : "prev");
}
