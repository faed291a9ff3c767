// What is kept: by search, task, method, families, metric and status.

const kinds = [
  { key: "tasks", title: "Tasks", values: data.tasks.map((task) => task.title) },
  { key: "methods", title: "Methods", values: data.methods.map((method) => method.title) },
  { key: "taskFamilies", title: "Task families", values: distinctOf(data.tasks) },
  { key: "methodFamilies", title: "Method families", values: distinctOf(data.methods) },
  { key: "metrics", title: "Metrics", values: data.metrics.map((metric) => metric.title) },
  { key: "statuses", title: "Status", values: ["done", "failed", "killed"] },
];
const kept = { search: "" };
const listeners = [];

function distinctOf(things) {
  return [...new Set(things.map((thing) => thing.family))].sort();
}

function keepAll() {
  kept.search = "";
  for (const kind of kinds) kept[kind.key] = new Set(kind.values.keys());
}

const indexIn = (key, value) => kinds.find((kind) => kind.key === key).values.indexOf(value);

const textOf = data.cells.map((cell) => {
  const task = data.tasks[cell.task], method = data.methods[cell.method];
  return [task.name, task.title, task.family, method.name, method.title, method.family, cell.status, cell.reason ?? "", `seed ${cell.seed}`]
    .join("\n").toLowerCase();
});

function keepsCell(index) {
  const cell = data.cells[index];
  return kept.tasks.has(cell.task) && kept.methods.has(cell.method)
    && kept.taskFamilies.has(indexIn("taskFamilies", data.tasks[cell.task].family))
    && kept.methodFamilies.has(indexIn("methodFamilies", data.methods[cell.method].family))
    && kept.statuses.has(indexIn("statuses", cell.status))
    && kept.search.split(/\s+/).every((word) => textOf[index].includes(word));
}

let keptCells = new Set();

// What the filters leave of a table, as the summary shows it: its entries of which any cell is left.
function keptOf(table) {
  const metric = data.metrics.findIndex((other) => other.name === table.metric);
  const entries = kept.metrics.has(metric) ? table.entries.filter((entry) => entry.cells.some((index) => keptCells.has(index))) : [];
  const [tasks, methods] = ["task", "method"].map((kind) => new Set(entries.map((entry) => entry[kind])));
  return { entries, tasks: table.tasks.filter((task) => tasks.has(task)), methods: table.methods.filter((method) => methods.has(method)) };
}

function changed() {
  keptCells = new Set([...data.cells.keys()].filter(keepsCell));
  byId("kept").textContent = `${keptCells.size} of ${data.cells.length} cells`;
  for (const kind of kinds) {
    const details = byId(`choice-${kind.key}`), all = kept[kind.key].size === kind.values.length;
    details.classList.toggle("some", !all);
    details.querySelector("summary").textContent = all ? `${kind.title}: all` : `${kind.title}: ${kept[kind.key].size} of ${kind.values.length}`;
    details.querySelectorAll("input").forEach((box, index) => { box.checked = kept[kind.key].has(index); });
  }
  for (const listener of listeners) listener();
}

function choice(kind) {
  const set = (values) => { kept[kind.key] = new Set(values); changed(); };
  const boxes = kind.values.map((value, index) => element("label", {},
    element("input", { type: "checkbox", checked: true, onchange: (event) => {
      if (event.target.checked) kept[kind.key].add(index); else kept[kind.key].delete(index);
      changed();
    } }),
    kind.key === "methods" ? methodLabel(index) : value));
  return element("details", { class: "choice", id: `choice-${kind.key}` },
    element("summary", {}, `${kind.title}: all`),
    element("div", { class: "panel", role: "group", "aria-label": kind.title },
      element("div", { class: "all" },
        element("button", { type: "button", onclick: () => set(kind.values.keys()) }, "all"),
        element("button", { type: "button", onclick: () => set([]) }, "none")),
      boxes));
}

// A panel stays inside the window: it moves to the left by what would stick out.
function placePanel(details) {
  const panel = details.querySelector(".panel");
  panel.style.left = "";
  if (getComputedStyle(details).position === "static") return; // narrow: as wide as the filters
  const over = panel.getBoundingClientRect().right - document.documentElement.clientWidth + 8;
  if (over > 0) panel.style.left = `${-Math.min(over, details.getBoundingClientRect().left - 8)}px`;
}

function buildFilters() {
  keepAll();
  byId("choices").append(...kinds.map(choice));
  byId("search").addEventListener("input", (event) => { kept.search = event.target.value.trim().toLowerCase(); changed(); });
  byId("reset").addEventListener("click", () => { keepAll(); byId("search").value = ""; changed(); });
  const panels = [...document.querySelectorAll("details.choice")];
  for (const panel of panels) {
    panel.addEventListener("toggle", () => {
      if (!panel.open) return;
      for (const other of panels) if (other !== panel) other.open = false;
      placePanel(panel);
    });
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && panel.open) { panel.open = false; panel.querySelector("summary").focus(); }
    });
  }
  document.addEventListener("click", (event) => { for (const panel of panels) if (!panel.contains(event.target)) panel.open = false; });
}
