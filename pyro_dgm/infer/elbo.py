"""The evidence lower bound, plain, weighted, and with a floor under its divergences."""

__all__ = ["ELBO"]

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from pyro_dgm.infer import bounds
from pyro_dgm.infer.annealing import annealing_of
from pyro_dgm.infer.draws import Completed
from pyro_dgm.infer.estimators import BIASED
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.objective import Objective, Part
from pyro_dgm.infer.programs import Traces
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.terms import SiteTerm, latent_terms, latent_units, observation_terms

_GROUPS = ("site", "dimension")


@final
class ELBO(Objective):
    r"""The evidence lower bound, :math:`E_q[\log p(x, z) - \log q(z | x)]`, averaged over K particles.

    Every estimator but ``"straight_through"`` and ``"gumbel"`` is unbiased for it. With ``analytic_kl`` the KL from
    guide to prior is taken in closed form wherever Pyro knows it, which lowers the variance as long as the guide is far
    from the posterior (there the sampled bound has none); elsewhere it is sampled as before.

    ``beta``, ``free_bits`` and ``capacity`` change what is maximised, so that the loss is no longer minus a bound on
    the log evidence unless beta is at least 1 (and the others are off):

    - ``beta`` multiplies the divergence of all latents;
    - ``free_bits`` counts each group's divergence, averaged over the minibatch, as no less than so many nats;
    - ``capacity`` replaces the divergence D, averaged over the minibatch, by beta times :math:`|D - C|`.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, equations 2 and 3 (analytic), arXiv:1312.6114;
        Roeder, Wu and Duvenaud (2017), Sticking the Landing, arXiv:1703.09194 (``gradient="stl"``); Higgins et al.
        (2017), beta-VAE, ICLR; Kingma et al. (2016), equation 15, arXiv:1606.04934 (free bits); Burgess et al. (2018),
        Understanding disentangling in beta-VAE, equation 8, arXiv:1804.03599 (capacity).

    Arguments:
        num_particles: number K of latents drawn per datum.
        analytic_kl: take closed-form KLs where they are known. Model and guide must then draw their latents in the
            same order, so that no latent's prior depends on one the guide draws later, and all by ``"reparam"``,
            ``"straight_through"`` or ``"gumbel"``.
        beta: weight of the divergence, at least 0.
        free_bits: nats that each group has for free.
        free_bits_per: what a group is: a latent ``"site"``, or each ``"dimension"`` of its event.
        capacity: C in nats per datum, a number or a schedule to follow.
        options: ``gradient``, ``baseline``, ``relaxation``, ``moves``, ``vectorize_particles`` and
            ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: a number is out of range, or two options do not go together; at the first step, when
            ``analytic_kl`` is asked for and the latents come in different orders.
    """

    is_linear = True

    def __init__(
        self,
        num_particles: int = 1,
        *,
        analytic_kl: bool = False,
        beta: float = 1.0,
        free_bits: float = 0.0,
        free_bits_per: str = "site",
        capacity: float | Schedule | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        self.analytic_kl, self.beta, self.capacity = analytic_kl, beta, capacity
        self.free_bits, self.free_bits_per = free_bits, free_bits_per
        self._check()
        self.latent_weight = 1.0 if capacity is not None else beta

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.elbo``."""
        return bounds.elbo(log_weights)

    def bound(self, completed: Completed, part: Part | None = None) -> Tensor:
        """The ELBO, summed over the N data."""
        runs = completed.runs
        if self._is_by_site:
            self._check_paths(completed)
            return self._by_site(runs)
        weights = [weigh(traces) for traces in runs]
        weights = [part(own) for own in weights] if part else weights
        local = completed.estimation.expected(runs, torch.cat([own.local for own in weights]))  # (K, B)
        outer = torch.cat([own.global_log_p - own.global_log_q for own in weights])
        return runs[0].scale * self.bound_of(local).sum() + outer.mean()

    def schedules(self) -> Sequence[Schedule]:
        """Those of temperature and capacity."""
        own = (self.capacity,) if isinstance(self.capacity, Schedule) else ()
        return (*super().schedules(), *own)

    @property
    def _is_by_site(self) -> bool:
        return self.analytic_kl or self.free_bits > 0 or self.capacity is not None

    def _by_site(self, runs: Sequence[Traces]) -> Tensor:
        """Observations less the divergences, which are averaged over particles and data before they are bent."""
        traces = runs[0]
        observed = _joined([observation_terms(own) for own in runs])
        latents = _joined([latent_terms(own, self.analytic_kl) for own in runs])
        if self.capacity is not None:
            limit = self.capacity.value if isinstance(self.capacity, Schedule) else self.capacity
            num_data = traces.num_data * traces.scale
            factors = {name: annealing_of(traces.guide.nodes[name]) for name in latents}
            plain = [term.total(traces) / factors[name] for name, term in latents.items()]
            divergence = _sum(plain) / num_data
            cost = num_data * self.beta * max(factors.values(), default=1.0) * (divergence - limit).abs()
        elif self.free_bits > 0:
            cost = _sum([self._floored(name, term, runs) for name, term in latents.items()])
        else:
            cost = _sum([term.total(traces) for term in latents.values()])
        return _sum([*(term.total(traces) for term in observed.values()), -cost])

    def _floored(self, name: str, term: SiteTerm, runs: Sequence[Traces]) -> Tensor:
        """A latent's divergence, no group of it below the floor; a latent of no datum has none."""
        traces = runs[0]
        if not term.is_local:
            return term.total(traces)
        if self.free_bits_per == "dimension":
            units = torch.cat([latent_units(own, name, self.analytic_kl) for own in runs])  # (K, B, units)
        else:
            units = term.value.unsqueeze(-1)
        floor = self.free_bits * annealing_of(traces.guide.nodes[name])
        return traces.scale * traces.num_data * units.mean((0, 1)).clamp(min=floor).sum()

    def _check_paths(self, completed: Completed) -> None:
        """Raises where a bent divergence would meet an estimator that knows the plain log-weights alone."""
        wrong = {name: own for name, own in completed.estimation.chosen.items() if own not in ("reparam", *BIASED)}
        if wrong and torch.is_grad_enabled():
            raise ValueError(
                "analytic_kl, free_bits and capacity go with latents that have a path, by 'reparam', 'gumbel' or "
                f"'straight_through'; got {wrong}. Use gradient='gumbel' for discrete latents, or the plain ELBO."
            )

    def _check(self) -> None:
        ends: tuple[Any, ...] = (self.capacity,)
        if isinstance(self.capacity, Schedule):
            ends = tuple(self.capacity.value_at(step) for step in (0, self.capacity.num_steps_needed))
        for name, values in (("beta", (self.beta,)), ("free_bits", (self.free_bits,)), ("capacity", ends)):
            for value in values:
                is_left_out = name == "capacity" and value is None
                if not is_left_out and not (isinstance(value, int | float) and 0 <= value < math.inf):
                    raise ValueError(
                        f"{name} must be a number of at least 0; got {value!r}. Leave it out for the plain ELBO"
                        f"{', and anneal by KLAnnealing' if isinstance(value, Schedule) else ''}."
                    )
        if self.free_bits_per not in _GROUPS:
            raise ValueError(
                f"free_bits_per must be one of {_GROUPS}; got {self.free_bits_per!r}. 'site' is the usual."
            )
        if self.free_bits > 0 and self.capacity is not None:
            raise ValueError(
                f"free_bits and capacity both bend the divergence; got free_bits={self.free_bits} and a capacity. "
                "Choose one."
            )
        names = [
            name
            for name, is_on in (
                ("analytic_kl", self.analytic_kl),
                ("free_bits", self.free_bits > 0),
                ("capacity", self.capacity is not None),
            )
            if is_on
        ]
        if names and self.gradient not in ("auto", "reparam", *BIASED):
            raise ValueError(
                f"{names[0]} goes with reparameterised gradients; got gradient={self.gradient!r}. Leave {names[0]} "
                "out, or use gradient='auto'."
            )
        if names and self.moves != "both":
            raise ValueError(
                f"{names[0]} trains model and guide together; got moves={self.moves!r}. Leave {names[0]} out, or use "
                "moves='both'."
            )


def _joined(runs: Sequence[Mapping[str, SiteTerm]]) -> dict[str, SiteTerm]:
    """The terms of all particles, which may have been drawn in several runs."""
    return {
        name: SiteTerm(torch.cat([own[name].value for own in runs]), term.is_local) for name, term in runs[0].items()
    }


def _sum(values: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, of which there may be none."""
    return torch.stack(list(values)).sum() if values else torch.zeros(())
