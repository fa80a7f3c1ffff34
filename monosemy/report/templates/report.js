// The table of scores, and the list of features. One feature is on show at a time; its address is #feature-N.

// --- the table of scores ----------------------------------------------------

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column].dataset.value;
    return text === undefined ? null : text === "" || isNaN(text) ? text : Number(text);
  };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const order = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    table.tBodies[0].append(...rows.sort((a, b) => compare(value(a, column), value(b, column), order)));
  }));
}

// --- the browser of features ------------------------------------------------

function browse(data) {
  const ROW = 28, table = data.table, fields = Object.keys(table);
  const rows = table.id.map((_, place) => Object.fromEntries(fields.map((name) => [name, table[name][place]])));
  const rowOf = new Map(rows.map((row) => [row.id, row]));
  const list = byId("list"), spacer = list.firstElementChild;
  let key = rows.some((row) => known(row.mcs_other_seed)) ? "mcs_other_seed" : "density";
  let order = -1, listed = [], current = null;

  for (const row of rows) {
    row.packed = data.features[row.id];
    row.token = row.packed ? commonPeak(row.packed) : null;
  }

  function commonPeak(packed) {
    const counts = new Map();
    for (const [group, , , peak, tokens] of packed.examples) {
      if (group !== "top") continue;
      const begun = tokens.slice(0, peak + 1).findLast((token) => data.tokens[token] !== "");
      counts.set(begun, (counts.get(begun) || 0) + 1);
    }
    counts.delete(undefined);
    const best = [...counts].sort((a, b) => b[1] - a[1])[0];
    return best ? data.tokens[best[0]] : null;
  }

  function searchText(row) {
    if (row.text === undefined) {
      const parts = [];
      if (row.packed) {
        for (const [group, , , , tokens] of row.packed.examples) {
          if (group === "top") parts.push(tokens.map((token) => data.tokens[token]).join(""));
        }
        for (const [token] of [...row.packed.top, ...row.packed.bottom]) parts.push(data.tokens[token]);
      }
      row.text = parts.join("\u0000").toLowerCase();
    }
    return row.text;
  }

  function arrange() {
    const query = byId("query").value.toLowerCase(), id = query.trim().replace(/^#?(feature-)?/, "");
    const alive = rows.filter((row) => !(byId("living").checked && row.dead));
    listed = alive.filter((row) => query.trim() === "" || String(row.id) === id || searchText(row).includes(query));
    listed.sort((a, b) => compare(a[key], b[key], order) || a.id - b.id);
    document.querySelectorAll(".columns button").forEach((button) => {
      if (button.dataset.key === key) button.dataset.order = order;
      else delete button.dataset.order;
      button.setAttribute("aria-pressed", String(button.dataset.key === key));
    });
    byId("found").textContent = `${whole(listed.length)} of ${whole(rows.length)} features`;
    spacer.style.height = `${listed.length * ROW}px`;
    drawList();
  }

  function drawList() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 10);
    const last = Math.min(listed.length, first + Math.ceil(list.clientHeight / ROW) + 20);
    spacer.replaceChildren(...listed.slice(first, last).map((row, place) => listLine(row, first + place)));
  }

  function listLine(row, place) {
    const line = element("a", { className: row.packed ? "line" : "line bare", href: `#feature-${row.id}` },
      element("span", { textContent: row.id }),
      element("span", { className: "token" }, ...(row.token === null ? [row.dead ? "dead" : ""] : visible(row.token))),
      element("span", { textContent: row.dead ? "" : row.density.toExponential(1) }),
      element("span", { textContent: row.dead ? "" : digits(row.max, 3) }),
      element("span", { textContent: known(row.mcs_other_seed) ? row.mcs_other_seed.toFixed(2) : "" }));
    line.style.top = `${place * ROW}px`;
    if (row === current) line.setAttribute("aria-current", "true");
    return line;
  }

  function reveal() {
    const place = listed.indexOf(current) * ROW;
    if (place >= 0 && (place < list.scrollTop || place > list.scrollTop + list.clientHeight - ROW)) {
      list.scrollTop = place - list.clientHeight / 2;
    }
    drawList();
  }

  function show(row) {
    current = row;
    byId("title").replaceChildren(element("a", {
      href: `#feature-${row.id}`, title: "Link to this feature", textContent: `Feature ${row.id}` }));
    byId("content").replaceChildren(...featureContent(row, data));
    reveal();
  }

  function step(by) {
    const place = listed.indexOf(current);
    const next = listed[place < 0 ? 0 : place + by];
    if (next) location.replace(`#feature-${next.id}`);
  }

  function follow(scroll) {
    const match = /^#feature-(\d+)$/.exec(location.hash);
    const row = match && rowOf.get(Number(match[1]));
    if (row) {
      show(row);
      const pane = byId("pane").getBoundingClientRect();
      if (scroll || pane.top < 0 || pane.top > innerHeight * 0.8) byId("pane").scrollIntoView();
    } else if (current === null && (listed[0] || rows[0])) {
      show(listed[0] || rows[0]);
    }
    if (match && !row) byId("readout").textContent = `There is no feature ${match[1]} in this index.`;
  }

  document.querySelectorAll(".columns button").forEach((button) => button.addEventListener("click", () => {
    order = button.dataset.key === key ? -order : button.dataset.key === "id" ? 1 : -1;
    key = button.dataset.key;
    list.scrollTop = 0;
    arrange();
  }));
  byId("query").addEventListener("input", () => { list.scrollTop = 0; arrange(); });
  byId("living").addEventListener("change", arrange);
  list.addEventListener("scroll", drawList, { passive: true });
  addEventListener("resize", drawList);
  addEventListener("hashchange", () => follow(false));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.closest("input, .text, .scroll") || !(event.key === "ArrowLeft" || event.key === "ArrowRight")) return;
    event.preventDefault();
    step(event.key === "ArrowLeft" ? -1 : 1);
  });
  document.querySelector(".browser").hidden = false;
  arrange();
  follow(true);
}

const scores = byId("scores");
if (scores) sortable(scores);
if (byId("data")) browse(JSON.parse(byId("data").textContent));
