"""What must hold between a model and its guide, said in plain words when it does not."""

__all__ = [
    "check_gradients",
    "check_paths",
    "check_reads_data",
    "check_scores_any_point",
    "check_traces",
    "check_weights_are_per_datum",
    "trains",
]

import itertools
import math
from collections.abc import Collection, Iterable, Mapping

import torch
from pyro.poutine.util import site_is_factor

from pyro_dgm.infer.programs import (
    Program,
    Site,
    Traces,
    batch_of,
    check_batch,
    compute_log_probs,
    is_data,
    is_deterministic,
    is_local,
    kind_of,
    module_of,
    parameter_of,
    plate_scale,
    plates_of,
    sample_sites,
    unwrapped,
)


def check_traces(traces: Traces, needs_densities: bool = True) -> None:
    """Raises a ``ValueError`` when a model and a guide do not fit together.

    Every latent of the model must be in the guide and the other way round (auxiliary guide sites, marked
    ``infer={"is_auxiliary": True}``, excepted); something must be observed; a latent must be discrete in both or
    in neither, have the same shape, and stand in the data plate in both or in neither; every batch dimension must be
    a plate's; observations must have one row per datum.

    Arguments:
        traces: a run.
        needs_densities: whether latents and data are to be scored, which no implicit site can be.
    """
    if needs_densities:
        _check_densities(traces)
    model, guide = sample_sites(traces.model), sample_sites(traces.guide)
    latents = {name: site for name, site in model.items() if not site["is_observed"]}
    _check_names(model, latents, guide)
    for name, site in [*guide.items(), *model.items()]:
        _check_nesting(site, traces)
        if is_data(site):
            _check_rows(name, site)
        check_batch(name, site, traces.particle_dim)
    for name, site in latents.items():
        _check_latent(name, site, guide[name], traces)


def check_gradients(traces: Traces, model: Program, guide: Program, scored: Collection[str] = ()) -> None:
    """Raises a ``ValueError`` when a latent gives the guide no gradient though the guide has parameters to train.

    A guide that is frozen as a whole is left alone: training the model alone is a thing people do. So are auxiliary
    sites, which may be plain noise (AutoStructured).

    Arguments:
        traces: a run.
        model: its model.
        guide: its guide.
        scored: names of the latents whose gradient comes through their density and not through their draws.
    """
    if not trains(traces, model, guide):
        return
    compute_log_probs(traces.guide, scored)
    stuck = [
        name
        for name, site in sample_sites(traces.guide).items()
        if not (site["is_observed"] or site["infer"].get("is_auxiliary"))
        and not (site["log_prob"] if name in scored else site["value"]).requires_grad
    ]
    if stuck:
        raise ValueError(
            f"every latent of the guide must depend on the guide's parameters; got no gradient for {stuck}. Remove the "
            "detach() or no_grad() in the guide, or freeze the whole guide with guide.requires_grad_(False)."
        )


def check_weights_are_per_datum(traces: Traces, name: str) -> None:
    """Raises a ``ValueError`` when a bound that is no sum over sites meets a site of no datum or a subsampled one."""
    sites = {**sample_sites(traces.guide), **sample_sites(traces.model)}
    outer = [name for name, site in sites.items() if not is_local(site, traces) and not is_deterministic(site)]
    if outer:
        raise ValueError(
            f"{name} weighs the latents of each datum; got sites outside the data plate: {outer}, whose weight belongs "
            "to no datum. Use ELBO, which accepts them, or move them into the plate."
        )
    subsampled = {
        frame.name
        for site in sites.values()
        for frame in site["cond_indep_stack"]
        if frame != traces.data_frame and plate_scale(frame) != 1
    }
    if subsampled:
        raise ValueError(
            f"{name} takes the logarithm of a sum of weights, which a subsample inside one datum makes wrong; got "
            f"the subsampled plates {sorted(subsampled)}. Subsample only the data plate, or use ELBO."
        )


def check_scores_any_point(guide: Program, term: str) -> None:
    """Raises a ``ValueError`` where a guide says that it cannot score points which it did not draw itself.

    It says so by the attribute ``scores_any_point``, and of which latents by ``scored_when_drawn``; one that says
    nothing is found out when it is to score.
    """
    module = module_of(guide)
    if not getattr(module, "scores_any_point", True):
        names = list(getattr(module, "scored_when_drawn", ()))
        raise ValueError(
            f"{term} scores the guide at given points, for which all its latents need a density known at any point; "
            f"got {type(module).__name__}, which knows that of {names or 'its latents'} at its own last draws alone. "
            "Use a distribution with an inverse, or ELBO or IWAE with gradient='reparam'."
        )


def check_paths(sites: Mapping[str, Site], names: Iterable[str], through: str) -> None:
    """Raises a ``ValueError`` where the guide is to be trained through draws that carry no gradient to it.

    A draw that depends on nothing that is trained needs no path.

    Arguments:
        sites: the guide's.
        names: of the latents that have to have a path.
        through: what would train the guide, for the message.
    """
    for name in names if torch.is_grad_enabled() else ():
        site = sites[name]
        value = torch.as_tensor(site["value"])
        has_path = value.requires_grad or is_deterministic(site) or kind_of(site) in ("Implicit", "Delta")
        if not (has_path or site["is_observed"]) and site["fn"].log_prob(value).requires_grad:
            raise ValueError(
                f"{through} trains the guide through its draws, which need a path; got {name!r}, a {kind_of(site)} "
                "that has none. Use reparameterised draws, or for classes dist.OneHotCategoricalStraightThrough."
            )


def check_reads_data(guide: Program, term: str) -> None:
    """Raises a ``ValueError`` where a guide says, by ``reads_data`` being False, that it does not look at the data."""
    module = module_of(guide)
    if not getattr(module, "reads_data", True):
        raise ValueError(
            f"{term} teaches the guide by simulated data, which it must read; got {type(module).__name__}, which has "
            "parameters for each of the real data instead. Use ELBO or ForwardKL, or an AmortizedGuide."
        )


def _check_densities(traces: Traces) -> None:
    """An implicit latent has no density, a scorer notwithstanding, which is none; implicit data may have a scorer."""
    for program, trace in (("model", traces.model), ("guide", traces.guide)):
        for name, site in sample_sites(trace).items():
            if kind_of(site) == "Implicit" and not (is_data(site) and unwrapped(site["fn"]).scorer is not None):
                raise ValueError(
                    f"a bound needs the density of every site; got {name!r} in the {program}, which is Implicit and "
                    "has none. Train it with AdversarialTrainer, by a Contrast over this site."
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
            f"{[frame.name for frame in plates_of(model_site)]} in the model and "
            f"{[frame.name for frame in plates_of(guide_site)]} in the guide. "
            "Open the same plate, with the same size, in both."
        )
    shapes = _shapes(model_site), _shapes(guide_site)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"latent {name!r} must have one batch and one event shape; got {shapes[0][0]} and {shapes[0][1]} in the "
            f"model, {shapes[1][0]} and {shapes[1][1]} in the guide. Make the prior and the encoder agree, and open "
            "the same plates in both."
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
    for frame in plates_of(site):
        if frame.dim < traces.particle_dim:
            raise ValueError(
                f"max_plate_nesting must count all plates of the programs; got {-traces.particle_dim - 1} and plate "
                f"{frame.name!r} on dimension {frame.dim}. Leave it None with a new objective, which counts them."
            )


def _check_rows(name: str, site: Site) -> None:
    """One row that broadcasts over a batch would silently be counted once for every datum."""
    batch = batch_of(site)
    for frame in plates_of(site):
        if frame.size < 0:
            raise ValueError(
                f"a plate around data must have a size; got pyro.plate({frame.name!r}) without one around {name!r}. "
                "Give it the number of rows, len(x)."
            )
        if len(batch) < -frame.dim or batch[frame.dim] != frame.size:
            raise ValueError(
                f"observation {name!r} must have {frame.size} rows, as plate {frame.name!r} has; got shape "
                f"{tuple(site['value'].shape)}. Give every datum its own row (x.expand does it on purpose)."
            )


def _shapes(site: Site) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch shape, without leading ones, and event shape."""
    batch = tuple(itertools.dropwhile(lambda size: size == 1, site["fn"].batch_shape))
    return batch, tuple(site["fn"].event_shape)


def _is_discrete(site: Site) -> bool:
    try:
        return bool(site["fn"].support.is_discrete)
    except NotImplementedError:
        return False


def _subsampling(site: Site) -> float:
    return math.prod(plate_scale(frame) for frame in site["cond_indep_stack"])


def trains(traces: Traces, model: Program, guide: Program) -> bool:
    """Whether the guide has parameters to train; of a module that is model and guide at once, those it ran into."""
    nodes = traces.guide.nodes.values()
    leaves = [site["value"] for site in nodes if site["type"] == "sample" and not site["is_observed"]]
    leaves += [parameter_of(site) for site in nodes if site["type"] == "param"]
    module = module_of(guide)
    if module is not None and module is not module_of(model):
        leaves += module.parameters()
    return any(leaf.requires_grad for leaf in leaves)
