"""Cells as a comparison writes them: several tasks, methods and seeds, with all that can go wrong."""

import json
import math
import random
from pathlib import Path
from typing import Any

TASKS = {
    "ppca": ("linear-Gaussian (pPCA), exact", "exact", "mean_error", -2.84),
    "eight-schools": ("eight schools, against long NUTS", "exact", "mean_error", -4.1),
    "potential-1": ("potential U1, two dimensions", "exact", "wasserstein", -1.6),
    "sbn-small": ("enumerable sigmoid belief net", "exact", "kl", -3.3),
    "digits": ("digits, dynamically binarised", "data", "log_evidence", -19.5),
}
METHODS = {
    "elbo": ("ELBO, reparameterised", "pyro_dgm", 0.09, 0.0021),
    "iwae-dreg": ("IWAE (K = 10), DReG", "pyro_dgm", 0.03, 0.0065),
    "stl": ("ELBO, sticking the landing", "pyro_dgm", 0.05, 0.0024),
    "pyro-trace": ("Pyro Trace_ELBO", "pyro", 0.1, 0.0047),
    "pyro-renyi": ("Pyro RenyiELBO", "pyro", 0.3, 0.0062),
    "torch-vae": ("plain torch VAE", "torch", 0.1, 0.0018),
    "mine": ('<script>alert("x")</script> & "mine" | *new*', "user", 0.07, 0.003),
}
STEPS = dict.fromkeys(TASKS, 2000) | {"sbn-small": 4000}
NASTY = 'ValueError: rates must be "positive"; got </script><b>-1</b> | x. Use `exp`.'


def metric(value: float | None, error: float | None, unit: str, better: str, meaning: str) -> dict[str, Any]:
    return {"value": value, "standard_error": error, "unit": unit, "better": better, "meaning": meaning}


def cell(task: str, method: str, seed: int, **changes: Any) -> dict[str, Any]:
    """A cell that is done, with one metric and no curve, but for the changes."""
    return {
        "version": 1,
        "task": task,
        "method": method,
        "seed": seed,
        "title": {"task": f"the {task}", "method": f"the {method}"},
        "family": {"task": "exact", "method": "pyro_dgm"},
        "status": "done",
        "reason": None,
        "budget": {"steps": 2000},
        "protocol": {"data": task, "data_sha256": None, "split": "test", "threads": 1, "parallel": False},
        "curve": [],
        "metrics": {"bound": metric(-3.0, 0.01, "nats per datum", "higher", "ELBO, a lower bound")},
        "seconds": 12.5,
        "reference": None,
        "peak_memory_mb": None,
        **changes,
    }


def write(folder: Path, *cells: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for one in cells:
        path = folder / f"{one['task']}--{one['method']}--{one['seed']}.json"
        path.write_text(json.dumps(one, allow_nan=False), encoding="utf-8")
    return folder


def write_grid(folder: Path) -> Path:
    """The grid of all tasks and methods, three seeds each; ``mine`` has one seed and is a stranger to ``digits``."""
    draws = random.Random(0)
    cells = []
    for task in TASKS:
        for method in METHODS:
            for seed in range(1 if method == "mine" else 3):
                if (task, method) not in {("digits", "mine"), ("sbn-small", "stl")}:
                    cells.append(_realistic(draws, task, method, seed))
    return write(folder, *cells)


def _realistic(draws: random.Random, task: str, method: str, seed: int) -> dict[str, Any]:
    task_title, task_family, quality, best = TASKS[task]
    method_title, method_family, gap, seconds_per_step = METHODS[method]
    seconds_per_step *= 8 if task == "digits" else 1
    gap *= draws.uniform(0.8, 1.25)
    looks = range(0, STEPS[task] + 1, STEPS[task] // 20)
    pace = seconds_per_step * draws.uniform(0.95, 1.08)
    curve = []
    for step in looks:
        bound = best - gap - abs(best) * 0.9 * math.exp(-step / (250 + 900 * gap)) + draws.gauss(0, 0.012)
        other = gap + math.exp(-step / 300) * draws.uniform(0.9, 1.1)
        look = {"step": step, "seconds": step * pace, "bound": bound}
        curve.append(look | ({} if task == "digits" else {quality: other}))
    found = cell(
        task,
        method,
        seed,
        title={"task": task_title, "method": method_title},
        family={"task": task_family, "method": method_family},
        budget={"steps": STEPS[task]},
        protocol=_protocol(task, seed),
        curve=curve,
        metrics=_metrics(draws, curve[-1], quality, best, gap, pace),
        seconds=STEPS[task] * pace,
        reference={"method": "torch-vae", "ratio": pace / (0.0018 * (8 if task == "digits" else 1)), "blocks": 15},
        peak_memory_mb=round(draws.uniform(310, 640), 1),
    )
    return _gone_wrong(found)


def _protocol(task: str, seed: int) -> dict[str, Any]:
    return {
        "data": task,
        "data_sha256": "9b1f0c6f" * 8 if task == "digits" else None,
        "binarisation": "dynamic" if task == "digits" else "none",
        "split": "test",
        "num_data": 360 if task == "digits" else 1000,
        "num_particles": 5000,
        "python": "3.11.2",
        "torch": "2.13.0",
        "pyro": "1.9.2",
        "pyro_dgm": "0.1.0",
        "processor": "x86_64",
        "cores": 2,
        "threads": 1,
        "started": f"2026-11-21T2{seed}:00:00Z",
        "parallel": False,
    }


def _metrics(
    draws: random.Random, last: dict[str, float], quality: str, best: float, gap: float, pace: float
) -> dict[str, Any]:
    found = {
        "bound": metric(
            last["bound"], 0.004, "nats per datum", "higher", "ELBO, a lower bound on log p(x), unbiased; K = 10"
        ),
        "gradient_variance": metric(gap * draws.uniform(3, 4), None, "squared nats", "lower", "summed over parameters"),
        "seconds_per_step": metric(pace, None, "s", "lower", "training only, evaluation not counted"),
        "steps_to_quality": metric(
            None if gap > 0.25 else 250 + round(9000 * gap), None, "steps", "lower", "to 0.2 nats of the best"
        ),
        "pareto_k": metric(
            0.2 + gap * 2, None, "", "lower", "median over data; above 0.7 importance sampling has failed"
        ),
    }
    if quality == "log_evidence":
        meaning = "importance sampling, biased downwards; K = 5000"
        found[quality] = metric(best - gap / 2 + draws.gauss(0, 0.01), 0.21, "nats per datum", "higher", meaning)
    elif quality == "mean_error":
        found[quality] = metric(draws.gauss(0, gap), 0.002, "true sd", "zero", "posterior mean less the exact one")
        found["sd_error"] = metric(-gap * draws.uniform(0.5, 1), 0.002, "true sd", "zero", "log of the ratio of sds")
    else:
        found[quality] = metric(
            gap * draws.uniform(0.9, 1.1), 0.003, "nats" if quality == "kl" else "", "lower", "to the exact posterior"
        )
    return found


def _gone_wrong(found: dict[str, Any]) -> dict[str, Any]:
    where = (found["task"], found["method"], found["seed"])
    lost = {"metrics": {}, "seconds": None, "reference": None, "peak_memory_mb": None}
    if where[:2] == ("sbn-small", "torch-vae"):
        return found | lost | {"status": "failed", "reason": NASTY, "curve": []}
    if where == ("eight-schools", "pyro-renyi", 1):
        reason = "FloatingPointError: the loss is nan at step 800; sites tau, theta"
        so_far = {"bound": found["metrics"]["bound"]}
        return found | lost | {"status": "failed", "reason": reason, "curve": found["curve"][:9], "metrics": so_far}
    if where == ("digits", "pyro-renyi", 2):
        return found | lost | {"status": "killed", "reason": "over its limit of 60 s", "curve": []}
    if where == ("ppca", "pyro-trace", 0):
        found["metrics"]["gradient_variance"]["value"] = None
        found["curve"][3]["bound"] = None
    if where[0] == "potential-1":
        found["metrics"].pop("pareto_k")
    return found
