"""Mixtures of diagonal normals, as posterior or prior."""

__all__ = [
    "MixtureNormal",
    "MixtureNormalDistribution",
    "MixturePrior",
]

import math
from typing import Any, final

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Categorical, Distribution, constraints

from pyro_dgm.distributions.conditional import (
    ConditionalDistribution,
    check_count,
    check_net,
)


@final
class MixtureNormalDistribution(TorchDistribution):
    r"""A mixture of diagonal normals with pathwise gradients, :math:`\sum_k \pi_k N(\mu_k, \mathrm{diag}(\sigma_k^2))`.

    A draw is made the plain way, a component and then its normal. Its derivative is that of the draw which keeps the
    conditional quantiles :math:`F(z_1), F(z_2 | z_1), \dots` in place (implicit reparameterisation), which is
    unbiased for means, scales and weights. The gradient of the weights moves mass from one component to the other, and
    its variance grows exponentially with their squared distance in standard deviations, as that of every path does in
    one dimension. It can be differentiated once.

    Pyro's ``MixtureOfDiagNormals`` is not used: where scales differ from 1 its gradient of the weights is biased
    (pyro-ppl 1.9.2).

    References:
        Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients, arXiv:1805.08498; Graves
        (2016), Stochastic Backpropagation through Mixture Density Distributions, arXiv:1607.05690.

    Arguments:
        loc: means, (*batch, K, d).
        scale: standard deviations, (*batch, K, d).
        logits: logarithms of the weights, up to a constant, (*batch, K).
    """

    arg_constraints = {  # noqa: RUF012 (torch's convention)
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
        "logits": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale, wide = torch.broadcast_tensors(loc, scale, logits.unsqueeze(-1))
        self.logits = wide[..., 0]
        super().__init__(self.loc.shape[:-2], self.loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MixtureNormalDistribution":
        """Returns the same distribution with its batch shape expanded."""
        new = self._get_checked_instance(MixtureNormalDistribution, _instance)
        shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(shape + self.loc.shape[-2:])
        new.scale = self.scale.expand(shape + self.scale.shape[-2:])
        new.logits = self.logits.expand(shape + self.logits.shape[-1:])
        super(MixtureNormalDistribution, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self.__dict__.get("_validate_args")
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        each = _log_normal(value.unsqueeze(-2), self.loc, self.scale).sum(-1)  # (*, K)
        return (self.logits.log_softmax(-1) + each).logsumexp(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a path to means, scales and weights."""
        shape = self._extended_shape(torch.Size(sample_shape))
        loc, scale = (tensor.expand(shape[:-1] + tensor.shape[-2:]) for tensor in (self.loc, self.scale))
        logits = self.logits.expand(shape[:-1] + self.logits.shape[-1:])
        with torch.no_grad():
            index = Categorical(logits=logits, validate_args=False).sample()
            index = index[..., None, None].expand(*shape[:-1], 1, shape[-1])
            own_loc, own_scale = (tensor.gather(-2, index).squeeze(-2) for tensor in (loc, scale))
            z = own_loc + own_scale * torch.randn_like(own_loc)
        return _ImplicitPath.apply(z, loc, scale, logits)

    @property
    def mean(self) -> Tensor:
        """The mean of the components' means."""
        return (self.logits.softmax(-1).unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The components' variances and the variance of their means, per dimension."""
        weights = self.logits.softmax(-1).unsqueeze(-1)
        return (weights * (self.scale.square() + (self.loc - self.mean.unsqueeze(-2)).square())).sum(-2)


@final
class MixtureNormal(ConditionalDistribution):
    r"""A posterior of several modes, :math:`\sum_k \pi_k(c) \, N(\mu_k(c), \mathrm{diag}(\sigma_k^2(c)))`.

    The network gives, one after the other, the K logits, the means and the logarithms of the scales. Its gradient is
    pathwise for all of them, unbiased, by implicit reparameterisation (``MixtureNormalDistribution``); a step of the
    backward pass is a loop over the d features.

    References:
        Figurnov, Mohamed and Mnih (2018), Implicit Reparameterization Gradients, arXiv:1805.08498.

    Arguments:
        net: maps the context to (*batch, K (1 + 2 d)).
        components: number K of normals.

    Raises:
        TypeError: net is no module.
        ValueError: components is not a positive integer; at the call, when no d fits the length of the network's
            output.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> q = MixtureNormal(MLP(784, MixtureNormal.num_parameters(50, components=4)), components=4)
        >>> q(torch.zeros(8, 784)).event_shape
        torch.Size([50])
    """

    def __init__(self, net: nn.Module, components: int) -> None:
        super().__init__()
        self.net = check_net(net, "MixtureNormal")
        self.components = check_count("the components of MixtureNormal", components, 1, "One is DiagonalNormal.")

    @staticmethod
    def num_parameters(features: int, components: int) -> int:
        """Length of the network's output for d = ``features``."""
        return components * (1 + 2 * features)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the mixture of batch shape (*batch,) and event shape (d,)."""
        parameters = self.net(*context)
        k, length = self.components, parameters.shape[-1] if parameters.dim() else 0
        features = (length - k) // (2 * k)
        if features < 1 or self.num_parameters(features, k) != length:
            raise ValueError(
                f"MixtureNormal of K = {k} components reads K (1 + 2 d) parameters for d features; got a network "
                f"output of shape {tuple(parameters.shape)}. Size it with MixtureNormal.num_parameters(d, {k})."
            )
        logits, loc, log_scale = parameters.split([k, k * features, k * features], dim=-1)
        loc, log_scale = (part.unflatten(-1, (k, features)) for part in (loc, log_scale))
        return MixtureNormalDistribution(loc, log_scale.exp(), logits)


@final
class MixturePrior(ConditionalDistribution):
    """A prior that is a mixture of diagonal normals with learned means, scales and weights.

    The means start as draws from N(0, spread^2), so that the components differ; scales start at 1, weights equal. A
    context, if the model has one, is not looked at: p(z | c) = p(z).

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120 (where it is the baseline).

    Arguments:
        features: length of the vector.
        components: number K of normals.
        learned_weights: learn the weights, too; they stay equal otherwise.
        spread: standard deviation of the initial means.

    Raises:
        ValueError: features or components is not a positive integer, or the spread not a positive number.

    Example:
        >>> MixturePrior(5, components=10)().event_shape
        torch.Size([5])
    """

    logits: Tensor

    def __init__(self, features: int, components: int, learned_weights: bool = True, spread: float = 1.0) -> None:
        super().__init__()
        check_count("the features of MixturePrior", features, 1, "Give the latent's length.")
        check_count("the components of MixturePrior", components, 1, "One is LearnableNormal.")
        if isinstance(spread, bool) or not isinstance(spread, int | float) or not 0 < spread < math.inf:
            raise ValueError(
                f"the spread of a MixturePrior's means must be a positive number; got {spread!r}. With 1 they start "
                "where a standard normal has its mass."
            )
        self.loc = nn.Parameter(spread * torch.randn(components, features))
        self.log_scale = nn.Parameter(torch.zeros(components, features))
        if learned_weights:
            self.logits = nn.Parameter(torch.zeros(components))
        else:
            self.register_buffer("logits", torch.zeros(components))

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the mixture of batch shape () and event shape (features,)."""
        return MixtureNormalDistribution(self.loc, self.log_scale.exp(), self.logits)


class _ImplicitPath(torch.autograd.Function):
    r"""Gives draws of a mixture of diagonal normals their derivative, that of fixed conditional quantiles.

    With :math:`S_i = F(z_i | z_{<i}) = \sum_k w_{ik} \Phi(u_{ik})`, u the standardised draw and w the weights given the
    features before, :math:`dz = -(\partial S / \partial z)^{-1} \, \partial_\phi S \, d\phi`. The matrix is lower
    triangular, so that the backward pass solves it from the last feature to the first. Each row is divided by
    its diagonal, the conditional density :math:`f_i`.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, loc: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
        """Returns z itself; shapes (*, d), (*, K, d), (*, K, d) and (*, K)."""
        ctx.save_for_backward(z, loc, scale, logits)
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """Pulls the gradient of the draw back to means, scales and logits."""
        z, loc, scale, logits = ctx.saved_tensors
        u = (z.unsqueeze(-2) - loc) / scale
        log_n = _log_normal(z.unsqueeze(-2), loc, scale)
        joint = logits.unsqueeze(-1) + log_n.cumsum(-1)  # of component k and the features up to i, (*, K, d)
        before, after = (joint - log_n).softmax(-2), joint.softmax(-2)  # weights given features < i, and <= i
        log_f = joint.logsumexp(-2, keepdim=True) - (joint - log_n).logsumexp(-2, keepdim=True)
        pull = before * _quantile_gaps(u, before) * (-log_f).exp()  # of S_i by the k-th logit, over f_i
        slope = -u / scale  # of log N_ki by z_i
        carry, flows, carries = torch.zeros_like(logits), [], []
        for i in reversed(range(z.shape[-1])):
            carries.append(carry)
            flows.append(grad[..., i] - (carry * slope[..., i]).sum(-1))
            carry = carry + flows[-1].unsqueeze(-1) * pull[..., i]
        flow = torch.stack(flows[::-1], dim=-1).unsqueeze(-2)  # (*, 1, d)
        later = torch.stack(carries[::-1], dim=-1)  # (*, K, d)
        own = flow * after
        return None, own + later * slope, own * u - later * (u.square() - 1) / scale, -carry


def _quantile_gaps(u: Tensor, weights: Tensor) -> Tensor:
    """Phi(u_k) less its mean over k, from whichever tail is the smaller, so that little cancels."""
    below, above = (0.5 * torch.erfc(sign * u / math.sqrt(2)) for sign in (-1.0, 1.0))
    mean_below, mean_above = ((weights * tail).sum(-2, keepdim=True) for tail in (below, above))
    return torch.where(mean_below < mean_above, below - mean_below, mean_above - above)


def _log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
