"""Every bound with every gradient estimator on four kinds of latents: what is exact, biased or refused, and how noisy.

Four small models in float64 with fixed parameters: a belief net of two layers of bits, two layers of one-hot variables,
integers, and a chain of normal latents. Control variates are tuned before they are measured, programs held still.
Results go to ``benchmarks/results/gradients.json``, ``.md`` and ``.png``. A cell that should be exact and is found
biased ends the command with an error.

    python -m benchmarks.gradients
"""

__all__ = ["BOUNDS", "KINDS", "main"]

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.protocol import describe_machine, machine, markdown_table, write_results
from pyro_dgm.evaluation import GradientAudit, gradient_audit
from pyro_dgm.infer import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, TVO, Objective, Relaxation, Renyi
from pyro_dgm.infer.estimators import BIASED, ESTIMATORS
from pyro_dgm.infer.term import Term
from pyro_dgm.plotting import gradient_audits, save_figure

RESULTS = Path(__file__).parent / "results"
NUM_PARTICLES = 4
NUM_DATA = 10
LIMIT = 5.0  # standard errors, for some 80 elements in each of some 300 cells
BOUNDS: dict[str, Callable[..., Term]] = {
    "ELBO": partial(ELBO, NUM_PARTICLES),
    "IWAE": partial(IWAE, NUM_PARTICLES),
    "MIWAE, 2 groups": partial(MIWAE, NUM_PARTICLES, 2),
    "PIWAE, 2 groups": partial(PIWAE, NUM_PARTICLES, 2),
    "CIWAE, beta 0.5": partial(CIWAE, NUM_PARTICLES, 0.5),
    "Renyi, alpha 0.5": partial(Renyi, 0.5, NUM_PARTICLES),
    "Renyi, alpha -1": partial(Renyi, -1.0, NUM_PARTICLES),
    "Renyi, alpha 2": partial(Renyi, 2.0, NUM_PARTICLES),
    "VR-max": partial(Renyi, -math.inf, NUM_PARTICLES),
    "CUBO, order 2": partial(CUBO, NUM_PARTICLES),
    "TVO, 0 and 0.2": partial(TVO, NUM_PARTICLES, (0.0, 0.2)),
}
KNOWN_BIASED = {  # a path without its score is right on average where the bound is a mean of log-weights only
    *((bound, estimator) for bound in BOUNDS for estimator in BIASED),
    *((bound, "stl") for bound in BOUNDS if bound != "ELBO"),
}


class BeliefNet(pyro.nn.PyroModule):
    """Bits above bits above binary data, with a guide from the data upwards."""

    units = 7

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


class OneHots(pyro.nn.PyroModule):
    """One variable of three classes above two of four, all one-hot, above binary data."""

    units = 11

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.down = nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 6)]).double()
        self.up = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 3)]).double()

    def model(self, x: Tensor) -> None:
        """p(h2) p(h1 | h2) p(x | h1)."""
        with pyro.plate("data", len(x)):
            h2 = pyro.sample("h2", dist.OneHotCategorical(logits=self.top))
            logits = self.down[0](h2).unflatten(-1, (2, 4))
            h1 = pyro.sample("h1", dist.OneHotCategorical(logits=logits).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.down[1](h1.flatten(-2))).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(h1 | x) q(h2 | h1)."""
        with pyro.plate("data", len(x)):
            logits = self.up[0](x).unflatten(-1, (2, 4))
            h1 = pyro.sample("h1", dist.OneHotCategorical(logits=logits).to_event(1))
            pyro.sample("h2", dist.OneHotCategorical(logits=self.up[1](h1.flatten(-2))))


class Integers(pyro.nn.PyroModule):
    """A class of five, drawn as an integer, above binary data."""

    units = 1

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.zeros(5, dtype=torch.float64))
        self.down = nn.Embedding(5, 6).double()
        self.up = nn.Linear(6, 5).double()

    def model(self, x: Tensor) -> None:
        """p(z) p(x | z)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.top))
            pyro.sample("x", dist.Bernoulli(logits=self.down(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.up(x)))


class Chain(pyro.nn.PyroModule):
    """Two normal latents, the second drawn given the first in model and guide."""

    units = 6

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


KINDS = {"Bits": BeliefNet, "One-hot variables": OneHots, "Integers": Integers, "Normal latents": Chain}


class Surrogate(nn.Module):
    """RELAX's network, of the relaxed latents and the datum."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(units + 6, 16).double(), nn.Linear(16, 1).double()

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        """One number per particle and datum, (K, B, 1)."""
        both = torch.cat([latents, x.expand(*latents.shape[:-1], -1)], dim=-1)
        found: Tensor = self.out(self.hidden(both).tanh())
        return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the matrix and writes the tables."""
    arguments = _parser().parse_args(argv)
    cells = [(kind, bound, estimator) for kind in KINDS for bound in BOUNDS for estimator in ESTIMATORS]
    rows, pictured = [], {}
    for kind, bound, estimator in tqdm(cells, desc="cells", disable=None):
        row, audit = _cell(arguments, kind, bound, estimator)
        rows.append(row)
        if audit is not None and (kind, bound) == ("Bits", "ELBO"):
            pictured[estimator] = audit
    content = {"machine": machine(), "num_particles": NUM_PARTICLES, **_counts(arguments), "rows": rows}
    save_figure(gradient_audits(pictured), arguments.results / "gradients.png")
    write_results(arguments.results, "gradients", content, _text(content))
    wrong = [row for row in rows if row["is"] == "wrong"]
    if wrong:
        names = [f"{row['kind']}, {row['bound']}, {row['estimator']} (z = {row['largest_z']:.1f})" for row in wrong]
        raise SystemExit(f"{len(wrong)} cells are biased that should be exact: {'; '.join(names)}")


def _cell(
    arguments: argparse.Namespace, kind: str, bound: str, estimator: str
) -> tuple[dict[str, Any], GradientAudit | None]:
    """One bound with one estimator on one kind of latents, from the same parameters and data as every other."""
    row: dict[str, Any] = {"kind": kind, "bound": bound, "estimator": estimator}
    pyro.set_rng_seed(0)
    program = KINDS[kind]()
    x = torch.bernoulli(torch.full((NUM_DATA, 6), 0.5, dtype=torch.float64))
    try:
        objective = BOUNDS[bound](gradient=estimator, relaxation=Relaxation(net=Surrogate(program.units)).double())
        _tune(objective, program, x, arguments.num_tuning_steps)
    except ValueError as refusal:
        return {**row, "is": "refused", "why": str(refusal)}, None
    reference = BOUNDS[bound]() if not isinstance(objective, Objective) else "auto"
    audit = gradient_audit(objective, program.model, program.guide, x, reference=reference, **_counts(arguments))
    guide = [own for own in audit.rows if own.name.startswith("model.up")]
    length = torch.cat([(own.mean - own.bias).flatten() for own in guide]).norm().item()
    is_known = (bound, estimator) in KNOWN_BIASED
    row |= {
        "is": "biased" if is_known else "exact" if audit.largest_z < LIMIT else "wrong",
        "largest_z": audit.largest_z,
        "guide_gradient": length,
        "guide_bias": torch.cat([own.bias.flatten() for own in guide]).norm().item(),
        "guide_variance": sum(float(own.variance.sum()) for own in guide),
        "model_variance": sum(float(own.variance.sum()) for own in audit.rows if own not in guide),
        "ms_per_step": 1000 * audit.seconds_per_step,
    }
    return row, audit


def _tune(objective: Term, program: Any, x: Tensor, num_steps: int) -> None:
    """Trains what the objective learns itself, the programs held still; running means settle meanwhile."""
    parameters = [parameter for part in objective.parts().values() for parameter in part.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(num_steps):
        optimizer.zero_grad()
        objective.loss_and_grads(program.model, program.guide, x)
        optimizer.step()
    program.zero_grad()


def _counts(arguments: argparse.Namespace) -> dict[str, int]:
    return {"num_steps": arguments.num_steps, "num_reference_steps": arguments.num_reference_steps}


def _text(content: dict[str, Any]) -> str:
    lines = [
        "# Gradient estimators",
        "",
        f"`python -m benchmarks.gradients`: each bound with K = {content['num_particles']} and each estimator on a "
        f"batch of {NUM_DATA} data, seed 0, {content['num_steps']} gradients a cell. The number is the variance of the "
        "guide's gradient over its squared length, both summed over the elements: how many steps must be averaged "
        "before the noise is as small as the gradient. 0 is a gradient without noise. *Biased* comes with the length "
        "of the measured bias over that of the gradient (relaxations at temperature 0.5). Every other cell was found "
        f"within {LIMIT:g} standard errors of an unbiased reference in every element of every parameter: the exact "
        "gradient for the ELBO of latents that can be listed, otherwise "
        f"{content['num_reference_steps']} gradients of the same bound by `auto`, whose error counts too. A dash is a "
        "pair that is refused, with the reason and the cure.",
        "",
        "![Estimators of the ELBO's gradient for bits](gradients.png)",
        "",
        "The picture shows the first row of the first table: noise, bias and cost of the ELBO's estimators.",
    ]
    for kind in KINDS:
        rows = [row for row in content["rows"] if row["kind"] == kind]
        names = [name for name in ESTIMATORS if any(r["estimator"] == name and r["is"] != "refused" for r in rows)]
        found = {(row["bound"], row["estimator"]): _entry(row) for row in rows}
        refused = ", ".join(f"`{name}`" for name in ESTIMATORS if name not in names)
        table = [[bound, *(found[bound, name] for name in names)] for bound in BOUNDS]
        lines += ["", f"## {kind}", "", *markdown_table(["bound", *(f"`{name}`" for name in names)], table)]
        lines += ["", f"Refused for every bound: {refused}."]
    return "\n".join([*lines, "", describe_machine(content["machine"]), ""])


def _entry(row: dict[str, Any]) -> str:
    if row["is"] == "refused":
        return "-"
    noise = row["guide_variance"] / row["guide_gradient"] ** 2
    shown = "0" if noise < 1e-12 else f"{noise:.2g}" if noise < 9.5 else f"{noise:,.0f}"
    if row["is"] == "exact":
        return shown
    return f"{shown} ({row['is']} {row['guide_bias'] / row['guide_gradient']:.2f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--num-steps", type=int, default=300, help="gradients of each cell")
    parser.add_argument("--num-reference-steps", type=int, default=800, help="gradients of each reference")
    parser.add_argument("--num-tuning-steps", type=int, default=200, help="steps of Adam on control variates")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    main()
