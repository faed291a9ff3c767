// What is shown beside a number: on hover, on keyboard focus, and on a tap. Escape closes it; the pointer may enter it.

const tip = byId("tip");
let closing = 0;
let owner = null; // the number or plot that it belongs to
let beside = null; // gives the box beside which it stands

function showTip(content, node, anchor = () => node.getBoundingClientRect()) {
  clearTimeout(closing);
  [owner, beside] = [node, anchor];
  tip.replaceChildren(...content);
  tip.hidden = false;
  placeTip(anchor());
}

// Below its number or above, where there is more room, and never over it: what is covered cannot be pointed at.
function placeTip(anchor) {
  const room = { width: document.documentElement.clientWidth, below: window.innerHeight - anchor.bottom - 8, above: anchor.top - 8 };
  tip.style.pointerEvents = owner.matches("svg") ? "none" : ""; // a plot is followed through it
  tip.style.maxHeight = "";
  const { width, height } = tip.getBoundingClientRect();
  const isBelow = height <= room.below || room.below >= room.above;
  const high = Math.min(height, Math.max(60, isBelow ? room.below : room.above));
  const over = anchor.left + width > room.width - 8;
  const left = over && anchor.flip !== undefined ? anchor.flip - width : Math.min(anchor.left, room.width - width - 8);
  tip.style.maxHeight = `${high}px`;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${isBelow ? anchor.bottom + 4 : anchor.top - high - 4}px`;
}

function hideTip(delay = 0) {
  clearTimeout(closing);
  if (delay) closing = setTimeout(() => { tip.hidden = true; }, delay);
  else tip.hidden = true;
}

// A number that can be pointed at and focused; `content` makes what is shown.
function numberButton(text, kinds, content) {
  const open = () => showTip(content(), button);
  const button = element("button", {
    type: "button", class: ["number", ...kinds].join(" "), "aria-describedby": "tip",
    onmouseenter: open, onfocus: open, onclick: open, onmouseleave: () => hideTip(250), onblur: () => hideTip(),
  }, kinds.includes("bad") ? text : signed(text));
  return button;
}

function listed(pairs) {
  return element("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [element("dt", {}, name), element("dd", { class: String(value).length > 34 ? "long" : null }, String(value))]));
}

const plain = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : value === null ? "–" : String(value));

function budgetText(budget) {
  return Object.entries(budget).map(([name, value]) => `${value} ${name}`).join(", ");
}

// The protocol of several cells: a field on which they differ shows every value once.
function protocolPairs(cells) {
  const names = [...new Set(cells.flatMap((cell) => Object.keys(cell.protocol)))];
  const distinct = (of) => [...new Set(cells.map(of))].join("; ");
  return [
    ["budget", distinct((cell) => budgetText(cell.budget))],
    ["training", distinct((cell) => (cell.seconds === null ? "unknown" : `${short(cell.seconds)} s`))],
    ["peak memory", distinct((cell) => (cell.memory === null ? "unknown" : `${short(cell.memory)} MB`))],
    ...names.map((name) => [name.replaceAll("_", " "), distinct((cell) => plain(cell.protocol[name] ?? null))]),
    ["file", distinct((cell) => cell.file)],
  ];
}

function entryTip(table, entry) {
  const task = data.tasks[entry.task], method = data.methods[entry.method];
  const cells = entry.cells.map((index) => data.cells[index]);
  const seeds = entry.seeds.map(([seed, text]) => `seed ${seed}: ${signed(text)}`);
  return [
    element("strong", {}, `${table.title}: ${entry.score === null ? entry.text : signed(entry.text)}`),
    element("p", {}, `${table.unit ? `${table.unit}; ` : ""}${table.direction}`),
    element("p", {}, `${method.title} on ${task.title}`),
    ...entry.meanings.map((meaning) => element("p", {}, meaning)),
    listed([
      ["seeds", seeds.join("; ")],
      ["lost", entry.lost.map(([seed, status, reason, meaning]) => `seed ${seed}, ${status}: ${reason}${meaning ? ` (${meaning})` : ""}`).join("; ")],
      ...protocolPairs(cells),
    ]),
  ];
}

function cellTip(cell, metric) {
  const task = data.tasks[cell.task], method = data.methods[cell.method];
  const { ratio, method: other, blocks, reason } = cell.reference ?? {};
  const reference = cell.reference && (ratio === null ? reason ?? "not timed" : `${short(ratio)} times ${other} (${blocks} blocks)`);
  return [
    element("strong", {}, metric ? `${metric.title}: ${signed(metric.text)}` : cell.status),
    metric ? element("p", {}, `${metric.unit ? `${metric.unit}; ` : ""}${metric.direction}`) : null,
    element("p", {}, `${method.title} on ${task.title}, seed ${cell.seed}`),
    metric ? element("p", {}, metric.meaning) : null,
    listed([["status", cell.status], ["reason", cell.reason], ["time per step", reference], ...protocolPairs([cell])]),
  ].filter((node) => node !== null);
}

tip.addEventListener("mouseenter", () => clearTimeout(closing));
tip.addEventListener("mouseleave", () => hideTip(150));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
// What takes the focus may be scrolled into view: what belongs to it goes along.
window.addEventListener("scroll", (event) => {
  if (event.target === tip || tip.hidden) return;
  if (owner === document.activeElement || owner.matches(":hover")) placeTip(beside());
  else hideTip();
}, true);
