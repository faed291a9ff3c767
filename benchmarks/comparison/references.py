"""Reference posteriors of the tasks that have no closed form, by long chains of NUTS, stored with their errors.

Each chain runs by itself, from a start of its own. What is stored of a task are means and standard deviations with
their Monte Carlo errors, R-hat and effective sample sizes, thinned draws, and the log evidence by importance sampling
from a t distribution at the moments of the draws. Files go to ``benchmarks/comparison/references/``.

    python -m benchmarks.comparison.references --tasks eight-schools logistic
"""

__all__ = ["STORED", "importance_evidence", "main", "summarise"]

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor
from torch.distributions import biject_to
from tqdm import tqdm

from benchmarks.comparison.tasks.stored import EightSchools, LogisticRegression, Stored, reference_path
from benchmarks.protocol import machine
from pyro_dgm.datasets import content_digest
from pyro_dgm.files import replace_atomically

STORED: dict[str, type[Stored]] = {kind.name: kind for kind in (EightSchools, LogisticRegression)}
NUM_WEIGHED, AT_ONCE, FREEDOM = 100_000, 2_000, 5.0
DIGITS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the chains and writes the files."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    for name in options.tasks:
        task = STORED[name]()
        content = make(task, options.chains, options.draws, options.warmup, options.kept)
        path = reference_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path) as draft:
            draft.write_text(json.dumps(content) + "\n")
        worst, least = max(content["r_hat"]), min(content["ess"])
        print(f"{path}: largest R-hat {worst:.4f}, least effective sample size {least:.0f}")


def make(task: Stored, num_chains: int, num_draws: int, num_warmup: int, num_kept: int) -> dict[str, Any]:
    """The reference posterior of one task, as its file has it."""
    y = task.data()
    chains = []
    for seed in tqdm(range(num_chains), desc=f"{task.name}, chains", disable=None):
        pyro.set_rng_seed(seed)
        chain = MCMC(NUTS(task.model), num_draws, num_warmup, disable_progbar=True)
        chain.run(y)
        chains.append(chain.get_samples())
    draws = torch.stack([_flat(chain, task.sites) for chain in chains]).double()  # (chains, draws, d)
    evidence, error = importance_evidence(task, draws.flatten(0, 1))
    every = max(1, draws.shape[0] * draws.shape[1] // num_kept)
    return {
        "task": task.name,
        "sites": list(task.sites),
        **summarise(draws),
        "log_evidence": {"value": evidence, "standard_error": error},
        "draws": _rounded(draws.transpose(0, 1).flatten(0, 1)[::every]),
        "protocol": {
            "sampler": "pyro.infer.NUTS, one chain after another, seeds 0 to " + str(num_chains - 1),
            "chains": num_chains,
            "draws_per_chain": num_draws,
            "warmup": num_warmup,
            "every": every,
            "evidence": f"importance sampling, {NUM_WEIGHED} draws of a t distribution with {FREEDOM:g} degrees",
            "data_sha256": content_digest(y),
            **machine(),
        },
    }


def summarise(draws: Tensor) -> dict[str, list[float]]:
    """Means and standard deviations with their errors, R-hat and effective sample size, of draws (chains, n, d).

    The error of a standard deviation is that of independent normal draws, as many as the squares are worth.
    """
    ess = effective_sample_size(draws, chain_dim=0, sample_dim=1)
    flat = draws.flatten(0, 1)
    mean, sd = flat.mean(0), flat.std(0)
    of_squares = effective_sample_size((draws - mean).square(), chain_dim=0, sample_dim=1)
    kurtosis = ((flat - mean) / sd).pow(4).mean(0)
    found = {
        "mean": mean,
        "sd": sd,
        "mean_error": sd / ess.sqrt(),
        "sd_error": sd * ((kurtosis - 1) / of_squares).sqrt() / 2,
        "r_hat": split_gelman_rubin(draws, chain_dim=0, sample_dim=1),
        "ess": ess,
    }
    return {name: [float(value) for value in values] for name, values in found.items()}


def importance_evidence(task: Stored, draws: Tensor) -> tuple[float, float]:
    """Log p(y) and its standard error, by draws of a t distribution in the unconstrained space.

    Arguments:
        task: whose model and data.
        draws: of the posterior, (n, d), by which the t distribution is placed.
    """
    y = task.data()
    trace = poutine.trace(task.model).get_trace(y)
    bijections = {name: biject_to(trace.nodes[name]["fn"].support) for name in task.sites}
    shapes = {name: trace.nodes[name]["value"].shape for name in task.sites}
    values = _parted(draws.float(), shapes)
    free = torch.cat([bijections[name].inv(own).flatten(1) for name, own in values.items()], 1).double()
    scale = torch.linalg.cholesky(torch.cov(free.T) + 1e-9 * torch.eye(free.shape[1]).double())
    proposal = dist.MultivariateStudentT(torch.tensor(FREEDOM).double(), free.mean(0), scale)
    pyro.set_rng_seed(1)
    log_w = []
    for _ in range(NUM_WEIGHED // AT_ONCE):
        own = proposal.sample((AT_ONCE,))
        log_w.append(_log_joint(task, y, _parted(own.float(), shapes), bijections) - proposal.log_prob(own))
    weights = torch.cat(log_w)
    normalised = weights.softmax(0)
    error = math.sqrt(max(0.0, float(normalised.square().sum()) - 1 / len(weights)))
    return float(weights.logsumexp(0)) - math.log(len(weights)), error


def _log_joint(task: Stored, y: Tensor, free: Mapping[str, Tensor], bijections: Mapping[str, Any]) -> Tensor:
    """Log p(y, z) and the volume of the bijections, of unconstrained values (n, 1, *event)."""
    values = {name: bijections[name](own) for name, own in free.items()}
    num = len(next(iter(values.values())))
    conditioned = poutine.condition(pyro.plate("draws", num, dim=-2)(task.model), data=values)
    trace = poutine.trace(conditioned).get_trace(y)
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site]
    total = sum(
        site["log_prob"].expand(num, 1).double().sum(1) for site in sites if site["name"] not in ("data", "draws")
    )
    for name, own in free.items():
        volume = bijections[name].log_abs_det_jacobian(own, values[name]).double()
        total = total + volume.reshape(num, -1).sum(1)
    return torch.as_tensor(total)


def _flat(values: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    return torch.cat([values[name].reshape(len(values[name]), -1) for name in sites], 1)


def _parted(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    parts = flat.split([shape.numel() for shape in shapes.values()], 1)
    return {name: part.reshape(len(flat), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _rounded(draws: Tensor) -> list[list[float]]:
    return [[round(value, DIGITS) for value in row] for row in draws.tolist()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison.references", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--tasks", nargs="+", choices=STORED, default=list(STORED))
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--draws", type=int, default=2000, help="of each chain")
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--kept", type=int, default=1000, help="draws that are stored")
    return parser


if __name__ == "__main__":
    main()
