"""The reference VAE: the IWAE paper's one-layer model, 784-200-200-50, on dynamically binarised MNIST.

Trains the recipe ``vae`` to several numbers of epochs, one after the other, and evaluates each on the whole test set.
A run that was interrupted goes on where it was. Results go to ``benchmarks/results/reference_vae.json`` and ``.md``.

    python -m benchmarks.reference_vae --epochs 20 100 --seeds 0 1 2 --num-particles 500
"""

__all__ = ["main"]

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_dgm.evaluation import Estimate, elbo_parts, log_evidence
from pyro_dgm.files import replace_atomically
from pyro_dgm.recipes import Run, open_run, start_run

RESULTS = Path(__file__).parent / "results"
SETTINGS = {"activation": "tanh", "latent_features": 50, "hidden_features": (200, 200)}
EVALUATION_SEED = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and writes its results."""
    arguments = _parser().parse_args(argv)
    rows = []
    for seed in arguments.seeds:
        for epochs in sorted(arguments.epochs):
            run = _train(arguments.runs / f"seed{seed}", arguments.data, seed, epochs)
            done = run.folder / f"evaluation-{epochs}.json"
            if not done.exists():
                with replace_atomically(done) as temporary:
                    temporary.write_text(json.dumps(_evaluate(run, epochs, arguments.num_particles), indent=2))
            rows.append(json.loads(done.read_text()))
    content = {"machine": _machine(), "protocol": _protocol(rows[0]), "rows": rows}
    arguments.results.mkdir(parents=True, exist_ok=True)
    with replace_atomically(arguments.results / "reference_vae.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    table = _table(content)
    with replace_atomically(arguments.results / "reference_vae.md") as temporary:
        temporary.write_text(table)
    print(table)


def _train(folder: Path, data: str, seed: int, epochs: int) -> Run:
    """Trains to a number of epochs; a folder that holds fewer goes on."""
    if not folder.exists():
        start_run("vae", data, folder, seed=seed, settings=SETTINGS)
    run = open_run(folder, settings={"epochs": epochs})
    run.train(resume=(folder / "last.ckpt").exists())
    return run


def _evaluate(run: Run, epochs: int, all_particles: Sequence[int]) -> dict[str, Any]:
    """The test numbers of one run at one number of epochs, with the seconds that training and evaluation took."""
    history = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    arguments = run.system.arguments(run.system.dataset.test)
    model, guide = run.system.model, run.system.guide
    pyro.set_rng_seed(EVALUATION_SEED)
    parts = elbo_parts(model, guide, *arguments, num_particles=10, progress=True)
    row = {
        "seed": run.config.seed,
        "epochs": epochs,
        "training_seconds": history[-1]["seconds"],
        "valid_elbo": -history[-1]["valid_loss"],
        "elbo": Estimate.of(parts.elbo)._asdict(),
        "kl": Estimate.of(parts.kl["z"])._asdict(),
        "log_evidence": {},
        "num_data": len(parts.elbo),
        "data_sha256": run.config.data_digest,
        "data_protocol": run.system.dataset.protocol,
    }
    for num_particles in all_particles:
        pyro.set_rng_seed(EVALUATION_SEED)
        start = time.perf_counter()
        found = log_evidence(model, guide, *arguments, num_particles=num_particles, progress=True)
        row["log_evidence"][str(num_particles)] = {
            **found.estimate._asdict(),
            "monte_carlo_error": found.monte_carlo_error,
            "num_pareto_k_over_0.7": int((found.pareto_k > 0.7).sum()),
            "seconds": time.perf_counter() - start,
        }
    return row


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }


def _protocol(row: dict[str, Any]) -> str:
    return (
        "Recipe vae, 784-200-200-50 with tanh, Adam 1e-3, batches of 100, ELBO with analytic KL and K = 1, training "
        "images binarised anew each time they are seen. "
        f"Data: {row['data_protocol']} (sha256 {row['data_sha256'][:12]}). "
        f"Evaluated on all {row['num_data']:,} test images with evaluation seed {EVALUATION_SEED}, on the last "
        "parameters, without early stopping"
    )


def _table(content: dict[str, Any]) -> str:
    """Markdown: a row per number of epochs, means over the seeds with their range."""
    rows = content["rows"]
    all_particles = list(rows[0]["log_evidence"])
    titles = ["epochs", "seeds", "test ELBO", *(f"test log p(x), K = {k}" for k in all_particles), "training seconds"]
    lines = ["# Reference VAE", "", content["protocol"] + ".", "", "| " + " | ".join(titles) + " |"]
    lines.append("|" + "---|" * len(titles))
    for epochs in sorted({row["epochs"] for row in rows}):
        same = [row for row in rows if row["epochs"] == epochs]
        cells = [str(epochs), ", ".join(str(row["seed"]) for row in same), _cell([row["elbo"] for row in same])]
        cells += [_cell([row["log_evidence"][k] for row in same]) for k in all_particles]
        cells.append(f"{statistics.median(row['training_seconds'] for row in same):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    machine = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
    lines += [
        "",
        "Nats per datum, the mean over the seeds ± the standard error over test images, the range over the seeds in "
        "brackets. Seconds are the median over the seeds, validation after each epoch included.",
        f"Machine: {machine}.",
        "",
    ]
    return "\n".join(lines)


def _cell(estimates: list[dict[str, float]]) -> str:
    values = [estimate["mean"] for estimate in estimates]
    error = statistics.fmean(estimate["standard_error"] for estimate in estimates)
    spread = f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f} ± {error:.2f}{spread}"


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
