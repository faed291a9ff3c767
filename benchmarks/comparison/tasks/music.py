"""Bach's chorales, chord by chord."""

__all__ = ["Chorales"]

from typing import final

import torch
from torch import Tensor

from benchmarks.comparison.task import Facts, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import endless
from pyro_dgm import datasets
from pyro_dgm.datasets import Split
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

NUM_EVALUATED = 500


@final
class Chorales(Task):
    """A conditional autoencoder of the next chord given the last one: a Markov chain of order one with local latents.

    It is no deep Markov model, whose latents run through the piece, and its numbers are not to be compared with those.
    A datum is a time step, so that bounds are in nats per time step; the first one is given silence.
    """

    name = "jsb"
    title = "JSB chorales, next chord given the last"

    latents = 16

    def build(self, seed: int) -> Problem:
        """Evaluated on about 500 time steps, evenly spread over the test pieces."""
        found = datasets.jsb_chorales()
        train, test = pairs(found.train), pairs(found.test)
        every = max(1, len(test[0]) // NUM_EVALUATED)
        x, c = (part[::every] for part in test)
        features, hidden = x.shape[1], (200,)
        return Problem(
            model=LatentVariableModel(
                StandardNormal(self.latents), Bernoulli(MLP(self.latents + features, features, hidden))
            ),
            make_guide=lambda: AmortizedGuide(z=DiagonalNormal(MLP(2 * features, 2 * self.latents, hidden))),
            batches=endless(*train, size=100, seed=seed),
            test=(x, c),
            facts=Facts("jsb_chorales", len(x), found.digest, "binary data", f"test, every {every}th time step"),
            latents="continuous",
            num_data=len(train[0]),
            quality=Quality("bound", -8.0),
            num_particles=500,
        )


def pairs(split: Split) -> tuple[Tensor, Tensor]:
    """Every time step of the pieces with the one before, (steps, 88) both."""
    assert split.lengths is not None
    before = torch.nn.functional.pad(split.x, (0, 0, 1, 0))[:, :-1]
    is_played = torch.arange(split.x.shape[1]) < split.lengths.unsqueeze(1)
    return split.x[is_played], before[is_played]
