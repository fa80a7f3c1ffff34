// Where one live analysis shows itself: progress, cancel, link, Python, and what it gives.

import { drawChart } from "./charts.js";
import { element } from "./dom.js";
import { report, said } from "./live.js";
import { tokenStrip, visible } from "./tokens.js";

// `draw(body, data)` shows a result, whole or partial; by default its numbers, strips, charts and table, shaded by `most`.
export function panelFor(analysis, href, most, draw = fill) {
  const bar = element("progress", {});
  const words = element("span", { role: "status", ariaLive: "polite" }, "waiting");
  const cancel = element("button", { type: "button" }, "Cancel");
  const tools = element("span", { className: "lab-tools" }, element("a", { href }, "link"));
  const body = element("div", { className: "lab-body" });
  const root = element("section", { className: "lab-result", ariaLabel: analysis.label },
    element("h3", {}, analysis.label), element("p", { className: "lab-progress" }, bar, words, cancel), tools, body);
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
      tools.append(copyButton(data.python), element("a", { href: `/api/jobs/${id}/table.csv`, download: "" }, "table as CSV"));
    },
    failed(what) {
      end(what);
      root.classList.add("lab-failed");
    },
  };
}

function copyButton(source) {
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
  const facts = element("dl", { className: "numbers" });
  for (const [name, value] of Object.entries(data.facts)) {
    facts.append(element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, element("bdi", {}, said(value)))));
  }
  const strips = data.strips.flatMap((strip) =>
    [element("p", { className: "dim" }, strip.label), tokenStrip(strip.tokens, strip.values, most, { label: strip.label })]);
  const charts = element("div", { className: "charts" });
  body.replaceChildren(facts, ...strips, charts, tableOf(data.table));
  for (const chart of data.charts) { // drawn once they are on the page: plotly measures its place
    const place = element("div", { className: "chart" });
    charts.append(element("figure", {}, element("figcaption", {}, chart.title), place));
    drawChart(place, chart);
  }
}

// A number or a text; texts are mostly tokens, whose blanks are to be seen.
export function cellOf(value) {
  return typeof value === "string" ? element("bdi", {}, ...visible(value, true)) : said(value);
}

export function tableOf(table) {
  if (table === null) return "";
  const { columns, rows, total } = table;
  const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name.replaceAll("_", " "))));
  const lines = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cellOf(cell)))));
  const some = rows.length < total ? ` (the first ${rows.length} of ${total})` : "";
  return element("details", { className: "lab-table" }, element("summary", {}, `Table${some}`),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines)));
}
