// The live lab of a feature's page: type a text, see where the feature fires, and ask for analyses of it. Each runs on
// the server as a job that is followed by Server-Sent Events; its request is in the address, so a link repeats it.

import { drawChart } from "./charts.js";
import { element } from "./dom.js";
import { post, report, said } from "./live.js";
import { tokenStrip, visible } from "./tokens.js";

const TYPING_MS = 250;
const AS_TYPED = "activations"; // the analysis that runs while one types

async function start(lab) {
  const feature = {
    dictionaries: lab.dataset.dictionaries,
    member: Number(lab.dataset.member),
    feature: Number(lab.dataset.feature),
  };
  const most = Number(lab.dataset.max);
  const answer = await fetch("/api/live");
  const analyses = await answer.json();

  const text = element("textarea", { id: "lab-text", rows: 3, maxLength: 4000, spellcheck: false, dir: "auto" });
  const typed = element("div", { className: "lab-typed" });
  const typedSaid = element("p", { className: "dim" });
  const results = element("div", { className: "lab-results" });
  lab.append(
    element("h2", {}, "Live"),
    element("label", { htmlFor: "lab-text" }, "Text for the model to read"),
    text, typed, typedSaid,
  );

  let pending = 0;
  let running = null;
  text.addEventListener("input", () => {
    clearTimeout(pending);
    pending = setTimeout(readTyped, TYPING_MS);
  });

  function readTyped() {
    running?.drop();
    running = null;
    typedSaid.textContent = "";
    if (!text.value) {
      typed.replaceChildren();
      return;
    }
    typed.setAttribute("aria-busy", "true");
    running = follow(AS_TYPED, { ...feature, prompt: text.value }, {
      done(data) {
        typed.removeAttribute("aria-busy");
        typed.replaceChildren(...data.strips.map((strip) => tokenStrip(strip.tokens, strip.values, most, { label: strip.label })));
      },
      failed(said) {
        typed.removeAttribute("aria-busy");
        typed.replaceChildren();
        typedSaid.textContent = said;
      },
      said(words) { typedSaid.textContent = words; },
    });
  }

  function ask(name, values) {
    const request = { ...feature, ...values };
    const panel = panelFor(analyses[name], link(name, values), most);
    results.prepend(panel.root);
    panel.watch(follow(name, request, panel));
  }

  const controls = {};
  for (const [name, analysis] of Object.entries(analyses)) {
    if (name === AS_TYPED) continue;
    controls[name] = controlsFor(name, analysis, (values) => {
      const all = "prompt" in analysis.parameters ? { prompt: text.value, ...values } : values;
      if (all.prompt === "") {
        text.focus();
        typedSaid.textContent = `“${analysis.label}” needs a text.`;
        return;
      }
      history.replaceState(null, "", link(name, all));
      ask(name, all);
    });
  }
  lab.append(element("div", { className: "lab-actions" }, ...Object.values(controls).map((each) => each.root)), results);

  function replay() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (given.get("prompt")) {
      text.value = given.get("prompt");
      readTyped();
    }
    const name = given.get("lab");
    if (!Object.hasOwn(controls, name ?? "")) return;
    const values = controls[name].set(given);
    if ("prompt" in analyses[name].parameters) values.prompt = text.value;
    if (values.prompt !== "") ask(name, values);
  }
  addEventListener("hashchange", replay);
  replay();
}

// A button and the fields of what else the analysis takes; `set` fills them from an address and gives their values.
function controlsFor(name, analysis, press) {
  const fields = {};
  const button = element("button", { type: "button", title: analysis.help }, analysis.label);
  const root = element("span", { className: "lab-action", role: "group", ariaLabel: analysis.label }, button);
  for (const [key, parameter] of Object.entries(analysis.parameters)) {
    if (parameter.kind === "text") continue;
    const id = `lab-${name}-${key}`;
    const field = fieldFor(parameter, id);
    fields[key] = { field, parameter };
    root.append(element("label", { htmlFor: id, title: parameter.help }, key.replaceAll("_", " ")), field);
    if (field.type === "range") {
      const shown = element("output", { htmlFor: id }, field.value);
      field.addEventListener("input", () => { shown.textContent = field.value; });
      root.append(shown);
    }
  }
  const values = () => Object.fromEntries(Object.entries(fields).map(([key, { field, parameter }]) =>
    [key, parameter.kind === "choice" ? field.value : Number(field.value)]));
  button.addEventListener("click", () => {
    const wrong = Object.values(fields).find(({ field }) => !field.reportValidity());
    if (!wrong) press(values());
  });
  const set = (given) => {
    for (const [key, { field }] of Object.entries(fields)) {
      if (!given.has(key)) continue;
      field.value = given.get(key);
      field.dispatchEvent(new Event("input"));
    }
    return values();
  };
  return { root, set };
}

function fieldFor(parameter, id) {
  if (parameter.kind === "choice") {
    const options = parameter.choices.map((word) => element("option", { value: word }, word));
    const field = element("select", { id }, ...options);
    field.value = parameter.default;
    return field;
  }
  const { low, high } = parameter;
  const step = parameter.kind === "whole" ? 1 : parameter.slider ? (high - low) / 80 : "any";
  return element("input", {
    id, type: parameter.slider ? "range" : "number", min: low, max: high, step, required: true, value: parameter.default,
  });
}

// Where one analysis shows itself: title, progress, cancel, link, Python, table, and its strips and charts.
function panelFor(analysis, href, most) {
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
    partial(data) { fill(body, data, most); },
    done(data, id) {
      end("done");
      fill(body, data, most);
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
function cellOf(value) {
  return typeof value === "string" ? element("bdi", {}, ...visible(value, true)) : said(value);
}

function tableOf(table) {
  if (table === null) return "";
  const { columns, rows, total } = table;
  const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name.replaceAll("_", " "))));
  const lines = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cellOf(cell)))));
  const some = rows.length < total ? ` (the first ${rows.length} of ${total})` : "";
  return element("details", { className: "lab-table" }, element("summary", {}, `Table${some}`),
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines)));
}

function link(name, values) {
  return `${location.pathname}${location.search}#${new URLSearchParams({ lab: name, ...values })}`;
}

// Ask for an analysis and tell `watcher` what becomes of it, through broken connections and a server that restarts:
// asking again joins the job that is there.
function follow(name, request, watcher) {
  let source = null;
  let id = null;
  let given = false;

  async function ask() {
    if (given) return;
    const answer = await post(`/api/live/${name}`, request);
    if (given) {
      if (answer.job) fetch(`/api/jobs/${answer.job}`, { method: "DELETE" });
    } else if (answer.job) {
      id = answer.job;
      listen();
    } else if (answer.unreachable) {
      watcher.said?.("The server does not answer; asking again.");
      setTimeout(ask, 2000);
    } else {
      finish();
      watcher.failed(answer.error);
    }
  }

  function listen() {
    source = new EventSource(`/api/jobs/${id}/events`);
    const on = (kind, then) => source.addEventListener(kind, (event) => then(JSON.parse(event.data)));
    on("progress", (data) => watcher.progress?.(data));
    on("partial", (data) => watcher.partial?.(data));
    on("done", (data) => { finish(); watcher.done(data, id); });
    on("failed", (data) => { finish(); watcher.failed(data.text); });
    on("cancelled", (data) => { finish(); watcher.failed(data.text); });
    source.onerror = () => {
      if (given) return;
      watcher.said?.("The connection is lost; waiting for the server.");
      if (source.readyState === EventSource.CLOSED) setTimeout(ask, 1000);
    };
  }

  function finish() {
    given = true;
    source?.close();
  }

  ask();
  const remove = () => { if (id !== null && !given) fetch(`/api/jobs/${id}`, { method: "DELETE" }); };
  return {
    // Ask the server to stop it, and hear that it did.
    cancel() {
      remove();
      if (id !== null || given) return;
      given = true; // its job is not known yet, and is let go of as soon as it is
      watcher.failed("cancelled");
    },
    // Stop it and hear no more of it.
    drop() {
      remove();
      finish();
    },
  };
}

const lab = document.getElementById("lab");
if (lab) start(lab);
