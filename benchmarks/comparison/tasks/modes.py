"""Implicit models: mixtures in the plane whose modes are known."""

__all__ = ["InThePlane"]

from typing import final

from benchmarks.comparison.task import Facts, Modes, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import endless
from benchmarks.modes import DATA_SETS, modes_of
from pyro_dgm.distributions import Generated, StandardNormal
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP


@final
class InThePlane(Task):
    """The ring of 8 Gaussians, or the grid of 25, for a generator without densities.

    Arguments:
        name: ``"ring"`` or ``"grid"``.
    """

    family = "exact"
    reference = "torch-gan"

    def __init__(self, name: str) -> None:
        self.name = name
        self.title = f"{name} of {DATA_SETS[name][1]} Gaussians, a generator"

    def build(self, seed: int) -> Problem:
        """A generator 2-128-128-2."""
        make, num_modes, sd = DATA_SETS[self.name]
        data = make(num_test=2500)
        return Problem(
            model=LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, (128, 128)))),
            batches=endless(data.train.x, size=256, seed=seed),
            test=(data.test.x,),
            facts=Facts(self.name, len(data.test.x), data.digest),
            latents="generator",
            num_data=len(data.train.x),
            modes=Modes(modes_of(self.name), sd),
            quality=Quality("num_covered", 0.9 * num_modes),
        )
