"""What the benchmarks of trained recipes share: training to an epoch, evaluating once, the machine, the tables."""

__all__ = [
    "EVALUATION_SEED",
    "Evaluation",
    "cell",
    "describe_data",
    "describe_machine",
    "evaluate",
    "machine",
    "markdown_table",
    "once",
    "processor",
    "train",
    "versions",
    "write_results",
]

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_dgm.evaluation import Estimate, elbo_parts, log_evidence
from pyro_dgm.files import replace_atomically
from pyro_dgm.recipes import Run, open_run, start_run

EVALUATION_SEED = 0


class Evaluation(NamedTuple):
    """The test numbers of a run.

    Arguments:
        row: what goes into the results, as JSON has it.
        per_image: the values behind the means, each of shape (N,).
    """

    row: dict[str, Any]
    per_image: dict[str, Tensor]


def train(recipe: str, data: str, folder: Path, *, seed: int, epochs: int, settings: Mapping[str, Any]) -> Run:
    """Trains to a number of epochs; a folder that holds fewer goes on, one that holds as many is taken as it is.

    Arguments:
        recipe: name of the recipe.
        data: name of the data set.
        folder: where the run is or will be.
        seed: of initialisation, order of the data and all noise.
        epochs: counted from the run's beginning.
        settings: values of the recipe to change.

    Raises:
        ValueError: the folder holds another run, or one with more epochs.
    """
    if folder.exists():
        _check_is_the_run(folder, {"recipe": recipe, "data": data, "seed": seed}, settings)
    else:
        start_run(recipe, data, folder, seed=seed, settings=settings)
    run = open_run(folder, settings={"epochs": epochs})
    if len(run.history()) == epochs:
        run.load_trained()
    else:
        run.train(resume=True)
    return run


def _check_is_the_run(folder: Path, names: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    found = {name: config[name] for name in names} | {name: config["settings"].get(name) for name in settings}
    expected = json.loads(json.dumps({**names, **settings}))
    if found != expected:
        raise ValueError(
            f"a folder of runs is used again for the same runs; got {folder} with {found}, and not {expected}. Choose "
            "another --runs."
        )


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a JSON file holds; if there is none it is made first, whole or not at all."""
    if not path.exists():
        content = make()
        with replace_atomically(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def evaluate(run: Run, epochs: int, all_particles: Sequence[int], every: int = 1) -> Evaluation:
    """The test numbers of one run at one number of epochs, with the seconds that training and evaluation took.

    Arguments:
        run: a trained run.
        epochs: how many it was trained for.
        all_particles: numbers K of importance samples for log p(x).
        every: take each so-many-th test image.
    """
    history = run.history()
    arguments = [values[::every] for values in run.system.arguments(run.system.dataset.test)]
    model, guide = run.system.model, run.system.guide
    pyro.set_rng_seed(EVALUATION_SEED)
    parts = elbo_parts(model, guide, *arguments, num_particles=10, progress=True)
    kl = torch.stack(list(parts.kl.values())).sum(0)
    per_image = {"elbo": parts.elbo}
    row: dict[str, Any] = {
        "seed": run.config.seed,
        "epochs": epochs,
        "training_seconds": history[-1]["seconds"],
        "valid_elbo": -history[-1]["valid_loss"],
        "elbo": Estimate.of(parts.elbo)._asdict(),
        "kl": Estimate.of(kl)._asdict(),
        "log_evidence": {},
        "num_data": len(parts.elbo),
        "data_sha256": run.config.data_digest,
        "data_protocol": run.system.dataset.protocol,
    }
    for num_particles in all_particles:
        pyro.set_rng_seed(EVALUATION_SEED)
        start = time.perf_counter()
        found = log_evidence(model, guide, *arguments, num_particles=num_particles, progress=True)
        per_image[f"log_evidence_{num_particles}"] = found.per_datum
        row["log_evidence"][str(num_particles)] = {
            **found.estimate._asdict(),
            "monte_carlo_error": found.monte_carlo_error,
            "num_pareto_k_over_0.7": int((found.pareto_k > 0.7).sum()),
            "seconds": time.perf_counter() - start,
        }
    return Evaluation(row, per_image)


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }


def processor() -> str:
    """The processor's name where Linux tells it, else its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of NumPyro and JAX, where they are installed."""
    names = [name for name in ("numpyro", "jax") if importlib.util.find_spec(name) is not None]
    return {name: importlib.metadata.version(name) for name in names}


def describe_machine(facts: Mapping[str, Any]) -> str:
    """The machine in a sentence."""
    return "Machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + "."


def describe_data(row: Mapping[str, Any]) -> str:
    """The data of a row, their split, binarisation and sha256."""
    return f"{row['data_protocol']} (sha256 {row['data_sha256'][:12]})"


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def cell(estimates: Sequence[Mapping[str, float]], sign: int = 1) -> str:
    """The mean over the seeds ± the standard error over the images, and the range over the seeds.

    Arguments:
        estimates: a mean and a standard error for every seed.
        sign: -1 to show minus the numbers.
    """
    values = [sign * estimate["mean"] for estimate in estimates]
    error = statistics.fmean(estimate["standard_error"] for estimate in estimates)
    spread = f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f} ± {error:.2f}{spread}"


def write_results(folder: Path, name: str, content: Mapping[str, Any], text: str) -> None:
    """Writes a benchmark's JSON and Markdown, each whole or not at all, and prints the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, written in ((".json", json.dumps(content, indent=2) + "\n"), (".md", text)):
        with replace_atomically(folder / f"{name}{suffix}") as temporary:
            temporary.write_text(written)
    print(text)
