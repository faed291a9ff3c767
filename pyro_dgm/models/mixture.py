"""The mixture of Gaussians: the smallest model with a discrete latent, whose evidence is a finite sum."""

__all__ = ["GaussianMixture"]

import math
from typing import final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.distributions.conditional import check_finite
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import LocalModule
from pyro_dgm.nn.inputs import check_dtype, check_size

COVARIANCES = ("diagonal", "full", "spherical")


@final
class GaussianMixture(LocalModule):
    r"""One of K Gaussians for every datum: :math:`p(z) = \pi_z, \; p(x | z) = N(x; \mu_z, \Sigma_z)`.

    Called with data it observes the site ``x``; called without, it simulates ``num`` data. Sites ``z`` (Categorical)
    and ``x`` stand in the plate ``data``, on dimension -1. It trains in three ways: by gradient with a guide for
    ``z``, by gradient with ``z`` summed out (``pyro.infer.config_enumerate`` and ``TraceEnum_ELBO``), and exactly by
    ``em_step``. The parameters are unconstrained: logits, means, log standard deviations and, for full covariances,
    the rest of a Cholesky factor. A new mixture has random means; ``initialize`` spreads them over the data.

    References:
        Dempster, Laird and Rubin (1977), Maximum Likelihood from Incomplete Data via the EM Algorithm; Bishop (2006),
        Pattern Recognition and Machine Learning, section 9.2.

    Arguments:
        components: number K of Gaussians.
        features: length D of a datum.
        covariance: ``"diagonal"``, ``"full"``, or ``"spherical"`` (one variance for each component).
        minimum_variance: the variances that ``em_step`` and ``initialize`` set are at least this in every direction,
            so that no component collapses onto a datum, where the likelihood has no bound. In the data's units squared.

    Raises:
        ValueError: a size or the minimum variance is not positive, or the covariance is of no known kind.

    Example:
        >>> mixture = GaussianMixture(3, 2)
        >>> x = torch.randn(100, 2)
        >>> mixture.initialize(x)
        >>> mixture.em_step(x) <= mixture.em_step(x)
        True
    """

    def __init__(
        self, components: int, features: int, covariance: str = "diagonal", minimum_variance: float = 1e-6
    ) -> None:
        super().__init__()
        if covariance not in COVARIANCES:
            raise ValueError(
                f"covariance must be one of {COVARIANCES}; got {covariance!r}. 'diagonal' is the usual one."
            )
        self.components = check_size("components", components)
        self.features = check_size("features", features)
        self.covariance = covariance
        self.minimum_variance = check_minimum_variance(minimum_variance)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, features))
        self.log_scale = nn.Parameter(torch.zeros(components, 1 if covariance == "spherical" else features))
        if covariance == "full":
            self.lower = nn.Parameter(torch.zeros(components, features * (features - 1) // 2))

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
        with data_plate(1 if num is None else num, data_size):
            z = pyro.sample("z", dist.Categorical(logits=self.logits))
            return pyro.sample("x", self._component(z), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""Exact :math:`\log p(x) = \log \sum_z \pi_z N(x; \mu_z, \Sigma_z)`, in nats.

        Arguments:
            x: data, (B, D).

        Returns:
            One value per datum, (B,), with gradient.
        """
        return self._log_joint(x).logsumexp(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Exact p(z | x) of every component, (B, K), with gradient."""
        return self._log_joint(x).softmax(-1)

    def em_step(self, x: Tensor) -> float:
        r"""Takes one exact step of expectation maximisation on the whole data.

        No step lowers the likelihood, as long as no variance was below ``minimum_variance``: the floor is the
        maximum under that constraint. A component that is responsible for nothing stays where it is.

        Arguments:
            x: all data, (B, D). A step on a minibatch is another algorithm, and may lower the likelihood.

        Returns:
            The log-likelihood per datum before the step, in nats.
        """
        with torch.no_grad():
            log_joint = self._log_joint(x)
            weights = log_joint.softmax(-1)
            total = weights.sum(0)  # (K,)
            is_alive = (total > torch.finfo(total.dtype).eps).unsqueeze(-1)
            shares = weights / total.clamp(min=torch.finfo(total.dtype).tiny)  # each column sums to 1
            self.logits.copy_(total.clamp(min=torch.finfo(total.dtype).tiny).log() - math.log(len(x)))
            self.loc.copy_(torch.where(is_alive, shares.T @ x, self.loc))
            self._set_covariance(x.unsqueeze(1) - self.loc, shares, is_alive)
            return float(log_joint.logsumexp(-1).mean())

    def initialize(self, x: Tensor) -> None:
        """Places the components on the data by k-means++, with equal weights and the pooled covariance about them.

        The draws come from torch's generator: the same seed gives the same start.

        References:
            Arthur and Vassilvitskii (2007), k-means++: The Advantages of Careful Seeding.

        Arguments:
            x: all data, (B, D), at least as many as there are components.

        Raises:
            ValueError: there are fewer data than components.
        """
        check_vectors(x, self, self.features)
        if len(x) < self.components:
            raise ValueError(
                f"initialize needs a datum for each of the {self.components} components; got {len(x)}. Use fewer "
                "components, or more data."
            )
        with torch.no_grad():
            centres = _spread_centres(x, self.components)
            nearest = torch.cdist(x, centres).argmin(-1)
            self.logits.zero_()
            residual = (x - centres[nearest]).unsqueeze(1).expand(-1, self.components, -1)
            shares = x.new_full((len(x), self.components), 1 / len(x))
            self._set_covariance(residual, shares, shares[:1].T > 0)
            self.loc.copy_(centres)

    def _component(self, z: Tensor) -> Distribution:
        """N(x; mu_z, Sigma_z) of z's batch shape."""
        if self.covariance != "full":
            return dist.Normal(self.loc[z], self.log_scale[z].exp()).to_event(1)
        # Lower triangular with a positive diagonal by construction.
        return dist.MultivariateNormal(self.loc[z], scale_tril=self._scale_tril()[z], validate_args=False)

    def _scale_tril(self) -> Tensor:
        row, column = torch.tril_indices(self.features, self.features, offset=-1, device=self.loc.device)
        scale_tril = torch.diag_embed(self.log_scale.exp())
        scale_tril[:, row, column] = self.lower
        return scale_tril

    def _log_joint(self, x: Tensor) -> Tensor:
        """Log p(x, z), (B, K)."""
        check_vectors(x, self, self.features)
        components = self._component(torch.arange(self.components, device=self.loc.device))
        return self.logits.log_softmax(-1) + components.log_prob(x.unsqueeze(-2))

    def _set_covariance(self, residual: Tensor, shares: Tensor, is_alive: Tensor) -> None:
        """Sets the covariances of the components that are alive, (K, 1).

        Arguments:
            residual: data less means, (B, K, D).
            shares: the weights of the data for each component, (B, K), every column summing to 1.
            is_alive: whether a component is to be changed, (K, 1).
        """
        if self.covariance == "full":
            covariance = torch.einsum("bk,bki,bkj->kij", shares, residual, residual)
            values, vectors = torch.linalg.eigh(covariance)
            floored = (vectors * values.clamp(min=self.minimum_variance).unsqueeze(-2)) @ vectors.mT
            scale_tril = torch.where(is_alive.unsqueeze(-1), torch.linalg.cholesky(floored), self._scale_tril())
            row, column = torch.tril_indices(self.features, self.features, offset=-1, device=residual.device)
            self.log_scale.copy_(scale_tril.diagonal(dim1=-2, dim2=-1).log())
            self.lower.copy_(scale_tril[:, row, column])
            return
        variance = torch.einsum("bk,bkd->kd", shares, residual.square())
        if self.covariance == "spherical":
            variance = variance.mean(-1, keepdim=True)
        log_scale = variance.clamp(min=self.minimum_variance).log() / 2
        self.log_scale.copy_(torch.where(is_alive, log_scale, self.log_scale))


def check_vectors(x: Tensor, module: nn.Module, features: int, finite: bool = True) -> None:
    """Raises a ``ValueError`` or ``TypeError`` unless x is a batch of finite vectors of the module's dtype."""
    num_rows(x)
    if x.dim() != 2 or x.shape[1] != features:
        cure = "Reshape the data, or build the model for them."
        if tuple(x.shape) == (features,):
            cure = "It looks like one datum: add the batch dimension with x.unsqueeze(0)."
        raise ValueError(f"x must have shape (B, {features}); got {tuple(x.shape)}. {cure}")
    check_dtype(x, module, type(module).__name__)
    if finite:
        check_finite(x)


def check_minimum_variance(value: float) -> float:
    """Returns the least variance if it is a positive number."""
    if not 0 < value < math.inf:
        raise ValueError(f"minimum_variance must be a positive number; got {value!r}. 1e-6 suits standardised data.")
    return value


def _spread_centres(x: Tensor, number: int) -> Tensor:
    """Draws rows of x, each with probability proportional to its squared distance from those drawn before.

    Of a few candidates the one is kept that leaves the least distance (greedy k-means++, as in the authors' own code).
    """
    centres = [x[torch.randint(len(x), (), device=x.device)]]
    distance = (x - centres[0]).square().sum(-1)
    for _ in range(number - 1):
        mass = torch.where(distance.sum() > 0, distance, torch.ones_like(distance))  # all rows may be the same
        candidates = x[torch.multinomial(mass, 2 + int(math.log(number)), replacement=True)]
        left = torch.minimum(distance, torch.cdist(candidates, x).square())  # (candidates, B)
        best = left.sum(-1).argmin()
        centres.append(candidates[best])
        distance = left[best]
    return torch.stack(centres)
