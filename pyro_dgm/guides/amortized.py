"""The amortized guide q(z | x): networks that read a datum and give its posterior."""

__all__ = ["AmortizedGuide"]

from typing import final

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.guides.factorized import FactorizedGuide


@final
class AmortizedGuide(FactorizedGuide):
    r"""One conditional distribution per latent, each given the datum: :math:`\prod_i q(z_i | x)`.

    The latents stand in the plate ``data``, on dimension -1. With a context c every one is given (x, c).

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114.

    Arguments:
        sites: a conditional distribution for each latent of the model, by name.

    Raises:
        ValueError: there is no site, or its name is taken by an attribute of modules, such as ``training``.
        TypeError: a site is not a conditional distribution.

    Example:
        >>> import torch
        >>> from pyro_dgm.distributions import DiagonalNormal
        >>> from pyro_dgm.nn import MLP
        >>> guide = AmortizedGuide(z=DiagonalNormal(MLP(784, 2 * 20)))
        >>> guide(torch.zeros(5, 784))["z"].shape
        torch.Size([5, 20])
    """

    def __init__(self, **sites: ConditionalDistribution) -> None:
        super().__init__(sites, parents={})
