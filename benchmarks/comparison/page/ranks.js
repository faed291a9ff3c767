// Average ranks of what the filters leave, by the rules of ranks.py, with half a critical difference to either side.

const MIN_TASKS = 2, MIN_METHODS = 3;
const MIN_TESTED = 5; // tasks, from which on the statistic is taken for chi-squared
const MANY = 25; // methods, from which on their rows are closer

function buildRanks() {
  options(byId("ranks-metric"), data.ranked.map((k) => data.tables[k].heading));
  byId("ranks-metric").addEventListener("change", drawRanks);
  listeners.push(drawRanks);
  let width = 0;
  new ResizeObserver(() => {
    if (byId("ranks-plot").clientWidth !== width) { width = byId("ranks-plot").clientWidth; requestAnimationFrame(drawRanks); }
  }).observe(byId("ranks-plot"));
}

function ranksOf(table) {
  const all = keptOf(table);
  const there = new Map(all.entries.filter((entry) => !entry.lost.some(([, status]) => ["parallel", "untimed"].includes(status)))
    .map((entry) => [`${entry.task} ${entry.method}`, entry.median ?? -Infinity])); // no finite one: worst
  const [tasks, methods] = withoutHoles(all.tasks, all.methods, (task, method) => there.has(`${task} ${method}`));
  if (tasks.length < MIN_TASKS || methods.length < MIN_METHODS) return { tasks, methods };
  const rows = tasks.map((task) => ranked(methods.map((method) => there.get(`${task} ${method}`))));
  const found = methods.map((method, k) => ({ method, ranks: rows.map((row) => row[k]), average: rows.reduce((sum, row) => sum + row[k], 0) / rows.length }));
  return {
    tasks, methods, found: found.sort((a, b) => a.average - b.average), p: friedman(rows),
    difference: data.quantiles[methods.length - 2] * Math.sqrt((methods.length * (methods.length + 1)) / (6 * tasks.length)),
    leftOut: [...all.tasks.filter((task) => !tasks.includes(task)).map((task) => data.tasks[task].title),
      ...all.methods.filter((method) => !methods.includes(method)).map((method) => data.methods[method].title)],
  };
}

// Takes out whichever task or method lacks the largest share of the others, until none lacks any.
function withoutHoles(tasks, methods, isThere) {
  const share = (own) => own.filter((is) => !is).length / own.length;
  for (;;) {
    const holes = [...methods.map((method) => share(tasks.map((task) => isThere(task, method)))),
      ...tasks.map((task) => share(methods.map((method) => isThere(task, method))))];
    const worst = holes.indexOf(Math.max(0, ...holes));
    if (!(holes[worst] > 0)) return [tasks, methods];
    const out = [...methods, ...tasks][worst];
    if (worst < methods.length) methods = methods.filter((method) => method !== out); else tasks = tasks.filter((task) => task !== out);
  }
}

// Ranks of scores, 1 for the largest; ties share their mean rank.
const ranked = (scores) => scores.map((score) => scores.filter((other) => other > score).length + (scores.filter((other) => other === score).length + 1) / 2);

// The p value of the Friedman test, corrected for ties; null of too few tasks, or where every task ties all.
function friedman(rows) {
  const n = rows.length, k = rows[0].length;
  if (n < MIN_TESTED) return null;
  const sums = rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0));
  const ties = rows.flatMap((row) => row.map((rank) => row.filter((other) => other === rank).length ** 2 - 1)).reduce((sum, tie) => sum + tie, 0);
  if (ties === n * (k ** 3 - k)) return null;
  const statistic = (12 / (n * k * (k + 1))) * sums.reduce((sum, own) => sum + own * own, 0) - 3 * n * (k + 1);
  return chiSquaredAbove(statistic / (1 - ties / (n * (k ** 3 - k))), k - 1);
}

// One less the regularised lower incomplete gamma function, the sum over m >= 0 of x^(a + m) e^-x / Gamma(a + m + 1).
function chiSquaredAbove(statistic, freedom) {
  const x = Math.max(0, statistic) / 2;
  let a = (freedom % 2) / 2, below = 0;
  let log = a ? 0.5 * Math.log((4 * x) / Math.PI) - x : -x; // of the term at a
  for (; a < freedom / 2 || a < x || Math.exp(log) > 1e-17; a++, log += Math.log(x / a)) {
    if (a >= freedom / 2) below += Math.exp(log);
  }
  return Math.max(0, 1 - below);
}

function verdictOf({ tasks, p, difference }) {
  if (tasks.length < MIN_TESTED) return `too few tasks for a test, no order is claimed (critical difference by Nemenyi: ${difference.toFixed(2)}).`;
  const pText = p < 0.0001 ? "p < 0.0001" : `p = ${Number(p?.toPrecision(2))}`;
  const about = p === null ? "All methods tie on every task."
    : p < 0.05 ? `The Friedman test rejects that all are alike (${pText}).`
      : `The Friedman test does not reject that all are alike (${pText}): no order is claimed.`;
  return `two differ at the 5 % level if their average ranks differ by more than ${difference.toFixed(2)} (Nemenyi). ${about}`;
}

const sentenceOf = (ranks) => `${ranks.methods.length} methods on ${ranks.tasks.length} tasks; ${verdictOf(ranks)}`
  + (ranks.leftOut.length ? ` Left out, since not measured everywhere: ${ranks.leftOut.join("; ")}.` : "");

function drawRanks() {
  const table = data.tables[data.ranked[byId("ranks-metric").value || 0]];
  if (!table) {
    for (const node of document.querySelectorAll("#ranks .note, #ranks label")) node.hidden = true;
    byId("ranks-sentence").textContent = "No metric has two tasks by three methods in common.";
    return;
  }
  const ranks = ranksOf(table);
  byId("ranks-sentence").textContent = ranks.found ? sentenceOf(ranks) : "";
  byId("ranks-plot").replaceChildren(ranks.found ? ranksPlot(ranks) : element("p", { class: "empty" },
    "Ranks need two tasks by three methods that were measured with each other: fewer are left."));
}

function ranksPlot(ranks) {
  const { found, difference } = ranks, k = found.length;
  const width = Math.min(900, Math.max(240, byId("ranks-plot").clientWidth)), narrow = width < 600;
  const row = narrow ? 44 : k > MANY ? 22 : 30, top = 44, left = narrow ? 10 : 290, right = width - 52;
  const height = top + k * row + 34;
  const x = scaleOf([1 - 0.15, k + 0.15], [left, right], false);
  const apart = [1, 2, 5, 10, 20, 50].find((step) => step * (x(2) - x(1)) > 24);
  const ticks = Array.from({ length: k }, (_, i) => i + 1).filter((tick) => tick % apart === 0 || (tick === 1 && apart > 1));
  const inside = (value) => Math.min(Math.max(x(value), left - 6), right + 6);
  const words = found.map(({ method, average }) => `${data.methods[method].title} ${average.toFixed(2)}`).join("; ");
  const rows = found.map(({ method, average, ranks: own }, i) => {
    const y = top + i * row + (narrow ? 28 : row / 2 - 1);
    return drawn("g", { class: `one ${colourOf(method)}`, "data-method": data.methods[method].name, "data-average": average },
      drawn("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
      drawn("path", { class: "line stroke", "stroke-width": 2.5, d: `M${inside(average - difference / 2)} ${y}L${inside(average + difference / 2)} ${y}` }),
      own.map((rank) => drawn("circle", { class: "fill", opacity: 0.45, r: 2.6, cx: x(rank), cy: y + 7 })),
      markOf(method, x(average), y, 5.5),
      drawn("text", { class: "strong", x: narrow ? left : left - 14, y: narrow ? y - 11 : y + 4, "text-anchor": narrow ? "start" : "end" }, shortened(data.methods[method].title, narrow ? 40 : 42)),
      drawn("text", { class: "strong", x: width, y: y + 4, "text-anchor": "end" }, average.toFixed(2)));
  });
  const bar = Math.min(x(1 + difference), right);
  const plot = drawn("svg", {
    class: "plot ranks", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "data-p": ranks.p, "data-difference": difference,
    "aria-label": `Average ranks, best first: ${words}. ${sentenceOf(ranks)}`,
  },
  drawn("path", { class: "axis", fill: "none", "stroke-width": 1.5, d: `M${x(1)} 22V32M${x(1)} 27H${bar}M${bar} 22V32` }),
  drawn("text", { x: x(1), y: 14 }, `critical difference ${difference.toFixed(2)}${1 + difference > k ? ", more than all ranks apart" : ""}`),
  ticks.map((tick) => [
    drawn("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top - 6, y2: height - 30 }),
    drawn("text", { x: x(tick), y: height - 16, "text-anchor": "middle" }, tick)]),
  drawn("text", { x: x(1), y: height - 1 }, "average rank, 1 is best"),
  rows);
  plot.style.maxWidth = `${width}px`;
  return plot;
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
