"""A value with a distribution but no density: what a simulator or a generator returns."""

__all__ = ["Implicit"]

from typing import Any, ClassVar, final

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

NONE = torch.Size()


@final
class Implicit(TorchDistribution):
    r"""What came out of a simulator: it can be sampled, for it is the sample, and has no density.

    ``pyro.sample("x", Implicit(generator(z), event_dim=1), obs=x)`` declares an implicit model; run under
    ``poutine.uncondition`` it is the simulator. Every draw is the value itself, so noise is drawn where the value is
    computed, and the gradient goes through it. What needs a density refuses such a site; an adversarial ``Contrast``
    learns what takes its place.

    References:
        Diggle and Gratton (1984), Monte Carlo Methods of Inference for Implicit Statistical Models, JRSS B 46;
        Mohamed and Lakshminarayanan (2016), Learning in Implicit Generative Models, arXiv:1610.03483.

    Arguments:
        value: the draw, (*batch, *event).
        event_dim: how many of its dimensions, from the right, are one draw's.
        scorer: a distribution of the same shape whose density stands in where one is asked for, such as a Laplace
            distribution about the value for cycle consistency. It is not the density of the draws.

    Raises:
        TypeError: the value is no tensor, the event dimension no whole number, or the scorer no distribution.
        ValueError: the event has more dimensions than the value, or the scorer another shape.
        NotImplementedError: ``log_prob`` is asked for, and there is no scorer.

    Example:
        >>> Implicit(torch.zeros(3, 2), event_dim=1).sample().shape
        torch.Size([3, 2])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, value: Tensor, event_dim: int, scorer: Distribution | None = None) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"the value must be a tensor; got {type(value).__name__}. Convert it with torch.as_tensor.")
        if isinstance(event_dim, bool) or not isinstance(event_dim, int):
            raise TypeError(f"event_dim must be a whole number; got {event_dim!r}. Vectors have 1, images 3.")
        if not 0 <= event_dim <= value.dim():
            raise ValueError(
                f"event_dim must lie between 0 and the value's {value.dim()} dimensions; got {event_dim}. It counts "
                "those of one draw."
            )
        if not isinstance(scorer, Distribution | None):
            raise TypeError(
                f"the scorer must be a distribution; got {type(scorer).__name__}. For instance "
                "dist.Laplace(value, 1.0).to_event(1)."
            )
        split = value.dim() - event_dim
        batch_shape, event_shape = value.shape[:split], value.shape[split:]
        if scorer is not None and scorer.event_shape != event_shape:
            raise ValueError(
                f"the scorer must have the event shape {tuple(event_shape)} of the value; got "
                f"{tuple(scorer.event_shape)}. Declare its event with to_event({event_dim})."
            )
        self.value = value
        self.scorer = None if scorer is None else scorer.expand(batch_shape)
        super().__init__(batch_shape, event_shape, validate_args=False)  # there are no arguments to validate

    @property
    def support(self) -> constraints.Constraint:
        """Whatever the values are."""
        is_discrete = not torch.is_floating_point(self.value)
        base = constraints.integer if is_discrete else constraints.real
        return constraints.independent(base, self.event_dim)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Implicit":
        """The same value in each place of a larger batch."""
        shape = torch.Size(batch_shape) + self.event_shape
        return Implicit(self.value.expand(shape), self.event_dim, self.scorer)

    def rsample(self, sample_shape: Any = NONE) -> Tensor:
        """The value, once for each place of the sample shape."""
        return self.value.expand(torch.Size(sample_shape) + self.value.shape)

    def sample(self, sample_shape: Any = NONE) -> Tensor:
        """As ``rsample``, without the gradient."""
        return self.rsample(sample_shape).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """The scorer's log-density at a value, (*batch); there is none of its own."""
        if self.scorer is None:
            raise NotImplementedError(
                "a density is asked for, and an Implicit distribution has none; got no scorer. Compare its draws by "
                "an adversarial Contrast or an MMD, or pass Implicit(..., scorer=) a distribution to score by."
            )
        return self.scorer.log_prob(value)
