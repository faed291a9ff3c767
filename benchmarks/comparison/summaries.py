"""Numbers over seeds: for each metric, task and method the mean with its standard error, and what was lost and why."""

__all__ = [
    "DESCRIPTIVE",
    "NOT_TIMED",
    "Entry",
    "Lost",
    "Table",
    "budgets_of",
    "direction_of",
    "heading_of",
    "metrics_of",
    "number_text",
    "score",
    "summarise",
    "title_of",
    "units_of",
    "why_lost",
]

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scipy.stats import ttest_ind_from_stats

from benchmarks.comparison.cells import Cell, Metric

TITLES = {
    "bound": "bound",
    "log_evidence": "log p(x)",
    "mean_error": "error of the posterior mean",
    "sd_error": "error of the posterior sd",
    "kl": "KL divergence",
    "wasserstein": "Wasserstein distance",
    "c2st": "classifier two-sample test",
    "gradient_variance": "gradient variance",
    "snr": "gradient signal-to-noise",
    "ess": "effective sample size of importance weights",
    "chain_ess": "effective sample size of the chain",
    "pareto_k": "Pareto k",
    "steps_to_quality": "steps to the stated quality",
    "seconds_to_quality": "seconds to the stated quality",
    "seconds_per_step": "seconds per step",
    "time_ratio": "time per step, ratio",
    "peak_memory": "peak memory",
    "num_covered": "modes covered",
    "high_quality": "draws of high quality",
    "mmd": "maximum mean discrepancy",
}
"""What metrics are called for people, in the order of the tables; any other comes last by its own name."""
TIMES = {"seconds_to_quality", "seconds_per_step", "time_ratio"}
COSTS = {*TIMES, "peak_memory"}
DESCRIPTIVE = {"gradient_variance", "snr", "high_quality"}
"""Metrics that describe, by which nobody is better: gradients are taken where each method has come to, of a guide and a
bound of its own, and of high-quality draws a perfect generator has fewer than one that is too sharp."""
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "zero": "nearer to zero is better"}
NOT_TIMED = {"parallel", "untimed"}
SIGNIFICANCE = 0.05
MIN_SEEDS = 3  # of two the deviation is hardly known, and Welch's test tells next to nothing apart


class Lost(NamedTuple):
    """A seed that gave no number.

    Arguments:
        seed: which.
        status: of its cell, or of one that is done ``"parallel"`` for a time where it ran beside others, and
            ``"untimed"`` where the timing beside the reference failed.
        reason: in a line.
        meaning: of the number that is not there.
    """

    seed: int
    status: str
    reason: str
    meaning: str = ""


class Entry(NamedTuple):
    """One task by one method.

    Arguments:
        cells: those with a number, by seed.
        values: theirs.
        lost: the seeds without.
        mean: over the seeds with a number; None where there is none.
        error: standard error of the mean over seeds, sd / sqrt(n); None for fewer than two.
        is_best: neither it nor any that is better by its mean is told from the best of the task.
    """

    cells: list[Cell]
    values: list[float]
    lost: list[Lost]
    mean: float | None
    error: float | None
    is_best: bool = False


class Table(NamedTuple):
    """One metric, in one unit, over all tasks and methods that have it.

    Arguments:
        metric: its name.
        unit: of the numbers.
        better: ``"higher"``, ``"lower"`` or ``"zero"``.
        tasks: names, of the rows.
        methods: names, of the columns.
        entries: by task and method; where there is none the metric was not measured.
    """

    metric: str
    unit: str
    better: str
    tasks: list[str]
    methods: list[str]
    entries: dict[tuple[str, str], Entry]


def title_of(metric: str) -> str:
    """What a metric is called for people."""
    return TITLES.get(metric, metric.replace("_", " "))


def direction_of(metric: str, better: str) -> str:
    """Which way a metric is good, in words; ``"not ranked"`` for one that describes."""
    return "not ranked" if metric in DESCRIPTIVE else DIRECTIONS[better]


def heading_of(metric: str, unit: str, better: str) -> str:
    """Title, unit and direction, by which the tables of one metric are told apart.

    >>> heading_of("kl", "nats", "lower")
    'KL divergence (nats; lower is better)'
    """
    return f"{title_of(metric)} ({'; '.join(text for text in (unit, direction_of(metric, better)) if text)})"


def metrics_of(cell: Cell) -> dict[str, Metric]:
    """The metrics of a cell with what it cost: time per step as a ratio, peak memory."""
    found = dict(cell.metrics)
    if cell.reference is not None:
        method, ratio = cell.reference["method"], cell.reference["ratio"]
        meaning = f"median time of a step over that of {method}, interleaved in the same job"
        why = cell.reference.get("reason") if ratio is None else None
        meaning = why or f"{meaning}; {cell.reference['blocks']} blocks of each"
        found["time_ratio"] = Metric(ratio, f"times {method}", "lower", meaning)
    if cell.peak_memory_mb is not None:
        found["peak_memory"] = Metric(cell.peak_memory_mb, "MB", "lower", "of the whole process of the cell")
    return found


def score(value: float, better: str) -> float:
    """Turns a number so that larger is better."""
    return {"higher": value, "lower": -value, "zero": -abs(value)}[better]


def summarise(cells: Sequence[Cell]) -> list[Table]:
    """One table for each metric and unit, in the order of ``TITLES``.

    Where all seeds failed or were killed it is not known which metrics there would have been: the failure stands in
    every table of its task, but for metrics that the method lacks on another task of the table where it is done. Times
    of cells that ran beside others are left out, with the reason.

    Arguments:
        cells: of one comparison.

    Returns:
        The tables, those without any finite number included.

    Raises:
        ValueError: the cells of a task have more than one budget.
    """
    budgets_of(cells)
    measured: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
    for cell in cells:
        for name, metric in metrics_of(cell).items():
            measured.setdefault((name, metric.unit, metric.better), set()).add((cell.task, cell.method))
    order = list(TITLES)
    ranked = sorted(measured, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key))
    return [_table(key, measured[key], cells) for key in ranked]


def units_of(metric: str, tables: Iterable[Table]) -> dict[str, tuple[str, str]]:
    """Unit and direction of a metric on each task; of a task in two tables that of the first."""
    found: dict[str, tuple[str, str]] = {}
    for table in tables:
        for task in table.tasks if table.metric == metric else ():
            found.setdefault(task, (table.unit, table.better))
    return found


def budgets_of(cells: Iterable[Cell]) -> dict[str, str]:
    """The budget of each task, such as ``"2000 steps"``.

    Raises:
        ValueError: the cells of a task have more than one.
    """
    found: dict[str, Cell] = {}
    for cell in cells:
        first = found.setdefault(cell.task, cell)
        if cell.budget != first.budget:
            raise ValueError(
                f"the cells of a task must have one budget; got {_budget_text(first)} in {first.file} and "
                f"{_budget_text(cell)} in {cell.file}. Delete one of them, or keep each budget in a folder of its own."
            )
    return {task: _budget_text(cell) for task, cell in found.items()}


def why_lost(name: str, metric: Metric | None, cell: Cell) -> Lost | None:
    """Why a cell has no number of a metric that counts, or None if it has."""
    if cell.status != "done":
        return Lost(cell.seed, cell.status, str(cell.reason))
    if metric is None:
        return Lost(cell.seed, "done", "not measured")
    if name in TIMES and not cell.is_sequential:
        return Lost(cell.seed, "parallel", "not timed: ran beside other cells", metric.meaning)
    if name == "time_ratio" and metric.value is None:
        return Lost(cell.seed, "untimed", "not timed", metric.meaning)
    if metric.value is None:
        word = "not reached" if name.endswith("_to_quality") else "no finite number"
        return Lost(cell.seed, "done", word, metric.meaning)
    return None


def number_text(value: float, error: float | None = None) -> str:
    """A number to two digits of its error, or to four significant digits.

    >>> number_text(-2.90417, 0.0123), number_text(-2.90417), number_text(1500.0)
    ('-2.904 ± 0.012', '-2.904', '1500')
    """
    if not error or not 1e-5 < error < 1e6 or abs(value) >= 1e7:
        short = str(round(value)) if float(value).is_integer() and abs(value) < 1e7 else f"{value:.4g}"
        return short if error is None else f"{short} ± {error:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _budget_text(cell: Cell) -> str:
    return ", ".join(f"{number_text(number)} {name}" for name, number in cell.budget.items())


def _table(key: tuple[str, str, str], measured: set[tuple[str, str]], cells: Sequence[Cell]) -> Table:
    tasks = {task for task, _ in measured}
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.task in tasks:
            groups.setdefault((cell.task, cell.method), []).append(cell)
    done = {pair for pair, group in groups.items() if any(cell.status == "done" for cell in group)}
    has, lacks = {method for _, method in measured}, {method for _, method in done - measured}
    entries = {
        pair: _entry(key, group)
        for pair, group in groups.items()
        if pair in measured or (pair not in done and (pair[1] in has or pair[1] not in lacks))
    }
    for task in tasks:
        if key[0] not in DESCRIPTIVE:
            _mark_best(entries, task, key[2])
    return Table(*key, sorted(tasks), sorted({method for _, method in entries}), entries)


def _entry(key: tuple[str, str, str], cells: Iterable[Cell]) -> Entry:
    with_number, values, lost = [], [], []
    for cell in cells:
        metric = metrics_of(cell).get(key[0])
        if metric is not None and (metric.unit, metric.better) != key[1:]:
            metric = None
        why = why_lost(key[0], metric, cell)
        if why is not None:
            lost.append(why)
        elif metric is not None and metric.value is not None:
            with_number.append(cell)
            values.append(metric.value)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Entry(with_number, values, lost, statistics.fmean(values) if values else None, error)


def _mark_best(entries: dict[tuple[str, str], Entry], task: str, better: str) -> None:
    """Marks the best and those after it, up to the first whom Welch's test tells from it.

    Who lost a seed, or has fewer than three, takes no part.
    """
    scores = {
        pair: [score(value, better) for value in entry.values]
        for pair, entry in entries.items()
        if pair[0] == task and len(entry.values) >= MIN_SEEDS and not entry.lost
    }
    if len(scores) < 2:
        return
    order = sorted(scores, key=lambda pair: -statistics.fmean(scores[pair]))
    for pair in itertools.takewhile(lambda pair: not _is_worse(scores[pair], scores[order[0]]), order):
        entries[pair] = entries[pair]._replace(is_best=True)


def _is_worse(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the mean of the first is below that of the second, by a two-sided test at 5 %."""
    means, sds = [[of(values) for values in (first, second)] for of in (statistics.fmean, statistics.stdev)]
    if means[0] >= means[1] or not any(sds):
        return means[0] < means[1]
    test = ttest_ind_from_stats(means[0], sds[0], len(first), means[1], sds[1], len(second), equal_var=False)
    return bool(test.pvalue < SIGNIFICANCE)
