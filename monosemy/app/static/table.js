// Tables that are whole on the page: a click on a heading sorts by it, undefined values last either way.

export function sortTables() {
  for (const table of document.querySelectorAll("table.sorts")) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) sortBy(table, button.closest("th"));
    });
  }
}

function sortBy(table, heading) {
  const order = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [row, value(row.cells[heading.cellIndex])]);
  rows.sort(([, a], [, b]) => compare(a, b, order));
  table.tBodies[0].append(...rows.map(([row]) => row));
}

const value = (cell) => (cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim() || null);

function compare(a, b, order) {
  if (a === null || b === null) return a !== null ? -1 : b !== null ? 1 : 0;
  return order * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}
