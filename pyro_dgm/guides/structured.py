"""The structured guide: latents that depend on each other given the datum."""

__all__ = ["StructuredGuide"]

from collections.abc import Mapping, Sequence
from typing import final

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.guides.factorized import FactorizedGuide


@final
class StructuredGuide(FactorizedGuide):
    r"""One conditional distribution per latent, given the datum and earlier latents: :math:`\prod_i q(z_i | x, pa_i)`.

    The latents are drawn in the order they are given in, in the plate ``data``, on dimension -1. Each conditional
    distribution is called with (x, the values of its parents), and behind them the context c if there is one.

    With an auxiliary variable a among the latents it is the guide of an auxiliary deep generative model,
    :math:`q(a | x) \, q(z | x, a)`, whose marginal :math:`q(z | x)` is a mixture and may have any shape. The model,
    which does not know a, is extended by :math:`p(a | x, z)`: see ``AuxiliaryModel``.

    References:
        Maaløe, Sønderby, Sønderby and Winther (2016), Auxiliary Deep Generative Models, equations 2 to 4,
        arXiv:1602.05473.

    Arguments:
        sites: a conditional distribution for each latent of the model, by name, in the order they are drawn.
        parents: names of the earlier latents that each is given, in the order its conditional distribution takes them;
            a latent without an entry is given the datum alone.

    Raises:
        ValueError: there is no site, its name is taken by an attribute of modules, such as ``training``, or a parent
            does not come earlier.
        TypeError: a site is not a conditional distribution, or parents are no lists of names.

    Example:
        >>> import torch
        >>> from pyro_dgm.distributions import DiagonalNormal
        >>> from pyro_dgm.nn import MLP
        >>> sites = {"a": DiagonalNormal(MLP(784, 2 * 10)), "z": DiagonalNormal(MLP(784 + 10, 2 * 20))}
        >>> guide = StructuredGuide(sites, parents={"z": ["a"]})
        >>> guide(torch.zeros(5, 784))["z"].shape
        torch.Size([5, 20])
    """

    def __init__(self, sites: Mapping[str, ConditionalDistribution], parents: Mapping[str, Sequence[str]]) -> None:
        super().__init__(sites, parents)
