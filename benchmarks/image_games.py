"""Adversarial recipes on MNIST: draws to look at, judged by a classifier trained here, and log p(x) where there is one.

Trains the classifier, a DCGAN, an InfoGAN, an adversarial autoencoder and adversarial variational Bayes without and
with adaptive contrast, one seed each, evaluates them on the test images and writes
``benchmarks/results/image-games.json``, ``.md`` and a picture of each one's draws. Runs that are there, in
``runs/image-games``, are not trained again.

    python -m benchmarks image-games
"""

__all__ = ["SYSTEMS", "main"]

import argparse
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.protocol import describe_machine, machine, markdown_table, once, train, write_results
from pyro_dgm.recipes import evaluate

RESULTS = Path(__file__).parent / "results"
JUDGE = "classifier"
SYSTEMS = {
    "classifier": 3,
    "dcgan": 8,
    "infogan": 8,
    "adversarial-autoencoder": 20,
    "avb": 40,
    "avb-ac": 40,
}
"""Recipes and their passes through the data."""
PICTURES = ("samples.png",)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, evaluates and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, help="of all; each its own if left out")
    parser.add_argument("--particles", type=int, default=500, help="importance samples for log p(x)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/image-games"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    names = [JUDGE, *(name for name in options.systems if name != JUDGE)]
    rows = []
    for name in tqdm(names, desc="systems", unit="system", disable=None):
        path = options.runs / f"{name}-{options.particles}.json"
        rows.append(once(path, functools.partial(_row, name, options)))
        for picture in PICTURES if name != JUDGE else ():
            options.results.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(options.runs / name / picture, options.results / f"image-games-{name}.png")
    write_results(options.results, "image-games", {"machine": machine(), "rows": rows}, _report(rows))


def _row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One system, trained and judged."""
    epochs = options.epochs or SYSTEMS[name]
    folder = options.runs / name
    run = train(name, options.data, folder, seed=options.seed, epochs=epochs, settings={})
    judge = None if name == JUDGE else options.runs / JUDGE
    report = evaluate(run, num_particles=options.particles, judge=judge)
    seconds = run.history()[-1]["seconds"]
    return {"system": name, "epochs": epochs, "training_seconds": seconds, "numbers": report.numbers}


def _report(rows: Sequence[dict[str, Any]]) -> str:
    """The table, a line a number, and the pictures."""
    lines = [
        "# Adversarial recipes on images",
        "",
        "Test images, one seed. Distances and shares are those of the classifier's features, and comparable only with "
        "each other. log p(x) is by importance sampling with a guide fitted to the trained model, a lower bound in "
        "expectation; what comes from a critic is a ratio estimate, not a bound.",
        "",
    ]
    table = []
    for row in rows:
        for number in row["numbers"]:
            error = f" ± {number['standard_error']:.3g}" if number.get("standard_error") is not None else ""
            value = f"{number['value']:.4g}{error}"
            table.append([row["system"], number["metric"], value, number["unit"], number["meaning"]])
    lines += markdown_table(["system", "number", "value", "unit", "what it is"], table)
    trained = [[row["system"], str(row["epochs"]), f"{row['training_seconds'] / 60:.1f}"] for row in rows]
    lines += ["", *markdown_table(["system", "epochs", "minutes of training"], trained), ""]
    for row in rows:
        if row["system"] != JUDGE:
            lines += [f"![Draws of {row['system']}](image-games-{row['system']}.png)", ""]
    protocol = rows[0]["numbers"][0]
    lines += [f"Data: {protocol['data_protocol']} (sha256 {protocol['data_sha256'][:12]})."]
    return "\n".join([*lines, "", describe_machine(machine()), ""])


if __name__ == "__main__":
    main()
