"""The time of a training step, by stock Pyro, this library, torch by hand and NumPyro, taken in turns in one process.

Every contestant trains the same model by the same loss from the same parameters on the same batches, with Adam. They
take blocks of steps in turns for many rounds, and the median over the rounds counts, so that whatever else the machine
does is shared. Results go to ``benchmarks/results/step_time-threads-1.json`` and ``.md``, by the number of threads.
NumPyro takes part where it is installed.

    python -m benchmarks step-time --threads 1
"""

__all__ = ["main"]

import argparse
import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.protocol import machine, processor, versions, write_results
from benchmarks.step_time.contestants import CONTESTANTS
from benchmarks.step_time.measuring import Settings, measure
from benchmarks.step_time.report import text
from benchmarks.step_time.tasks import TASKS
from pyro_dgm.files import replace_atomically
from pyro_dgm.infer.compiling.backends import BACKENDS

RESULTS = Path(__file__).parent.parent / "results"


def main(argv: Sequence[str] | None = None) -> None:
    """Times the contestants and writes the tables."""
    arguments = _parser().parse_args(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    names, notes = list(arguments.contestants), []
    if importlib.util.find_spec("numpyro") is None and any("numpyro" in name for name in names):
        names = [name for name in names if "numpyro" not in name]
        notes = ["NumPyro is not installed and left out."]
    settings = Settings(arguments.rounds, arguments.steps, arguments.seconds, arguments.backend)
    facts = {"machine": {"model": processor(), **machine(), **versions()}, "settings": settings._asdict()}
    name = f"step_time-threads-{torch.get_num_threads()}"
    path = arguments.results / f"{name}.json"
    rows = _kept(path, facts) if arguments.keep else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for task in tqdm(arguments.tasks, desc="tasks", disable=None):
        rows[task] = measure(task, names, settings, arguments.limit)
        content = {**facts, "notes": notes, "rows": [rows[task] for task in TASKS if task in rows]}
        with replace_atomically(path) as temporary:  # what an interrupted run can be taken up from, by --keep
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    write_results(arguments.results, name, content, text(content))


def _kept(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The rows of the file by task, if they were measured here and as now."""
    content = json.loads(path.read_text())
    found = {key: content[key] for key in facts}
    if found != json.loads(json.dumps(facts)):
        raise ValueError(
            f"rows are kept from the same machine with the same settings; got {found} in {path.name} for {facts}. "
            "Leave out --keep to begin anew."
        )
    return {row["task"]: row for row in content["rows"]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks step-time", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=15, help="how often everyone takes a block, at least 2")
    parser.add_argument("--steps", type=int, default=20, help="steps of a block")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a task's rounds, after at least 5")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a contestant's first steps may take")
    parser.add_argument("--threads", type=int, help="of torch and JAX; as torch has them if left out")
    parser.add_argument("--backend", choices=BACKENDS, default="inductor", help="of our compiled steps")
    parser.add_argument("--keep", action="store_true", help="keep the rows of the tasks that are not timed now")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser
