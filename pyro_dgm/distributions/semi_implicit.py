"""Semi-implicit distributions: an explicit density mixed over noise that goes through its network."""

__all__ = ["SemiImplicit", "SemiImplicitDistribution"]

import math
from collections.abc import Callable
from typing import Any, final

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_conditional, check_count
from pyro_dgm.nn.modes import in_evaluation_mode


@final
class SemiImplicitDistribution(TorchDistribution):
    r"""Draws from :math:`q(z) = E_\epsilon \, q(z | \epsilon)`, and an estimate of their log-density.

    A draw takes M + 1 noises for every element of the shape, makes z with the first, and keeps all. The log-density of
    that draw is then estimated as :math:`\log \frac{1}{M + 1} \sum_{m=0}^M q(z | \epsilon_m)`, which is on average at
    least :math:`E \log q(z)` and converges to it as M grows. At any other value no estimate is known of which this
    holds. An expanded distribution draws noises of its own for each new element.

    The density of a draw has gradients, with respect to the network, even when it was made without: the history of
    the explicit distribution is kept for that until the next draw.

    Arguments:
        explicit: gives the distribution of z given noise, (M + 1, *shape, noise_features), with a batch of the noise's
            leading dimensions. It is called once at the start for its shape, with a noise of zeros, without gradients
            and without using up torch's random numbers.
        noise: a tensor of shape (noise_features,), for its shape, dtype and device.
        num_mixing: number M of noises beside the one that makes the draw.

    Raises:
        ValueError: the explicit distribution has no reparameterised draws.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's convention)
    has_rsample = True

    def __init__(
        self,
        explicit: Callable[[Tensor], Distribution],
        noise: Tensor,
        num_mixing: int,
        validate_args: bool | None = None,
    ) -> None:
        devices = [noise.device] if noise.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            one = explicit(torch.zeros_like(noise))  # for its shape
        if not one.has_rsample:
            raise ValueError(
                f"a semi-implicit distribution needs reparameterised draws; got a {type(one).__name__} without. Use a "
                "conditional that has them, such as DiagonalNormal."
            )
        self._explicit, self._noise, self._num_mixing, self._support = explicit, noise, num_mixing, one.support
        self._last: tuple[Tensor, Distribution] | None = None
        super().__init__(one.batch_shape, one.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint | None:
        """That of the explicit distribution."""
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SemiImplicitDistribution":
        """Returns the same distribution with its batch shape expanded, which has drawn nothing yet."""
        new = self._get_checked_instance(SemiImplicitDistribution, _instance)
        new._explicit, new._noise, new._num_mixing = self._explicit, self._noise, self._num_mixing
        new._support, new._last = self._support, None
        super(SemiImplicitDistribution, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self.__dict__.get("_validate_args")
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """The estimate of the last draw's log-density, in nats.

        Raises:
            NotImplementedError: the value is not the tensor that was drawn last.
        """
        if self._last is None or self._last[0] is not value:
            raise NotImplementedError(
                "a semi-implicit distribution estimates the log-density of the draw that it made last; got another "
                "value. Use gradient='reparam', or a distribution that scores any point, such as MixtureNormal."
            )
        each = self._last[1].log_prob(value)  # (M + 1, *shape)
        return each.logsumexp(0) - math.log(self._num_mixing + 1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws noises, and z with the first of them."""
        batch = torch.Size((self._num_mixing + 1, *sample_shape)) + self.batch_shape
        noise = torch.randn(batch + self._noise.shape, dtype=self._noise.dtype, device=self._noise.device)
        with torch.enable_grad():  # whatever the draw is for: its density may be asked for with gradients
            given = self._explicit(noise)
        if given.batch_shape != batch:
            raise ValueError(
                "the conditional of a SemiImplicit must give each noise a distribution; got batch shape "
                f"{tuple(given.batch_shape)} for noise of leading shape {tuple(batch)}. Join its inputs by "
                "broadcasting, as the networks of pyro_dgm.nn do."
            )
        z = given.rsample()[0]
        self._last = z, given
        return z

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without a path."""
        z = self.rsample(sample_shape).detach()
        assert self._last is not None
        self._last = z, self._last[1]
        return z


@final
class SemiImplicit(ConditionalDistribution):
    r"""A posterior of any shape, :math:`q(z | x) = E_\epsilon \, q(z | x, \epsilon)`: an explicit one given noise, too.

    The density is not known, but estimated at the distribution's own draws with M further noises per particle and datum
    (``SemiImplicitDistribution``). By the symmetry of the M + 1 noises the importance weights, p(x, z) over that
    estimate, are unbiased for p(x). So the ELBO with it is a lower bound on the log evidence, which tightens to the
    true ELBO as M grows; and importance-weighted bounds and estimates of log p(x) are lower bounds as ever.

    Each draw runs the conditional's network M + 1 times, and each call once more for the shape, in evaluation mode.
    Gradients are ``"reparam"`` only: the others score points that were not drawn. A closed-form KL is never known.

    References:
        Yin and Zhou (2018), Semi-Implicit Variational Inference, arXiv:1805.11183; Molchanov,
        Kharitonov, Sobolev and Vetrov (2019), Doubly Semi-Implicit Variational Inference, arXiv:1810.02789.

    Arguments:
        conditional: q(z | x, noise), reparameterised and scoring any point, whose network takes the context and
            then the noise and joins them by broadcasting, as ``MLP`` does.
        noise_features: length of the noise, which is standard normal.
        num_mixing: number M of further noises, at least 1.

    Raises:
        TypeError: the conditional is no conditional distribution.
        ValueError: it does not score any point, or one of the numbers is not a positive integer; at the call, when it
            has no reparameterised draws.

    Example:
        >>> from pyro_dgm.distributions import DiagonalNormal
        >>> from pyro_dgm.nn import MLP
        >>> q = SemiImplicit(DiagonalNormal(MLP(784 + 10, 2 * 50)), noise_features=10)
        >>> q(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, conditional: ConditionalDistribution, noise_features: int, num_mixing: int = 20) -> None:
        super().__init__()
        self.conditional = check_conditional(conditional, "the conditional of SemiImplicit")
        if not conditional.scores_any_point:
            raise ValueError(
                "SemiImplicit scores its conditional at draws made with other noise; got a "
                f"{type(conditional).__name__} that scores its own last draw alone. Use one whose scores_any_point is "
                "True, such as DiagonalNormal."
            )
        cure = "Ten are usual, for latents of some tens of features."
        self.noise_features = check_count("the noise_features of SemiImplicit", noise_features, 1, cure)
        self.num_mixing = check_count(
            "the num_mixing of SemiImplicit", num_mixing, 1, "The more the tighter the bound."
        )

    @property
    def scores_any_point(self) -> bool:
        """No: its log-density is estimated at its own last draw alone."""
        return False

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,) and the conditional's event shape; nothing is drawn yet."""
        candidates = (*context, *self.conditional.parameters())
        like = next((tensor for tensor in candidates if tensor.is_floating_point()), torch.empty(()))
        with in_evaluation_mode([self.conditional]):  # the network is run for its shape
            return SemiImplicitDistribution(
                lambda noise: self.conditional(*context, noise), like.new_zeros(self.noise_features), self.num_mixing
            )

    def check_data(self, x: Tensor) -> None:
        """Raises as the conditional does."""
        self.conditional.check_data(x)
