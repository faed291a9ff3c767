"""Recipes on MNIST beside published numbers: importance-weighted autoencoders, and belief nets by five algorithms.

Trains each system for a number of epochs, estimates log p(x) of every system on the same test images, and compares
systems in pairs. A run that was interrupted goes on where it was, and nothing finished is done again. Results go to
``benchmarks/results/published.json``, ``.md`` and ``.png``.

    python -m benchmarks.published
    python -m benchmarks.published --systems rate --seeds 0 --name published-rate
"""

__all__ = ["GROUPS", "SYSTEMS", "main"]

import argparse
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from benchmarks.protocol import (
    EVALUATION_SEED,
    cell,
    describe_data,
    describe_machine,
    evaluate,
    machine,
    markdown_table,
    once,
    train,
    write_results,
)
from pyro_dgm.evaluation import Estimate
from pyro_dgm.files import replace_atomically
from pyro_dgm.plotting import save_figure
from pyro_dgm.plotting.figures import COLOURS, new_figure

RESULTS = Path(__file__).parent / "results"


class Published(NamedTuple):
    """A number from the literature: -log p(x) in nats per datum, lower is better."""

    value: float
    source: str


class System(NamedTuple):
    """A recipe as it is trained here, and what was published of it, if that could be read."""

    name: str
    group: str
    recipe: str
    data: str
    settings: dict[str, Any]
    epochs: int
    published: Published | None = None


_BURDA = "Burda, Grosse and Salakhutdinov (2016), table 1, arXiv:1509.00519"
_TANH = {"activation": "tanh"}
SYSTEMS = {
    system.name: system
    for system in (
        System("iwae-K1", "iwae", "iwae", "mnist", {**_TANH, "num_particles": 1}, 20, Published(86.76, _BURDA)),
        System("iwae-K5", "iwae", "iwae", "mnist", {**_TANH, "num_particles": 5}, 20, Published(85.54, _BURDA)),
        System("iwae-K50", "iwae", "iwae", "mnist", {**_TANH, "num_particles": 50}, 20, Published(84.78, _BURDA)),
        System("sbn-nvil", "sbn", "sbn-nvil", "binarized_mnist", {}, 30),
        System("sbn-vimco", "sbn", "sbn-vimco", "binarized_mnist", {}, 30),
        System("sbn-rws", "sbn", "sbn-rws", "binarized_mnist", {}, 30),
        System("sbn-rebar", "sbn", "sbn-rebar", "binarized_mnist", {}, 30),
        System("helmholtz-wake-sleep", "sbn", "helmholtz-wake-sleep", "binarized_mnist", {}, 30),
        *(
            System(f"{recipe}, rate {rate:g}", "rate", recipe, "binarized_mnist", {"learning_rate": rate}, 100)
            for recipe in ("sbn-nvil", "helmholtz-wake-sleep")
            for rate in (1e-3, 3e-4)
        ),
    )
}
GROUPS = {
    "iwae": (
        "Importance-weighted autoencoders",
        "Recipe iwae, 784-200-200-50 with tanh, K particles in training, Adam 1e-3, batches of 100, training images "
        "binarised anew each time they are seen",
    ),
    "sbn": (
        "Sigmoid belief nets of one layer",
        "200 hidden bits, Adam 1e-3, batches of 100, K = 1 in training but for vimco and rws, K = 5",
    ),
    "rate": (
        "Longer, and by the learning rate",
        "200 hidden bits, Adam, batches of 100, K = 1 in training",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and writes its results."""
    arguments = _parser().parse_args(argv)
    systems = [
        system for system in SYSTEMS.values() if system.name in arguments.systems or system.group in arguments.systems
    ]
    rows = [_row(arguments, system, seed) for system in systems for seed in arguments.seeds]
    content = {
        "machine": machine(),
        "num_particles": arguments.num_particles,
        "every": arguments.every,
        "protocol": {group: _protocol(arguments, rows, group) for group in GROUPS if _of_group(rows, group)},
        "rows": rows,
        "pairs": [pair for group in GROUPS for pair in _pairs(arguments, _of_group(rows, group))],
    }
    write_results(arguments.results, arguments.name, content, _text(content, arguments.name))
    _draw_curves(rows, arguments.results / f"{arguments.name}.png")


def _row(arguments: argparse.Namespace, system: System, seed: int) -> dict[str, Any]:
    """Trains and evaluates one system with one seed, unless that was done before."""
    epochs, data, draws = arguments.epochs or system.epochs, arguments.data or system.data, arguments.num_particles

    def make() -> dict[str, Any]:
        folder = _folder(arguments, system.name, seed)
        run = train(system.recipe, data, folder, seed=seed, epochs=epochs, settings=system.settings)
        row, per_image = evaluate(run, epochs, [draws], arguments.every)
        path = _path(arguments, system.name, seed, epochs, ".npz")
        with replace_atomically(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, elbo=per_image["elbo"], log_evidence=per_image[f"log_evidence_{draws}"])
        history = run.history()
        extra = {"steps": history[-1]["step"], "valid_elbo_by_epoch": [-epoch["valid_loss"] for epoch in history]}
        return {"system": system.name, "group": system.group, "data": data, **row, **extra}

    return once(_path(arguments, system.name, seed, epochs, ".json"), make)


def _folder(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    folder: Path = arguments.runs / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    return folder


def _path(arguments: argparse.Namespace, name: str, seed: int, epochs: int, suffix: str) -> Path:
    """The file of an evaluation; the values of each image lie beside the JSON, which is written last."""
    stem = f"evaluation-{epochs}-{arguments.num_particles}-{arguments.every}"
    return _folder(arguments, name, seed) / (stem + suffix)


def _of_group(rows: Sequence[dict[str, Any]], group: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["group"] == group]


def _log_evidence(row: dict[str, Any]) -> dict[str, float]:
    (found,) = row["log_evidence"].values()
    return found


def _pairs(arguments: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every two systems and every seed of both the mean difference in log p(x) on the same images."""
    names = list(dict.fromkeys(row["system"] for row in rows))
    values = {(row["system"], row["seed"]): _values(arguments, row) for row in rows}
    return [
        {
            "first": first,
            "second": second,
            "seed": seed,
            **Estimate.of(values[first, seed] - values[second, seed])._asdict(),
        }
        for first, second in itertools.combinations(names, 2)
        for seed in arguments.seeds
    ]


def _values(arguments: argparse.Namespace, row: dict[str, Any]) -> Tensor:
    path = _path(arguments, row["system"], row["seed"], row["epochs"], ".npz")
    with np.load(path) as values:
        found = torch.from_numpy(values["log_evidence"])
    return found


def _protocol(arguments: argparse.Namespace, rows: Sequence[dict[str, Any]], group: str) -> str:
    row, every = _of_group(rows, group)[0], arguments.every
    images = "all" if every == 1 else f"every {every}th of the"
    return (
        f"{GROUPS[group][1]}. Data: {describe_data(row)}. Evaluated on {images} test images ({row['num_data']:,}), "
        f"with evaluation seed {EVALUATION_SEED}, on the last parameters, without early stopping"
    )


def _text(content: dict[str, Any], name: str) -> str:
    """Markdown: for each group its protocol, a row per system, and its systems in pairs."""
    lines = [
        "# Published results",
        "",
        "`python -m benchmarks.published`. Nats per datum: the mean over the seeds ± the standard error over the test "
        "images, the range over the seeds in brackets. Seconds are the median over the seeds, validation after each "
        "epoch included. The distance is ours less the published number, so positive where the published one is "
        "better; those are of far longer trainings and another draw of the binary test images.",
        "",
        f"![Validation ELBO of every epoch]({name}.png)",
    ]
    for group, protocol in content["protocol"].items():
        rows = _of_group(content["rows"], group)
        lines += ["", f"## {GROUPS[group][0]}", "", protocol + ".", "", *_systems_table(rows, content["num_particles"])]
        names = {row["system"] for row in rows}
        pairs = [pair for pair in content["pairs"] if pair["first"] in names]
        if pairs:
            lines += [
                "",
                "Differences in log p(x) on the same images, the first system less the second (positive: the first is "
                "better), ± the standard error over the images, for each seed:",
                "",
                *_pairs_table(pairs),
            ]
    return "\n".join([*lines, "", _doubt(content), describe_machine(content["machine"]), ""])


def _systems_table(rows: Sequence[dict[str, Any]], num_particles: int) -> list[str]:
    titles = [
        "system",
        "epochs",
        "steps",
        "seeds",
        "training seconds",
        "test ELBO",
        f"test -log p(x), K = {num_particles}",
        "published",
        "distance",
    ]
    cells = []
    for name in dict.fromkeys(row["system"] for row in rows):
        same = [row for row in rows if row["system"] == name]
        published = SYSTEMS[name].published if same[0]["data"] == SYSTEMS[name].data else None
        ours = -statistics.fmean(_log_evidence(row)["mean"] for row in same)
        cells.append(
            [
                name,
                str(same[0]["epochs"]),
                f"{same[0]['steps']:,}",
                ", ".join(str(row["seed"]) for row in same),
                f"{statistics.median(row['training_seconds'] for row in same):.0f}",
                cell([row["elbo"] for row in same]),
                cell([_log_evidence(row) for row in same], sign=-1),
                f"{published.value:.2f} ({published.source})" if published else "not compared",
                f"{ours - published.value:+.2f}" if published else "-",
            ]
        )
    return markdown_table(titles, cells)


def _pairs_table(pairs: Sequence[dict[str, Any]]) -> list[str]:
    seeds = list(dict.fromkeys(pair["seed"] for pair in pairs))
    found = {(pair["first"], pair["second"], pair["seed"]): pair for pair in pairs}
    return markdown_table(
        ["first", "second", *(f"seed {seed}" for seed in seeds), "mean"],
        [
            [
                *names,
                *(f"{same[i]['mean']:+.2f} ± {same[i]['standard_error']:.2f}" for i in range(len(seeds))),
                f"{statistics.fmean(pair['mean'] for pair in same):+.2f}",
            ]
            for names in dict.fromkeys((pair["first"], pair["second"]) for pair in pairs)
            for same in [[found[(*names, seed)] for seed in seeds]]
        ],
    )


def _doubt(content: dict[str, Any]) -> str:
    """How far the estimates of log p(x) are to be trusted."""
    errors = [_log_evidence(row)["monte_carlo_error"] for row in content["rows"]]
    shares = [_log_evidence(row)["num_pareto_k_over_0.7"] / row["num_data"] for row in content["rows"]]
    return (
        f"The Monte Carlo error of the means, the images held fixed, is at most {max(errors):.3f} nats. Pareto k is "
        f"above 0.7 for {min(shares):.0%} to {max(shares):.0%} of the images: there log p(x) is still biased "
        "downwards, and the more so the worse the guide."
    )


def _draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Validation ELBO against epoch: a panel per group, a colour per system, a line per seed."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    with new_figure(4.6 * len(groups), 3.4) as figure:
        figure.set_layout_engine("constrained")
        for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
            _draw_group(axes, _of_group(rows, group))
            axes.set_title(GROUPS[group][0], loc="left")
    save_figure(figure, path)


def _draw_group(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["system"] for row in rows))
    for row in rows:
        values, colour = row["valid_elbo_by_epoch"], COLOURS[names.index(row["system"])]
        label = row["system"] if row is next(same for same in rows if same["system"] == row["system"]) else None
        axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=1.0, label=label)
    after_a_fifth = [
        value for row in rows for value in row["valid_elbo_by_epoch"][len(row["valid_elbo_by_epoch"]) // 5 :]
    ]
    low, high = min(after_a_fifth), max(after_a_fifth)
    axes.set_ylim(low - 0.05 * (high - low) - 0.1, high + 0.05 * (high - low) + 0.1)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation ELBO, nats per datum")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.legend(loc="lower right")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--systems",
        nargs="+",
        default=["iwae", "sbn"],
        choices=[*GROUPS, *SYSTEMS],
        help="names or groups (default: iwae sbn)",
    )
    parser.add_argument("--data", help="other data than the systems' own, for a trial")
    parser.add_argument("--epochs", type=_count, help="other epochs than the systems' own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--num-particles", type=_count, default=5000, help="importance samples of log p(x)")
    parser.add_argument("--every", type=_count, default=5, help="evaluate each so-many-th test image (1: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs/published"), help="where the runs are kept")
    parser.add_argument("--name", default="published", help="of the files with the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results go")
    return parser


if __name__ == "__main__":
    main()
