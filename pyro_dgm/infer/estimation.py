"""What the gradient estimators do to a step: to the guide's draws, to the model's run, and to the bound's gradient."""

__all__ = ["Estimation", "Sampler"]

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, final

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from pyro_dgm.infer.baselines import Baseline
from pyro_dgm.infer.control_variates import Softened, disarm, rebar
from pyro_dgm.infer.costs import downstream_cost, with_particles
from pyro_dgm.infer.enumeration import listed_value
from pyro_dgm.infer.estimators import BIASED, CONTROL, DISCRETE, SCORE, check_mixture, choose
from pyro_dgm.infer.gradients import Bound, coefficients, double_coefficients, leave_one_out
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import (
    Program,
    Site,
    Traces,
    compute_log_probs,
    global_log_prob,
    is_deterministic,
    is_local,
    local_log_prob,
    local_score,
    masked_and_scaled,
    module_of,
    reduced_to_data,
    rescore,
    sample_sites,
)
from pyro_dgm.infer.relaxations import Noise, Relaxation, draw_noise, soften


class Sampler(Protocol):
    """How latents are drawn, and by which estimators: what an objective says of its draws."""

    num_particles: int
    vectorize_particles: bool
    max_plate_nesting: int | None
    gradient: str
    baseline: Baseline
    relaxation: Relaxation | None
    supports: dict[str, Tensor] | None
    latent_weight: float
    needs_densities: bool
    is_explicit: bool
    is_repeatable: bool


@final
class Estimation(Messenger):
    """The estimators of one step.

    As an effect handler around the guide it cuts the path of every latent that is to be scored instead, draws relaxed
    latents and lists enumerated ones. Before the model runs it puts a gate on every doubly reparameterised latent,
    which scales the path's gradient once the weights are known; and, if the model is to be cut off, it gives the model
    copies of the latents, so that the model's part of their gradient can be had on its own. Afterwards ``correction``
    adds what the bound's own gradient lacks, and takes away what it has too much.

    Arguments:
        model: the model as the user wrote it.
        guide: the guide as the user wrote it.
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        sampler: number of particles, default estimator, baseline and relaxation.
        is_cut: give the model copies of the latents.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        sampler: Sampler,
        is_cut: bool = False,
    ) -> None:
        super().__init__()
        self._model, self._guide, self._args, self._kwargs = model, guide, tuple(args), kwargs
        self._sampler, self._is_cut = sampler, is_cut
        self._chosen: dict[str, str] = {}
        self._noise: dict[str, Noise] = {}
        self._gates: list[dict[str, Tensor]] = []  # for each run, what scales the path's gradient of each gated latent
        self._noises: list[dict[str, Noise]] = []  # for each run, the noise of each relaxable latent
        self._copies: list[dict[str, Tensor]] = []  # for each run, what the model got in the place of each latent
        self._particle_dim: int | None = None

    @property
    def chosen(self) -> Mapping[str, str]:
        """The estimator of each latent, by name."""
        return self._chosen

    @property
    def latent_weight(self) -> float:
        """The weight of the latents' densities in this objective."""
        return self._sampler.latent_weight

    @property
    def scored(self) -> set[str]:
        """Names of the latents whose gradient comes through their density."""
        return self._named(*SCORE, *CONTROL, "enumerate")

    @property
    def num_listed(self) -> int:
        """How many joint values the enumerated latents have; 1 if none is enumerated."""
        count = 1
        for values in (self._sampler.supports or {}).values():
            count *= len(values)
        return count

    def at_particles(self, dim: int | None) -> "Estimation":
        """Tells which dimension the particles will have."""
        self._particle_dim = dim
        return self

    def prepare(self, trace: Trace) -> tuple[Trace, AbstractContextManager[Any]]:
        """Puts the gates on the doubly reparameterised latents, and returns what the model is run against."""
        check_mixture(self._chosen, self._sampler.gradient)
        gates: dict[str, Tensor] = {}
        self._gates.append(gates)
        self._noises.append(self._noise)
        self._noise = {}
        for name, site in _latents(trace).items():
            if self._chosen[name] == "dreg" and site["value"].requires_grad:
                trace.nodes[name]["value"] = _gated(site["value"], gates, name)
        relaxed = self._named(*BIASED)
        handler = Softened(relaxed) if relaxed else nullcontext()
        return (self._copied(trace) if self._is_cut else trace), handler

    def rescore(self, runs: Sequence[Traces]) -> None:
        """Gives gated latents the density at their gated values, which a guide of several latents must be run for."""
        for traces, gates in zip(runs, self._gates, strict=True):
            latents = _latents(traces.guide)
            if gates and len(latents) > 1:
                again = self._run_again(traces, {name: site["value"] for name, site in latents.items()})
                for name in latents:
                    traces.guide.nodes[name]["fn"] = again.nodes[name]["fn"]

    def correction(self, runs: Sequence[Traces], bound: Bound, is_linear: bool, is_smooth: bool = True) -> Tensor:
        """A scalar of value zero whose gradient turns that of the bound, summed over N data, into the estimators'.

        Arguments:
            runs: the runs that this handled.
            bound: maps log-weights (K, B) to (B,).
            is_linear: whether the bound is the mean of the log-weights, which sums over sites: then a latent's score
                is multiplied by what it can have caused, and latents of no datum may be scored.
            is_smooth: whether the bound's derivatives are continuous, which ``"dreg"`` needs.
        """
        if not is_smooth and "dreg" in self._chosen.values():
            raise ValueError(
                "gradient='dreg' needs a bound whose derivatives are continuous, and the largest weight has none where "
                "two are equal; got VR-max. Use gradient='reparam', or a large negative alpha."
            )
        if set(self._chosen.values()) <= {"reparam", "enumerate", *BIASED}:
            self._check_local(runs[0], is_linear)
            return torch.zeros(())
        self._check_local(runs[0], is_linear)
        log_weights = torch.cat([weigh(traces).local for traces in runs]).detach()  # (K, B)
        first = coefficients(bound, log_weights)
        if any(self._gates) and not is_linear:
            change = first - double_coefficients(bound, log_weights)  # of c_k with its own log-weight
            factor = torch.where(first == 0, 0.0, 1 - self._counts(runs) * change / first)
            self._open_gates(runs, factor)
        total = self._without_scores(runs, first) + self._scores(runs, bound, log_weights, is_linear)
        total = total + self._controls(runs, bound, log_weights, first)
        return runs[0].scale * (total - total.detach())

    def path_correction(self, runs: Sequence[Traces], factors: Tensor) -> Tensor:
        """Makes the gradient of the summed log-weights that of their paths alone, each times its factor, (K, B).

        Every latent must be doubly reparameterised.
        """
        counts = self._counts(runs)
        if isinstance(counts, Tensor) or not math.isclose(counts, 1.0, rel_tol=1e-9):
            raise ValueError(
                "gradient='dreg' of a forward divergence needs latents that are neither masked nor scaled; got some "
                "that are. Use gradient='score'."
            )
        self._open_gates(runs, factors)
        total = self._without_scores(runs, torch.ones_like(factors))
        return total - total.detach()

    def through_draws(self, runs: Sequence[Traces], value: Tensor) -> Tensor:
        """A scalar of value zero whose gradient is what a value's gradient gives the guide through the model.

        The model's own parameters get nothing of it. Its runs must be cut off.
        """
        copies = [
            (traces, name, copy) for traces, own in zip(runs, self._copies, strict=True) for name, copy in own.items()
        ]
        if not copies or not value.requires_grad:
            return value.new_zeros(())
        found = torch.autograd.grad(value, [copy for *_, copy in copies], retain_graph=True, allow_unused=True)
        total = value.new_zeros(())
        for (traces, name, _), gradient in zip(copies, found, strict=True):
            if gradient is not None:
                total = total + (traces.guide.nodes[name]["value"] * gradient).sum()
        return total - total.detach()

    def expected(self, runs: Sequence[Traces], log_weights: Tensor) -> Tensor:
        """Sums log-weights over the values of the enumerated latents by their probabilities; (K, B)."""
        names = self._named("enumerate")
        if not names:
            return log_weights
        self._check_local(runs[0], is_linear=True)
        log_q = sum(_local_log_q(traces.guide, name, traces) for traces in runs for name in names)
        assert isinstance(log_q, Tensor)
        weighted = torch.where(log_q == -torch.inf, 0.0, log_q.exp() * log_weights)
        return weighted.unflatten(0, (-1, self.num_listed)).sum(1)

    def _pyro_sample(self, msg: Message) -> None:
        if not _is_latent(msg):
            return
        name = str(msg["name"])
        sampler = self._sampler
        chosen = choose(name, msg, sampler.gradient, sampler.num_particles, sampler.relaxation)
        is_given = msg["value"] is not None  # by a handler of the user's
        self._chosen[name] = "reparam" if is_given and chosen in DISCRETE else chosen
        if is_given:
            return
        if chosen == "enumerate":
            if name not in (sampler.supports or {}):
                raise ValueError(
                    f"enumerated latents must be the same at every step; got the new latent {name!r}. Make a new "
                    "objective for the changed guide."
                )
            msg["value"] = listed_value(name, sampler.supports or {}, msg, self._particle_dim)
        elif chosen in CONTROL + BIASED:
            noise = draw_noise(msg["fn"], msg["fn"].batch_shape + msg["fn"].event_shape)
            self._noise[name] = noise
            msg["value"] = noise.hard if chosen in CONTROL else self._relaxed(noise, chosen)
            if chosen in BIASED:
                msg["fn"] = soften(msg["fn"])

    def _pyro_post_sample(self, msg: Message) -> None:
        if _is_latent(msg) and self._chosen.get(str(msg["name"])) in SCORE:
            msg["value"] = msg["value"].detach()

    def _relaxed(self, noise: Noise, chosen: str) -> Tensor:
        assert self._sampler.relaxation is not None
        soft = noise.soft(self._sampler.relaxation()[0].detach())
        return soft if chosen == "gumbel" else noise.hard + (soft - soft.detach())

    def _named(self, *estimators: str) -> set[str]:
        return {name for name, estimator in self._chosen.items() if estimator in estimators}

    def _copied(self, trace: Trace) -> Trace:
        """The trace with copies of its differentiable latents, leaves of a graph of their own."""
        copies = {
            name: site["value"].detach().requires_grad_()
            for name, site in _latents(trace).items()
            if site["value"].requires_grad
        }
        self._copies.append(copies)
        replayed = trace.copy()
        for name, copy in copies.items():
            replayed.nodes[name] = {**replayed.nodes[name], "value": copy}
        return replayed

    def _scores(self, runs: Sequence[Traces], bound: Bound, log_weights: Tensor, is_linear: bool) -> Tensor:
        """Each scored latent's log q times its learning signal."""
        total = log_weights.new_zeros(())
        datum = self._datum_signals(bound, log_weights, is_linear)
        if "nvil" in self._chosen.values():
            signal = bound(log_weights) + self._later_costs(runs) if is_linear else bound(log_weights)
            centred, error = self._sampler.baseline(signal, self._args)
            datum["nvil"] = centred.expand_as(log_weights)
            total = total - error
        for name in self._named(*SCORE):
            estimator = self._chosen[name]
            if estimator in datum and is_local(runs[0].guide.nodes[name], runs[0]):
                log_q = torch.cat([_local_log_q(traces.guide, name, traces) for traces in runs])
                total = total + (datum[estimator] * log_q).sum()
            else:
                total = total + self._downstream_score(runs, name, estimator)
        return total

    def _datum_signals(self, bound: Bound, log_weights: Tensor, is_linear: bool) -> dict[str, Tensor]:
        """The learning signals that one datum's latents share, of a bound that is no sum over sites."""
        if is_linear:
            return {}
        chosen = set(self._chosen.values())
        signals = {"loo": leave_one_out(bound, log_weights)} if "loo" in chosen else {}
        if "score" in chosen:
            signals["score"] = bound(log_weights).expand_as(log_weights)
        return signals

    def _downstream_score(self, runs: Sequence[Traces], name: str, estimator: str) -> Tensor:
        """A latent's score times the costs it can have caused, per element of its plates, averaged over particles.

        The costs have the scale N / B, by which what this returns is to be multiplied: it is divided out.
        """
        signal = torch.cat([downstream_cost(traces, name) for traces in runs])  # (K, ...)
        if estimator == "loo":
            signal = signal - (signal.sum(0) - signal) / (len(signal) - 1)
        elif estimator == "nvil":
            signal = self._sampler.baseline.of_globals(signal.flatten()).reshape(signal.shape)
        scores = []
        for traces in runs:
            site = traces.guide.nodes[name]
            log_q = masked_and_scaled(site["unscaled_log_prob"], {**site, "scale": 1.0, "mask": None})
            scores.append(with_particles(log_q, traces))
        return (signal * torch.cat(scores)).sum() / (len(signal) * runs[0].scale)

    def _later_costs(self, runs: Sequence[Traces]) -> Tensor:
        """What latents of the data may have caused outside of the data plate, over the scale; a scalar."""
        costs = [
            sign * global_log_prob(site, site["unscaled_log_prob"].detach(), traces)
            for traces in runs
            for sign, site in _later_sites(traces)
        ]
        total = torch.stack([cost.sum() for cost in costs]).sum() if costs else torch.zeros(())
        return total / (sum(traces.num_particles for traces in runs) * runs[0].scale)

    def _counts(self, runs: Sequence[Traces]) -> Tensor | float:
        """How much the latents count in log-weights by masks and scales of the program: one number, or each, (K, B).

        Raises:
            ValueError: they do not count alike.
        """
        latents = [site for traces in runs for site in _latents(traces.guide).values()]
        if all((s["mask"] is None or s["mask"] is True) and not isinstance(s["scale"], Tensor) for s in latents):
            plain = [float(site["scale"]) / float(runs[0].scale) for site in latents]
            if math.isclose(min(plain), max(plain), rel_tol=1e-9):
                return plain[0]
        found = []
        for traces in runs:
            sites = _latents(traces.guide).values()
            shares = [masked_and_scaled(torch.ones_like(s["unscaled_log_prob"]), s, traces.scale) for s in sites]
            least = torch.stack([reduced_to_data(share, traces, torch.amin) for share in shares]).amin(0)
            most = torch.stack([reduced_to_data(share, traces, torch.amax) for share in shares]).amax(0)
            if not torch.equal(least, most):
                raise ValueError(
                    "gradient='dreg' needs the latents of a datum to count alike in its weight; got some that are "
                    f"masked or scaled and others that are not, among {list(_latents(traces.guide))}. Use 'reparam'."
                )
            found.append(least)
        return torch.cat(found)

    def _controls(self, runs: Sequence[Traces], bound: Bound, log_weights: Tensor, first: Tensor) -> Tensor:
        """The gradients of the latents with a control variate of their own."""
        total = log_weights.new_zeros(())
        programs = (self._model, self._guide, self._args, self._kwargs)
        for name in self._named("disarm"):
            total = total + disarm(programs, runs, self._noises, name, bound, log_weights)
        names = self._named("rebar", "relax")
        if names:
            assert self._sampler.relaxation is not None
            total = total + rebar(
                programs,
                runs,
                self._noises,
                names,
                bound,
                log_weights,
                first,
                self._sampler.relaxation,
                with_net="relax" in self._chosen.values(),
            )
        return total

    def _without_scores(self, runs: Sequence[Traces], first: Tensor) -> Tensor:
        """The score of the latents that are to have none, to be added back: the bound has it with the opposite sign."""
        names = [name for name, estimator in self._chosen.items() if estimator in ("stl", "dreg")]
        total = first.new_zeros(())
        if not names:
            return total
        fixed = [self._at_fixed_draws(traces) for traces in runs]
        for name in names:
            log_q = torch.cat([_scaled_log_q(trace, name, traces) for trace, traces in zip(fixed, runs, strict=True)])
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
        again = rescore(self._guide, self._args, self._kwargs, traces, values)
        if not self._sampler.is_repeatable:
            self._check_repeats(traces.guide, again)
            self._sampler.is_repeatable = True
        return again

    def _check_repeats(self, trace: Trace, again: Trace) -> None:
        """Raises where the second run gives the same draws another density; it must not be kept, for paths differ."""
        for name in _latents(trace):
            with torch.no_grad():
                one, other = (t.nodes[name]["fn"].log_prob(t.nodes[name]["value"]) for t in (trace, again))
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True):
                raise ValueError(
                    "gradient='stl' and 'dreg' score a guide of several latents a second time, so it must not be "
                    f"random given its draws; got another density of the same draw of {name!r}. Take dropout and other "
                    "noise out of the guide, or use gradient='reparam'."
                )

    def _open_gates(self, runs: Sequence[Traces], factor: Tensor) -> None:
        start = 0
        for traces, gates in zip(runs, self._gates, strict=True):
            rows = factor[start : start + traces.num_particles]
            start += traces.num_particles
            for name in gates:
                gates[name] = _spread(rows, traces.guide.nodes[name], traces)

    def _check_local(self, traces: Traces, is_linear: bool) -> None:
        allowed = ("reparam", *SCORE) if is_linear else ("reparam",)
        sites = _latents(traces.guide)
        outer = {
            name: self._chosen[name]
            for name, site in sites.items()
            if self._chosen[name] not in allowed and not is_local(site, traces)
        }
        if outer:
            raise ValueError(
                f"latents outside the data plate take the estimators {allowed}; got {outer}. Choose one of those for "
                "them, by infer={'pyro_dgm': {'gradient': ...}} at the site."
            )
        self._check_no_later(traces)

    def _check_no_later(self, traces: Traces) -> None:
        """Raises where latents of the data may have an effect outside of their plate that an estimator cannot see."""
        blind = self._named(*CONTROL, "enumerate")
        later = [site["name"] for _, site in _later_sites(traces)] if blind else []
        if later:
            raise ValueError(
                f"the estimators {(*CONTROL, 'enumerate')} need latents of the data plate with no effect outside of "
                f"it; got {sorted(blind)}, which {later} come after. Move these sites before the data plate, or use "
                "'loo', 'nvil' or 'score'."
            )


def _is_latent(msg: Mapping[str, Any]) -> bool:
    return not (site_is_subsample(msg) or msg["is_observed"] or is_deterministic(msg))


def _latents(trace: Trace) -> dict[str, Site]:
    """The sites that a guide draws."""
    return {name: site for name, site in sample_sites(trace).items() if _is_latent(site)}


def _later_sites(traces: Traces) -> list[tuple[float, Site]]:
    """Sites outside of the data plate that come after a latent inside, the guide's with a minus."""
    found = []
    for sign, trace in ((1.0, traces.model), (-1.0, traces.guide)):
        is_after = False
        for name, site in sample_sites(trace).items():
            drawn = traces.guide.nodes.get(name)
            if drawn is not None and _is_latent(drawn) and is_local(drawn, traces):
                is_after = True
            elif is_after and not is_local(site, traces) and not is_deterministic(site):
                found.append((sign, site))
    return found


def _local_log_q(trace: Trace, name: str, traces: Traces) -> Tensor:
    compute_log_probs(trace, (name,))
    return local_score(trace.nodes[name], trace.nodes[name]["unscaled_log_prob"], traces)


def _scaled_log_q(trace: Trace, name: str, traces: Traces) -> Tensor:
    compute_log_probs(trace, (name,))
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
