// Draws the charts of monosemy/analysis/chart.py with plotly, in the page's own colours, light or dark.

import { byId, dataOf, element, short, whole } from "./dom.js";
import { here } from "./place.js";
import { seen } from "./tokens.js";

const SERIES = 10;
let loading = null;
const drawn = new Map(); // element → what draws it again

function plotly() { // loaded when the first chart is drawn: it is far larger than everything else here
  loading ||= window.Plotly ? Promise.resolve(window.Plotly) : new Promise((resolve, reject) => {
    const script = element("script", { src: "/static/plotly.min.js", onload: () => resolve(window.Plotly), onerror: reject });
    document.head.append(script);
  });
  return loading;
}

function colour(name) { // a CSS variable as plotly can take it
  const probe = element("span", { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function series(count) { // spread over the scale, as in the library's own figures
  const at = (place) => colour(`--series-${Math.round(place)}`);
  if (count === 1) return [at((SERIES - 1) / 2)];
  if (count === 2) return [at((SERIES - 1) / 3), at((2 * (SERIES - 1)) / 3)];
  return Array.from({ length: count }, (_, place) => at((place * (SERIES - 1)) / (count - 1)));
}

const label = (text) => plain(seen(text));

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // plotly reads a few tags

const bounded = (mark, place) => mark.low.length > 0 && mark.low[place] !== null && mark.high[place] !== null;

const span = (mark, place) => (bounded(mark, place) ? ` (${short(mark.low[place])} to ${short(mark.high[place])})` : "");

function whiskers(mark) { // of bars; where an interval is not known there is none, which plotly takes NaN for
  const lengths = (side, sign) => mark.values.map((value, place) => (bounded(mark, place) ? sign * (mark[side][place] - value) : NaN));
  return { type: "data", symmetric: false, array: lengths("high", 1), arrayminus: lengths("low", -1), color: colour("--ink"), thickness: 1, width: 3 };
}

const marks = {
  bars: (mark, ink) => [{ type: "bar", x: mark.labels.map((_, place) => place), y: mark.values, marker: { color: ink }, name: plain(mark.name),
    hovertext: mark.labels.map(label), customdata: mark.labels.map((_, place) => span(mark, place)), hovertemplate: "%{hovertext}: %{y:.4g}%{customdata}<extra></extra>",
    ...(mark.low.length ? { error_y: whiskers(mark) } : {}) }],
  curve: (mark, ink) => {
    const line = { type: "scatter", mode: "lines", x: mark.x, y: mark.y, line: { color: ink, width: 1.5 }, name: plain(mark.name), connectgaps: false };
    if (!mark.low.length) return [line];
    const edge = { type: "scatter", mode: "lines", x: mark.x, line: { width: 0, color: ink }, showlegend: false, hoverinfo: "skip" };
    return [{ ...edge, y: mark.low }, { ...edge, y: mark.high, fill: "tonexty", fillcolor: ink.replace("rgb(", "rgba(").replace(")", ", 0.18)") }, line];
  },
  points: (mark, ink) => [{ type: "scatter", mode: "markers", x: mark.x, y: mark.y, name: plain(mark.name), text: mark.texts.map(label),
    marker: mark.ring ? { symbol: "circle-open", color: colour("--ink"), size: 15, line: { width: 2 } }
      : { color: ink, size: mark.x.length > 500 ? 4 : 8, opacity: mark.x.length > 500 ? 0.5 : 0.85 },
    hovertemplate: `${mark.texts.length ? "%{text}<br>" : ""}%{x:.4g}, %{y:.4g}<extra></extra>` }],
  histogram: (mark, ink) => {
    if (!mark.counts.length) return [];
    const between = mark.counts.map((count, place) => `${short(mark.edges[place])} – ${short(mark.edges[place + 1])}: ${whole(count ?? 0)}`);
    return [{ type: "scatter", mode: "lines", line: { shape: "hv", color: ink, width: 1 }, fill: "tozeroy", x: mark.edges,
      y: [...mark.counts, mark.counts[mark.counts.length - 1]], text: [...between, between[between.length - 1]], hovertemplate: "%{text}<extra></extra>", name: plain(mark.name) }];
  },
  heat: (mark) => [{ type: "heatmap", z: mark.values, x: mark.columns.map((_, place) => place), y: mark.rows.map((_, place) => place), colorscale: "Viridis",
    hoverongaps: false, showscale: new Set(mark.values.flat()).size > 1, texttemplate: mark.values.length * mark.columns.length <= 80 ? "%{z:.3g}" : "", colorbar: { thickness: 8, outlinewidth: 0 },
    text: mark.values.map((_, row) => mark.columns.map((column) => `${label(mark.rows[row])}, ${label(column)}`)), hovertemplate: "%{text}: %{z:.4g}<extra></extra>" }],
};

function axis(title, log, ink, line, values) {
  return { title: { text: plain(title), standoff: 6, font: { size: 11 } }, type: log ? "log" : "linear", color: ink, gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true,
    ...(log ? logTicks(values) : {}) };
}

function logTicks(values) { // powers of ten, or 1-2-5 on a short axis; all of one size, as plotly's own are not
  const known = values.filter((value) => value > 0);
  if (!known.length) return {};
  const least = Math.min(...known), most = Math.max(...known);
  const low = Math.floor(Math.log10(least)), high = Math.ceil(Math.log10(most));
  const ticks = (steps) => Array.from({ length: high - low + 1 }, (_, place) => steps.map((step) => Number(`${step}e${low + place}`))).flat();
  const tickvals = [[1], [1, 2, 5]].map(ticks).find((some) => some.filter((value) => value >= least && value <= most).length > 2);
  if (!tickvals) return most > least ? {} : { tickmode: "array", tickvals: ticks([1, 2, 5]) }; // on a very short axis plotly's own are of one size
  return { tickmode: "array", tickvals, ticktext: tickvals.map((value) => (value >= 0.001 && value < 1e5 ? short(value) : `10<sup>${Math.round(Math.log10(value))}</sup>`)) };
}

function layoutOf(chart, traces) {
  const ink = colour("--dim"), line = colour("--line");
  const all = (side) => traces.flatMap((trace) => side(trace) ?? []);
  const layout = {
    height: 260, margin: { l: 8, r: 8, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", bargap: 0.15, dragmode: "zoom",
    font: { family: "system-ui, sans-serif", size: 11, color: ink }, xaxis: axis(chart.x_label, chart.log_x, ink, line, all((trace) => trace.x)), yaxis: axis(chart.y_label, chart.log_y, ink, line, all((trace) => trace.y)),
    showlegend: false,
    hoverlabel: { bgcolor: colour("--tint"), bordercolor: line, font: { color: colour("--ink") } },
  };
  for (const mark of chart.marks) {
    const named = { tickmode: "array", tickangle: -60 };
    if (mark.mark === "bars") Object.assign(layout.xaxis, named, { showgrid: false, tickvals: mark.labels.map((_, place) => place), ticktext: mark.labels.map(label) });
    if (mark.mark === "heat") {
      Object.assign(layout.xaxis, { tickmode: "array", tickvals: mark.columns.map((_, place) => place), ticktext: mark.columns.map(label) });
      Object.assign(layout.yaxis, { tickmode: "array", tickvals: mark.rows.map((_, place) => place), ticktext: mark.rows.map(label), title: { text: plain(chart.y_label), standoff: 6 } });
    }
  }
  if (traces.every((trace) => trace.type === "scatter" && trace.fill === "tozeroy") && !chart.log_y) layout.yaxis.rangemode = "tozero";
  return layout;
}

// What the marks are called: above the chart, where it takes no room from it. Each hides its mark, and shows it again.
function legendOf(chart, hidden, redraw) {
  const root = element("div", { className: "entries" }), keys = [];
  chart.marks.forEach((mark, place) => {
    if (!mark.name) return;
    const key = element("i", { className: mark.ring ? "ring" : mark.mark });
    const entry = element("button", { type: "button", ariaPressed: "true" }, key, element("bdi", {}, mark.name));
    entry.addEventListener("click", () => {
      if (!hidden.delete(place)) hidden.add(place);
      entry.ariaPressed = String(!hidden.has(place));
      redraw();
    });
    keys.push([key, place]);
    root.append(entry);
  });
  return { root, paint(inks) { for (const [key, place] of keys) key.style.color = inks[place]; } };
}

// Draw a chart (its JSON) into an element. `links[i]`: the page that each point, or cell, of mark i leads to.
export async function drawChart(target, chart, links = []) {
  const Plotly = await plotly();
  const hidden = new Set(), legend = legendOf(chart, hidden, () => draw());
  if (legend.root.childElementCount > 1) target.before(legend.root);
  const draw = () => {
    const inks = series(chart.marks.length);
    legend.paint(inks);
    const owner = [], traces = chart.marks.flatMap((mark, place) => {
      const made = marks[mark.mark](mark, inks[place]);
      made.forEach(() => owner.push(place));
      return made.map((trace) => ({ ...trace, visible: !hidden.has(place) }));
    });
    const options = { displayModeBar: false, responsive: true }; // drag zooms, a double click shows all again
    const done = Plotly.react(target, traces, layoutOf(chart, traces), options);
    target.removeAllListeners?.("plotly_click");
    target.on("plotly_click", ({ points: [point] }) => {
      const link = [point.pointNumber].flat().reduce((found, place) => found?.[place], links[owner[point.curveNumber]]);
      if (link) location.assign(here(link));
    });
    return done;
  };
  target.setAttribute("role", "img");
  target.setAttribute("aria-label", `${chart.title}: ${chart.y_label} over ${chart.x_label}`);
  drawn.set(target, draw);
  await draw();
  byId("js-plotly-tester").ariaHidden = "true"; // where plotly measures texts: an image of nothing
}

// Every list of charts on the page, each as a figure with its title.
export function drawAll() {
  for (const box of document.querySelectorAll(".charts[data-source]")) {
    for (const { chart, links } of dataOf(box.dataset.source)) {
      const place = element("div", { className: "chart" });
      if (links.some((each) => each.length)) place.classList.add("leads");
      box.append(element("figure", {}, element("figcaption", { textContent: chart.title }), place));
      drawChart(place, chart, links);
    }
  }
}

export function redraw() { // in other colours
  forget();
  for (const draw of drawn.values()) draw();
}

export function forget() { // the charts that have left the page
  for (const target of drawn.keys()) {
    if (target.isConnected) continue;
    window.Plotly?.purge(target);
    drawn.delete(target);
  }
}
