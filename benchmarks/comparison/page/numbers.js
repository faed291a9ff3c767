// Every number of every cell, a row for each; and the cells that are not done.

const FIRST = 100;
const numbersOrder = { key: "", down: false };
let shown = FIRST;

const columns = [
  { key: "task", title: "Task", of: (row) => data.tasks[row.cell.task].title },
  { key: "method", title: "Method", of: (row) => data.methods[row.cell.method].title },
  { key: "metric", title: "Metric", of: (row) => row.metric?.title ?? null },
  { key: "value", title: "Value ± error", of: (row) => row.metric?.value ?? null, right: true },
  { key: "unit", title: "Unit", of: (row) => row.metric?.unit ?? null },
  { key: "seed", title: "Seed", of: (row) => row.cell.seed, right: true },
  { key: "status", title: "Status", of: (row) => row.cell.status },
  { key: "family", title: "Family", of: (row) => data.methods[row.cell.method].family },
  { key: "better", title: "Better", of: (row) => row.metric?.better ?? null },
  { key: "seconds", title: "Training, s", of: (row) => row.cell.seconds, right: true },
];

const everyRow = data.cells.flatMap((cell, index) => [...cell.metrics, ...(cell.status === "done" && cell.metrics.length ? [] : [null])].map((metric) => ({
  cell, index, metric, place: metric ? data.metrics.findIndex((other) => other.name === metric.name) : null,
})));

function buildNumbers() {
  byId("more").addEventListener("click", () => { shown = Infinity; drawNumbers(); });
  listeners.push(() => { shown = FIRST; drawNumbers(); }, drawFailures);
  byId("unread").append(...(data.unread.length ? [
    element("h3", {}, "Files that were not read"),
    element("ul", {}, data.unread.map(([file, reason]) => element("li", {}, element("b", {}, file), `: ${reason}`))),
  ] : []));
}

function drawNumbers() {
  const rows = everyRow.filter((row) => keptCells.has(row.index) && (row.place === null || kept.metrics.has(row.place)));
  const column = columns.find((each) => each.key === numbersOrder.key);
  if (column) rows.sort(comparing(column.of, numbersOrder.down));
  const table = byId("numbers-table");
  refocus(table, () => table.replaceChildren(
    element("thead", {}, element("tr", {}, columns.map((each) => sortHeader(each.title, each.key, numbersOrder, sortNumbers, each.right)))),
    element("tbody", {}, rows.slice(0, shown).map(numberRow)),
    rows.length ? "" : element("caption", {}, "Nothing is left by the filters.")));
  byId("numbers-count").textContent = `${rows.length} numbers and failures${rows.length > shown ? `, the first ${shown} shown` : ""}.`;
  byId("more").hidden = rows.length <= shown;
  byId("more").textContent = `Show all ${rows.length}`;
}

// What has no value is last in either direction.
function comparing(of, down) {
  const sign = down ? -1 : 1;
  return (a, b) => {
    const [x, y] = [of(a), of(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
  };
}

function numberRow(row) {
  return element("tr", { "data-status": row.cell.status }, columns.map((column) => {
    const kind = column.right ? "right" : null;
    if (column.key === "value") return element("td", { class: kind }, valueButton(row));
    if (column.key === "method") return element("td", {}, methodLabel(row.cell.method));
    if (column.key === "status") return element("td", { class: `status-${row.cell.status}` }, row.cell.status);
    const value = column.of(row);
    return element("td", { class: kind }, value === null ? "–" : typeof value === "number" ? short(value) : value);
  }));
}

function valueButton(row) {
  const text = row.metric ? row.metric.text : row.cell.reason ?? "no metric";
  return numberButton(text, row.metric && row.metric.value !== null ? [] : ["bad"], () => cellTip(row.cell, row.metric));
}

function sortNumbers(key) {
  numbersOrder.down = numbersOrder.key === key ? !numbersOrder.down : false;
  numbersOrder.key = key;
  drawNumbers();
}

function drawFailures() {
  const failed = data.cells.filter((cell, index) => cell.status !== "done" && keptCells.has(index));
  const table = byId("failures-table"), any = data.cells.some((cell) => cell.status !== "done");
  if (!failed.length) {
    table.replaceChildren(element("caption", {}, any ? "None of those left by the filters." : "None: every cell is done."));
    return;
  }
  table.replaceChildren(
    element("thead", {}, element("tr", {}, ["Task", "Method", "Seed", "Status", "Reason"].map((title) => element("th", { scope: "col" }, title)))),
    element("tbody", {}, failed.map((cell) => element("tr", {},
      element("td", {}, data.tasks[cell.task].title),
      element("td", {}, methodLabel(cell.method)),
      element("td", {}, String(cell.seed)),
      element("td", {}, numberButton(cell.status, ["bad"], () => cellTip(cell, null))),
      element("td", { class: "reason" }, cell.reason ?? "")))));
}
