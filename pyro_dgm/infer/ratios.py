"""A learned log-ratio in the place of a density that is not known."""

__all__ = ["LogRatio", "RatioLikelihood"]

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dgm.infer.programs import Program

Ratio = Callable[..., Tensor]


@final
class RatioLikelihood:
    r"""A model whose implicit observation is scored by a learned log-ratio, for anything that needs a density.

    Calling it runs the model; where the observed site is reached, a ``pyro.factor``-like score takes the place of the
    density that the simulator does not have: :math:`\log r(x, z) = \log p(x | z) - \log p(x)` where the ratio is that
    of pairs to shuffled pairs (the posterior does not change by log p(x)), or whatever the ratio was learned for. The
    model runs under ``pyro.infer.SVI``, importance sampling and NUTS; its numbers are as good as the ratio, and an ELBO
    with it is a ratio estimate, not a bound.

    References:
        Cranmer, Pavez and Louppe (2015), Approximating Likelihood Ratios with Calibrated Discriminative Classifiers,
        arXiv:1506.02169; Hermans, Begy and Louppe (2020), Likelihood-free MCMC with Amortized Approximate Ratio
        Estimators, arXiv:1903.04057.

    Arguments:
        model: a Pyro program that observes an implicit site.
        log_ratio: from values of the sites, (n, *event) each, to log-ratios in nats, (n,).
        sites: names of the ratio's inputs, in its order: the observed site, and latents sampled before it.
        observed: which of them is the implicit observation; the first when None.

    Raises:
        ValueError: the observation is none of the sites; at the call, when it is not met, not observed, or a site is
            not sampled before it.
    """

    def __init__(self, model: Program, log_ratio: Ratio, sites: Sequence[str], observed: str | None = None) -> None:
        self.model, self.log_ratio, self.sites = model, log_ratio, tuple(sites)
        self.observed = self.sites[0] if observed is None and self.sites else observed
        if self.observed not in self.sites:
            raise ValueError(
                f"the observation must be one of the ratio's sites; got {observed!r}, which is not in {list(sites)}. "
                "Name it in both."
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model."""
        handler = _Scored(self)
        with handler:
            result = self.model(*args, **kwargs)
        if not handler.is_met:
            raise ValueError(
                f"the model must observe the site that is scored by a ratio; got no observed site {self.observed!r}. "
                "Sample it with obs=."
            )
        return result


@final
class LogRatio(TorchDistribution):
    """An improper density of the data: the exponential of a log-ratio; it scores and cannot be sampled.

    Arguments:
        batch_shape: of the site.
        event_shape: of the site.
        score: from a value to log-ratios, (*batch).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(
        self, batch_shape: Sequence[int], event_shape: Sequence[int], score: Callable[[Tensor], Tensor]
    ) -> None:
        self.score = score
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogRatio":
        """The same score, its values broadcast."""
        return LogRatio(batch_shape, self.event_shape, self.score)

    def sample(self, sample_shape: Any = None) -> Tensor:
        """Refuses."""
        raise NotImplementedError(
            "a log-ratio scores data; got a request to sample them. Run the simulator, the model itself, instead."
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-ratio, in nats, (*batch)."""
        return self.score(value).expand(self.batch_shape)


@final
class _Scored(Messenger):
    """Collects the sites on the way, and scores the observation."""

    def __init__(self, owner: RatioLikelihood) -> None:
        super().__init__()
        self._owner = owner
        self._met: dict[str, tuple[Tensor, int]] = {}
        self.is_met = False

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] != self._owner.observed or not msg["is_observed"] or msg["name"] in self._met:
            return
        missing = [name for name in self._owner.sites if name not in self._met and name != msg["name"]]
        if missing:
            raise ValueError(
                f"the ratio's sites must be sampled before {msg['name']!r}; got a model without {missing}. Name them "
                "as in the model."
            )
        event_dim = msg["fn"].event_dim

        def score(value: Tensor) -> Tensor:
            values = {**self._met, msg["name"]: (value, event_dim)}
            return _rowwise(self._owner.log_ratio, [values[name] for name in self._owner.sites])

        scored: TorchDistribution = LogRatio(msg["fn"].batch_shape, msg["fn"].event_shape, score)
        if isinstance(msg["fn"], MaskedDistribution):
            scored = scored.mask(msg["fn"]._mask)
        msg["fn"] = scored
        self.is_met = True

    def _pyro_post_sample(self, msg: Message) -> None:
        if not site_is_subsample(msg) and msg["name"] in self._owner.sites:
            self._met[msg["name"]] = (torch.as_tensor(msg["value"]), msg["fn"].event_dim)


def _rowwise(log_ratio: Ratio, values: Sequence[tuple[Tensor, int]]) -> Tensor:
    """A function of rows at values of any batch shape, which broadcast."""
    batches = [value.shape[: value.dim() - event_dim] for value, event_dim in values]
    batch = torch.broadcast_shapes(*batches)
    rows = [
        value.expand(*batch, *value.shape[value.dim() - event_dim :]).reshape(
            -1, *value.shape[value.dim() - event_dim :]
        )
        for value, event_dim in values
    ]
    return log_ratio(*rows).reshape(batch)
