"""Mixtures of Gaussians by exact expectation maximisation."""

__all__ = ["MixtureRecipe"]

from dataclasses import dataclass
from typing import final

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_dgm import plotting
from pyro_dgm.datasets import Batches, Dataset, Split
from pyro_dgm.guides import MixturePosterior
from pyro_dgm.infer.expectation_maximization import ExactEM
from pyro_dgm.models.mixture import COVARIANCES, GaussianMixture
from pyro_dgm.recipes.checks import check_choices, check_counts, check_positive
from pyro_dgm.recipes.data import moved
from pyro_dgm.recipes.recipe import System


@final
@dataclass(frozen=True)
class MixtureRecipe:
    """A mixture of Gaussians that begins at k-means++ and takes one exact EM step on all data per epoch.

    Its guide is the exact posterior: the ELBO and log p(x) that are reported are the log evidence itself.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        components: number K of Gaussians.
        covariance: ``"diagonal"``, ``"full"``, or ``"spherical"``.
        minimum_variance: the least variance in any direction, in the data's units squared.
        epochs: EM steps.
        patience: epochs without a better validation bound after which training stops; None to train to the end.

    Raises:
        ValueError: the covariance is unknown, or a number out of range.
    """

    summary: str
    source: str
    components: int = 8
    covariance: str = "full"
    minimum_variance: float = 1e-6
    epochs: int = 100
    patience: int | None = None

    def __post_init__(self) -> None:
        check_choices(self, {"covariance": COVARIANCES})
        check_counts(self, "components", "epochs")
        check_positive(self, {"minimum_variance": "1e-6 suits data of size about 1."})

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator draws where the components begin.

        Arguments:
            dataset: real vectors, in memory.
            seed: not used, since every step is on all data.
            device: where everything is put.

        Raises:
            ValueError: the data are of another kind, or fewer than the components; nothing has been built then.
        """
        if dataset.kind != "real":
            raise ValueError(
                f"a mixture of Gaussians models data of kind 'real'; got {dataset.name!r}, of kind {dataset.kind!r}. "
                "Choose points, by --data ring, grid, moons or pinwheel."
            )
        dataset = moved(dataset, device, flat=True)
        x = dataset.train.x
        model = GaussianMixture(self.components, x.shape[1], self.covariance, self.minimum_variance).to(x)
        model.initialize(x)

        def arguments(split: Split) -> tuple[Tensor, ...]:
            return (split.x,)

        def figures(points: Tensor) -> dict[str, Figure]:
            weights = model.logits.softmax(-1)
            return {"components": plotting.mixture_components(points, weights, model.loc, _covariances(model))}

        return System(
            model=model,
            guide=MixturePosterior(model),
            trainer=ExactEM(model),
            batches=Batches(x, batch_size=len(x), shuffle=False, seed=seed),
            dataset=dataset,
            arguments=arguments,
            image_shape=None,
            latent="z",
            latent_features=1,
            is_continuous=False,
            is_discrete=False,
            figures=figures,
        )


def _covariances(model: GaussianMixture) -> Tensor:
    """The covariance of every component, (K, D, D)."""
    scale_tril = torch.diag_embed(model.log_scale.exp().expand(-1, model.features))
    if model.covariance == "full":
        row, column = torch.tril_indices(model.features, model.features, offset=-1)
        scale_tril[:, row, column] = model.lower
    return scale_tril @ scale_tril.mT
