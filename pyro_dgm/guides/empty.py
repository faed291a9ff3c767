"""The guide of a model that has no latents."""

__all__ = ["EmptyGuide"]

from typing import Any, final

from torch import Tensor

from pyro_dgm.nn import LocalModule


@final
class EmptyGuide(LocalModule):
    """Draws nothing: the guide of a model without latents, such as ``DensityModel``.

    The ELBO is then the log-likelihood itself, and log p(x) needs one particle.
    """

    @property
    def scores_any_point(self) -> bool:
        """Whether its density is known at any point: there is nothing to score."""
        return True

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Takes what the model takes, and returns no latent."""
        return {}
