"""Factor analysis and probabilistic principal components: the model that deep ones are checked against."""

__all__ = ["LinearGaussian"]

import math
from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.models.mixture import check_minimum_variance, check_vectors
from pyro_dgm.nn import LocalModule
from pyro_dgm.nn.inputs import check_size

NOISES = ("isotropic", "diagonal")


@final
class LinearGaussian(LocalModule):
    r"""A linear map of a Gaussian latent: :math:`z \sim N(0, I), \; x | z \sim N(W z + \mu, \Psi)`.

    With isotropic noise, :math:`\Psi = \sigma^2 I`, it is probabilistic principal component analysis; with diagonal
    noise it is factor analysis. Called with data it observes the site ``x``; called without, it simulates ``num``
    data. Sites ``z`` and ``x`` stand in the plate ``data``, on dimension -1. Evidence and posterior are known in closed
    form, and so is, with isotropic noise, the maximum likelihood.

    References:
        Tipping and Bishop (1999), Probabilistic Principal Component Analysis; Rubin and Thayer (1982), EM Algorithms
        for ML Factor Analysis.

    Arguments:
        latent_features: length L of the latent.
        features: length D of a datum.
        noise: ``"isotropic"``, one variance for all features, or ``"diagonal"``, one for each.
        minimum_variance: the noise that ``em_step`` and ``fit_closed_form`` set has at least this variance, since
            factor analysis may explain a feature whole. In the data's units squared.

    Raises:
        ValueError: a size or the minimum variance is not positive, or the noise is of no known kind.

    Example:
        >>> model = LinearGaussian(2, 5)
        >>> x = torch.randn(100, 5)
        >>> model.fit_closed_form(x)
        >>> model.posterior(x).mean.shape
        torch.Size([100, 2])
    """

    def __init__(
        self, latent_features: int, features: int, noise: str = "isotropic", minimum_variance: float = 1e-6
    ) -> None:
        super().__init__()
        if noise not in NOISES:
            raise ValueError(f"noise must be one of {NOISES}; got {noise!r}. 'isotropic' is probabilistic PCA.")
        self.latent_features = check_size("latent_features", latent_features)
        self.features = check_size("features", features)
        self.noise = noise
        self.minimum_variance = check_minimum_variance(minimum_variance)
        self.weight = nn.Parameter(torch.randn(features, latent_features) / math.sqrt(latent_features))
        self.loc = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(1 if noise == "isotropic" else features))

    def forward(self, x: Tensor | None = None, *, num: int | None = None, data_size: int | None = None) -> Tensor:
        """Observes x, or simulates ``num`` data.

        Arguments:
            x: data, (B, D), or None to simulate.
            num: how many data to simulate, 1 when None.
            data_size: number N of data the minibatch stands for; B when None. The guide takes the same argument.

        Returns:
            The data, given or simulated, (B, D).

        Raises:
            TypeError: the data have another dtype than the parameters.
            ValueError: the data have another shape, or values that are not finite.
        """
        if x is not None:
            num = num_rows(x)
            check_vectors(x, self, self.features, finite=is_validation_enabled())
        zeros = self.weight.new_zeros(self.latent_features)
        with data_plate(1 if num is None else num, data_size):
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            mean = z @ self.weight.T + self.loc
            return pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""Exact :math:`\log p(x) = \log N(x; \mu, W W^\top + \Psi)`, in nats.

        Arguments:
            x: data, (B, D).

        Returns:
            One value per datum, (B,), with gradient.
        """
        check_vectors(x, self, self.features)
        return dist.LowRankMultivariateNormal(self.loc, self.weight, self._variance()).log_prob(x)

    def posterior(self, x: Tensor) -> Distribution:
        r"""Exact :math:`p(z | x) = N(M^{-1} W^\top \Psi^{-1} (x - \mu), M^{-1}), \; M = I + W^\top \Psi^{-1} W`.

        Arguments:
            x: data, (B, D).

        Returns:
            A normal of batch shape (B,) and event shape (L,), which a guide may sample.
        """
        check_vectors(x, self, self.features)
        loc, covariance = self._posterior(x)
        return dist.MultivariateNormal(loc, covariance)

    def em_step(self, x: Tensor) -> float:
        """Takes one exact step of expectation maximisation on the whole data; no step lowers the likelihood.

        The mean is set to the data's, which is the best one whatever the rest; then come the E- and the M-step.

        Arguments:
            x: all data, (B, D). A step on a minibatch is another algorithm, and may lower the likelihood.

        Returns:
            The log-likelihood per datum before the step, in nats.
        """
        with torch.no_grad():
            before = float(self.log_evidence(x).mean())
            self.loc.copy_(x.mean(0))
            centred = x - self.loc
            z, covariance = self._posterior(x)
            second_moment = z.T @ z + len(x) * covariance  # (L, L)
            weight = torch.linalg.solve(second_moment, z.T @ centred).T
            spread = ((weight @ covariance) * weight).sum(-1)  # what the posterior leaves open, (D,)
            self.weight.copy_(weight)
            self._set_variance((centred - z @ weight.T).square().mean(0) + spread)
            return before

    def fit_closed_form(self, x: Tensor) -> None:
        r"""Sets the parameters to the maximum of the likelihood, from the eigenvalues of the data's covariance.

        .. math:: \sigma^2 = \frac{1}{D - L} \sum_{j > L} \lambda_j, \quad W = U_L (\Lambda_L - \sigma^2 I)^{1/2}

        References:
            Tipping and Bishop (1999), equations 7 and 8, with the rotation R = I.

        Arguments:
            x: all data, (B, D).

        Raises:
            ValueError: the noise is diagonal, or there are as many latent features as features.
        """
        check_vectors(x, self, self.features)
        if self.noise != "isotropic" or self.latent_features >= self.features:
            raise ValueError(
                "the maximum is known in closed form for isotropic noise and fewer latent features than features; got "
                f"{self.noise} noise, {self.latent_features} and {self.features}. Use em_step."
            )
        with torch.no_grad():
            self.loc.copy_(x.mean(0))
            centred = x - self.loc
            values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending
            rest = self.features - self.latent_features
            self._set_variance(values[:rest].mean().clamp(min=0).expand(self.features))
            excess = (values[rest:].flip(0) - self._variance()[0]).clamp(min=0)
            self.weight.copy_(vectors[:, rest:].flip(1) * excess.sqrt())

    def _variance(self) -> Tensor:
        """The diagonal of Psi, (D,)."""
        return (2 * self.log_scale).exp().expand(self.features)

    def _set_variance(self, variance: Tensor) -> None:
        if self.noise == "isotropic":
            variance = variance.mean(0, keepdim=True)
        self.log_scale.copy_(variance.clamp(min=self.minimum_variance).log() / 2)

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means, (B, L), and their common covariance, (L, L)."""
        scaled = self.weight / self._variance().unsqueeze(-1)  # Psi^-1 W
        precision = torch.eye(self.latent_features).to(scaled) + self.weight.T @ scaled
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        return (x - self.loc) @ scaled @ covariance, covariance
