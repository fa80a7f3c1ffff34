// Circuits: asks for a feature's parents and children, draws them, and tells how far the prediction holds. What was
// asked for is in the address behind #, so a link repeats it.

import { byId, dataOf, element, short, whole } from "./dom.js";
import { graphOf } from "./graph.js";
import { follow } from "./live.js";
import { panelFor } from "./panel.js";
import { seen, visible } from "./tokens.js";

const TRUSTED = 0.8; // the correlation from which a prediction is called good,
const FAR = 2; // unless it is so many times too small or too large
const SIDES = ["parents", "children"];
const WORDS = ["token", "how", "circuit"]; // columns that are no numbers

function start(form) {
  const data = dataOf("circuits-data");
  const found = {}, running = {};

  function values() {
    const chosen = SIDES.filter((side) => byId(`circuit-${side}`)).map((side) => [side, byId(`circuit-${side}`).value]);
    return { ...Object.fromEntries(chosen), ...Object.fromEntries(data.fields.map(({ name }) => [name, byId(`circuit-${name}`).value])) };
  }

  function ask(side, given) {
    const at = given[side].lastIndexOf("/"), other = given[side].slice(0, at), otherMember = Number(given[side].slice(at + 1));
    const request = {
      dictionaries: data.grid, member: data.member, feature: data.feature, other, other_member: otherMember,
      ...Object.fromEntries(data.fields.map(({ name }) => [name, Number(given[name])])),
    };
    running[side]?.drop();
    const label = `${side === "parents" ? "Parents" : "Children"} in member ${otherMember} of ${other}`;
    const panel = panelFor({ label }, location.href, null, (body, result) => {
      found[side] = { ...result, other, otherMember };
      body.replaceChildren(...told(result), tableOf(result, other, otherMember));
      draw();
    });
    byId(`circuit-${side}-result`).replaceChildren(panel.root);
    running[side] = follow(side, request, panel);
    panel.watch(running[side]);
  }

  function draw() {
    const middle = { label: nameOf(data.feature, data.top_token), said: `feature ${data.feature}, whose circuit this is`, href: data.href || location.href };
    byId("circuit-graph").replaceChildren(graphOf(middle, ...SIDES.map((side) => (found[side] ? nodesOf(found[side]) : []))));
    byId("circuit-legend").hidden = false;
  }

  function press(sides) {
    if (!form.reportValidity()) return;
    const given = values();
    const kept = Object.fromEntries(Object.entries(given).filter(([name]) => !SIDES.includes(name) || sides.includes(name) || found[name]));
    history.replaceState(null, "", `${location.pathname}${location.search}#${new URLSearchParams(kept)}`);
    for (const side of sides) ask(side, given);
  }

  function replay() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of given) {
      const field = byId(`circuit-${name}`);
      if (field) field.value = value;
    }
    const asked = SIDES.filter((side) => given.has(side) && byId(`circuit-${side}`));
    const here = asked.filter((side) => byId(`circuit-${side}`).value === given.get(side)); // a dictionary that is not here is not asked for
    if (here.length) press(here);
  }

  for (const button of form.querySelectorAll("button[data-side]")) button.addEventListener("click", () => press([button.dataset.side]));
  addEventListener("hashchange", replay);
  replay();
}

const nameOf = (feature, token) => (token === null ? String(feature) : `${feature}  ${seen(token)}`);

const known = (value) => (value === null ? "–" : short(value));
const spanOf = ({ low, high }) => (low === null ? "" : ` (${short(low)} to ${short(high)})`);

function nodesOf({ edges, ends, other, otherMember }) {
  return edges.map((edge, place) => ({
    ...edge,
    how: ends[place].how,
    label: `${nameOf(edge.feature, ends[place].top_token)}${edge.silent ? "  · silent" : ""}`,
    said: `feature ${edge.feature}${edge.silent ? ", kept silent" : ""}: predicted ${known(edge.attribution)}, measured ${short(edge.ablation)}${spanOf(edge)} on ${whole(edge.firings)} tokens${ends[place].how === "unclear" ? ", unclear" : ""}; its own circuit`,
    href: `/circuits?${new URLSearchParams({ grid: other, member: otherMember, feature: edge.feature })}`,
  }));
}

// In words: over what, and whether the measurement bears the prediction out.
function told({ edges: all, ends, facts }) {
  const besides = facts.silent_rows ? ` Besides ${whole(facts.silent_rows)} rows in which it does not fire, for what keeps it silent.` : "";
  const over = `${whole(facts.rows)} rows of the corpus in which the feature fires, ${whole(facts.tokens)} tokens.${besides}`;
  if (!all.length) return [element("p", {}, `No connection: nothing reaches it, in ${over}`)];
  const edges = all.filter((edge) => !edge.silent), held = all.length - edges.length;
  const silence = held ? [element("p", {}, `${whole(held)} of the connections below keep the later feature silent: it fires there only without the earlier one. `
    + "What is silent can only gain, so such an effect is below 0 by construction; go by its size, and on how many positions it is seen.")] : [];
  const intervals = element("p", { className: "dim" }, "Intervals: 95 %, documents drawn anew; that the strongest were chosen is not in them.");
  if (!edges.length) return [element("p", {}, over), ...silence, intervals];
  const clear = all.filter((edge, place) => !edge.silent && ends[place].how !== "unclear"), unclear = edges.length - clear.length;
  const alike = clear.filter((edge) => edge.attribution * edge.ablation > 0).length;
  const signs = (clear.length ? `${alike} of ${clear.length} have the same sign.` : "")
    + (unclear ? ` ${whole(unclear)} of ${whole(edges.length)} ${unclear === 1 ? "is" : "are"} unclear: the interval holds 0, or there is none.` : "");
  const r = facts.correlation;
  const words = r === undefined ? "Too few connections, or all alike, for a correlation of prediction and measurement."
    : `Prediction (gradient × activation) and measurement (ablation) correlate at r = ${short(r)} over these ${edges.length}.`;
  const sum = (what) => edges.reduce((all, edge) => all + Math.abs(edge[what]), 0);
  const times = sum("ablation") / sum("attribution");
  const sizes = ` In size, what was measured is ${times.toPrecision(2)} times the prediction.`;
  const good = r !== undefined && r >= TRUSTED && times < FAR && times > 1 / FAR;
  const caution = good ? "" : " Go by what was measured: the prediction alone is off.";
  const rest = facts.error === undefined ? [] : [element("p", { className: "dim" },
    `What no early feature explains gives ${short(facts.error)} to the late code, by gradient × activation.`)];
  const verdict = element("p", { className: caution ? "note" : "" }, `${words} ${signs}${sizes}${caution}`);
  return [element("p", {}, over), verdict, ...rest, ...silence, intervals];
}

function tableOf({ edges, ends }, other, otherMember) {
  const heads = [["feature", "its page, where it is indexed"], ["token", "on which it fires most often"],
    ["how", "drives or lowers the later code where that fires, unclear where the interval holds 0 or there is none; or keeps it silent"], ["predicted", "gradient × activation, mean over the positions"],
    ["measured", "what the late code loses without the early feature, mean over the positions"], ["95 % interval", "of what was measured, documents drawn anew"],
    ["positions", "tokens on which the late feature fires; where it is kept silent, those on which it fires without the early one"],
    ["documents", "of these tokens"], ["circuit", "of that feature"]];
  const head = element("tr", {}, ...heads.map(([name, title]) => element("th", { scope: "col", title, className: WORDS.includes(name) ? "word" : "" }, name)));
  const lines = edges.map((edge, place) => {
    const { href, top_token: token, how } = ends[place];
    const circuit = `/circuits?${new URLSearchParams({ grid: other, member: otherMember, feature: edge.feature })}`;
    const row = element("tr", {},
      element("th", { scope: "row" }, href === null ? String(edge.feature) : element("a", { href }, String(edge.feature))),
      element("td", { className: "word" }, ...(token === null ? [] : [element("bdi", { className: "token" }, ...visible(token, true))])),
      element("td", { className: "word" }, how),
      element("td", { title: edge.attribution ?? "" }, known(edge.attribution)),
      element("td", { title: edge.ablation }, short(edge.ablation)),
      element("td", {}, edge.low === null ? "–" : `${short(edge.low)} to ${short(edge.high)}`),
      element("td", {}, whole(edge.firings)),
      element("td", {}, whole(edge.documents)),
      element("td", { className: "word" }, element("a", { href: circuit, ariaLabel: `circuit of feature ${edge.feature}` }, "→")));
    row.dataset.row = "";
    return row;
  });
  return element("div", { className: "scroll" }, element("table", { className: "data", ariaLabel: "Connections" }, element("thead", {}, head), element("tbody", {}, ...lines)));
}

const form = byId("circuit-form");
if (form) start(form);
