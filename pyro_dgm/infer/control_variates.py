r"""Score-function gradients of discrete latents with control variates made of further runs of the programs.

Each latent in its turn is given another value, while the latents drawn before it keep theirs and those after it
follow: ``disarm`` gives it the draw of the mirrored noise, ``rebar`` and ``relax`` its relaxation.
"""

__all__ = ["Programs", "Softened", "disarm", "rebar"]

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_dgm.infer.gradients import Bound
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import (
    Program,
    Traces,
    local_score,
    per_datum,
    redraw,
    run_against,
    sample_sites,
)
from pyro_dgm.infer.relaxations import Noise, Relaxation, soften

Programs = tuple[Program, Program, Sequence[Any], Mapping[str, Any]]


@final
class Softened(Messenger):
    """Lets the log-probability of discrete sites be taken at relaxed values."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self._names:
            msg["fn"] = soften(msg["fn"])


def disarm(
    programs: Programs,
    runs: Sequence[Traces],
    noises: Sequence[Mapping[str, Noise]],
    name: str,
    bound: Bound,
    log_weights: Tensor,
) -> Tensor:
    r"""The antithetic gradient of a Bernoulli latent's logits, made a scalar to differentiate, summed over the batch.

    With b the draw and b' that of the mirrored noise, :math:`\frac{1}{2} (f(b) - f(b')) (b - b') \sigma(|\alpha|)`:
    unbiased, and zero for the units whose draws agree. Of several particles each is mirrored on its own, the others
    staying what they are.

    References:
        Dong, Mnih and Tucker (2020), DisARM: An Antithetic Gradient Estimator for Binary Latent Variables,
        equation 6 and section 3.2, arXiv:2006.10680.
    """
    others = []
    with torch.no_grad():
        for traces, own in zip(runs, noises, strict=True):
            others.append(weigh(_mirrored(programs, traces, name, own[name].antithetic)).local)
    mirrored = torch.cat(others)  # (K, B)
    particle = torch.eye(len(log_weights), dtype=torch.bool, device=log_weights.device).unsqueeze(-1)
    swapped = torch.where(particle, mirrored, log_weights)  # (K, K, B): in row k, particle k is mirrored
    signal = 0.5 * (bound(log_weights) - torch.stack([bound(row) for row in swapped]))  # (K, B)
    pulls = []
    for traces, own in zip(runs, noises, strict=True):
        noise, site = own[name], traces.guide.nodes[name]
        pull = (noise.hard - noise.antithetic) * noise.logits.detach().abs().sigmoid() * noise.logits
        pulls.append(local_score(site, _over_event(pull, site["fn"].event_dim), traces))
    return (signal * torch.cat(pulls)).sum()


def rebar(
    programs: Programs,
    runs: Sequence[Traces],
    noises: Sequence[Mapping[str, Noise]],
    names: Collection[str],
    bound: Bound,
    log_weights: Tensor,
    first: Tensor,
    relaxation: Relaxation,
    with_net: bool,
) -> Tensor:
    r"""The gradient with a relaxed control variate, made a scalar to differentiate, summed over the batch.

    For one latent, with z its continuous variable and :math:`\tilde z` the same redrawn given the draw b,

    .. math:: (f(b) - c(\tilde z)) \nabla \log q(b) + \nabla c(z) - \nabla c(\tilde z),

    where c is the bound at relaxed values times a learned weight, plus a network for ``relax``. The redraw's noise is
    chosen so that it gives the same value as the draw's: then one run of the programs serves both, and whatever else c
    depends on cancels. Latents drawn later follow, relaxed, from the relaxed value and their own noise. The scalar's
    gradient for the parameters of the relaxation is that of the squared length of the gradient for the logits, which
    makes them lower its variance.

    References:
        Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR, equation 4 and section 3.2, arXiv:1703.07370;
        Grathwohl, Choi, Wu, Roeder and Duvenaud (2018), equations 8 and 9, arXiv:1711.00123.
    """
    temperature, weight = relaxation()
    bound_now = bound(log_weights)  # (B,)
    total = log_weights.new_zeros(())
    for name in [name for name in sample_sites(runs[0].guide) if name in names]:
        leaves = [own[name].z.detach().requires_grad_() for own in noises]
        soft = [
            _relaxed(programs, traces, own, name, leaf, temperature, names)
            for traces, own, leaf in zip(runs, noises, leaves, strict=True)
        ]
        c = weight * bound(torch.cat([weigh(traces).local for traces in soft]))  # (B,)
        if with_net:
            c = c + torch.cat([_predict(relaxation, traces, names, programs[2]) for traces in soft]).sum(0)
        tuned = [parameter for parameter in relaxation.parameters() if parameter.requires_grad]
        slopes = torch.autograd.grad(c.sum(), leaves, create_graph=bool(tuned), retain_graph=True)
        log_q = [_log_q(traces, own[name], name) for traces, own in zip(runs, noises, strict=True)]
        paths = [(slope, own[name].z - own[name].given_the_draw()) for slope, own in zip(slopes, noises, strict=True)]
        score = torch.cat(log_q).sum(0)  # (B,)
        total = total + ((bound_now - c.detach()) * score).sum()
        total = total + sum((slope.detach() * path).sum() for slope, path in paths)
        if tuned:
            whole = ((bound_now - c) * score).sum() - (first * torch.cat(log_q)).sum()
            whole = whole + sum((slope * path).sum() for slope, path in paths)
            total = total - _variance(whole, [own[name].logits for own in noises], tuned)
    return total


def _variance(value: Tensor, logits: Sequence[Tensor], tuned: Sequence[Tensor]) -> Tensor:
    """A scalar of value zero whose gradient, for the tuned parameters alone, is that of the squared gradient."""
    gradients = torch.autograd.grad(value, logits, create_graph=True)
    length = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    found = torch.autograd.grad(length, tuned, allow_unused=True, retain_graph=True)
    pairs = [(p, gradient) for p, gradient in zip(tuned, found, strict=True) if gradient is not None]
    return value.new_zeros(()) + sum(((p - p.detach()) * gradient).sum() for p, gradient in pairs)


def _log_q(traces: Traces, noise: Noise, name: str) -> Tensor:
    """The log-probability of the draw as a function of the noise's logits, (K, B)."""
    site = traces.guide.nodes[name]
    if noise.is_one_hot:
        log_q = (noise.hard * noise.logits).sum(-1)
        return local_score(site, _over_event(log_q, site["fn"].event_dim - 1), traces)
    log_q = logsigmoid(torch.where(noise.hard > 0, noise.logits, -noise.logits))
    return local_score(site, _over_event(log_q, site["fn"].event_dim), traces)


def _relaxed(
    programs: Programs,
    traces: Traces,
    noises: Mapping[str, Noise],
    name: str,
    z: Tensor,
    temperature: Tensor,
    names: Collection[str],
) -> Traces:
    """The programs run with one latent relaxed, and after it all others that can be."""
    value = noises[name].soft(temperature, z)
    fixed, is_last = _earlier(traces, name)
    if is_last:
        fn = soften(traces.guide.nodes[name]["fn"], is_detached=True)
        return _against(programs, traces, _changed(traces.guide, name, value, fn), names)
    handler = _Follow(fixed, {name: value}, noises, temperature)
    return _against(programs, traces, redraw(programs[1], programs[2], programs[3], traces, handler), names)


def _mirrored(programs: Programs, traces: Traces, name: str, value: Tensor) -> Traces:
    """The programs run with another value of one latent, and new draws of those after it."""
    fixed, is_last = _earlier(traces, name)
    if is_last:
        guide_trace = _changed(traces.guide, name, value, traces.guide.nodes[name]["fn"])
    else:
        handler = _Follow({**fixed, name: value}, {}, {}, None)
        guide_trace = redraw(programs[1], programs[2], programs[3], traces, handler)
    return _against(programs, traces, guide_trace, ())


@final
class _Follow(Messenger):
    """Gives latents values, some of them relaxed, and lets those that have noise follow relaxed."""

    def __init__(
        self,
        fixed: Mapping[str, Tensor],
        soft: Mapping[str, Tensor],
        noises: Mapping[str, Noise],
        temperature: Tensor | None,
    ) -> None:
        super().__init__()
        self._fixed, self._soft, self._noises, self._temperature = fixed, soft, noises, temperature

    def _pyro_sample(self, msg: Message) -> None:
        name = str(msg["name"])
        if name in self._fixed:
            msg["value"] = self._fixed[name]
        elif name in self._soft:
            msg["fn"], msg["value"] = soften(msg["fn"]), self._soft[name]
        elif name in self._noises and self._temperature is not None:
            msg["fn"] = soften(msg["fn"])
            msg["value"] = self._noises[name].under(msg["fn"]).soft(self._temperature)


def _earlier(traces: Traces, name: str) -> tuple[dict[str, Tensor], bool]:
    """The values of what was drawn before a latent, and whether it is the last."""
    sites = sample_sites(traces.guide)
    order = list(sites)
    place = order.index(name)
    return {other: sites[other]["value"] for other in order[:place]}, place == len(order) - 1


def _changed(trace: Trace, name: str, value: Tensor, fn: Any) -> Trace:
    """A trace with another value and distribution at one site."""
    changed = trace.copy()
    fresh = {key: kept for key, kept in trace.nodes[name].items() if "log_prob" not in key}
    changed.nodes[name] = {**fresh, "fn": fn, "value": value}
    return changed


def _against(programs: Programs, traces: Traces, guide_trace: Trace, names: Collection[str]) -> Traces:
    handler = Softened(names) if names else nullcontext()
    return run_against(programs[0], guide_trace, programs[2], programs[3], traces, handler)


def _predict(relaxation: Relaxation, traces: Traces, names: Collection[str], args: Sequence[Any]) -> Tensor:
    """The network's part of the control variate, (K, B)."""
    latents = [per_datum(site, traces) for name, site in sample_sites(traces.guide).items() if name in names]
    return relaxation.predict(torch.cat(latents, dim=-1), args)


def _over_event(value: Tensor, dims: int) -> Tensor:
    return value.sum(list(range(-dims, 0))) if dims else value
