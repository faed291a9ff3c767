// Elements, numbers, and the marks by which a method is known everywhere.

window.addEventListener("error", () => { document.documentElement.dataset.ready = ""; }); // what is built by then is shown
const data = JSON.parse(document.getElementById("data").textContent);
for (const cell of data.cells) { // what recurs is held once
  cell.protocol = Object.fromEntries(cell.protocol.map((fact) => data.facts[fact]));
  cell.metrics = cell.metrics.map(([kind, value, text]) => ({ ...data.kinds[kind], value, text }));
}
const byId = (id) => document.getElementById(id);
const NUM_COLOURS = 6;
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
const SHAPES = ["circle", "square", "up", "diamond", "down"];

// Makes an element; text goes in as text, never as markup.
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const signed = (text) => String(text).replace(/-(?=[\d.])/g, "−");

function short(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)) return signed(value.toExponential(2));
  return signed(String(Number(value.toPrecision(4))));
}

const titleOf = (title, ...about) => (about.some(Boolean) ? `${title} (${about.filter(Boolean).join("; ")})` : title);

const colourOf = (method) => `c${method % NUM_COLOURS}`;
const dashOf = (method) => DASHES[Math.floor(method / NUM_COLOURS) % DASHES.length];

// A mark at (x, y); its shape belongs to the method as its colour does.
function markOf(method, x, y, r = 3.6) {
  const around = {
    circle: () => Array.from({ length: 16 }, (_, k) => [Math.cos((k * Math.PI) / 8), Math.sin((k * Math.PI) / 8)]),
    square: () => [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    up: () => [[0, -1.2], [1.1, 0.85], [-1.1, 0.85]],
    diamond: () => [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    down: () => [[0, 1.2], [1.1, -0.85], [-1.1, -0.85]],
  }[SHAPES[method % SHAPES.length]]();
  const points = around.map(([dx, dy]) => `${(x + r * dx).toFixed(2)},${(y + r * dy).toFixed(2)}`).join(" ");
  return drawn("polygon", { points, class: `${colourOf(method)} fill halo`, "stroke-width": 1 });
}

function swatch(method) {
  return drawn("svg", { width: 30, height: 14, "aria-hidden": "true" },
    drawn("line", { x1: 1, x2: 29, y1: 7, y2: 7, class: `${colourOf(method)} stroke`, "stroke-width": 2, "stroke-dasharray": dashOf(method) }),
    markOf(method, 15, 7, 4));
}

function methodLabel(method) {
  return element("span", { class: "method" }, swatch(method), element("span", {}, data.methods[method].title));
}

// A header of a column that sorts: the same button for every table.
function sortHeader(text, key, order, sort, right = false) {
  const state = order.key === key ? (order.down ? "descending" : "ascending") : "none";
  const button = element("button", { type: "button", class: "sort", "data-sort": key, onclick: () => sort(key) }, text);
  return element("th", { scope: "col", "aria-sort": state, class: right ? "right" : null }, button);
}

// Draws the header anew and leaves the focus where it was.
function refocus(table, draw) {
  const key = table.contains(document.activeElement) ? document.activeElement.dataset.sort : undefined;
  draw();
  if (key !== undefined) [...table.querySelectorAll("button.sort")].find((button) => button.dataset.sort === key)?.focus();
}

function options(select, entries) {
  select.replaceChildren(...entries.map((text, index) => element("option", { value: index }, text)));
}
