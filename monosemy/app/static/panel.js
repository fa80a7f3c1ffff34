// Where one live analysis shows itself: progress, cancel, link, Python, and what it gives.

import { drawChart } from "./charts.js";
import { element } from "./dom.js";
import { report, said } from "./live.js";
import { tokenStrip, visible } from "./tokens.js";

// `draw(body, data)` shows a result, whole or partial; by default its words, strips, charts and table, shaded by `most`.
// `missing`: what the link does not hold, in words.
export function panelFor(analysis, href, most, draw = fill, missing = "") {
  const bar = element("progress", { ariaLabel: `How far: ${analysis.label}` });
  const words = element("span", { role: "status", ariaLive: "polite" }, "waiting");
  const cancel = element("button", { type: "button" }, "Cancel");
  const tools = element("span", { className: "lab-tools" }, element("a", { href }, missing ? `link without ${missing}` : "link"));
  const body = element("div", { className: "lab-body" });
  const root = element("section", { className: "lab-result", ariaLabel: analysis.label },
    element(document.getElementById("lab") ? "h3" : "h2", {}, analysis.label), element("p", { className: "lab-progress" }, bar, words, cancel), tools, body);
  let job = null;
  cancel.addEventListener("click", () => job?.cancel());

  function end(what) {
    bar.remove();
    cancel.remove();
    words.textContent = what;
  }
  return {
    root,
    watch(followed) { job = followed; },
    said(what) { words.textContent = what; },
    progress(data) {
      if (data.total) {
        bar.max = data.total;
        bar.value = data.done;
      }
      const left = data.left_s === null ? "" : `, ${Math.ceil(data.left_s)} s left`;
      const share = data.total ? ` ${Math.floor((100 * data.done) / data.total)} %` : "";
      report(words, `${data.label}${share}${left}`);
    },
    partial(data) { draw(body, data, most); },
    done(data, id) {
      end("done");
      draw(body, data, most);
      const job = `/api/jobs/${id}`;
      tools.append(copyButton(data.python), element("a", { href: `${job}/table.csv`, download: "" }, "table as CSV"), element("a", { href: job }, "JSON"));
    },
    failed(what) {
      end(what);
      root.classList.add("lab-failed");
    },
  };
}

export function copyButton(source) {
  const button = element("button", { type: "button", title: source }, "Copy as Python");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source);
      button.textContent = "Copied";
    } catch { // no leave to write to the clipboard: show it instead
      const shown = element("textarea", { readOnly: true, rows: 12, value: source, ariaLabel: "The Python program" });
      button.replaceWith(shown);
      shown.select();
    }
  });
  return button;
}

function fill(body, data, most) {
  const words = data.words.map((sentence) => element("p", { className: "lab-words", dir: "auto" }, sentence));
  const strips = data.strips.flatMap((strip) =>
    [element("p", { className: "dim" }, strip.label), tokenStrip(strip.tokens, strip.values, most, { label: strip.label })]);
  const charts = element("div", { className: "charts" });
  body.replaceChildren(...words, ...strips, charts, tableOf(data.table, data.index));
  for (const chart of data.charts) { // drawn once they are on the page: plotly measures its place
    const place = element("div", { className: "chart" });
    charts.append(element("figure", {}, element("figcaption", {}, chart.title), place));
    drawChart(place, chart);
  }
}

// A number or a text; texts are mostly tokens, whose blanks are to be seen. Truths are words.
export function cellOf(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "string" ? element("bdi", {}, ...visible(value, true)) : said(value);
}

// `index`: where the pages are of the numbers in a column that is called "feature".
export function tableOf(table, index = null) {
  if (table === null) return "";
  const { columns, rows, total } = table;
  const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name.replaceAll("_", " "))));
  const leads = (place) => index !== null && columns[place] === "feature";
  const page = (feature) => element("a", { href: `/features/${feature}?${new URLSearchParams({ index })}` }, String(feature));
  const lines = rows.map((row) => element("tr", {}, ...row.map((cell, place) => element("td", {}, leads(place) ? page(cell) : cellOf(cell)))));
  const some = rows.length < total ? ` (the first ${rows.length} of ${total})` : "";
  return element("details", { className: "lab-table" }, element("summary", {}, `Table${some}`),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines)));
}
