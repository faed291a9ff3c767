"""A density of data without latents: a flow as a model of its own."""

__all__ = ["DensityModel"]

from typing import final

import pyro
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.distributions.conditional import check_conditional, check_finite
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.models.latent_variable import check_shape
from pyro_dgm.nn import LocalModule


@final
class DensityModel(LocalModule):
    r"""Data drawn from a distribution, :math:`p(x)`, or :math:`p(x | c)` with a context; there is no latent.

    Site ``x`` stands in the plate ``data``, on dimension -1. Its guide is ``guides.EmptyGuide``: the ELBO is then
    log p(x) itself, so that ``SVI`` fits it by maximum likelihood.

    References:
        Dinh, Sohl-Dickstein and Bengio (2017), Density Estimation using Real NVP, arXiv:1605.08803.

    Arguments:
        distribution: gives p(x), such as a ``Flow`` whose transforms can score any point.

    Raises:
        TypeError: it is no conditional distribution.
        ValueError: it cannot score data.

    Example:
        >>> from pyro_dgm.distributions import Flow, StandardNormal, transforms
        >>> model = DensityModel(Flow(StandardNormal(2), transforms.stack("affine-coupling", 4, 2)))
        >>> model(num=3).shape
        torch.Size([3, 2])
    """

    def __init__(self, distribution: ConditionalDistribution) -> None:
        super().__init__()
        self.distribution = check_conditional(distribution, "the distribution of the data")
        if not distribution.scores_any_point:
            raise ValueError(
                f"a density of data must score them; got a {type(distribution).__name__} that scores its own draws "
                "alone. Turn its transforms round with transforms.Inverse."
            )

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
            c: the context, (B, features), for a conditional density.
            index: not used; here because programs take the same arguments.
            num: how many data to simulate; with a context its number of rows, else 1, when None.
            data_size: number N of data the minibatch stands for; B when None.

        Returns:
            The data, given or simulated, (B, *event).

        Raises:
            ValueError: the data have another shape than the distribution's, or values it cannot take.
        """
        if x is not None:
            num = num_rows(x, c)
        elif num is None:
            num = 1 if c is None else c.shape[0]
        if c is not None and is_validation_enabled():
            check_finite(c, "context")
        self.sample_globals()
        with data_plate(num, data_size):
            density = self.distribution(*(() if c is None else (c,)))
            if x is not None:
                check_shape(x, density)
                if is_validation_enabled():
                    self.distribution.check_data(x)
            return pyro.sample("x", density, obs=x)
