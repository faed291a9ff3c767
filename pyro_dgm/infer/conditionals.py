"""Conditional distributions under the names of the sites that they draw."""

__all__ = ["hold"]

from collections.abc import Mapping

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.distributions.conditional import check_conditional
from pyro_dgm.nn import LocalModule


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
