// Average ranks with half a critical difference to either side, a row for each method.

function buildRanks() {
  const select = byId("ranks-metric");
  options(select, data.ranks.map((rank) => `${rank.title}${rank.unit ? ` (${rank.unit})` : ""}: ${rank.tasks.length} tasks`));
  select.addEventListener("change", drawRanks);
  let width = 0;
  new ResizeObserver(() => {
    if (byId("ranks-plot").clientWidth !== width) { width = byId("ranks-plot").clientWidth; requestAnimationFrame(drawRanks); }
  }).observe(byId("ranks-plot"));
}

function drawRanks() {
  const found = data.ranks[byId("ranks-metric").value || 0];
  if (!found) {
    for (const node of document.querySelectorAll("#ranks .note, #ranks label")) node.hidden = true;
    byId("ranks-sentence").textContent = "No metric has two tasks by three methods in common.";
    return;
  }
  byId("ranks-sentence").textContent = found.sentence;
  const width = Math.min(900, Math.max(240, byId("ranks-plot").clientWidth)), narrow = width < 600;
  const row = narrow ? 44 : 30, top = 44, left = narrow ? 10 : 290, k = found.methods.length;
  const height = top + k * row + 34;
  const x = scaleOf([1 - 0.15, k + 0.15], [left, width - 52], false);
  x.ticks = Array.from({ length: k }, (_, i) => i + 1);
  const half = found.difference / 2, inside = (value) => Math.min(Math.max(x(value), left - 6), width - 46);
  const words = found.methods.map((method, i) => `${data.methods[method].title} ${found.average[i].toFixed(2)}`).join("; ");
  const rows = found.methods.map((method, i) => {
    const y = top + i * row + (narrow ? 28 : 14);
    return drawn("g", { class: `one ${colourOf(method)}` },
      drawn("line", { class: "grid", x1: left, x2: width - 52, y1: y, y2: y }),
      drawn("path", { class: "line stroke", "stroke-width": 2.5, d: `M${inside(found.average[i] - half)} ${y}L${inside(found.average[i] + half)} ${y}` }),
      found.ranks.map((ranks) => drawn("circle", { class: "fill", opacity: 0.45, r: 2.6, cx: x(ranks[i]), cy: y + 7 })),
      markOf(method, x(found.average[i]), y, 5.5),
      drawn("text", { class: "strong", x: narrow ? left : left - 14, y: narrow ? y - 11 : y + 4, "text-anchor": narrow ? "start" : "end" }, shortened(data.methods[method].title, narrow ? 40 : 42)),
      drawn("text", { class: "strong", x: width, y: y + 4, "text-anchor": "end" }, found.average[i].toFixed(2)));
  });
  const bar = Math.min(x(1 + found.difference), width - 52);
  byId("ranks-plot").replaceChildren(drawn("svg", {
    class: "plot ranks", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `Average ranks, best first: ${words}. ${found.sentence}`,
  },
  drawn("path", { class: "axis", fill: "none", "stroke-width": 1.5, d: `M${x(1)} 22V32M${x(1)} 27H${bar}M${bar} 22V32` }),
  drawn("text", { x: x(1), y: 14 }, `critical difference ${found.difference.toFixed(2)}${1 + found.difference > k ? ", more than all ranks apart" : ""}`),
  x.ticks.map((tick) => [
    drawn("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top - 6, y2: height - 30 }),
    drawn("text", { x: x(tick), y: height - 16, "text-anchor": "middle" }, tick)]),
  drawn("text", { x: x(1), y: height - 1 }, "average rank, 1 is best"),
  rows));
  byId("ranks-plot").firstChild.style.maxWidth = `${width}px`;
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
