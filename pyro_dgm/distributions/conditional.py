"""What every conditional distribution shares: where its parameters come from and which data it accepts."""

__all__ = ["ConditionalDistribution"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.nn import LocalModule
from pyro_dgm.nn.inputs import check_dtype


class ConditionalDistribution(LocalModule):
    """A module whose ``forward(*context)`` returns a Pyro distribution.

    Prior, likelihood and guide are all made of these. The context is whatever the distribution depends on: a
    latent for a likelihood, the data for a guide, labels for either. With no context it is a prior, and its
    parameters, if it has any, are learned.

    Leading dimensions of the context become the batch shape; what one draw looks like is the event shape.
    """

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution given the context, its batch shape being the context's leading dimensions."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(*context) -> Distribution")

    @property
    def scores_any_point(self) -> bool:
        """Whether its log-density is known at any point, and not only at the last draw."""
        return True

    def check_data(self, x: Tensor) -> None:
        """Raises a ``ValueError`` or ``TypeError`` when x cannot have been drawn from such a distribution.

        Arguments:
            x: observed values, (B, *event).
        """
        check_dtype(x, self, f"the {type(self).__name__} likelihood")
        check_finite(x)


def check_finite(x: Tensor, name: str = "x") -> None:
    """Raises a ``ValueError`` that counts the NaN and infinite values of x and names the first rows that hold them."""
    finite = torch.isfinite(x)
    if bool(finite.all()):
        return
    num_nan, num_inf = int(torch.isnan(x).sum()), int(torch.isinf(x).sum())
    rows = (~finite).reshape(x.shape[0], -1).any(dim=1).nonzero().flatten() if x.dim() else torch.zeros(1)
    shown = ", ".join(str(int(row)) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    raise ValueError(
        f"{name} must be finite; got {num_nan} NaN and {num_inf} infinite values in {len(rows)} rows "
        f"(first: {shown}). Remove or impute those rows before training."
    )


def split_parameters(parameters: Tensor, parts: int, dim: int, name: str) -> tuple[Tensor, ...]:
    """Cuts a network's output into equal parts along ``dim``, with an error that says how long it must be."""
    if parameters.dim() < -dim or parameters.shape[dim] % parts:
        raise ValueError(
            f"{name} reads {parts} parameters per feature, so dimension {dim} of its network's output must be a "
            f"multiple of {parts}; got shape {tuple(parameters.shape)}. Make the network {parts} times as wide as "
            "the variable."
        )
    return parameters.chunk(parts, dim=dim)


def check_event_dim(event_dim: int, least: int) -> int:
    """Returns ``event_dim`` if it is an integer of at least ``least``."""
    if isinstance(event_dim, bool) or not isinstance(event_dim, int) or event_dim < least:
        raise ValueError(
            f"event_dim must be an integer of at least {least}; got {event_dim!r}. "
            "It is 1 for vectors and 3 for images (channels, height, width)."
        )
    return event_dim


def check_count(name: str, value: int, least: int, cure: str) -> int:
    """Returns a number of things if it is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}. {cure}")
    return value


def check_net(net: nn.Module, name: str) -> nn.Module:
    """Returns ``net`` if it is a module."""
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"{name} takes a network (torch.nn.Module); got {type(net).__name__}. For instance MLP(784, 200)."
        )
    return net


def check_conditional(conditional: ConditionalDistribution, role: str) -> ConditionalDistribution:
    """Returns ``conditional`` if it is one, and no plain network."""
    if not isinstance(conditional, ConditionalDistribution):
        raise TypeError(
            f"{role} must be a conditional distribution; got {type(conditional).__name__}. Wrap the network, for "
            "instance in DiagonalNormal(net)."
        )
    return conditional


def hold(holder: LocalModule, conditionals: Mapping[str, ConditionalDistribution], role: str = "latent") -> None:
    """Makes conditional distributions parts of a module, each under the name of its site.

    Raises:
        ValueError: a name is taken by an attribute of modules, such as ``training``, or has a dot.
        TypeError: the conditionals come in no mapping, or one of them is no conditional distribution.
    """
    if not isinstance(conditionals, Mapping):
        raise TypeError(
            f"conditional distributions are given by the name of their {role}; got {type(conditionals).__name__}. "
            "Write for instance {'z': DiagonalNormal(net)}."
        )
    for name, conditional in conditionals.items():
        check_conditional(conditional, f"{role} {name!r}")
    for name, conditional in conditionals.items():
        if not isinstance(name, str) or "." in name or hasattr(holder, name):
            raise ValueError(
                f"a latent's name must be free and without dots, for it names a module; got {name!r}. Rename the "
                "site in model and guide."
            )
        setattr(holder, name, conditional)
