"""Every bound with every gradient estimator on a discrete and a continuous model: bias, variance, milliseconds.

The discrete model is a sigmoid belief net of two layers with an amortized guide, the continuous one a chain of two
normal latents; both are small, in float64, with fixed parameters. Results go to ``benchmarks/results/gradients.md``.

    python -m benchmarks.gradients
"""

__all__ = ["main"]

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.evaluation import GradientAudit, gradient_audit
from pyro_dgm.files import replace_atomically
from pyro_dgm.infer import CIWAE, ELBO, IWAE, MIWAE, Objective, Renyi
from pyro_dgm.infer.estimators import PATH, SCORE

RESULTS = Path(__file__).parent / "results"
BOUNDS: dict[str, Callable[..., Objective]] = {
    "ELBO": partial(ELBO, 4),
    "IWAE": partial(IWAE, 4),
    "MIWAE, 2 groups": partial(MIWAE, 4, 2),
    "CIWAE, beta 0.5": partial(CIWAE, 4, 0.5),
    "Renyi, alpha 0.5": partial(Renyi, 0.5, 4),
    "Renyi, alpha -1": partial(Renyi, -1.0, 4),
}


class BeliefNet(pyro.nn.PyroModule):
    """Bits above bits above binary data, with a guide from the data upwards."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.down = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 6)]).double()
        self.up = nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 3)]).double()

    def model(self, x: Tensor) -> None:
        """p(h2) p(h1 | h2) p(x | h1)."""
        with pyro.plate("data", len(x)):
            h2 = pyro.sample("h2", dist.Bernoulli(logits=self.top).to_event(1))
            h1 = pyro.sample("h1", dist.Bernoulli(logits=self.down[0](h2)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.down[1](h1)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(h1 | x) q(h2 | h1)."""
        with pyro.plate("data", len(x)):
            h1 = pyro.sample("h1", dist.Bernoulli(logits=self.up[0](x)).to_event(1))
            pyro.sample("h2", dist.Bernoulli(logits=self.up[1](h1)).to_event(1))


class Chain(pyro.nn.PyroModule):
    """Two normal latents, the second drawn given the first in model and guide."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 6)]).double()
        self.up = nn.ModuleList([nn.Linear(6, 3), nn.Linear(9, 3)]).double()

    def model(self, x: Tensor) -> None:
        """p(z) p(w | z) p(x | w)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
            w = pyro.sample("w", dist.Normal(self.down[0](z), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.down[1](w)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x) q(w | z, x)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.up[0](x), 0.8).to_event(1))
            both = torch.cat([x.expand(*z.shape[:-1], -1), z], dim=-1)
            pyro.sample("w", dist.Normal(self.up[1](both), 0.8).to_event(1))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the matrix and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients")
    parser.add_argument("--num-steps", type=int, default=500, help="gradients of each cell")
    parser.add_argument("--num-reference-steps", type=int, default=2000, help="gradients of each reference")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    lines = _heading(arguments)
    for title, make, estimators in (("discrete", BeliefNet, SCORE), ("continuous", Chain, (*PATH, *SCORE))):
        lines += ["", f"## {title.capitalize()} latents", "", _row("bound", "estimator", "largest z", *_COLUMNS)]
        lines.append("|" + "---|" * (3 + len(_COLUMNS)))
        for bound, objective in BOUNDS.items():
            lines += _cells(bound, objective, make, estimators, arguments)
            print("\n".join(lines[-len(estimators) :]), flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    with replace_atomically(arguments.results / "gradients.md") as draft:
        draft.write_text("\n".join([*lines, ""]))


_COLUMNS = ("guide's variance", "guide's signal / noise", "model's variance", "ms a step")


def _cells(
    bound: str, objective: Callable[..., Objective], make: type, estimators: Sequence[str], arguments: Any
) -> list[str]:
    """The rows of one bound: every estimator against one unbiased reference."""
    pyro.set_rng_seed(0)
    program = make()
    x = torch.bernoulli(torch.full((10, 6), 0.5, dtype=torch.float64))
    steps = {"num_steps": arguments.num_steps, "num_reference_steps": arguments.num_reference_steps}
    return [
        _cell(bound, name, gradient_audit(objective(gradient=name), program.model, program.guide, x, **steps))
        for name in estimators
    ]


def _cell(bound: str, estimator: str, audit: GradientAudit) -> str:
    guide = [row for row in audit.rows if row.name.startswith("model.up")]
    rest = [row for row in audit.rows if not row.name.startswith("model.up")]
    signal = torch.cat([row.mean.flatten() for row in guide]).norm().item()
    noise = sum(float(row.variance.sum()) for row in guide)
    return _row(
        bound,
        f"`{estimator}`",
        f"{audit.largest_z:.1f}",
        f"{noise:.3g}",
        f"{signal / noise**0.5:.3g}",
        f"{sum(float(row.variance.sum()) for row in rest):.3g}",
        f"{1000 * audit.seconds_per_step:.1f}",
    )


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _heading(arguments: argparse.Namespace) -> list[str]:
    steps, reference = arguments.num_steps, arguments.num_reference_steps
    return [
        "# Gradient estimators",
        "",
        f"`python -m benchmarks.gradients`: each bound with K = 4 and each estimator, {steps} gradients on one batch "
        "of 10 data, seed 0. The largest z is the largest bias of any element of any parameter, in standard errors, "
        f"against {reference} gradients of the unbiased `auto`; there are some 80 elements, so an unbiased estimator "
        "stays below about 4. Variances are summed over the elements. The models are tiny, and the milliseconds a "
        "rough guide.",
    ]


if __name__ == "__main__":
    main()
