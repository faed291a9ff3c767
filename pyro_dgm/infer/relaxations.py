r"""Discrete draws as functions of noise: relaxed to continuous ones, and the noise given the draw.

A Bernoulli draw is :math:`b = 1[z > 0]` with :math:`z = \alpha + \log u - \log (1 - u)`, a one-hot draw the largest of
:math:`z = \log p - \log(-\log u)`. At a temperature t, :math:`\sigma(z / t)` and :math:`\mathrm{softmax}(z / t)` are
their relaxations, which become the draws as t falls to zero.
"""

__all__ = ["Noise", "Relaxation", "draw_noise", "is_relaxable", "soften"]

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid, one_hot

from pyro_dgm.distributions.autoregressive import AutoregressiveBernoulliDistribution
from pyro_dgm.infer.programs import unwrapped
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.nn import LocalModule


@final
class Relaxation(LocalModule):
    """The temperature of relaxed draws, and what ``rebar`` and ``relax`` learn to lower their variance.

    ``rebar`` and ``relax`` train the temperature, the weight of their control variate and the network to make the
    gradient's variance small; they stay unbiased whatever these are. ``gumbel`` and ``straight_through`` take the
    temperature as it is, and the lower it is, the smaller is their bias and the larger their variance: anneal it by a
    schedule.

    References:
        Maddison, Mnih and Teh (2017), The Concrete Distribution, arXiv:1611.00712; Jang, Gu and Poole (2017),
        Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144; Tucker et al. (2017), REBAR,
        arXiv:1703.07370; Grathwohl et al. (2018), Backpropagation through the Void, arXiv:1711.00123.

    Arguments:
        temperature: where it starts, above 0; or a schedule to follow.
        net: for ``relax``, called with the relaxed latents, (K, B, units of all of them), and the programs' positional
            arguments; gives one number per particle and datum, (K, B) or (K, B, 1).

    Raises:
        TypeError: the network is no module.
        ValueError: the temperature, or one end of its schedule, is not positive; when latents are drawn, if it is not
            in between.
    """

    def __init__(self, temperature: float | Schedule = 0.5, net: nn.Module | None = None) -> None:
        super().__init__()
        self.schedule = temperature if isinstance(temperature, Schedule) else None
        if net is not None and not isinstance(net, nn.Module):
            raise TypeError(f"the net of a Relaxation must be a module; got {net!r}. Only 'relax' needs one.")
        if isinstance(temperature, Schedule):
            for num_steps in (0, temperature.num_steps_needed):
                _check_temperature(temperature.value_at(num_steps), temperature)
        self.net = None if net is None else _Surrogate(net)
        self.weight = nn.Parameter(torch.tensor(1.0))
        if self.schedule is None:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(_check_temperature(temperature))))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Returns the temperature and the control variate's weight, both scalars."""
        if self.schedule is not None:
            temperature: float | Tensor = self.schedule.value
            if not isinstance(temperature, Tensor):  # as it is in a compiled step
                temperature = self.weight.new_tensor(_check_temperature(temperature, self.schedule))
            return temperature, self.weight
        return self.log_temperature.exp(), self.weight

    def predict(self, latents: Tensor, args: Sequence[Any]) -> Tensor:
        """What the network makes of relaxed latents, (K, B)."""
        assert self.net is not None
        return self.net(latents, *args).reshape(latents.shape[:-1])


@final
class _Surrogate(LocalModule):
    """A network that announces its parameters to SVI when it is called."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents: Tensor, *args: Any) -> Tensor:
        """What the network says."""
        return self.net(latents, *args)


class Noise(NamedTuple):
    """A discrete draw and the continuous variable that it is a function of.

    Arguments:
        logits: the guide's log-odds, or log-probabilities of one-hot classes; of the value's shape.
        z: the continuous variable, of the value's shape, a function of the logits.
        is_one_hot: whether the last dimension is one draw.
    """

    logits: Tensor
    z: Tensor
    is_one_hot: bool

    @property
    def hard(self) -> Tensor:
        """The discrete draw, without gradient."""
        if self.is_one_hot:
            return one_hot(self.z.detach().argmax(-1), self.z.shape[-1]).to(self.z)
        return (self.z.detach() > 0).to(self.z)

    @property
    def antithetic(self) -> Tensor:
        """The draw that the mirrored noise, 1 - u, would have given; of Bernoullis only."""
        return (2 * self.logits.detach() - self.z.detach() > 0).to(self.z)

    def soft(self, temperature: Tensor, z: Tensor | None = None) -> Tensor:
        """The relaxed draw."""
        scaled = (self.z if z is None else z) / temperature
        return scaled.softmax(-1) if self.is_one_hot else scaled.sigmoid()

    def under(self, distribution: Distribution) -> "Noise":
        """The same noise under other logits."""
        logits = unwrapped(distribution).logits.expand(self.z.shape)
        logits = logits.log_softmax(-1) if self.is_one_hot else logits
        return Noise(logits, logits + (self.z - self.logits).detach(), self.is_one_hot)

    def given_the_draw(self) -> Tensor:
        """The continuous variable redrawn given the discrete draw: the same value, another function of the logits.

        The noise of the redraw is chosen so that the value stays what it was, which is what makes the two cancel best.
        """
        z, logits = self.z.detach(), self.logits
        if self.is_one_hot:
            top = z.amax(-1, keepdim=True)
            gap = ((-z).exp() - (-top).exp()).clamp(min=0) * logits.detach().exp()  # exponential of rate one, scaled
            below = -(gap * (-logits).exp() + (-top).exp()).log()
            return torch.where(z == top, z, below)
        drawn = z > 0
        # the survival function of the noise between the threshold and z, as a share v of what is left on that side
        sign = torch.where(drawn, 1.0, -1.0).to(z)
        tail = logsigmoid(-sign * (z - logits.detach()))  # log P(beyond z)
        log_v = tail - logsigmoid(sign * logits.detach())  # given the draw
        log_beyond = log_v + logsigmoid(sign * logits)
        log_beyond = log_beyond.clamp(max=-1e-7)
        return logits + sign * (torch.log(-torch.expm1(log_beyond)) - log_beyond)


def draw_noise(distribution: Distribution, shape: torch.Size) -> Noise:
    """Draws the noise of a relaxable distribution, for a value of a shape."""
    inner = unwrapped(distribution)
    logits = inner.logits.expand(shape)
    tiny = torch.finfo(logits.dtype).eps
    u = torch.rand_like(logits).clamp(tiny, 1 - tiny)
    if isinstance(inner, dist.OneHotCategorical):
        logits = logits.log_softmax(-1)
        return Noise(logits, logits - (-u.log()).log(), True)
    return Noise(logits, logits + u.log() - (-u).log1p(), False)


def is_relaxable(distribution: Distribution) -> bool:
    """Whether draws are functions of noise that this module knows: of Bernoullis and one-hot classes."""
    return isinstance(unwrapped(distribution), dist.Bernoulli | dist.OneHotCategorical)


def soften(distribution: Distribution, is_detached: bool = False) -> Distribution:
    """The same distribution, whose log-probability is defined between its discrete values too, and linear there.

    Arguments:
        distribution: any; one whose log-probability needs no change is returned as it is.
        is_detached: cut its parameters off the graph.
    """
    if isinstance(distribution, dist.Independent):
        base = soften(distribution.base_dist, is_detached)
        return dist.Independent(base, distribution.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(distribution, dist.MaskedDistribution):
        return dist.MaskedDistribution(soften(distribution.base_dist, is_detached), distribution._mask)
    if isinstance(distribution, dist.Bernoulli):  # unvalidated, since relaxed values are not in the support
        return dist.Bernoulli(logits=_cut(distribution.logits, is_detached), validate_args=False)
    if isinstance(distribution, dist.OneHotCategorical):
        return _SoftOneHot(logits=_cut(distribution.logits, is_detached), validate_args=False)
    if isinstance(distribution, AutoregressiveBernoulliDistribution):  # a model's; smooth as it is
        return AutoregressiveBernoulliDistribution(distribution.bias, distribution.weight, validate_args=False)
    return distribution


def _check_temperature(value: Any, schedule: Schedule | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        source = "" if schedule is None else f" from {schedule!r}"
        raise ValueError(
            f"a temperature must be a positive number; got {value!r}{source}. 0.5 is a good start, and 0.1 a low end."
        )
    return value


def _cut(logits: Tensor, is_detached: bool) -> Tensor:
    return logits.detach() if is_detached else logits


class _SoftOneHot(dist.OneHotCategorical):
    """A one-hot distribution whose log-probability is linear in the value; torch's takes the value's argmax."""

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "_SoftOneHot":
        """The same for a larger batch."""
        return _SoftOneHot(logits=self.logits.expand(*batch_shape, -1), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability, without the event dimension."""
        return (value * self.logits).sum(-1)
