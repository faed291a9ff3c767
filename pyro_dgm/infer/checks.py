"""What must hold between a model and its guide, said in plain words when it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pyro.poutine.util import site_is_factor

from pyro_dgm.infer.programs import (
    Program,
    Site,
    Traces,
    is_data,
    is_deterministic,
    is_local,
    kind_of,
    module_of,
    parameter_of,
    plate_scale,
    sample_sites,
)

__all__ = ["check_gradients", "check_traces"]


def check_traces(traces: Traces) -> None:
    """Raises a ``ValueError`` when a model and a guide do not fit together.

    Every latent of the model must be in the guide and the other way round (auxiliary guide sites, marked
    ``infer={"is_auxiliary": True}``, excepted); something must be observed; a latent must be discrete in both or
    in neither, have the same shape, and stand in the data plate in both or in neither; every batch dimension must be
    a plate's; observations must have one row per datum.
    """
    model, guide = sample_sites(traces.model), sample_sites(traces.guide)
    latents = {name: site for name, site in model.items() if not site["is_observed"]}
    _check_names(model, latents, guide)
    for name, site in [*guide.items(), *model.items()]:
        _check_nesting(site, traces)
        _check_batch(name, site)
    for name, site in latents.items():
        _check_latent(name, site, guide[name], traces)
    for name, site in model.items():
        if is_data(site):
            _check_rows(name, site, traces)


def check_gradients(traces: Traces, model: Program, guide: Program) -> None:
    """Raises a ``ValueError`` when a latent gives the guide no gradient though the guide has parameters to train.

    A guide that is frozen as a whole is left alone: training the model alone is a thing people do.
    """
    latents = {name: site for name, site in sample_sites(traces.guide).items() if not site["is_observed"]}
    traces.guide.compute_log_prob(lambda name, site: name in latents and not site["fn"].has_rsample)
    for name, site in latents.items():
        if not site["fn"].has_rsample and site["log_prob"].requires_grad:
            raise ValueError(
                f"ELBO and IWAE take their gradient through reparameterised samples; got the guide site {name!r}, a "
                f"{kind_of(site)}, which has none. Use pyro.infer.TraceGraph_ELBO (score function) or TraceEnum_ELBO "
                "for discrete latents."
            )
    if not _trains(traces, model, guide):
        return
    stuck = [name for name, site in latents.items() if not site["value"].requires_grad]
    if stuck:
        raise ValueError(
            f"every latent of the guide must depend on the guide's parameters; got no gradient for {stuck}. Remove the "
            "detach() or no_grad() in the guide, or freeze the whole guide with guide.requires_grad_(False)."
        )


def _check_names(model: Mapping[str, Site], latents: Mapping[str, Site], guide: Mapping[str, Site]) -> None:
    missing = [name for name in latents if name not in guide]
    if missing:
        raise ValueError(
            f"the guide must sample every latent of the model; got a guide without {missing}. Add "
            f"pyro.sample({missing[0]!r}, ...) to the guide, or observe the site with obs=."
        )
    extra = [
        name
        for name, site in guide.items()
        if name not in latents and not site["infer"].get("is_auxiliary") and not is_deterministic(site)
    ]
    if extra:
        raise ValueError(
            f"the guide may sample only latents of the model; got the extra guide sites {extra}. Add them to the "
            "model, or mark them infer={'is_auxiliary': True} if the model's density accounts for them."
        )
    if not any(is_data(site) or site_is_factor(site) for site in model.values()):
        raise ValueError(
            f"the model must observe something; got only latents {list(latents)}. Pass the data, and give the site "
            "obs=."
        )


def _check_latent(name: str, model_site: Site, guide_site: Site, traces: Traces) -> None:
    if _is_discrete(model_site) != _is_discrete(guide_site):
        raise ValueError(
            f"latent {name!r} must be discrete in both programs or continuous in both; got a {kind_of(model_site)} in "
            f"the model and a {kind_of(guide_site)} in the guide. Give the guide a distribution over the model's "
            "support."
        )
    if is_local(model_site, traces) != is_local(guide_site, traces):
        raise ValueError(
            f"latent {name!r} must stand in the same plates in model and guide; got "
            f"{[frame.name for frame in model_site['cond_indep_stack']]} in the model and "
            f"{[frame.name for frame in guide_site['cond_indep_stack']]} in the guide. "
            "Open the same plate, with the same size, in both."
        )
    shapes = model_site["fn"].shape(), guide_site["fn"].shape()
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"latent {name!r} must have one shape; got {tuple(shapes[0])} in the model and {tuple(shapes[1])} in the "
            "guide, batch and event together. Make the prior and the encoder agree, and open the same plates in both."
        )
    scales = _subsampling(model_site), _subsampling(guide_site)
    if not math.isclose(*scales):
        raise ValueError(
            f"the plates of latent {name!r} must have one size in model and guide; got one draw for {scales[0]:g} in "
            f"the model and for {scales[1]:g} in the guide. Pass the same data_size to both."
        )


def _check_nesting(site: Site, traces: Traces) -> None:
    """A plate to the left of the particles would be taken for them."""
    if traces.particle_dim is None:
        return
    for frame in site["cond_indep_stack"]:
        if frame.vectorized and frame.dim < traces.particle_dim:
            raise ValueError(
                f"max_plate_nesting must count all plates of the programs; got {-traces.particle_dim - 1} and plate "
                f"{frame.name!r} on dimension {frame.dim}. Leave it None with a new objective, which counts them."
            )


def _check_batch(name: str, site: Site) -> None:
    """A batch dimension that is no plate's would be summed into one datum, or mistaken for the particles."""
    plates = {frame.dim: frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
    batches = [site["fn"].batch_shape, *([_batch_of(site)] if is_data(site) else [])]
    loose = [batch for batch in batches if any(batch[d] != 1 and d not in plates for d in range(-len(batch), 0))]
    if loose and not is_deterministic(site):
        raise ValueError(
            f"every batch dimension must belong to a plate; got site {name!r} of batch shape {tuple(loose[0])} in the "
            f"plates {list(plates.values())}. Make the rest part of the event with .to_event(n), or open a pyro.plate "
            "for it."
        )


def _check_rows(name: str, site: Site, traces: Traces) -> None:
    """One row that broadcasts over a batch would silently be counted once for every datum."""
    batch = _batch_of(site)
    for frame in site["cond_indep_stack"]:
        if not frame.vectorized or frame.dim == traces.particle_dim:
            continue
        if len(batch) < -frame.dim or batch[frame.dim] != frame.size:
            raise ValueError(
                f"observation {name!r} must have {frame.size} rows, as plate {frame.name!r} has; got shape "
                f"{tuple(site['value'].shape)}. Give every datum its own row (x.expand does it on purpose)."
            )


def _batch_of(site: Site) -> torch.Size:
    """The shape of an observation less its event."""
    value = torch.as_tensor(site["value"])
    return value.shape[: max(0, value.dim() - site["fn"].event_dim)]


def _is_discrete(site: Site) -> bool:
    try:
        return bool(site["fn"].support.is_discrete)
    except NotImplementedError:
        return False


def _subsampling(site: Site) -> float:
    return math.prod(plate_scale(frame) for frame in site["cond_indep_stack"])


def _trains(traces: Traces, model: Program, guide: Program) -> bool:
    """Whether the guide has parameters to train; of a module that is model and guide at once, those it ran into."""
    nodes = traces.guide.nodes.values()
    leaves = [site["value"] for site in nodes if site["type"] == "sample" and not site["is_observed"]]
    leaves += [parameter_of(site) for site in nodes if site["type"] == "param"]
    module = module_of(guide)
    if module is not None and module is not module_of(model):
        leaves += module.parameters()
    return any(leaf.requires_grad for leaf in leaves)
