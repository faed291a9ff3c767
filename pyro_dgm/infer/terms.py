"""The terms of an ELBO, site by site: what the observations give, what the latents cost."""

__all__ = ["SiteTerm", "closed_form", "latent_terms", "latent_units", "observation_terms"]

from collections.abc import Collection
from typing import NamedTuple

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_dgm.infer.annealing import counts_alike
from pyro_dgm.infer.programs import (
    Site,
    Traces,
    compute_log_probs,
    global_log_prob,
    is_local,
    kind_of,
    local_log_prob,
    sample_sites,
)


class SiteTerm(NamedTuple):
    """What one site adds to a bound: (K, B) for a local site, (K,) for a global one."""

    value: Tensor
    is_local: bool

    def total(self, traces: Traces) -> Tensor:
        """The mean over particles, summed over the N data that the run stands for."""
        return traces.scale * self.value.mean(0).sum() if self.is_local else self.value.mean()


def latent_terms(traces: Traces, analytic: bool, names: Collection[str] | None = None) -> dict[str, SiteTerm]:
    """The divergence of latents from their priors, in nats, by name; auxiliary guide sites give log q alone.

    Arguments:
        traces: a run.
        analytic: use closed forms where there are any.
        names: of the latents; all when None.
    """
    model, guide = sample_sites(traces.model), sample_sites(traces.guide)
    if analytic:
        _check_order([name for name in model if name in guide], [name for name in guide if name in model])
    terms = {}
    for name, site in guide.items():
        if names is not None and name not in names:
            continue
        reduce = local_log_prob if is_local(site, traces) else global_log_prob
        kl = closed_form(site, model.get(name)) if analytic else None
        if kl is not None:
            terms[name] = SiteTerm(reduce(site, kl, traces), is_local(site, traces))
            continue
        log_ratio = reduce(site, _log_prob(traces.guide, name), traces)
        if name in model:
            log_ratio = log_ratio - reduce(model[name], _log_prob(traces.model, name), traces)
        terms[name] = SiteTerm(log_ratio, is_local(site, traces))
    return terms


def latent_units(traces: Traces, name: str, analytic: bool) -> Tensor:
    """The divergence of a local latent from its prior, one per dimension of its event, (K, B, units).

    A latent whose dimensions are not independent in both programs is one unit.
    """
    sites = traces.guide.nodes[name], traces.model.nodes[name]
    dims = min(site["fn"].reinterpreted_batch_ndims if isinstance(site["fn"], Independent) else 0 for site in sites)
    if dims == 0 or any(site["fn"].event_dim != dims for site in sites):
        return latent_terms(traces, analytic)[name].value.unsqueeze(-1)
    q, p = (site["fn"].base_dist for site in sites)
    try:
        each = kl_divergence(q, p) if analytic else None
    except NotImplementedError:
        each = None
    if each is None:
        each = q.log_prob(sites[0]["value"]) - p.log_prob(sites[1]["value"])
    each = each.flatten(-dims)
    return torch.stack([local_log_prob(sites[0], unit, traces) for unit in each.unbind(-1)], dim=-1)


def observation_terms(traces: Traces) -> dict[str, SiteTerm]:
    """The log-probability of every observed site, in nats, by name."""
    terms = {}
    for name, site in sample_sites(traces.model).items():
        if site["is_observed"]:
            reduce = local_log_prob if is_local(site, traces) else global_log_prob
            terms[name] = SiteTerm(reduce(site, _log_prob(traces.model, name), traces), is_local(site, traces))
    return terms


def _log_prob(trace: Trace, name: str) -> Tensor:
    compute_log_probs(trace, [name])
    return trace.nodes[name]["unscaled_log_prob"]


def closed_form(guide_site: Site, model_site: Site | None) -> Tensor | None:
    """KL(q || p) of the shape of the site's batch, or None: unknown, or the two sites are weighted differently.

    A Delta (AutoGuides) is scored as sampled, which is exact: Pyro's formula for it forgets its log-density.
    """
    if model_site is None or kind_of(guide_site) == "Delta" or model_site["mask"] is not guide_site["mask"]:
        return None
    if not counts_alike(model_site, guide_site):
        return None
    try:
        return kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return None


def _check_order(model_order: list[str], guide_order: list[str]) -> None:
    if model_order != guide_order:
        raise ValueError(
            "analytic_kl needs model and guide to draw their latents in the same order; got "
            f"{model_order} in the model and {guide_order} in the guide. Use analytic_kl=False, or draw top-down."
        )
