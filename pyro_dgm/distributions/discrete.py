"""Distributions over classes and pixels whose logits a network gives."""

__all__ = ["Bernoulli", "Categorical", "ContinuousBernoulli", "OneHotCategorical", "check_classes", "check_one_hot"]

from typing import final

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_event_dim, check_finite, check_net


@final
class Bernoulli(ConditionalDistribution):
    """Independent Bernoulli variables: binary pixels, binary latents.

    Arguments:
        net: maps the context to logits (*batch, *event).
        event_dim: dimensions of one datum: 1 for vectors, 3 for images.
    """

    def __init__(self, net: nn.Module, event_dim: int = 1) -> None:
        super().__init__()
        self.net = check_net(net, "Bernoulli")
        self.event_dim = check_event_dim(event_dim, 0)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the Bernoulli of batch shape (*batch,) and event shape (*event,)."""
        return dist.Bernoulli(logits=self.net(*context)).to_event(self.event_dim)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every value is 0 or 1."""
        super().check_data(x)
        if bool(((x == 0) | (x == 1)).all()):
            return
        low, high = float(x.min()), float(x.max())
        cure = "Binarise grey levels with datasets.binarize(x), or use ContinuousBernoulli."
        if high > 1:
            cure = "Scale pixels of 0-255 with x / 255 first, then binarise them with datasets.binarize(x)."
        raise ValueError(f"a Bernoulli likelihood takes values 0 and 1; got values from {low:g} to {high:g}. {cure}")


@final
class ContinuousBernoulli(ConditionalDistribution):
    """Independent continuous Bernoulli variables: grey levels in [0, 1] with a proper density.

    References:
        Loaiza-Ganem and Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders, arXiv:1907.06845.

    Arguments:
        net: maps the context to logits (*batch, *event).
        event_dim: dimensions of one datum: 1 for vectors, 3 for images.
    """

    def __init__(self, net: nn.Module, event_dim: int = 1) -> None:
        super().__init__()
        self.net = check_net(net, "ContinuousBernoulli")
        self.event_dim = check_event_dim(event_dim, 0)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,) and event shape (*event,)."""
        return dist.ContinuousBernoulli(logits=self.net(*context)).to_event(self.event_dim)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every value lies in [0, 1]."""
        super().check_data(x)
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"a ContinuousBernoulli likelihood takes values in [0, 1]; got values from {low:g} to {high:g}. "
                "Scale pixels of 0-255 with x / 255."
            )


@final
class Categorical(ConditionalDistribution):
    """Independent categorical variables: a label, a sequence of characters, a vector of discrete latents.

    Arguments:
        net: maps the context to logits (*batch, *event, classes).
        event_dim: dimensions of one datum: 0 for a single label, 1 for a vector of them.
    """

    def __init__(self, net: nn.Module, event_dim: int = 0) -> None:
        super().__init__()
        self.net = check_net(net, "Categorical")
        self.event_dim = check_event_dim(event_dim, 0)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the categorical of batch shape (*batch,) and event shape (*event,)."""
        return dist.Categorical(logits=self.net(*context)).to_event(self.event_dim)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every value is a whole number from 0; Pyro checks the number of classes."""
        check_finite(x)
        if bool((x >= 0).all()) and bool((x == x.round()).all()):
            return
        raise ValueError(
            "a Categorical likelihood takes class numbers 0, 1, 2, ...; "
            f"got values from {float(x.min()):g} to {float(x.max()):g}. Pass classes as whole numbers, not one-hot."
        )


@final
class OneHotCategorical(ConditionalDistribution):
    """Independent one-hot variables, as relaxed gradients and decoders take discrete latents.

    Arguments:
        net: maps the context to logits (*batch, variables * classes), those of one variable side by side.
        classes: number of classes of each variable, at least 2.

    Example:
        >>> import torch
        >>> from pyro_dgm.nn import MLP
        >>> OneHotCategorical(MLP(784, 20 * 10), classes=10)(torch.zeros(5, 784)).event_shape
        torch.Size([20, 10])
    """

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net = check_net(net, "OneHotCategorical")
        self.classes = check_classes(classes)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,) and event shape (variables, classes)."""
        logits = self.net(*context)
        if not logits.dim() or not logits.shape[-1] or logits.shape[-1] % self.classes:
            raise ValueError(
                f"a OneHotCategorical of {self.classes} classes reads a multiple of as many logits; got a network's "
                f"output of shape {tuple(logits.shape)}. Give the network variables * classes outputs."
            )
        return dist.OneHotCategorical(logits=logits.unflatten(-1, (-1, self.classes))).to_event(1)

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` unless every variable is one-hot."""
        super().check_data(x)
        check_one_hot(x)


def check_classes(classes: int) -> int:
    """Returns the number of classes if there are at least two."""
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes must be an integer of at least 2; got {classes!r}. Two make a bit.")
    return classes


def check_one_hot(x: Tensor) -> None:
    """Raises a ``ValueError`` unless x is one-hot in its last dimension."""
    if not (bool(((x == 0) | (x == 1)).all()) and bool((x.sum(-1) == 1).all())):
        raise ValueError(
            "one-hot variables are 0 but for a single 1 in the last dimension; got values from "
            f"{float(x.min()):g} to {float(x.max()):g} whose sums run from {float(x.sum(-1).min()):g} to "
            f"{float(x.sum(-1).max()):g}. Encode classes with torch.nn.functional.one_hot(x, classes)."
        )
