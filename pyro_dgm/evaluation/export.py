"""Everything ArviZ can look at, of a model, a guide and data."""

__all__ = ["to_arviz"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.evaluation._arviz_compat import InferenceData, make_inference_data
from pyro_dgm.evaluation.psis import pareto_k
from pyro_dgm.infer.checks import check_traces
from pyro_dgm.infer.forward import simulate
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import (
    DATA_PLATE,
    Program,
    Site,
    Traces,
    check_num_particles,
    count_plates,
    evaluation_mode,
    global_log_prob,
    is_data,
    is_deterministic,
    is_local,
    local_log_prob,
    particle_plate,
    run,
    sample_sites,
)

Variable = tuple[list[str], Any]


def to_arviz(
    model: Program,
    guide: Program,
    *args: Any,
    num_samples: int = 100,
    attributes: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> InferenceData:
    """Draws from the guide and packs all there is to see: ``arviz.InferenceData``, or with ArviZ 1.x a ``DataTree``.

    One chain of independent draws. Groups: ``posterior`` (latents), ``posterior_predictive`` (data simulated from
    them), ``log_likelihood`` (log p(x | z) per datum), ``observed_data``, and ``sample_stats`` with the importance
    weights ``log_weights`` of every draw and datum, in nats, and ``pareto_k`` of every datum (above 0.7 the guide is
    too far from the posterior for importance sampling to mend it). Sites outside the data plate, such as global
    latents, have their weights in ``log_weights_global``, one per draw. The draws are the guide's, not reweighted;
    ``pyro.deterministic`` sites are left out. All of it is in memory at once: pass as many data as you want to look at.

    Arguments:
        model: a Pyro program with observed sites.
        guide: a Pyro program with a site for every latent of the model.
        args: data, (N, *event), and whatever else both take.
        num_samples: number of draws, at least 2.
        attributes: plain facts to keep with the posterior group, such as a run's name: strings, numbers, lists of them.
        kwargs: keyword arguments of both.

    Raises:
        ValueError: there are fewer than 2 draws, or the programs do not fit together.
    """
    import xarray

    if check_num_particles(num_samples) < 2:
        raise ValueError(f"num_samples must be at least 2; got {num_samples}. 100 make a usable picture.")
    with evaluation_mode(model, guide):
        nesting = count_plates(model, guide, args, kwargs)
        traces = run(model, guide, args, kwargs, num_samples, nesting)
        check_traces(traces)
        sample_stats = _sample_stats(traces)  # computes the log-probabilities of both traces
        latents = {name: site for name, site in sample_sites(traces.guide).items() if not is_deterministic(site)}
        given = {name: site["value"] for name, site in latents.items() if name in traces.model.nodes}
        predicted = sample_sites(simulate(particle_plate(model, num_samples, nesting), args, kwargs, given))
    observed = {name: site for name, site in sample_sites(traces.model).items() if is_data(site)}
    groups = {
        "posterior": {name: _draws(name, site, traces) for name, site in latents.items()},
        "posterior_predictive": {name: _draws(name, predicted[name], traces) for name in observed},
        "log_likelihood": {name: _log_likelihood(site, traces) for name, site in observed.items()},
        "observed_data": {name: _observation(name, site, traces) for name, site in observed.items()},
        "sample_stats": sample_stats,
    }
    datasets = {name: xarray.Dataset(variables) for name, variables in groups.items()}
    datasets["posterior"].attrs.update(attributes or {})
    return make_inference_data(datasets)


def _draws(name: str, site: Site, traces: Traces) -> Variable:
    """Values with a chain dimension in front, and every plate and event dimension named."""
    value, event_dim = site["value"], site["fn"].event_dim
    width = -(traces.particle_dim or 0) + event_dim
    value = value.reshape((1,) * (width - value.dim()) + tuple(value.shape))
    value = value.expand(traces.num_particles, *value.shape[1:])
    names = _names(name, site, value.dim() - 1, event_dim)
    kept = [i for i, label in enumerate(names) if label is not None]
    value = value.squeeze([i + 1 for i, label in enumerate(names) if label is None])
    return ["chain", "draw", *(str(names[i]) for i in kept)], _array(value[None])


def _observation(name: str, site: Site, traces: Traces) -> Variable:
    value, event_dim = site["value"], site["fn"].event_dim
    names = _names(name, site, value.dim(), event_dim)
    value = value.squeeze([i for i, label in enumerate(names) if label is None])
    return [label for label in names if label is not None], _array(value)


def _names(name: str, site: Site, width: int, event_dim: int) -> list[str | None]:
    """A name for each dimension: its plate's, or the site's with a number; None for a batch dimension of no plate."""
    plates = {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
    batch = [plates.get(dim) for dim in range(-(width - event_dim), 0)]
    return [*batch, *(f"{name}_dim_{i}" for i in range(event_dim))]


def _log_likelihood(site: Site, traces: Traces) -> Variable:
    log_prob = site["unscaled_log_prob"]
    if not is_local(site, traces):
        return ["chain", "draw"], _array(global_log_prob(site, log_prob, traces)[None])
    return ["chain", "draw", _data_dim(traces)], _array(local_log_prob(site, log_prob, traces)[None])


def _sample_stats(traces: Traces) -> dict[str, Variable]:
    weights = weigh(traces)
    stats: dict[str, Variable] = {
        "log_weights": (["chain", "draw", _data_dim(traces)], _array(weights.local[None])),
        "pareto_k": ([_data_dim(traces)], _array(pareto_k(weights.local))),
    }
    sites = [*sample_sites(traces.guide).values(), *sample_sites(traces.model).values()]
    if not all(is_local(site, traces) or is_deterministic(site) for site in sites):
        log_weights = weights.global_log_p - weights.global_log_q
        stats["log_weights_global"] = (["chain", "draw"], _array(log_weights[None]))
    return stats


def _data_dim(traces: Traces) -> str:
    return DATA_PLATE if traces.data_frame is None else traces.data_frame.name


def _array(value: Tensor) -> Any:
    return torch.as_tensor(value).detach().cpu().numpy()
