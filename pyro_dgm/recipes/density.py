"""Flows as densities of data: maximum likelihood, no latents."""

__all__ = ["DensityRecipe"]

from dataclasses import dataclass
from typing import Any, final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_dgm import plotting
from pyro_dgm.datasets import Batches, Dataset, Split
from pyro_dgm.distributions import Flow, StandardNormal, transforms
from pyro_dgm.guides import EmptyGuide
from pyro_dgm.infer import ELBO, SVI
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.models import DensityModel
from pyro_dgm.recipes.checks import check_choices, check_counts, check_positive
from pyro_dgm.recipes.data import moved
from pyro_dgm.recipes.recipe import System

_KINDS = ("affine-coupling", "maf", "planar", "radial", "spline-autoregressive", "spline-coupling")


@final
@dataclass(frozen=True)
class DensityRecipe:
    """A flow of the standard normal, fitted to real vectors by maximum likelihood.

    There is no latent: the ELBO that is reported is log p(x).

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        transform: kind of the transforms.
        num_transforms: how many.
        hidden_features: widths of the hidden layers of their networks.
        num_bins: pieces of a spline.
        bound: half the width of the interval on which a spline is one.
        learning_rate: of Adam.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        patience: epochs without a better validation bound after which training stops; None to train to the end.
        compile: compile the step, and wait until that is done, so that runs repeat bit by bit.

    Raises:
        ValueError: the transform is unknown, or a number out of range.
    """

    summary: str
    source: str
    transform: str = "affine-coupling"
    num_transforms: int = 8
    hidden_features: tuple[int, ...] = (64, 64)
    num_bins: int = 8
    bound: float = 4.0
    learning_rate: float = 1e-3
    batch_size: int = 200
    epochs: int = 50
    patience: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        check_choices(self, {"transform": _KINDS})
        check_counts(self, "num_transforms", "hidden_features", "num_bins", "batch_size", "epochs")
        check_positive(self, {"learning_rate": "Adam likes 1e-3.", "bound": "4 suits data of size about 1."})

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the networks.

        Arguments:
            dataset: real vectors, in memory.
            seed: seed of the order of the data.
            device: where everything is put.

        Raises:
            ValueError: the data are of another kind; nothing has been built then.
        """
        if dataset.kind != "real":
            raise ValueError(
                f"a flow models data of kind 'real'; got {dataset.name!r}, of kind {dataset.kind!r}. Choose points, by "
                "--data ring, grid, moons or pinwheel."
            )
        dataset = moved(dataset, device, flat=True)
        x = dataset.train.x
        features = x.shape[1]
        flow = Flow(StandardNormal(features), self._transforms(features))
        model = DensityModel(flow).to(x)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)

        def arguments(split: Split) -> tuple[Tensor, ...]:
            return (split.x,)

        def figures(points: Tensor) -> dict[str, Figure]:
            return {"density": _density_map(model, points)} if features == 2 else {}

        guide = EmptyGuide()
        return System(
            model=model,
            guide=guide,
            trainer=SVI(model, guide, optimizer, ELBO(), compile=Compiler(wait=True) if self.compile else False),
            batches=Batches(x, batch_size=self.batch_size, seed=seed),
            dataset=dataset,
            arguments=arguments,
            image_shape=None,
            latent="",
            latent_features=0,
            is_continuous=False,
            is_discrete=False,
            figures=figures,
        )

    def _transforms(self, features: int) -> list[transforms.ConditionalTransform]:
        options: dict[str, Any] = {}
        if self.transform not in ("planar", "radial"):
            options["hidden_features"] = self.hidden_features
        if self.transform.startswith("spline"):
            options.update(num_bins=self.num_bins, bound=self.bound)
        if self.transform == "spline-autoregressive":
            options["inverse"] = True  # cheap to score
        return transforms.stack(self.transform, self.num_transforms, features, **options)


def _density_map(model: DensityModel, points: Tensor) -> Figure:
    extent = 1.1 * float(points.abs().max())
    lattice = plotting.plane(extent, 200).to(points)
    with torch.no_grad():
        log_p = model.distribution().log_prob(lattice)
    return plotting.density_maps({"density and data": log_p, "density": log_p}, extent, {"density and data": points})
