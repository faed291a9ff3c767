// One metric: methods downwards, tasks across, the mean over seeds in between.

const summaryOrder = { key: "", down: false };

function buildSummary() {
  const select = byId("summary-metric");
  options(select, data.tables.map((table) => table.heading));
  select.addEventListener("change", () => { summaryOrder.key = ""; drawSummary(); });
  listeners.push(drawSummary);
}

function drawSummary() {
  const table = data.tables[byId("summary-metric").value || 0];
  const element_ = byId("summary-table");
  if (!table) { element_.replaceChildren(element("caption", {}, "No metric was measured.")); return; }
  byId("summary-meaning").textContent = `${table.unit ? `In ${table.unit}; ` : ""}${table.direction}. ${table.meanings.join(" · ")}`;
  const { entries, tasks, methods } = keptOf(table);
  const at = (task, method) => entries.find((entry) => entry.task === task && entry.method === method);
  refocus(element_, () => element_.replaceChildren(
    element("thead", {}, element("tr", {},
      sortHeader("Method", "method", summaryOrder, sortSummary),
      tasks.map((task) => sortHeader(data.tasks[task].title, `task-${task}`, summaryOrder, sortSummary)))),
    element("tbody", {}, sortedMethods(methods, at).map((method) => element("tr", {},
      element("th", { scope: "row" }, methodLabel(method)),
      tasks.map((task) => summaryCell(table, at(task, method)))))),
    entries.length ? "" : element("caption", {}, "Nothing is left by the filters.")));
}

function summaryCell(table, entry) {
  if (!entry) return element("td", { class: "none" }, element("span", { "aria-label": "not measured" }, "–"));
  const kinds = [entry.best ? "best" : null, entry.score === null && entry.bad ? "bad" : null].filter(Boolean);
  return element("td", {},
    numberButton(entry.text, kinds, () => entryTip(table, entry)),
    entry.best ? element("span", { class: "hidden" }, " (not told from the best)") : null,
    entry.few ? element("span", { class: "few" }, entry.few) : null);
}

// A first press on a task puts the best on top; what has no number is always last.
function sortedMethods(methods, at) {
  const sign = summaryOrder.down ? -1 : 1;
  if (summaryOrder.key === "method") return [...methods].sort((a, b) => sign * data.methods[a].title.localeCompare(data.methods[b].title));
  if (!summaryOrder.key) return methods;
  const task = Number(summaryOrder.key.slice(5));
  const score = (method) => at(task, method)?.score ?? null;
  return [...methods].sort((a, b) => {
    const [x, y] = [score(a), score(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  });
}

function sortSummary(key) {
  const first = key === "method" ? false : true;
  summaryOrder.down = summaryOrder.key === key ? !summaryOrder.down : first;
  summaryOrder.key = key;
  drawSummary();
}
