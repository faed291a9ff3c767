"""The guide of a mixture: its exact posterior."""

__all__ = ["MixturePosterior"]

from typing import Protocol, final, runtime_checkable

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyro_dgm.guides.factorized import check_is_given
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import LocalModule


@runtime_checkable
class _Mixture(Protocol):
    def responsibilities(self, x: Tensor, /) -> Tensor:
        """Returns p(z | x) of every component, (B, K)."""


@final
class MixturePosterior(LocalModule):
    r"""The responsibilities of a mixture's components for a datum, as a guide: :math:`q(z | x) = p(z | x)`.

    It follows the model and has no parameters of its own. Every importance weight is then the evidence itself, so that
    bounds are tight and a single particle estimates log p(x) without error. Site ``z`` (Categorical) stands in the
    plate ``data``, on dimension -1.

    References:
        Dempster, Laird and Rubin (1977), Maximum Likelihood from Incomplete Data via the EM Algorithm (the E-step).

    Arguments:
        model: a mixture with ``responsibilities``, such as ``GaussianMixture``.

    Raises:
        TypeError: the model has no such method.

    Example:
        >>> import torch
        >>> from pyro_dgm.guides import MixturePosterior
        >>> class Halves:
        ...     def responsibilities(self, x):
        ...         return torch.stack([x[:, 0] > 0, x[:, 0] <= 0], dim=-1).to(x)
        >>> MixturePosterior(Halves())(torch.tensor([[1.0], [-1.0]]))["z"]
        tensor([0, 1])
    """

    def __init__(self, model: _Mixture) -> None:
        super().__init__()
        if not isinstance(model, _Mixture):
            raise TypeError(
                f"MixturePosterior takes a mixture with responsibilities; got {type(model).__name__}. Use "
                "GaussianMixture, or AmortizedGuide for a model whose posterior is not known."
            )
        self._responsibilities = model.responsibilities  # a method and no submodule: the parameters stay the model's

    @property
    def scores_any_point(self) -> bool:
        """Whether the density of every latent is known at any point, and not only at its last draw."""
        return True

    def forward(
        self, x: Tensor | None = None, *, num: int | None = None, data_size: int | None = None
    ) -> dict[str, Tensor]:
        """Draws the component of every datum.

        Arguments:
            x: data, (B, D).
            num: not used; here because a guide takes what its model takes.
            data_size: number N of data the minibatch stands for; B when None.

        Returns:
            The component under the name ``z``, (B,).

        Raises:
            TypeError: the data have another dtype than the model's parameters.
            ValueError: there are no data, they have another shape, or they are not finite.
        """
        x = check_is_given(x)
        with data_plate(num_rows(x), data_size):
            return {"z": pyro.sample("z", dist.Categorical(probs=self._responsibilities(x)))}
