"""The amortized guide q(z | x): networks that read a datum and give its posterior."""

__all__ = ["AmortizedGuide"]

from typing import final

import pyro
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.distributions.conditional import check_conditional, check_finite
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import LocalModule


@final
class AmortizedGuide(LocalModule):
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
        super().__init__()
        if not sites:
            raise ValueError("a guide needs a latent; got none. For instance AmortizedGuide(z=DiagonalNormal(net)).")
        for name, conditional in sites.items():
            check_conditional(conditional, f"latent {name!r}")
        self.sites = LocalModule()
        for name, conditional in sites.items():
            if "." in name or hasattr(self.sites, name):
                raise ValueError(
                    f"a latent's name must be free and without dots, for it names a module; got {name!r}. Rename the "
                    "site in model and guide."
                )
            setattr(self.sites, name, conditional)
        self.names = tuple(sites)

    def forward(
        self,
        x: Tensor | None = None,
        c: Tensor | None = None,
        *,
        num: int | None = None,
        data_size: int | None = None,
    ) -> dict[str, Tensor]:
        """Draws the latents of a batch.

        Arguments:
            x: data, (B, *event).
            c: the context, what everything is conditioned on, (B, features), for a conditional model.
            num: not used; here because a guide takes what its model takes.
            data_size: number N of data the minibatch stands for; B when None.

        Returns:
            One draw of each latent by name, each (B, *event of the latent).

        Raises:
            ValueError: there are no data, they have no batch dimension, or they are not finite.
        """
        if x is None:
            raise ValueError("a guide reads data; got none. To simulate, call the model without a guide.")
        rows = num_rows(x, c)
        given = (x,) if c is None else (x, c)
        if is_validation_enabled():
            for name, value in (("x", x), ("context", c)):
                if value is not None:
                    check_finite(value, name)
        self.sample_globals()
        draws = {}
        with data_plate(rows, data_size):
            for name in self.names:
                posterior = getattr(self.sites, name)(*given)
                if tuple(posterior.batch_shape) != (rows,):
                    raise ValueError(
                        f"the first dimension of x counts the data; got shape {tuple(x.shape)}, for which "
                        f"q({name} | x) has batch shape {tuple(posterior.batch_shape)}. For a single datum, "
                        "add a batch dimension with x.unsqueeze(0)."
                    )
                draws[name] = pyro.sample(name, posterior)
        return draws
