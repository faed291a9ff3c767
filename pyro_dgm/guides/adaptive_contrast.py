"""An implicit guide whose moments are known, so that a critic has only the rest to learn."""

__all__ = ["AdaptiveContrastGuide"]

from collections.abc import Sequence
from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_dgm.distributions.conditional import check_count, check_finite, check_net
from pyro_dgm.distributions.implicit import Implicit
from pyro_dgm.guides.factorized import check_is_given
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import LocalModule
from pyro_dgm.nn.inputs import check_size

_LEAST_VARIANCE = 1e-12


@final
class AdaptiveContrastGuide(LocalModule):
    r"""An implicit posterior, :math:`z_k = a_{0,k}(x) + \sum_m a_{m,k}(x) \, v_{m,k}(\epsilon_m)`, with known moments.

    Each of the M basis networks v makes a vector of noise :math:`\epsilon_m` of its own, and one network of the datum
    makes the coefficients a. The noises are independent, so

    .. math::
        E z_k = a_{0,k} + \sum_m a_{m,k} E v_{m,k}, \qquad \mathrm{Var} z_k = \sum_m a_{m,k}^2 \mathrm{Var} v_{m,k},

    where the moments of v do not depend on x: they are estimated by draws that all data share, apart from those that
    make z. (:math:`a_0` is the coefficient of a basis element that is always 1.) The latent is an ``Implicit`` site
    with a normal scorer of these moments, r(z | x), and they stand beside it as sites ``z_loc`` and ``z_scale``, all
    without gradients. Whatever r is,

    .. math:: KL(q \| p) = E_q[\log r(z | x) - \log p(z)] + KL(q \| r),

    whose first part is known and whose second, small, is left to a critic in standardised coordinates. Adversarial
    variational Bayes with adaptive contrast is then

        NLL("x", of="model", at=Q, through_draws=True) + KL("z", analytic=False)
        + Contrast(["x", "z", "z_loc", "z_scale"], Q.redrawn("z"), Q, StandardizedCritic(net), objective=ReverseKL())

    The scorer is not the guide's density: a bound refuses this guide, and the sum above is a ratio estimate.

    References:
        Mescheder, Nowozin and Geiger (2017), Adversarial Variational Bayes, section 3.3 and appendix (encoders with
        tractable moments), arXiv:1701.04722.

    Arguments:
        coefficients: maps the datum (and the context, if there is one) to (M + 1) D numbers, D being the length of the
            latent: first the offset, then the coefficients of each basis element.
        basis: M networks, each from noise (n, noise_features) to (n, D).
        noise_features: length of each noise vector, standard normal.
        num_moments: how many draws of each basis element estimate its moments; their relative error is about the
            inverse square root of it.
        site: the latent's name; ``_loc`` and ``_scale`` are added to it.

    Raises:
        TypeError: a network is no module, or the name no string.
        ValueError: there is no basis, or a number is out of range; at the call, when a network gives another shape.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> guide = AdaptiveContrastGuide(MLP(784, 3 * 2), [MLP(8, 2), MLP(8, 2)], noise_features=8)
        >>> guide(torch.zeros(5, 784))["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        coefficients: nn.Module,
        basis: Sequence[nn.Module],
        noise_features: int,
        num_moments: int = 1024,
        site: str = "z",
    ) -> None:
        super().__init__()
        self.coefficients = check_net(coefficients, "coefficients of AdaptiveContrastGuide")
        if isinstance(basis, nn.Module) and not isinstance(basis, nn.ModuleList | nn.Sequential):
            raise TypeError(
                f"a basis consists of several networks; got one {type(basis).__name__}. Pass a list: [net, ...]."
            )
        networks = [check_net(net, "basis of AdaptiveContrastGuide") for net in basis]
        if not networks:
            raise ValueError("a basis needs a network of the noise; got none. For instance basis=[MLP(8, 2)].")
        if not isinstance(site, str):
            raise TypeError(f"a site must be a name; got {site!r}. For instance site='z'.")
        self.basis = nn.ModuleList(networks)
        self.noise_features = check_size("noise_features", noise_features)
        self.num_moments = check_count("num_moments", num_moments, 2, "1024 is the default.")
        self.site = site

    @property
    def scores_any_point(self) -> bool:
        """False: the density is not known anywhere."""
        return False

    @property
    def scored_when_drawn(self) -> tuple[str, ...]:
        """None: nor is it at a draw."""
        return ()

    def forward(
        self,
        x: Tensor | None = None,
        c: Tensor | None = None,
        *,
        index: Tensor | None = None,
        num: int | None = None,
        data_size: int | None = None,
    ) -> dict[str, Tensor]:
        """Draws the latent of a batch.

        Arguments:
            x: data, (B, *event).
            c: the context, what everything is conditioned on, (B, features), for a conditional model.
            index: not used; here because a guide takes what its model takes.
            num: not used; here because a guide takes what its model takes.
            data_size: number N of data the minibatch stands for; B when None.

        Returns:
            The draw, its mean and its standard deviation by name, each (B, D).

        Raises:
            ValueError: there are no data, they have no batch dimension, or they are not finite.
        """
        x = check_is_given(x)
        rows = num_rows(x, c)
        if is_validation_enabled():
            for what, value in (("x", x), ("context", c)):
                if value is not None:
                    check_finite(value, what)
        self.sample_globals()
        coefficients = self.coefficients(x) if c is None else self.coefficients(x, c)
        v = self._basis(rows, coefficients)  # (M, B, D)
        offset, *rest = self._split(coefficients, rows, v.shape[-1])
        a = torch.stack(rest)  # (M, B, D)
        with torch.no_grad():
            mean, variance = self._moments(coefficients)
            loc = offset + (a * mean).sum(0)
            scale = (a.square() * variance).sum(0).clamp(min=_LEAST_VARIANCE).sqrt()
        draw = offset + (a * v).sum(0)
        with data_plate(rows, data_size):
            loc = pyro.deterministic(f"{self.site}_loc", loc, event_dim=1)
            scale = pyro.deterministic(f"{self.site}_scale", scale, event_dim=1)
            z = pyro.sample(self.site, Implicit(draw, 1, scorer=dist.Normal(loc, scale).to_event(1)))
        return {self.site: z, f"{self.site}_loc": loc, f"{self.site}_scale": scale}

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of the basis, (M, 1, D) each."""
        variance, mean = torch.var_mean(self._basis(self.num_moments, like), dim=1, keepdim=True)
        return mean, variance

    def _basis(self, count: int, like: Tensor) -> Tensor:
        """Draws of every element, (M, count, D)."""
        shape = count, self.noise_features
        drawn = [net(torch.randn(shape, dtype=like.dtype, device=like.device)) for net in self.basis]
        shapes = {tuple(v.shape) for v in drawn}
        if len(shapes) != 1 or drawn[0].dim() != 2 or len(drawn[0]) != count:
            raise ValueError(
                f"each network of the basis must give one vector per noise, ({count}, D), all of one length; got "
                f"{sorted(shapes)}. Let their last layers be as wide as the latent."
            )
        return torch.stack(drawn)

    def _split(self, coefficients: Tensor, rows: int, features: int) -> tuple[Tensor, ...]:
        """Offset and coefficients, M + 1 tensors (B, D)."""
        count = len(self.basis) + 1
        if coefficients.shape != (rows, count * features):
            raise ValueError(
                f"the coefficients must be ({rows}, {count * features}): an offset and {count - 1} coefficients for "
                f"each of {features} latents; got shape {tuple(coefficients.shape)}. Let the last layer be as wide, "
                "and give the data a batch dimension."
            )
        return coefficients.chunk(count, dim=1)
