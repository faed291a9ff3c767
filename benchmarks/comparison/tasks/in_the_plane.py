"""The four two-dimensional potentials of Rezende and Mohamed: densities without data."""

__all__ = ["Potential"]

import functools
from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.comparison.task import Facts, Posterior, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import same
from benchmarks.comparison.tasks.networks import Constant
from benchmarks.comparison.tasks.normal import constant
from benchmarks.potentials import POTENTIALS, log_normaliser
from pyro_dgm import plotting
from pyro_dgm.guides import amortize

SIDE, HALF_WIDTH = 800, 8.0  # of the grid that moments are summed over
WIDE = 3.0  # standard deviation of what the latent starts from


@final
class Potential(Task):
    """A density exp(-U(z)) / Z, with Z, moments and draws by quadrature.

    Model and guide are those of a posterior: the latent has a wide normal prior that a factor takes away again. The
    guide is a flow, four inverse autoregressive steps.

    References:
        Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, table 1, arXiv:1505.05770.

    Arguments:
        number: ``"1"`` to ``"4"``.
    """

    family = "exact"
    reference = "pyro-autonormal"

    def __init__(self, number: str) -> None:
        self.number = number
        self.name = f"potential-{number}"
        self.title = f"potential {number} of Rezende and Mohamed"

    def model(self, nothing: Tensor | None = None) -> None:
        """The density, up to its normaliser."""
        with pyro.plate("data", 1):
            wide = dist.Normal(torch.zeros(1, 2), WIDE).to_event(1)
            z = pyro.sample("z", wide)
            pyro.factor("potential", -POTENTIALS[self.number](z) - wide.log_prob(z))

    def build(self, seed: int) -> Problem:
        """The argument is an empty datum, which nothing reads."""
        nothing = torch.zeros(1, 1)
        mean, sd, draws = moments(self.number)
        evidence = log_normaliser(POTENTIALS[self.number], side=1200)
        return Problem(
            model=self.model,
            make_guide=lambda: amortize(
                self.model,
                Constant(),
                nothing,
                family="iaf",
                family_options={"num_transforms": 4, "hidden_features": (32,)},
            ),
            batches=same(nothing),
            test=(nothing,),
            facts=Facts(self.name, 1, split="none"),
            latents="continuous",
            learning_rate=5e-3,
            is_whole=True,
            log_evidence=constant(torch.tensor([evidence]).double()),
            posterior=Posterior(("z",), mean.unsqueeze(0), sd.unsqueeze(0), draws=draws),
            quality=Quality("bound", evidence - 1.0),
        )


@functools.cache
def moments(number: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation, (2,), by the midpoint rule, and a thousand draws from the cells, (1000, 2)."""
    points = plotting.plane(HALF_WIDTH, SIDE).double()
    weights = (-POTENTIALS[number](points)).softmax(0)
    mean = weights @ points
    sd = (weights @ (points - mean).square()).sqrt()
    generator = torch.Generator().manual_seed(0)
    cells = torch.multinomial(weights, 1000, replacement=True, generator=generator)
    jitter = torch.rand(1000, 2, generator=generator).double() - 0.5
    return mean, sd, points[cells] + jitter * (2 * HALF_WIDTH / SIDE)
