"""The page in a real browser, from its file: sorting, filtering, protocol of a number, plots, narrow and dark."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.comparison import report
from benchmarks.comparison.cells import Cell
from benchmarks.comparison.ranks import average_ranks
from benchmarks.comparison.reading import read_cells
from benchmarks.comparison.summaries import heading_of, summarise
from benchmarks.comparison.tables import titles_of
from comparison.fixtures import METHODS, NASTY, STEPS, TASKS, cell, metric, write, write_grid

selenium = pytest.importorskip("selenium", reason="the page's test needs selenium: pip install -e '.[test]'")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--window-size=1400,900",
)
BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
CHANGES = """
window.shifts = 0;
const count = (one) => { if (!one.hadRecentInput) window.shifts += one.value; };
new PerformanceObserver((list) => list.getEntries().forEach(count)).observe({type: "layout-shift", buffered: true});
"""
CONTRAST = """
const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => parse(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, k) => sum + [0.2126, 0.7152, 0.0722][k] * c, 0);
const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
        const found = parse(getComputedStyle(each).backgroundColor);
        if (found.length === 3 || found[3] === 1) return getComputedStyle(each).backgroundColor;
    }
    return "rgb(255, 255, 255)";
};
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const texts = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility() && !node.closest("svg")
    && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
const marks = [...document.querySelectorAll("svg .line.stroke")];
return [Math.min(...texts.map((node) => ratio(getComputedStyle(node).color, ground(node)))),
        Math.min(...marks.map((node) => ratio(getComputedStyle(node).stroke, ground(node.closest("div")))))];
"""


def programs() -> tuple[str, str]:
    """The browser and its driver; without them the test is skipped, but under continuous integration fails."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS)]
    if not all(found):
        reason = "no chromium and chromedriver: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return str(found[0]), str(found[1])


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location, driver = programs()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = write_grid(tmp_path_factory.mktemp("grid"))
    (folder / "<half>.json").write_text("{")
    report.main(["--runs", str(folder), "--results", str(folder / "out")])
    return folder / "out" / "comparison.html"


@pytest.fixture(scope="module")
def cells(file) -> list[Cell]:
    return read_cells(file.parents[1]).cells


@pytest.fixture
def page(browser, file) -> Iterator[webdriver.Chrome]:
    """The page, freshly opened, wide and light; at the end the console must be empty."""
    show(browser, 1400)
    browser.get(file.as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []


def show(browser: webdriver.Chrome, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def settle(browser: webdriver.Chrome) -> None:
    """Waits until what was asked for is drawn."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def texts(page: webdriver.Chrome, selector: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector
    )


def one(page: webdriver.Chrome, selector: str) -> webdriver.remote.webelement.WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def choose(page: webdriver.Chrome, kind: str, kept: str) -> None:
    """Leaves one value of a filter."""
    one(page, f"#choice-{kind} summary").click()
    one(page, f"#choice-{kind} .all button:last-child").click()
    next(label for label in page.find_elements(By.CSS_SELECTOR, f"#choice-{kind} label") if kept in label.text).click()
    one(page, f"#choice-{kind} summary").send_keys(Keys.ESCAPE)


def leave_out(page: webdriver.Chrome, kind: str, *titles: str) -> None:
    """Takes values out of a filter."""
    one(page, f"#choice-{kind} summary").click()
    for title in titles:
        labels = page.find_elements(By.CSS_SELECTOR, f"#choice-{kind} label")
        next(label for label in labels if label.text == title).click()
    one(page, f"#choice-{kind} summary").send_keys(Keys.ESCAPE)


def assert_ranks_are_those_of(page: webdriver.Chrome, cells: list[Cell]) -> None:
    """By every metric that has ranks the page shows what Python computes of the cells."""
    found = [ranks for ranks in map(average_ranks, summarise(cells)) if ranks is not None]
    assert len(found) >= 5
    for ranks in found:
        title = heading_of(ranks.metric, ranks.unit, ranks.better)
        Select(one(page, "#ranks-metric")).select_by_visible_text(title)
        shown = page.execute_script(
            "const plot = document.querySelector('svg.ranks');"
            "return [Number(plot.dataset.difference), plot.dataset.p === undefined ? null : Number(plot.dataset.p),"
            "[...plot.querySelectorAll('g.one')].map((one) => [one.dataset.method, Number(one.dataset.average)])]"
        )
        assert [name for name, _ in shown[2]] == ranks.methods
        assert [average for _, average in shown[2]] == pytest.approx(ranks.average, abs=1e-6)
        assert shown[0] == pytest.approx(ranks.critical_difference, abs=1e-6)
        assert shown[1] == (None if ranks.p_value is None else pytest.approx(ranks.p_value, abs=1e-6))
        assert one(page, "#ranks-sentence").text == ranks.sentence(titles_of(cells))


def number(text: str) -> float:
    return float(text.split(" ±")[0].replace("−", "-"))


def test_it_opens_with_all_tasks_methods_and_failures_and_text_stays_text(page):
    assert texts(page, "#counts dd") == ["5", "7", "3", "86", "4", "1", "1"]
    assert len(texts(page, "#summary-table tbody tr")) == len(METHODS)
    assert len(texts(page, "#summary-table thead th")) == 1 + len(TASKS)
    assert METHODS["mine"][0] in texts(page, "#summary-table tbody th")
    assert NASTY in " ".join(texts(page, "#failures-table td"))
    assert len(texts(page, "#failures-table tbody tr")) == 5
    assert "<half>.json: not JSON" in texts(page, "#unread li")[0]
    assert page.execute_script("return document.querySelectorAll('script').length") == 2
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_a_press_on_a_header_sorts_and_a_second_turns_the_order(page):
    def values() -> list[float]:
        return [number(text) for text in texts(page, "#numbers-table td:nth-child(4)") if text[0] in "−0123456789"]

    choose(page, "metrics", "bound")
    for order, sort in (("ascending", sorted), ("descending", lambda found: sorted(found, reverse=True))):
        one(page, "#numbers-table [data-sort=value]").click()
        assert one(page, "#numbers-table th:nth-child(4)").get_attribute("aria-sort") == order
        assert values() == sort(values())
        assert len(set(values())) > 50
    assert page.execute_script("return document.activeElement.dataset.sort") == "value"  # for the next key
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert one(page, "#numbers-table th:nth-child(4)").get_attribute("aria-sort") == "ascending"


def test_a_press_on_a_task_puts_its_best_method_on_top_and_failures_at_the_bottom(page):
    position = sorted(TASKS).index("sbn-small")
    one(page, f"#summary-table [data-sort=task-{position}]").click()
    column = texts(page, f"#summary-table td:nth-child({position + 2}) > :first-child")
    found = [number(text) for text in column[:-2]]
    assert found == sorted(found, reverse=True)
    assert [text[:6] for text in column[-2:]] == ["–", "failed"]  # not measured, and lost
    assert texts(page, "#summary-table tbody th")[0] == METHODS["iwae-dreg"][0]


def test_a_filter_of_tasks_leaves_one_everywhere(page):
    choose(page, "tasks", TASKS["digits"][0])
    assert texts(page, "#summary-table thead th")[1:] == [TASKS["digits"][0]]
    assert set(texts(page, "#numbers-table td:first-child")) == {TASKS["digits"][0]}
    assert texts(page, "#plots h3") == [TASKS["digits"][0]]
    assert one(page, "#kept").text == "18 of 91 cells"
    one(page, "#reset").click()
    assert one(page, "#kept").text == "91 of 91 cells"


@pytest.mark.parametrize(
    ("kind", "kept", "column", "expected"),
    [
        ("methods", METHODS["stl"][0], 2, {METHODS["stl"][0]}),
        ("methodFamilies", "torch", 8, {"torch"}),
        ("taskFamilies", "data", 1, {TASKS["digits"][0]}),
        ("metrics", "Pareto k", 3, {"Pareto k", "–"}),  # a failure has no metric that could be left out
        ("statuses", "killed", 7, {"killed"}),
    ],
)
def test_every_filter_leaves_what_is_chosen(page, kind, kept, column, expected):
    choose(page, kind, kept)
    assert set(texts(page, f"#numbers-table td:nth-child({column})")) == expected


def test_the_search_finds_reasons(page):
    one(page, "#search").send_keys("LIMIT of 60")
    assert one(page, "#kept").text == "1 of 91 cells"
    assert texts(page, "#numbers-table td:nth-child(4)") == ["over its limit of 60 s"]
    one(page, "#search").send_keys(" nothing like it")
    assert "Nothing is left" in one(page, "#numbers-table").text


def test_every_number_shows_the_budget_of_its_task(page):
    one(page, "#more").click()
    tips = page.execute_script(
        "const read = (button) => { button.click(); return [...document.querySelectorAll('#tip dt')]"
        ".find((term) => term.textContent === 'budget').nextSibling.textContent; };"
        "return [...document.querySelectorAll('#numbers-table tbody tr')]"
        ".map((row) => [row.firstChild.textContent, read(row.querySelector('button.number'))])"
    )
    assert len(tips) > 400
    steps = {TASKS[task][0]: f"{number} steps" for task, number in STEPS.items()}
    assert all(budget == steps[task] for task, budget in tips)
    assert "2000 steps; sbn-small: 4000 steps" in one(page, "#protocol-table").text


def test_a_number_shows_its_protocol_on_hover_and_on_focus_and_escape_hides_it(page):
    best = one(page, "#summary-table button.best")
    ActionChains(page).move_to_element(best).perform()
    shown = one(page, "#tip").text
    for part in (
        "nats per datum",
        "higher is better",
        "seed 0:",
        "seed 2:",
        "2000 steps",
        "2.13.0",
        "unbiased",
    ):
        assert part in shown
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert not one(page, "#tip").is_displayed()
    page.execute_script("arguments[0].focus()", one(page, "#numbers-table button.number"))
    ActionChains(page).send_keys(Keys.TAB).perform()
    focused = page.switch_to.active_element
    assert one(page, "#tip").is_displayed()
    assert focused.text in one(page, "#tip").text
    assert "x86_64" in one(page, "#tip").text
    assert focused.get_attribute("aria-describedby") == "tip"


def test_curves_are_drawn_in_the_colours_of_the_legend(page):
    drawn = page.execute_script(
        "return [...document.querySelectorAll('svg.curves')].map((plot) => [plot.querySelectorAll('path.line').length,"
        "plot.querySelectorAll('path.band').length, plot.getBoundingClientRect().height])"
    )
    assert len(drawn) == 2 * len(TASKS)  # against steps and against seconds
    assert all(lines >= 5 and num_bands >= 4 and height > 200 for lines, num_bands, height in drawn)
    paths = page.execute_script(
        "return [...document.querySelectorAll('svg.curves path.line')].map((one) => one.getAttribute('d'))"
    )
    assert all(path.count("L") >= 17 and not re.search("NaN|Infinity|undefined", path) for path in paths)
    broken = page.find_elements(By.CSS_SELECTOR, "svg.curves path.broken")
    assert len(broken) == 2  # one cell, against steps and seconds; who was killed left no curve
    colours = page.execute_script(
        "const of = (node) => [getComputedStyle(node).stroke, node.getAttribute('stroke-dasharray') || ''].join();"
        "const keys = [...document.querySelectorAll('#legend line')].map(of);"
        "return [keys, [...document.querySelectorAll('svg.curves g.one')].filter((one) => one.querySelector('.line'))"
        ".map((one) => [Number(one.dataset.method), of(one.querySelector('.line'))])]"
    )
    keys, lines = colours
    assert len(set(keys)) == len(METHODS)
    assert all(keys[method] == colour for method, colour in lines)


def test_a_plot_is_read_off_by_pointer_and_by_arrow_keys(page):
    plot = one(page, "svg.curves")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    settle(page)
    ActionChains(page).move_to_element(plot).perform()
    assert METHODS["iwae-dreg"][0] in one(page, "#tip").text.splitlines()[2]  # the best on top
    ActionChains(page).move_by_offset(0, -400).perform()
    page.execute_script("arguments[0].focus()", plot)
    plot.send_keys(Keys.HOME)
    assert one(page, "#tip").text.startswith("100 steps")
    plot.send_keys(Keys.ARROW_RIGHT)
    assert one(page, "#tip").text.startswith("200 steps")
    assert one(page, "#spoken").get_attribute("textContent").startswith("200 steps: ")


def test_other_qualities_are_drawn_when_they_are_chosen(page):
    Select(one(page, "#curves-metric")).select_by_visible_text("error of the posterior mean (true sd)")
    assert len(texts(page, "#plots h3")) == 2
    assert page.find_elements(By.CSS_SELECTOR, "svg.curves path.line")
    one(page, "#curves-log").click()
    one(page, "#curves-whole").click()
    assert page.find_elements(By.CSS_SELECTOR, "svg.curves path.line")


def test_ranks_are_drawn_best_first(page):
    found = [float(text) for text in texts(page, "svg.ranks g.one text:last-child")]
    assert len(found) == 5
    assert found == sorted(found)
    assert "Nemenyi" in one(page, "#ranks-sentence").text
    paths = page.execute_script(
        "return [...document.querySelectorAll('svg.ranks path.line')].map((one) => one.getTotalLength())"
    )
    assert min(paths) > 20


def test_ranks_are_those_of_the_tables(page, cells):
    assert_ranks_are_those_of(page, cells)


def test_ranks_are_of_what_the_filters_leave(page, cells):
    leave_out(page, "tasks", TASKS["digits"][0], TASKS["ppca"][0])
    left = [cell for cell in cells if cell.task not in {"digits", "ppca"}]
    assert_ranks_are_those_of(page, left)
    leave_out(page, "methods", METHODS["mine"][0])  # which has no tie to be broken by
    left = [cell for cell in left if cell.method != "mine"]
    assert_ranks_are_those_of(page, left)
    leave_out(page, "methodFamilies", "torch")
    left = [cell for cell in left if cell.family["method"] != "torch"]
    assert_ranks_are_those_of(page, left)
    one(page, "#search").send_keys("eight")
    assert not page.find_elements(By.CSS_SELECTOR, "svg.ranks")
    assert "fewer are left" in one(page, "#ranks-plot").text
    one(page, "#reset").click()
    assert_ranks_are_those_of(page, cells)


def test_ranks_of_many_methods_can_be_read(browser, tmp_path):
    """Forty methods with long names, ties, failures, one that was not timed, and five tasks on which all tie."""
    metrics = {"bound": 31, "ess": 5, "kl": 7, "c2st": 3, "mmd": 100, "seconds_per_step": 9}
    cells = [
        cell(
            task,
            f"m{k:02}",
            seed,
            protocol={"data": task, "parallel": k == 5},
            title={"task": task, "method": f"method {k:02} with a name that is as long as they come"},
            metrics={
                name: metric(0.0 if task in "cdefg" else k * (k + seed) % spread, None, "", "higher", "m")
                for name, spread in metrics.items()
            },
        )
        for task in "abcdefg"
        for k in range(40)
        for seed in range(2)
    ]
    lost = {"status": "failed", "reason": "no", "metrics": {}}
    cells = [one | (lost if one["task"] == "a" and one["method"] in ("m03", "m04") else {}) for one in cells]
    folder = write(tmp_path / "runs", *cells)
    report.main(["--runs", str(folder), "--results", str(tmp_path)])
    for width in (360, 1400):
        show(browser, width)
        browser.get((tmp_path / "comparison.html").as_uri())
        assert_ranks_are_those_of(browser, read_cells(folder).cells)
        overlaps = browser.execute_script(
            "const boxes = [...document.querySelectorAll('svg.ranks text')].map((one) => one.getBoundingClientRect());"
            "const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom"
            " && b.top + 2 < a.bottom;"
            "return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => meet(a, b))).length"
        )
        assert overlaps == 0
    leave_out(browser, "tasks", "a", "b")
    assert_ranks_are_those_of(browser, [cell for cell in read_cells(folder).cells if cell.task in "cdefg"])
    assert "All methods tie on every task." in one(browser, "#ranks-sentence").text


def test_what_only_describes_is_not_ranked_and_units_are_told_apart(browser, tmp_path):
    def found(unit, value):
        variance = metric(value, None, "nats²", "lower", "of the gradient")
        return {"bound": metric(-value, 0.01, unit, "higher", "ELBO"), "gradient_variance": variance}

    units = dict.fromkeys("ab", "nats") | dict.fromkeys("cd", "nats per datum")
    cells = [
        cell(task, f"m{k}", seed, metrics=found(unit, k + 0.1 * seed), curve=[{"step": 1, "seconds": 1.0, "bound": -k}])
        for task, unit in units.items()
        for k in range(3)
        for seed in range(3)
    ]
    report.main(["--runs", str(write(tmp_path / "runs", *cells)), "--results", str(tmp_path)])
    show(browser, 1400)
    browser.get((tmp_path / "comparison.html").as_uri())
    bounds = [f"bound ({unit}; higher is better)" for unit in ("nats", "nats per datum")]
    assert texts(browser, "#summary-metric option") == [*bounds, "gradient variance (nats²; not ranked)"]
    assert texts(browser, "#ranks-metric option") == bounds
    assert texts(browser, "#curves-metric option") == ["bound (nats)", "bound (nats per datum)"]
    assert texts(browser, "#plots h3") == ["the a", "the b"]
    Select(one(browser, "#curves-metric")).select_by_visible_text("bound (nats per datum)")
    assert texts(browser, "#plots h3") == ["the c", "the d"]
    assert len(texts(browser, "#summary-table .best")) == 2
    Select(one(browser, "#summary-metric")).select_by_index(2)
    assert texts(browser, "#summary-table .best") == []
    assert "not ranked" in one(browser, "#summary-meaning").text


def test_a_cell_that_failed_has_a_row_for_its_reason_beside_its_numbers(page):
    one(page, "#search").send_keys("nan at step")
    found = texts(page, "#numbers-table td:nth-child(4)")
    assert found[1:] == ["FloatingPointError: the loss is nan at step 800; sites tau, theta"]
    assert texts(page, "#numbers-table td:nth-child(7)") == ["failed", "failed"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_sticks_out_and_all_can_be_read(page, file, scheme, width):
    """Contrast of text at least 4.5 to 1 and of lines at least 3 to 1, as WCAG 2.2 asks for."""
    show(page, width, scheme)
    page.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": 6})  # so that it is painted before it is built
    page.get(file.as_uri())
    page.execute_script(CHANGES)
    settle(page)
    page.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": 1})
    inner, whole = page.execute_script(
        "const root = document.documentElement; return [root.clientWidth, root.scrollWidth]"
    )
    assert whole <= inner
    for kind in ("methods", "statuses"):
        one(page, f"#choice-{kind} summary").click()
        box = page.execute_script("return arguments[0].getBoundingClientRect()", one(page, f"#choice-{kind} .panel"))
        assert box["left"] >= 0
        assert box["right"] <= inner
    one(page, "#choice-statuses summary").click()
    text, lines = page.execute_script(CONTRAST)
    assert text >= 4.5
    assert lines >= 3
    assert page.execute_script("return window.shifts") < 0.1  # what is called good


def test_every_control_has_a_name_and_every_table_its_headers(page):
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, select, input, summary, svg[role=img], [role=region]')]"
        ".filter((one) => !(one.textContent.trim() || one.getAttribute('aria-label')"
        "|| one.getAttribute('aria-labelledby') || (one.labels && one.labels.length))).length"
    )
    assert nameless == 0
    for table in ("summary-table", "numbers-table"):
        sorts = page.execute_script(
            "return [...document.querySelectorAll(`#${arguments[0]} thead th`)].map((one) => one.scope + one.ariaSort)",
            table,
        )
        assert set(sorts) == {"colnone"}
