"""Which gradient estimator each latent gets, and what it does to a step."""

__all__ = ["ESTIMATORS", "Estimation", "check_estimator", "choose"]

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from pyro_dgm.infer.baselines import Baseline
from pyro_dgm.infer.gradients import Bound, coefficients, double_coefficients, leave_one_out
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import (
    Program,
    Site,
    Traces,
    is_deterministic,
    is_local,
    kind_of,
    local_log_prob,
    module_of,
    rescore,
    sample_sites,
)

PATH = ("reparam", "stl", "dreg")
SCORE = ("score", "loo", "nvil")
ESTIMATORS = ("auto", *PATH, *SCORE)


def check_estimator(name: str, place: str) -> str:
    """Returns the name of an estimator if it is known."""
    if name not in ESTIMATORS:
        raise ValueError(f"the gradient of {place} must be one of {ESTIMATORS}; got {name!r}. 'auto' chooses for you.")
    return name


def choose(name: str, site: Site, default: str, num_particles: int) -> str:
    """The estimator of one guide site: its own, by ``infer={"pyro_dgm": {"gradient": ...}}``, or the default.

    Raises:
        ValueError: the name is unknown, or the estimator does not go with the site or the number of particles.
    """
    chosen = site["infer"].get("pyro_dgm", {}).get("gradient", default)
    has_path = site["fn"].has_rsample
    if chosen == "auto":
        chosen = "reparam" if has_path else "loo" if num_particles > 1 else "nvil"
    check_estimator(chosen, f"latent {name!r}")
    if chosen in PATH and not has_path:
        raise ValueError(
            f"gradient={chosen!r} needs reparameterised samples; got latent {name!r}, a {kind_of(site)}, which has "
            "none. Use gradient='auto', or 'loo' with several particles and 'nvil' with one."
        )
    if chosen == "loo" and num_particles < 2:
        raise ValueError(
            f"num_particles must be at least 2 for gradient='loo', whose baseline leaves one out; got {num_particles} "
            f"for latent {name!r}. Use gradient='nvil' for a single particle."
        )
    return chosen


@final
class Estimation(Messenger):
    """The estimators of one step.

    As an effect handler around the guide it cuts the path of every latent that is to be scored instead. Before the
    model runs it puts a gate on every doubly reparameterised latent, which scales the path's gradient once the weights
    are known. Afterwards ``correction`` adds what the bound's own gradient lacks, and takes away what it has too much.

    Arguments:
        guide: the guide as the user wrote it.
        args: its positional arguments.
        kwargs: its keyword arguments.
        default: estimator of the latents that name none.
        num_particles: K.
        baseline: the baseline of ``nvil``.
    """

    def __init__(
        self,
        guide: Program,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        default: str,
        num_particles: int,
        baseline: Baseline,
    ) -> None:
        super().__init__()
        self._guide, self._args, self._kwargs = guide, args, kwargs
        self._default, self._num_particles, self._baseline = default, num_particles, baseline
        self._chosen: dict[str, str] = {}
        self._gates: list[dict[str, Tensor]] = []  # for each run, what scales the path's gradient of each gated latent

    @property
    def scored(self) -> set[str]:
        """Names of the latents whose gradient comes through their density."""
        return {name for name, estimator in self._chosen.items() if estimator in SCORE}

    def prepare(self, trace: Trace) -> None:
        """Puts the gates on the doubly reparameterised latents of a guide's trace."""
        self._check_double()
        gates: dict[str, Tensor] = {}
        self._gates.append(gates)
        for name, site in _latents(trace).items():
            if self._chosen[name] == "dreg" and site["value"].requires_grad:
                trace.nodes[name]["value"] = _gated(site["value"], gates, name)

    def rescore(self, runs: Sequence[Traces]) -> None:
        """Gives gated latents the density at their gated values, which a guide of several latents must be run for."""
        for traces, gates in zip(runs, self._gates, strict=True):
            latents = _latents(traces.guide)
            if gates and len(latents) > 1:
                again = self._run_again(traces, {name: site["value"] for name, site in latents.items()})
                for name in latents:
                    traces.guide.nodes[name]["fn"] = again.nodes[name]["fn"]

    def correction(self, runs: Sequence[Traces], bound: Bound) -> Tensor:
        """A scalar of value zero whose gradient turns that of the bound, summed over N data, into the estimators'."""
        if all(estimator == "reparam" for estimator in self._chosen.values()):
            return torch.zeros(())
        self._check_local(runs[0])
        log_weights = torch.cat([weigh(traces).local for traces in runs]).detach()  # (K, B)
        first = coefficients(bound, log_weights)
        self._open_gates(runs, bound, log_weights, first)
        total = self._scores(runs, bound, log_weights) + self._cancelled(runs, first)
        return runs[0].scale * (total - total.detach())

    def _pyro_post_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) or msg["is_observed"] or is_deterministic(msg):
            return
        name = str(msg["name"])
        self._chosen[name] = choose(name, msg, self._default, self._num_particles)
        if self._chosen[name] in SCORE:
            msg["value"] = msg["value"].detach()

    def _scores(self, runs: Sequence[Traces], bound: Bound, log_weights: Tensor) -> Tensor:
        """Each scored latent's log q times its learning signal."""
        signals = {"loo": leave_one_out} if "loo" in self._chosen.values() else {}
        total = log_weights.new_zeros(())
        computed = {name: signal(bound, log_weights) for name, signal in signals.items()}
        if "score" in self._chosen.values():
            computed["score"] = bound(log_weights).expand_as(log_weights)
        if "nvil" in self._chosen.values():
            centred, error = self._baseline(bound(log_weights), self._args)
            computed["nvil"] = centred.expand_as(log_weights)
            total = total - error
        for name in self.scored:
            log_q = torch.cat([_local_log_q(traces.guide, name, traces) for traces in runs])
            total = total + (computed[self._chosen[name]] * log_q).sum()
        return total

    def _cancelled(self, runs: Sequence[Traces], first: Tensor) -> Tensor:
        """The score of the latents that are to have none, to be added back: the bound has it with the opposite sign."""
        names = [name for name, estimator in self._chosen.items() if estimator in ("stl", "dreg")]
        total = first.new_zeros(())
        if not names:
            return total
        traces_at_draws = [(self._at_fixed_draws(traces), traces) for traces in runs]
        for name in names:
            log_q = torch.cat([_local_log_q(fixed, name, traces) for fixed, traces in traces_at_draws])
            total = total + (first * log_q).sum()
        return total

    def _at_fixed_draws(self, traces: Traces) -> Trace:
        """The guide's density at its draws as mere numbers, so that its gradient is the score alone."""
        latents = _latents(traces.guide)
        values = {name: site["value"].detach() for name, site in latents.items()}
        if len(latents) > 1:
            return self._run_again(traces, values)
        fixed = Trace()
        for name, site in latents.items():  # a single latent's parameters depend on no draw: no second run is needed
            fresh = {key: value for key, value in site.items() if "log_prob" not in key}
            fixed.add_node(name, **{**fresh, "value": values[name]})
        return fixed

    def _run_again(self, traces: Traces, values: Mapping[str, Tensor]) -> Trace:
        """Scores the guide at given draws; dropout would make it another guide than the one that drew them."""
        module = module_of(self._guide)
        parts = [] if module is None else module.modules()
        if any(isinstance(part, _DropoutNd) and part.training and part.p > 0 for part in parts):
            raise ValueError(
                "gradient='stl' and 'dreg' score a guide of several latents a second time, so it must not be random "
                "given its draws; got dropout in training mode. Take the dropout out of the guide, or use "
                "gradient='reparam'."
            )
        return rescore(self._guide, self._args, self._kwargs, traces, values)

    def _open_gates(self, runs: Sequence[Traces], bound: Bound, log_weights: Tensor, first: Tensor) -> None:
        if not any(self._gates):
            return
        factor = torch.where(first == 0, 0.0, double_coefficients(bound, log_weights) / first)
        start = 0
        for traces, gates in zip(runs, self._gates, strict=True):
            rows = factor[start : start + traces.num_particles]
            start += traces.num_particles
            for name in gates:
                gates[name] = _spread(rows, traces.guide.nodes[name], traces)

    def _check_double(self) -> None:
        chosen = set(self._chosen.values())
        if "dreg" in chosen and chosen != {"dreg"}:
            raise ValueError(
                "gradient='dreg' must be every latent's, since it moves the score of all of them onto the path; got "
                f"{self._chosen}. Use it for all, or 'stl' or 'reparam' for these."
            )

    def _check_local(self, traces: Traces) -> None:
        sites = _latents(traces.guide)
        outer = {
            name: self._chosen[name]
            for name, site in sites.items()
            if self._chosen[name] != "reparam" and not is_local(site, traces)
        }
        if outer:
            raise ValueError(
                "estimators other than 'reparam' work on latents of the data plate, whose cost is their datum's; got "
                f"{outer} outside of it. Give these a reparameterised distribution, or observe them."
            )


def _latents(trace: Trace) -> dict[str, Site]:
    """The sites that a guide draws."""
    return {
        name: site
        for name, site in sample_sites(trace).items()
        if not (site["is_observed"] or is_deterministic(site) or site_is_subsample(site))
    }


def _local_log_q(trace: Trace, name: str, traces: Traces) -> Tensor:
    trace.compute_log_prob(lambda other, _: other == name)
    return local_log_prob(trace.nodes[name], trace.nodes[name]["unscaled_log_prob"], traces)


def _gated(value: Tensor, gates: dict[str, Tensor], name: str) -> Tensor:
    """The value itself, whose gradient is multiplied on its way back by what the gate then holds."""
    gates[name] = value.new_ones(())
    gated = value.clone()
    gated.register_hook(lambda gradient: gradient * gates[name])
    return gated


def _spread(factor: Tensor, site: Site, traces: Traces) -> Tensor:
    """One factor per particle and datum, (K, B), in the dimensions of a site's value."""
    dims = {} if traces.data_frame is None else {traces.data_frame.dim - site["fn"].event_dim: 1}
    if traces.particle_dim is not None:
        dims[traces.particle_dim - site["fn"].event_dim] = 0
    width = max([site["value"].dim(), *(-dim for dim in dims)])
    shape = [1] * width
    for dim, axis in dims.items():
        shape[dim] = factor.shape[axis]
    return factor.reshape(shape)
