// The page of one feature: histogram, examples, neighbours.

import { drawChart } from "./charts.js";
import { byId, dataOf, digits, element, short } from "./dom.js";
import { here, link, twin } from "./place.js";
import { exampleLine, visible } from "./tokens.js";

export function showFeature() {
  if (!byId("feature-data")) return;
  const data = dataOf("feature-data");
  if (byId("histogram")) drawChart(byId("histogram"), data.histogram);
  if (byId("examples")) byId("examples").append(...data.groups.flatMap((group) => groupNodes(group, data.max)));
  if (byId("neighbours")) showNeighbours(byId("neighbours"));
  byId("share").addEventListener("click", share);
}

function groupNodes(group, max) {
  const range = `${short(group.low)} – ${short(group.high)}`;
  const note = { top: "one a document", uniform: `one of each, ${range}`, quantile: range, silent: "windows in which it does not fire" }[group.kind];
  const heading = element("h2", {}, `${group.heading} `, element("span", { className: "dim", textContent: note }));
  return [heading, ...group.examples.map((example) => exampleLine(example, max, group.kind === "silent"))];
}

async function showNeighbours(section) {
  const { neighbours, error } = await twin(section.dataset.source);
  if (error !== undefined) {
    section.append(element("p", { className: "note", textContent: error }));
    return;
  }
  const body = element("tbody");
  for (const each of neighbours) {
    body.append(element("tr", {},
      element("td", {}, link(each.href, each.feature)),
      element("td", {}, element("bdi", { className: "token" }, ...(each.top_token === null ? [] : visible(each.top_token, true)))),
      element("td", { textContent: digits(each.cosine, 3), title: `cosine ${each.cosine}` })));
  }
  section.append(element("table", {}, body));
}

async function share() {
  const address = new URL(here(byId("share").dataset.link), location.href).href;
  const line = byId("readout");
  line.hidden = false;
  try {
    await navigator.clipboard.writeText(address);
    line.textContent = `Copied: ${address}`;
  } catch { // not every browser lets a page write there
    line.textContent = address;
  }
}
