"""The latent-variable model p(z) p(x | z): the generative half of a VAE."""

__all__ = ["LatentVariableModel", "check_shape"]

from typing import final

import pyro
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Distribution

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.distributions.conditional import check_conditional, check_finite
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import LocalModule


@final
class LatentVariableModel(LocalModule):
    r"""A latent vector for every datum, and a likelihood given it: :math:`p(z) \, p(x | z)`.

    Called with data it observes the site ``x``; called without, it simulates ``num`` data. Sites ``z`` and ``x`` stand
    in the plate ``data``, on dimension -1. With a context c (labels, a partial image) it is a conditional VAE,
    :math:`p(z | c) \, p(x | z, c)`: the prior is called with c and the likelihood with (z, c). A ``PyroSample`` inside
    prior or likelihood, such as a prior over weights, is a global latent and drawn outside the plate.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, arXiv:1312.6114; Sohn, Lee and Yan (2015),
        Learning Structured Output Representation using Deep Conditional Generative Models, NeurIPS.

    Arguments:
        prior: gives p(z), or p(z | c).
        likelihood: gives p(x | z), or p(x | z, c).

    Raises:
        TypeError: prior or likelihood is not a conditional distribution.

    Example:
        >>> from pyro_dgm.distributions import Bernoulli, StandardNormal
        >>> from pyro_dgm.nn import MLP
        >>> model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 784)))
        >>> model(num=3).shape
        torch.Size([3, 784])
    """

    def __init__(self, prior: ConditionalDistribution, likelihood: ConditionalDistribution) -> None:
        super().__init__()
        self.prior = check_conditional(prior, "prior")
        self.likelihood = check_conditional(likelihood, "likelihood")

    def forward(
        self,
        x: Tensor | None = None,
        c: Tensor | None = None,
        *,
        index: Tensor | None = None,
        num: int | None = None,
        data_size: int | None = None,
    ) -> Tensor:
        """Observes x, or simulates ``num`` data.

        Arguments:
            x: data, (B, *event), or None to simulate.
            c: the context, what everything is conditioned on, (B, features), for a conditional model.
            index: not used; here because a guide may read it, to know which data of the whole set it is given, (B,).
            num: how many data to simulate; with a context its number of rows, else 1, when None.
            data_size: number N of data the minibatch stands for, so that local terms are scaled by N / B against
                global ones; B when None. The guide takes the same argument.

        Returns:
            The data, given or simulated, (B, *event).

        Raises:
            TypeError: the data have another dtype than the likelihood's.
            ValueError: the data have another shape than the likelihood's, or values it cannot take.
        """
        if x is not None:
            num = num_rows(x, c)
        elif num is None:
            num = 1 if c is None else c.shape[0]
        given = () if c is None else (c,)
        if c is not None and is_validation_enabled():
            check_finite(c, "context")
        self.sample_globals()
        with data_plate(num, data_size):
            z = pyro.sample("z", self.prior(*given))
            likelihood = self.likelihood(z, *given)
            if x is not None:
                check_shape(x, likelihood)
                if is_validation_enabled():
                    self.likelihood.check_data(x)
            return pyro.sample("x", likelihood, obs=x)


def check_shape(x: Tensor, likelihood: Distribution) -> None:
    """Raises a ``ValueError`` unless the data have the shape of the likelihood's draws, (B, *event)."""
    event = tuple(likelihood.event_shape)
    if tuple(x.shape[1:]) == event:
        return
    cure = "Reshape the data, or size the likelihood for them."
    if tuple(x.shape) == event:
        cure = "It looks like one datum: add the batch dimension with x.unsqueeze(0)."
    raise ValueError(f"x must have shape (B, {', '.join(map(str, event))}); got {tuple(x.shape)}. {cure}")
