"""The VampPrior: a posterior at pseudo-inputs as the prior."""

__all__ = ["VampPrior", "VampPriorDistribution"]

import math
from typing import Any, final

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_dgm.distributions.conditional import ConditionalDistribution, check_conditional, check_finite


@final
class VampPriorDistribution(TorchDistribution):
    r"""The mean of K densities, :math:`\frac{1}{K} \sum_k q_k(z)`.

    Its density costs K of them and a draw costs a draw of each. Draws have no path to the components' parameters.

    Arguments:
        components: a distribution of batch shape (K,).
        batch_shape: as many times the same mixture.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's convention)
    has_rsample = False

    def __init__(self, components: Distribution, batch_shape: Any = (), validate_args: bool | None = None) -> None:
        (self._num_components,) = components.batch_shape
        self.components = components
        super().__init__(torch.Size(batch_shape), components.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint | None:
        """That of the components."""
        return self.components.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "VampPriorDistribution":
        """Returns the same distribution with its batch shape expanded; the components are not copied."""
        return VampPriorDistribution(self.components, batch_shape, self.__dict__.get("_validate_args"))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        batch = torch.broadcast_shapes(self.batch_shape, value.shape[: value.dim() - self.event_dim])
        value = value.expand(batch + self.event_shape).unsqueeze(len(batch))
        each = self.components.log_prob(value.expand(*batch, self._num_components, *self.event_shape))  # (*batch, K)
        return each.logsumexp(-1) - math.log(self._num_components)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws from all components, of which each draw takes one."""
        with torch.no_grad():
            batch = torch.Size(sample_shape) + self.batch_shape
            each = self.components.sample(batch)  # (*batch, K, *event)
            index = torch.randint(self._num_components, batch, device=each.device)
            index = index.reshape(*batch, 1, *[1] * self.event_dim).expand(*batch, 1, *self.event_shape)
            return each.gather(len(batch), index).squeeze(len(batch))

    @property
    def mean(self) -> Tensor:
        """The mean of the components' means, where these are known."""
        return self.components.mean.mean(0).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The components' variances and the variance of their means, where these are known."""
        spread = self.components.mean.var(0, correction=0)
        return (self.components.variance.mean(0) + spread).expand(self.batch_shape + self.event_shape)


@final
class VampPrior(ConditionalDistribution):
    r"""The variational mixture of posteriors, :math:`p(z) = \frac{1}{K} \sum_k q(z | u_k)`, at pseudo-inputs u.

    The posterior is the guide's own module, which is therefore part of the model, too: its parameters are trained
    by what they do in both places. Share it, and copy model and guide together, ``copy.deepcopy((model, guide))``.

    A context, if the model has one, is not looked at: p(z | c) = p(z); so the posterior must be one of data alone.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, equations 9 and 10, arXiv:1705.07120.

    Arguments:
        posterior: the guide's distribution of this latent, of any family that scores any point.
        pseudo_inputs: initial values of u, (K, *event of the data), for instance rows of the training data.
        learned: learn them; they stay as they are otherwise.
        bounds: lowest and highest value that the posterior is given, for instance (0, 1) for pixels; pseudo-inputs
            beyond them are cut off, as by the paper's hard tanh, and have no gradient.

    Raises:
        TypeError: the posterior is no conditional distribution, or the pseudo-inputs no tensor of floats.
        ValueError: the posterior scores its own draws alone, there is no pseudo-input, one is not finite or starts
            beyond the bounds, or the bounds are in the wrong order; at the call, when the posterior does not give one
            distribution for each of them.

    Example:
        >>> from pyro_dgm.distributions import DiagonalNormal
        >>> from pyro_dgm.nn import MLP
        >>> posterior = DiagonalNormal(MLP(784, 2 * 20))
        >>> prior = VampPrior(posterior, torch.rand(500, 784), bounds=(0.0, 1.0))
        >>> prior().event_shape
        torch.Size([20])
    """

    pseudo_inputs: Tensor

    def __init__(
        self,
        posterior: ConditionalDistribution,
        pseudo_inputs: Tensor,
        learned: bool = True,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.posterior = check_conditional(posterior, "the posterior of a VampPrior")
        if not posterior.scores_any_point:
            raise ValueError(
                "a VampPrior scores its posterior at draws of other data; got a "
                f"{type(posterior).__name__} that scores its own last draw alone. Use one whose scores_any_point is "
                "True, such as DiagonalNormal, MixtureNormal or a flow with an inverse."
            )
        self.bounds = _check_bounds(bounds)
        values = _check_pseudo_inputs(pseudo_inputs, self.bounds).detach().clone()
        if learned:
            self.pseudo_inputs = nn.Parameter(values)
        else:
            self.register_buffer("pseudo_inputs", values)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the mixture of batch shape () and the posterior's event shape."""
        u = self.pseudo_inputs if self.bounds is None else self.pseudo_inputs.clamp(*self.bounds)
        components = self.posterior(u)
        if tuple(components.batch_shape) != (len(u),):
            raise ValueError(
                f"the posterior of a VampPrior must give each pseudo-input a distribution; got pseudo-inputs of shape "
                f"{tuple(u.shape)} and batch shape {tuple(components.batch_shape)}. Make their first dimension count "
                "them and the rest one datum."
            )
        return VampPriorDistribution(components)


def _check_bounds(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    is_pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    if not is_pair or not all(isinstance(end, int | float) for end in bounds) or not bounds[0] < bounds[1]:
        raise ValueError(
            f"the bounds of a VampPrior must be a lower and a higher number; got {bounds!r}. Pixels are in (0.0, 1.0)."
        )
    return float(bounds[0]), float(bounds[1])


def _check_pseudo_inputs(values: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = f"a tensor of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(
            f"pseudo_inputs must be a floating-point tensor; got {got}. Pass rows of the data, x[:500].float()."
        )
    if values.dim() < 2 or not values.numel():
        raise ValueError(
            f"pseudo_inputs must have shape (K, *event), K at least 1; got {tuple(values.shape)}. Pass rows of the "
            "data, for instance x[:500]."
        )
    check_finite(values, "pseudo_inputs")
    low, high = float(values.min()), float(values.max())
    if bounds is not None and not (bounds[0] <= low and high <= bounds[1]):
        raise ValueError(
            f"pseudo_inputs must start within the bounds {bounds}, beyond which they have no gradient; got values from "
            f"{low:g} to {high:g}. Clamp them, or widen the bounds."
        )
    return values
