// Quality against steps and seconds: a card for each task, a plot for each axis, drawn to the width there is.

const HEIGHT = 236;
const MARGIN = { left: 52, right: 10, top: 12, bottom: 36 };
const AXES = { step: "steps", seconds: "seconds of training" };

function buildCurves() {
  const select = byId("curves-metric");
  options(select, data.curves.map((curve) => titleOf(curve.title, curve.unit)));
  byId("curves-log").checked = data.logarithmic;
  for (const id of ["curves-metric", "curves-log", "curves-whole"]) byId(id).addEventListener("change", drawCurves);
  byId("legend").append(...data.methods.map((_, method) => element("button", {
    type: "button", "aria-pressed": "true",
    onclick: () => { if (!kept.methods.delete(method)) kept.methods.add(method); changed(); },
    onmouseenter: () => highlight(method), onfocus: () => highlight(method), onmouseleave: () => highlight(null), onblur: () => highlight(null),
  }, methodLabel(method))));
  listeners.push(drawCurves);
  let width = 0;
  new ResizeObserver(() => {
    if (byId("plots").clientWidth !== width) { width = byId("plots").clientWidth; requestAnimationFrame(drawCurves); }
  }).observe(byId("plots"));
}

function highlight(method) {
  for (const plot of document.querySelectorAll("svg.curves")) {
    plot.classList.toggle("quiet", method !== null);
    for (const one of plot.querySelectorAll("g.one")) one.classList.toggle("loud", Number(one.dataset.method) === method);
  }
}

function drawCurves() {
  [...byId("legend").children].forEach((button, method) => button.setAttribute("aria-pressed", String(kept.methods.has(method))));
  const curve = data.curves[byId("curves-metric").value || 0];
  const pairs = new Set([...keptCells].map((index) => `${data.cells[index].task} ${data.cells[index].method}`));
  const hasMetric = curve && kept.metrics.has(data.metrics.findIndex((metric) => metric.name === curve.name));
  const keeps = (line) => hasMetric && line.metric === curve.name && curve.tasks.includes(line.task) && pairs.has(`${line.task} ${line.method}`);
  const onAxis = (lines) => (byId("curves-log").checked ? lines.map(afterZero) : lines).filter((line) => line.x.length);
  const bands = onAxis(data.bands.filter(keeps)), broken = onAxis(data.broken.filter(keeps));
  const tasks = [...data.tasks.keys()].filter((task) => [...bands, ...broken].some((line) => line.task === task));
  byId("plots").replaceChildren(...tasks.map((task) => {
    const holders = Object.keys(AXES).map((axis) => element("div", { "data-axis": axis }));
    return element("article", { class: "card", "data-task": data.tasks[task].name }, element("h3", {}, data.tasks[task].title), element("div", { class: "pair" }, holders));
  }));
  if (!tasks.length) byId("plots").append(element("p", { class: "empty" }, "No curve of this quality is left by the filters."));
  [...byId("plots").querySelectorAll(".card")].forEach((card, k) => {
    for (const holder of card.querySelectorAll("[data-axis]")) {
      const here = (line) => line.task === tasks[k] && line.axis === holder.dataset.axis;
      drawPlot(holder, curve, tasks[k], bands.filter(here), broken.filter(here));
    }
  });
}

function drawPlot(holder, curve, task, bands, broken) {
  const axis = holder.dataset.axis;
  if (!bands.length && !broken.length) {
    holder.append(element("p", { class: "empty" }, axis === "seconds" ? "No times: these cells ran beside others." : "No looks at this quality."));
    return;
  }
  const width = Math.max(200, holder.clientWidth);
  const log = byId("curves-log").checked;
  const x = scaleOf(xRange(bands, broken, log), [MARGIN.left, width - MARGIN.right], log);
  const y = scaleOf(yRange(bands, broken, curve), [HEIGHT - MARGIN.bottom, MARGIN.top], false);
  const title = `${curve.title} against ${AXES[axis]} on ${data.tasks[task].title}`;
  const clip = `clip-${axis}-${task}`;
  const hover = drawn("g", { class: "hover" });
  const plot = drawn("svg", {
    class: "plot curves", viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", tabindex: 0, "aria-label": `${title}. ${lastWords(bands, curve)}`,
  }, drawn("clipPath", { id: clip }, drawn("rect", { x: MARGIN.left, y: MARGIN.top - 4, width: width - MARGIN.left - MARGIN.right + 6, height: HEIGHT - MARGIN.top - MARGIN.bottom + 8 })),
  axesOf(x, y, width, AXES[axis], curve),
  drawn("g", { "clip-path": `url(#${clip})` }, bands.map((band) => bandOf(band, x, y)), broken.map((line) => brokenOf(line, x, y)), hover));
  listen(plot, hover, bands, broken, curve, axis, x, y);
  holder.append(plot);
}

function scaleOf([low, high], [from, to], log) {
  const f = log ? Math.log : (value) => value, back = log ? Math.exp : (value) => value;
  const [a, b] = [f(low), f(high)];
  const scale = (value) => from + ((f(value) - a) / (b - a || 1)) * (to - from);
  scale.back = (place) => back(a + ((place - from) / (to - from)) * (b - a));
  scale.ticks = log ? logTicks(low, high) : linearTicks(low, high, Math.abs(to - from) / (from > to ? 36 : 46));
  return scale;
}

function linearTicks(low, high, most) {
  const rough = (high - low) / Math.max(2, most), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const factors = high / low < 30 ? [1, 2, 5] : high / low < 300 ? [1, 3] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of factors) ticks.push(Number((factor * 10 ** power).toPrecision(6)));
  }
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

function xRange(bands, broken, log) {
  const all = [...bands, ...broken].flatMap((line) => line.x);
  const high = Math.max(...all), low = log ? Math.min(...all) : Math.min(0, ...all);
  return high > low ? [low, high] : log ? [low / 2, high * 2] : [low - 1, high + 1];
}

// Unless the whole range is asked for, the worst quarter of the medians, mostly first looks, is cut off, but no last one.
function yRange(bands, broken, curve) {
  const isWhole = byId("curves-whole").checked || !bands.length;
  const values = isWhole ? [...bands.flatMap((band) => [...band.low, ...band.high]), ...broken.flatMap((line) => line.y)] : bands.flatMap((band) => band.median);
  const order = values.sort((a, b) => a - b), quarter = isWhole ? 0 : Math.floor(order.length / 4), ends = isWhole ? [] : bands.map((band) => band.median.at(-1));
  const isUp = curve.better === "higher";
  const low = isUp ? Math.min(order[quarter], ...ends) : order[0], high = isUp ? order.at(-1) : Math.max(order.at(-1 - quarter), ...ends);
  const pad = 0.06 * (high - low) || 0.1 * Math.abs(high) || 1;
  return [low - pad, high + pad];
}

// A logarithmic axis has no place for a look before the first step.
function afterZero(line) {
  const kept = [...line.x.keys()].filter((k) => line.x[k] > 0);
  const only = (name) => (line[name] ? { [name]: kept.map((k) => line[name][k]) } : {});
  return { ...line, ...only("x"), ...only("y"), ...only("low"), ...only("median"), ...only("high") };
}

function axesOf(x, y, width, name, curve) {
  const bottom = HEIGHT - MARGIN.bottom;
  const arrow = { "higher is better": "↑ better", "lower is better": "↓ better", "nearer to zero is better": "0 is best" }[curve.direction] ?? curve.direction;
  return drawn("g", {},
    y.ticks.map((tick) => [
      drawn("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      drawn("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, short(tick))]),
    x.ticks.map((tick) => [
      drawn("line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }),
      drawn("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, short(tick))]),
    drawn("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
    drawn("text", { x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, name),
    drawn("text", { x: MARGIN.left, y: HEIGHT - 4 }, arrow));
}

const pathOf = (xs, ys, x, y) => xs.map((value, k) => `${k ? "L" : "M"}${x(value).toFixed(2)} ${y(ys[k]).toFixed(2)}`).join("");

function bandOf(band, x, y) {
  const back = [...band.x.keys()].reverse();
  const around = `${pathOf(band.x, band.high, x, y)}${back.map((k) => `L${x(band.x[k]).toFixed(2)} ${y(band.low[k]).toFixed(2)}`).join("")}Z`;
  const last = band.x.length - 1;
  return drawn("g", { class: `one ${colourOf(band.method)}`, "data-method": band.method },
    band.num > 1 ? drawn("path", { class: "band fill", d: around }) : null,
    drawn("path", { class: "line stroke", d: pathOf(band.x, band.median, x, y), "stroke-dasharray": dashOf(band.method) || null }),
    markOf(band.method, x(band.x[last]), y(band.median[last])));
}

function brokenOf(line, x, y) {
  const last = line.x.length - 1, a = x(line.x[last]);
  const b = Math.min(Math.max(y(line.y[last]), MARGIN.top), HEIGHT - MARGIN.bottom - 4); // at the edge if it is beyond
  return drawn("g", { class: `one ${colourOf(line.method)}`, "data-method": line.method },
    drawn("path", { class: "broken stroke", d: pathOf(line.x, line.y, x, y) }),
    drawn("path", { class: "stroke", "stroke-width": 2, d: `M${a - 4} ${b - 4}L${a + 4} ${b + 4}M${a - 4} ${b + 4}L${a + 4} ${b - 4}` }));
}

const lastWords = (bands, curve) => bands.map((band) => `${data.methods[band.method].title}: ${short(band.median.at(-1))} ${curve.unit}`).join("; ");

// Reads the curves off at the pointer, or at a place moved by the arrow keys.
function listen(plot, hover, bands, broken, curve, axis, x, y) {
  const places = [...new Set(bands.flatMap((band) => band.x).concat(broken.flatMap((line) => line.x)))].sort((a, b) => a - b);
  let at = places.length - 1;
  const show = (speak) => {
    const place = places[at], rows = readOff(bands, broken, place, curve);
    hover.replaceChildren(
      drawn("line", { class: "cross", x1: x(place), x2: x(place), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      ...rows.filter((row) => row.place !== null).map((row) => markOf(row.method, x(row.place), y(row.value), 4.4)));
    const anchor = () => {
      const box = plot.getBoundingClientRect(), left = box.left + (x(place) / plot.viewBox.baseVal.width) * box.width;
      return { left: left + 14, flip: left - 14, bottom: box.top, top: box.top + box.height };
    };
    showTip([element("strong", {}, `${short(place)} ${AXES[axis]}`), element("p", {}, `${curve.title}${curve.unit ? `, ${curve.unit}` : ""}: median [range over seeds]`),
      ...rows.map((row) => element("div", { class: "row" }, methodLabel(row.method), element("span", {}, row.text)))],
    plot, anchor);
    if (speak) byId("spoken").textContent = `${short(place)} ${AXES[axis]}: ${rows.map((row) => `${data.methods[row.method].title} ${row.text}`).join("; ")}`;
  };
  const hide = () => { hover.replaceChildren(); hideTip(); };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const value = x.back(((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width);
    at = places.reduce((best, place, k) => (Math.abs(x(place) - x(value)) < Math.abs(x(places[best]) - x(value)) ? k : best), 0);
    show(false);
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) show(true); });
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -places.length, End: places.length }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    at = Math.min(Math.max(at + move, 0), places.length - 1);
    show(true);
  });
}

// The look of each method nearest to a place, if the place is within its curve; the best on top.
function readOff(bands, broken, place, curve) {
  const goodness = (value) => ({ higher: value, lower: -value, zero: -Math.abs(value) })[curve.better];
  const nearest = (xs) => xs.reduce((best, value, k) => (Math.abs(value - place) < Math.abs(xs[best] - place) ? k : best), 0);
  const within = (xs) => place >= xs[0] && place <= xs.at(-1);
  const rows = bands.filter((band) => within(band.x)).map((band) => {
    const k = nearest(band.x), range = band.num > 1 ? ` [${short(band.low[k])}, ${short(band.high[k])}]` : " (1 seed)";
    return { method: band.method, place: band.x[k], value: band.median[k], text: short(band.median[k]) + range };
  });
  rows.push(...broken.filter((line) => within(line.x)).map((line) => {
    const k = nearest(line.x);
    return { method: line.method, place: null, value: line.y[k], text: `${short(line.y[k])} (seed ${line.seed}, ${line.status} later)` };
  }));
  return rows.sort((a, b) => goodness(b.value) - goodness(a.value));
}
