"""What every transform of a flow shares: where its parameters come from, and which way it goes."""

__all__ = ["Bijection", "ConditionalTransform", "Inverse", "Parameters", "check_context"]

from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_dgm.distributions.conditional import check_count
from pyro_dgm.nn import LocalModule
from pyro_dgm.nn.inputs import check_features, check_size


class ConditionalTransform(LocalModule):
    """A module whose ``forward(*context)`` returns a bijection of vectors, as a conditional distribution's does one.

    Without context its parameters are learned; with ``context_features`` they are a function of the context. Every
    call makes a new ``torch.distributions.Transform``, so that the module itself remembers no draw and can be copied
    and saved at any time.

    Arguments:
        features: length of the vectors, at least ``least``.
        context_features: length of the context; 0 for none.
        least: the least number of features.

    Raises:
        ValueError: a length is not an integer, or too small.
    """

    cheap: str = "both"
    """Which way costs one evaluation: ``"draw"`` (forwards, as in guides), ``"score"`` (backwards), or ``"both"``."""

    def __init__(self, features: int, context_features: int = 0, least: int = 1) -> None:
        super().__init__()
        self.features = check_size("features", features)
        if features < least:
            raise ValueError(
                f"{type(self).__name__} couples features, at least {least} of them; got {features}. For one feature "
                "use Planar or Radial."
            )
        self.context_features = check_count("context_features", context_features, 0, "0 is for none.")

    @property
    def draws(self) -> bool:
        """Whether it can be evaluated forwards, from the base's draws."""
        return True

    @property
    def scores_any_point(self) -> bool:
        """Whether it can be evaluated backwards at any point; else only at what it has just made."""
        return True

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection given the context; its parameters have the context's leading dimensions."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(*context) -> Transform")


@final
class Inverse(ConditionalTransform):
    """Another transform the other way round: what was cheap to draw becomes cheap to score.

    Arguments:
        transform: the transform.

    Raises:
        TypeError: it is no transform of this library.
    """

    def __init__(self, transform: ConditionalTransform) -> None:
        check_transform(transform)
        super().__init__(transform.features, transform.context_features)
        self.transform = transform
        self.cheap = {"draw": "score", "score": "draw"}.get(transform.cheap, "both")

    @property
    def draws(self) -> bool:
        """Whether the other scores any point."""
        return self.transform.scores_any_point

    @property
    def scores_any_point(self) -> bool:
        """Whether the other draws."""
        return self.transform.draws

    def forward(self, *context: Tensor) -> Transform:
        """Returns the inverse of the other's bijection."""
        return self.transform(*context).inv


class Bijection(Transform):
    """A bijection of vectors that knows its log-determinant as soon as it has been evaluated, either way.

    What was computed last is kept, so that scoring a draw costs nothing more; but what was drawn without gradients,
    by ``sample()``, is not used where gradients are asked for.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=1)
        self._log_det: Tensor | None = None
        self._has_history = False  # whether what is kept was computed with gradients

    @abstractmethod
    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns y and the log-determinant of dy / dx, of shapes (*batch, D) and (*batch)."""

    @abstractmethod
    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and the log-determinant of dy / dx, of shapes (*batch, D) and (*batch)."""

    def with_cache(self, cache_size: int = 1) -> "Bijection":
        """Returns itself: it always keeps what was computed last."""
        return self

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log-determinant of dy / dx, (*batch)."""
        last = self._cached_x_y
        if self._log_det is not None and x is last[0] and y is last[1] and self._is_fit():
            return self._log_det
        return self.forwards(x)[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluates it forwards: y, (*batch, D)."""
        self._forget_if_stale()
        return super().__call__(x)

    def _call(self, x: Tensor) -> Tensor:
        y, self._log_det = self.forwards(x)
        self._has_history = torch.is_grad_enabled()
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        self._forget_if_stale()
        return super()._inv_call(y)

    def _inverse(self, y: Tensor) -> Tensor:
        x, self._log_det = self.backwards(y)
        self._has_history = torch.is_grad_enabled()
        return x

    def _forget_if_stale(self) -> None:
        if not self._is_fit():
            self._cached_x_y = (None, None)

    def _is_fit(self) -> bool:
        return self._has_history or not torch.is_grad_enabled()


@final
class Parameters(nn.Module):
    """The parameters of a transform: learned numbers, or an affine function of a context.

    Both begin at small random numbers, so that most transforms begin near the identity.

    Arguments:
        sizes: how many numbers each parameter has.
        context_features: length of the context; 0 for none.
        scale: standard deviation of the initial numbers.
    """

    def __init__(self, sizes: Sequence[int], context_features: int, scale: float = 0.01) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.context_features = context_features
        start = scale * torch.randn(sum(self.sizes))
        if context_features:
            self.net = nn.Linear(context_features, len(start))
            nn.init.normal_(self.net.weight, std=scale / context_features**0.5)
            self.net.bias.data.copy_(start)
        else:
            self.values = nn.Parameter(start)

    def forward(self, *context: Tensor) -> tuple[Tensor, ...]:
        """Returns one tensor per parameter, (*batch, size)."""
        if not self.context_features:
            return self.values.split(self.sizes, dim=-1)
        return self.net(check_context(context, self.context_features)).split(self.sizes, dim=-1)


def check_context(context: Sequence[Tensor], features: int) -> Tensor:
    """The one context of a transform, checked: (*batch, features)."""
    if len(context) != 1:
        raise ValueError(
            f"a transform with context_features={features} is given one context; got {len(context)}. Call the flow "
            "with it, or build the transform without context_features."
        )
    check_features(context[0], features, "a transform, as context,")
    return context[0]


def check_transform(transform: ConditionalTransform) -> ConditionalTransform:
    """Returns the transform if it is one of this library's."""
    if not isinstance(transform, ConditionalTransform):
        raise TypeError(
            f"a flow is made of the transforms in pyro_dgm.distributions.transforms; got {type(transform).__name__}. "
            "For instance transforms.Planar(2)."
        )
    return transform
