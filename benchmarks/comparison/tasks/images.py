"""Images: autoencoders of equal networks on digits, MNIST and Fashion-MNIST."""

__all__ = ["Images"]

from typing import final

from torch import nn

from benchmarks.comparison.task import Facts, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import endless
from pyro_dgm import datasets
from pyro_dgm.datasets import Dataset, binarize, fix_binarization
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

MOST_EVALUATED = 500


@final
class Images(Task):
    """A variational autoencoder D-200-200-latents of binarised images, with a diagonal normal guide.

    Grey images are binarised anew every time they are trained on, and once for the test.

    Arguments:
        name: of the task.
        data: name of the data set.
        latents: length of the latent.
        quality: a bound that is good enough, in nats per datum.
    """

    def __init__(self, name: str, data: str, latents: int, quality: float) -> None:
        self.name, self.data, self.num_latents, self.quality = name, data, latents, quality
        self.title = f"VAE of {name.replace('-', ' ')}"

    def build(self, seed: int) -> Problem:
        """Evaluated on every so-many-th test image, 500 at most."""
        found = datasets.load(self.data)
        is_grey = found.kind == "grey"
        found = fix_binarization(found) if is_grey else found
        features, hidden = found.test.x[0].numel(), (200, 200)
        test = found.test.x.flatten(1)
        every = max(1, len(test) // MOST_EVALUATED)
        test = test[::every]
        return Problem(
            model=LatentVariableModel(
                StandardNormal(self.num_latents), Bernoulli(MLP(self.num_latents, features, hidden))
            ),
            make_guide=lambda: AmortizedGuide(z=DiagonalNormal(MLP(features, 2 * self.num_latents, hidden, nn.ReLU))),
            batches=endless(found.train.x.flatten(1), size=100, seed=seed, transform=binarize if is_grey else None),
            test=(test,),
            facts=self._facts(found, len(test), every, is_grey),
            latents="continuous",
            num_data=len(found.train.x),
            quality=Quality("bound", self.quality),
            num_particles=500,
        )

    def _facts(self, found: Dataset, num_data: int, every: int, is_grey: bool) -> Facts:
        how = "dynamic in training, the test images once by seed 0" if is_grey else "fixed (Larochelle)"
        part = "test" if every == 1 else f"test, each image whose number divides by {every}"
        return Facts(self.data, num_data, found.digest, how, part)
