// Search by a text: the features that are strongest in it, a line of tokens each. The text is in the address behind #,
// so a link repeats the search.

import { byId, element, short } from "./dom.js";
import { follow } from "./live.js";
import { panelFor, tableOf } from "./panel.js";
import { tokenStrip, visible } from "./tokens.js";

function start(form) {
  const { dictionaries, member } = form.dataset;
  const results = byId("search-results"), text = byId("search-text"), count = byId("search-n");
  let running = null;

  function ask() {
    running?.drop();
    const values = { prompt: text.value, n: Number(count.value) };
    const href = `${location.pathname}${location.search}#${new URLSearchParams(values)}`;
    history.replaceState(null, "", href);
    const panel = panelFor({ label: "Strongest features" }, href, null, draw);
    results.replaceChildren(panel.root);
    running = follow("search", { dictionaries, member: Number(member), ...values }, panel);
    panel.watch(running);
  }

  function replay() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (given.has("prompt")) text.value = given.get("prompt");
    if (given.has("n")) count.value = given.get("n");
    if (text.value && form.reportValidity()) ask();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  addEventListener("hashchange", replay);
  replay();
}

function draw(body, data) {
  const lines = data.features.map((each) => {
    const name = `feature ${each.feature}`;
    const token = each.top_token === null ? [] : [" · mostly on ", element("bdi", { className: "token" }, ...visible(each.top_token, true))];
    const strength = each.strength === null ? "never in the corpus" : short(each.strength);
    return element("div", { className: "example" },
      element("span", { className: "value" }, element("a", { href: each.href, ariaLabel: name }, String(each.feature))),
      tokenStrip(data.tokens, each.values, each.max || each.code, { peak: each.place, label: name }),
      element("span", { className: "source", title: `largest code ${each.code}, ${each.strength ?? "?"} of its maximum` }, strength, ...token));
  });
  const said = element("p", { className: "dim" }, data.facts.active === 0 ? "No feature fires in this text."
    : `${data.facts.active} features fire in this text; the strongest, by their largest code relative to their maximum in the corpus:`);
  body.replaceChildren(said, ...lines, tableOf(data.table));
}

const form = byId("search-form");
if (form) start(form);
