r"""Average ranks of methods over tasks, with the Friedman test and Nemenyi's critical difference.

On each task methods are ranked by the median over seeds, 1 for the best, a seed that failed counting as worst of all;
ties share their mean rank. With fewer than five tasks Friedman's statistic is not near its limit and nothing is tested;
else two methods differ at the 5 % level if their average ranks over N tasks differ by more than

.. math:: q_{0.05, k} \sqrt{k (k + 1) / (6 N)},

where q is the quantile of the studentized range of k methods over the root of two.

References:
    Demšar (2006), Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 1-30.
"""

__all__ = [
    "MIN_METHODS",
    "MIN_TASKS",
    "MIN_TESTED",
    "Ranks",
    "average_ranks",
    "critical_difference",
    "median_score",
    "nemenyi_quantile",
    "rank_text",
]

import math
import statistics
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from benchmarks.comparison.summaries import DESCRIPTIVE, NOT_TIMED, Entry, Table, score

SIGNIFICANCE = 0.05
MIN_TASKS, MIN_METHODS = 2, 3
MIN_TESTED = 5  # tasks, from which on the statistic is taken for chi-squared
LEAST_P = 0.0001  # digits of a smaller p value say nothing


class Ranks(NamedTuple):
    """Methods ranked by one metric.

    Arguments:
        metric: its name.
        unit: of the numbers that were ranked.
        better: which way they are good.
        tasks: names of the N tasks.
        methods: names of the k methods, by average rank.
        ranks: of the methods on each task, (N, k).
        average: over the tasks, (k,).
        critical_difference: between average ranks, at the 5 % level.
        p_value: of the Friedman test that all methods are alike; None of fewer than five tasks, or if all tie them all.
        cliques: first and last position of the largest groups within a critical difference, of two or more methods.
        left_out: kind and name of the tasks and methods that were taken out, since not measured with all others.
    """

    metric: str
    unit: str
    better: str
    tasks: list[str]
    methods: list[str]
    ranks: list[list[float]]
    average: list[float]
    critical_difference: float
    p_value: float | None
    cliques: list[tuple[int, int]]
    left_out: list[tuple[str, str]]

    def sentence(self, titles: Mapping[tuple[str, str], str]) -> str:
        """What may be concluded.

        Arguments:
            titles: of tasks and methods, by kind and name.
        """
        text = f"{len(self.methods)} methods on {len(self.tasks)} tasks; {self._verdict()}"
        if self.left_out:
            text += f" Left out, since not measured everywhere: {'; '.join(titles[key] for key in self.left_out)}."
        return text

    def _verdict(self) -> str:
        difference = rank_text(self.critical_difference)
        if len(self.tasks) < MIN_TESTED:
            return f"too few tasks for a test, no order is claimed (critical difference by Nemenyi: {difference})."
        text = f"two differ at the 5 % level if their average ranks differ by more than {difference} (Nemenyi). "
        if self.p_value is None:
            return f"{text}All methods tie on every task."
        if self.p_value < SIGNIFICANCE:
            return f"{text}The Friedman test rejects that all are alike ({_p_text(self.p_value)})."
        return (
            f"{text}The Friedman test does not reject that all are alike ({_p_text(self.p_value)}): "
            "no order is claimed."
        )


def critical_difference(num_methods: int, num_tasks: int, significance: float = SIGNIFICANCE) -> float:
    """Nemenyi's critical difference between average ranks.

    Arguments:
        num_methods: k, at least 2.
        num_tasks: N, at least 1.
        significance: of the two-sided test, over all pairs together.

    Raises:
        ValueError: an argument is out of its range.
    """
    if num_methods < 2 or num_tasks < 1 or not 0 < significance < 1:
        raise ValueError(
            "a critical difference is between at least 2 methods, over at least 1 task, at a level inside (0, 1); got "
            f"{num_methods} methods, {num_tasks} tasks and {significance}. Compare more."
        )
    return nemenyi_quantile(num_methods, significance) * math.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))


def nemenyi_quantile(num_methods: int, significance: float = SIGNIFICANCE) -> float:
    """The quantile q of the critical difference."""
    return float(studentized_range.ppf(1 - significance, num_methods, np.inf) / math.sqrt(2))


def rank_text(rank: float) -> str:
    """Two decimals; halves, in which average ranks often end, go up as they do in the page's script.

    >>> rank_text(2.125), rank_text(3.0)
    ('2.13', '3.00')
    """
    return str(Decimal(rank).quantize(Decimal("0.01"), ROUND_HALF_UP))


def median_score(entry: Entry, better: str) -> float:
    """What methods are ranked by: the median over seeds, larger being better; a lost seed is worst."""
    return statistics.median([score(value, better) for value in entry.values] + [-math.inf] * len(entry.lost))


def average_ranks(table: Table) -> Ranks | None:
    """Ranks over the tasks and methods of a table that were all measured with each other.

    Arguments:
        table: of one metric.

    Returns:
        None if the metric only describes, or if fewer than two tasks by three methods are left when holes are taken
        out, the emptiest task or method first.
    """
    if table.metric in DESCRIPTIVE:
        return None
    tasks, methods = _without_holes(table)
    if len(tasks) < MIN_TASKS or len(methods) < MIN_METHODS:
        return None
    scores = np.array(
        [[median_score(table.entries[task, method], table.better) for method in methods] for task in tasks]
    )
    ranks = rankdata(-scores, axis=1)  # (N, k)
    order = np.argsort(ranks.mean(0), kind="stable")
    ranks = ranks[:, order]
    average = ranks.mean(0).tolist()
    difference = critical_difference(len(methods), len(tasks))
    return Ranks(
        metric=table.metric,
        unit=table.unit,
        better=table.better,
        tasks=tasks,
        methods=[methods[k] for k in order],
        ranks=ranks.tolist(),
        average=average,
        critical_difference=difference,
        p_value=_friedman(ranks),
        cliques=_cliques(average, difference),
        left_out=[("task", name) for name in table.tasks if name not in tasks]
        + [("method", name) for name in table.methods if name not in methods],
    )


def _friedman(ranks: NDArray[np.float64]) -> float | None:
    if len(ranks) < MIN_TESTED or not (np.ptp(ranks, axis=1) > 0).any():
        return None
    return float(friedmanchisquare(*ranks.T).pvalue)


def _p_text(p_value: float) -> str:
    return f"p = {p_value:.2g}" if p_value >= LEAST_P else f"p < {LEAST_P}"


def _without_holes(table: Table) -> tuple[list[str], list[str]]:
    """Takes out whichever task or method lacks the largest share of the others, until none lacks any."""
    tasks, methods = list(table.tasks), list(table.methods)
    there = {pair for pair, entry in table.entries.items() if not any(lost.status in NOT_TIMED for lost in entry.lost)}
    while tasks and methods:
        holes = {
            **{("method", name): sum((task, name) not in there for task in tasks) / len(tasks) for name in methods},
            **{("task", name): sum((name, method) not in there for method in methods) / len(methods) for name in tasks},
        }
        (kind, name), share = max(holes.items(), key=lambda item: item[1])
        if not share:
            break
        (tasks if kind == "task" else methods).remove(name)
    return tasks, methods


def _cliques(average: list[float], difference: float) -> list[tuple[int, int]]:
    spans = [
        (i, max(j for j, rank in enumerate(average) if rank - average[i] <= difference)) for i in range(len(average))
    ]
    return [(i, j) for i, j in spans if j > i and not any((a, b) != (i, j) and a <= i and j <= b for a, b in spans)]
