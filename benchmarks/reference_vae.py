"""The reference VAE: the IWAE paper's one-layer model, 784-200-200-50, on dynamically binarised MNIST.

Trains the recipe ``vae`` to several numbers of epochs, one after the other, and evaluates each on the whole test set.
A run that was interrupted goes on where it was. Results go to ``benchmarks/results/reference_vae.json`` and ``.md``.

    python -m benchmarks.reference_vae --epochs 20 100 --seeds 0 1 2 --num-particles 500
"""

__all__ = ["main"]

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

RESULTS = Path(__file__).parent / "results"
SETTINGS = {"activation": "tanh", "latent_features": 50, "hidden_features": (200, 200)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and writes its results."""
    arguments = _parser().parse_args(argv)
    rows = []
    for seed in arguments.seeds:
        for epochs in sorted(arguments.epochs):
            rows.append(_row(arguments, seed, epochs))
    content = {"machine": machine(), "protocol": _protocol(rows[0]), "rows": rows}
    write_results(arguments.results, "reference_vae", content, _table(content))


def _row(arguments: argparse.Namespace, seed: int, epochs: int) -> dict[str, Any]:
    """Trains and evaluates, unless that was done before."""
    folder = arguments.runs / f"seed{seed}"

    def make() -> dict[str, Any]:
        run = train("vae", arguments.data, folder, seed=seed, epochs=epochs, settings=SETTINGS)
        return evaluate(run, epochs, arguments.num_particles).row

    return once(folder / f"evaluation-{epochs}.json", make)


def _protocol(row: dict[str, Any]) -> str:
    return (
        "Recipe vae, 784-200-200-50 with tanh, Adam 1e-3, batches of 100, ELBO with analytic KL and K = 1, training "
        "images binarised anew each time they are seen. "
        f"Data: {describe_data(row)}. "
        f"Evaluated on all {row['num_data']:,} test images with evaluation seed {EVALUATION_SEED}, on the last "
        "parameters, without early stopping"
    )


def _table(content: dict[str, Any]) -> str:
    """Markdown: a row per number of epochs, means over the seeds with their range."""
    rows = content["rows"]
    all_particles = list(rows[0]["log_evidence"])
    titles = ["epochs", "seeds", "test ELBO", *(f"test log p(x), K = {k}" for k in all_particles), "training seconds"]
    lines = []
    for epochs in sorted({row["epochs"] for row in rows}):
        same = [row for row in rows if row["epochs"] == epochs]
        cells = [str(epochs), ", ".join(str(row["seed"]) for row in same), cell([row["elbo"] for row in same])]
        cells += [cell([row["log_evidence"][k] for row in same]) for k in all_particles]
        lines.append([*cells, f"{statistics.median(row['training_seconds'] for row in same):.0f}"])
    return "\n".join(
        [
            "# Reference VAE",
            "",
            content["protocol"] + ".",
            "",
            *markdown_table(titles, lines),
            "",
            "Nats per datum, the mean over the seeds ± the standard error over test images, the range over the seeds "
            "in brackets. Seconds are the median over the seeds, validation after each epoch included.",
            describe_machine(content["machine"]),
            "",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reference_vae", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", default="mnist", help="a data set of images (default: mnist)")
    parser.add_argument("--epochs", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num-particles", type=int, nargs="+", default=[500])
    parser.add_argument("--runs", type=Path, default=Path("runs/reference_vae"), help="where the runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results go")
    return parser


if __name__ == "__main__":
    main()
