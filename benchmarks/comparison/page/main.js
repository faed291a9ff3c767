// Puts the parts together.

function pairsInto(list, pairs) {
  list.append(...pairs.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]));
}

byId("about").textContent = data.about;
byId("counts").append(...data.counts.map(([name, number, bad]) => element("div", { class: bad && number ? "bad" : null }, element("dt", {}, name), element("dd", {}, String(number)))));
pairsInto(byId("glossary"), data.glossary);
byId("protocol-table").append(
  element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Field"), element("th", { scope: "col" }, "Value in all cells"))),
  element("tbody", {}, data.protocol.map(([field, value]) => element("tr", {}, element("th", { scope: "row" }, field), element("td", {}, value)))));
buildFilters();
buildSummary();
buildCurves();
buildRanks();
buildNumbers();
changed();
document.documentElement.dataset.ready = "";
