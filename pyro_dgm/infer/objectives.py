"""What is minimised: objectives for stock ``pyro.infer.SVI``, for a torch optimiser, and for our trainers."""

__all__ = ["ELBO", "IWAE", "BoundObjective", "Objective"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, final

import pyro.infer
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_dgm.infer import bounds
from pyro_dgm.infer.checks import check_gradients, check_traces
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import (
    Program,
    Site,
    Traces,
    check_num_particles,
    count_plates,
    global_log_prob,
    is_deterministic,
    is_local,
    kind_of,
    local_log_prob,
    module_of,
    plate_scale,
    run,
    run_in_turn,
    sample_sites,
)


class BoundObjective(nn.Module):
    """An objective bound to its two programs: a module whose call gives the loss of a batch.

    Its parameters are the programs' own, also where a program is a bound method of a module.

    Arguments:
        objective: what is minimised.
        model: a Pyro program that is a module, or a method of one.
        guide: likewise.

    Raises:
        ValueError: neither program is, or belongs to, a module; at the call, when they have no parameter to train
            (an AutoGuide has its parameters after its first call, so call this once before making the optimiser).
    """

    def __init__(self, objective: "Objective", model: Program, guide: Program) -> None:
        super().__init__()
        self.objective = objective
        self.model_module, self.guide_module = module_of(model), module_of(guide)
        self._programs = (model, guide)
        if self.model_module is None and self.guide_module is None:
            self._refuse("no module")

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of a batch, a scalar: minus the bound, summed over the data."""
        loss = self.objective.differentiable_loss(*self._programs, *args, **kwargs)
        if next(self.parameters(), None) is None:
            self._refuse("no parameter")
        return loss

    def _refuse(self, found: str) -> NoReturn:
        raise ValueError(
            f"objective(model, guide) needs a module with parameters; got {found} in either program. Write the "
            "programs as PyroModules, or pass them to SVI, which trains pyro.param and pyro.module parameters."
        )


class Objective(pyro.infer.ELBO):
    """A bound to maximise, in each of the three ways Pyro users ask for one.

    - ``SVI(model, guide, optim, objective)`` calls ``loss`` and ``loss_and_grads``;
    - ``objective(model, guide)`` is a module whose call is ``differentiable_loss``;
    - ``objective.differentiable_loss(model, guide, *args)`` is a scalar to call ``backward()`` on.

    As in Pyro, a loss is minus the bound summed over the N data the plate stands for, in nats.

    Arguments:
        num_particles: number K of latents drawn per datum.
        vectorize_particles: draw them side by side (the default), along a plate to the left of all others, or in turn.
        max_plate_nesting: how many plate dimensions the programs use; found by running them once when None and needed.

    Raises:
        TypeError: ``num_particles`` is not an integer.
        ValueError: ``num_particles`` is below 1; at the first step, when model and guide do not fit together.
    """

    def __init__(
        self, num_particles: int = 1, *, vectorize_particles: bool = True, max_plate_nesting: int | None = None
    ) -> None:
        super().__init__(num_particles=check_num_particles(num_particles))
        self.vectorize_particles = vectorize_particles
        self.max_plate_nesting = max_plate_nesting

    def __call__(self, model: Program, guide: Program) -> BoundObjective:
        """Binds the objective to two programs; the result is a module whose call gives the loss."""
        return BoundObjective(self, model, guide)

    @abstractmethod
    def bound(self, runs: Sequence[Traces]) -> Tensor:
        """The bound, summed over the N data, from one run of K particles or from K runs of one."""

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a scalar whose gradient is the estimator's."""
        runs = self._get_traces(model, guide, args, kwargs)
        if torch.is_grad_enabled():
            check_gradients(runs[0], model, guide)
        return -self.bound(runs)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, a scalar without gradient."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, its gradient added to the parameters' ``grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.detach()

    def _get_trace(self, model: Program, guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Traces:
        return self._get_traces(model, guide, args, kwargs)[0]

    def _get_traces(
        self, model: Program, guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[Traces]:
        if self.vectorize_particles and self.num_particles > 1:
            if self.max_plate_nesting is None:
                self.max_plate_nesting = count_plates(model, guide, args, kwargs)
            runs = [run(model, guide, args, kwargs, self.num_particles, self.max_plate_nesting)]
        else:
            runs = run_in_turn(model, guide, args, kwargs, self.num_particles)
        check_traces(runs[0])
        return runs


@final
class ELBO(Objective):
    r"""The evidence lower bound, :math:`E_q[\log p(x, z) - \log q(z | x)]`, averaged over K particles.

    The gradient is the reparameterised one, unbiased. With ``analytic_kl`` the KL from guide to prior is taken in
    closed form wherever Pyro knows it, which lowers the variance as long as the guide is far from the posterior (there
    the sampled bound has none); elsewhere it is sampled as before.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, equations 2 and 3 (analytic), arXiv:1312.6114.

    Arguments:
        num_particles: number K of latents drawn per datum.
        analytic_kl: take closed-form KLs where they are known. Model and guide must then draw their latents in the
            same order, so that no latent's prior depends on one the guide draws later.
        vectorize_particles: draw the particles side by side, or in turn.
        max_plate_nesting: how many plate dimensions the programs use; found by running them once when None.

    Raises:
        ValueError: at the first step, when ``analytic_kl`` is asked for and the latents come in different orders.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        analytic_kl: bool = False,
        vectorize_particles: bool = True,
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles, vectorize_particles=vectorize_particles, max_plate_nesting=max_plate_nesting)
        self.analytic_kl = analytic_kl

    def bound(self, runs: Sequence[Traces]) -> Tensor:
        """The ELBO, summed over the N data."""
        evaluate = _elbo_with_analytic_kl if self.analytic_kl else _elbo
        return torch.stack([evaluate(traces) for traces in runs]).mean()


@final
class IWAE(Objective):
    r"""The importance-weighted bound, :math:`E_q[\log \frac{1}{K} \sum_k w_k]`, with weights per datum.

    A lower bound on the log evidence that tightens as K grows; with K = 1 it is the ELBO. The gradient is the
    reparameterised one, unbiased for the bound; its signal-to-noise ratio for the guide falls as K grows.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, equations 8 and 13,
        arXiv:1509.00519; Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better,
        arXiv:1802.04537.

    Arguments:
        num_particles: number K of latents drawn per datum.
        vectorize_particles: draw the particles side by side, or in turn.
        max_plate_nesting: how many plate dimensions the programs use; found by running them once when None.

    Raises:
        ValueError: at the first step, when a site belongs to no datum, or a plate inside the datum is subsampled.
    """

    def bound(self, runs: Sequence[Traces]) -> Tensor:
        """The IWAE bound, summed over the N data."""
        _check_weights_are_per_datum(runs[0])
        weights = torch.cat([weigh(traces).local for traces in runs])  # (K, B)
        return runs[0].scale * bounds.iwae(weights).sum()


class LatentTerm(NamedTuple):
    """A latent's divergence log q - log p, or its closed form: (K, B) for a local latent, (K,) for a global one."""

    kl: Tensor
    is_local: bool


def latent_terms(traces: Traces, analytic: bool) -> dict[str, LatentTerm]:
    """The divergence of every latent from its prior, in nats, by name; auxiliary guide sites give log q alone."""
    model, guide = sample_sites(traces.model), sample_sites(traces.guide)
    if analytic:
        _check_order([name for name in model if name in guide], [name for name in guide if name in model])
    terms = {}
    for name, site in guide.items():
        reduce = local_log_prob if is_local(site, traces) else global_log_prob
        kl = _closed_form(site, model.get(name)) if analytic else None
        if kl is not None:
            terms[name] = LatentTerm(reduce(site, kl, traces), is_local(site, traces))
            continue
        log_ratio = reduce(site, _log_prob(traces.guide, name), traces)
        if name in model:
            log_ratio = log_ratio - reduce(model[name], _log_prob(traces.model, name), traces)
        terms[name] = LatentTerm(log_ratio, is_local(site, traces))
    return terms


def observation_terms(traces: Traces) -> dict[str, LatentTerm]:
    """The log-probability of every observed site, in nats, by name."""
    terms = {}
    for name, site in sample_sites(traces.model).items():
        if site["is_observed"]:
            reduce = local_log_prob if is_local(site, traces) else global_log_prob
            terms[name] = LatentTerm(reduce(site, _log_prob(traces.model, name), traces), is_local(site, traces))
    return terms


def _elbo(traces: Traces) -> Tensor:
    weights = weigh(traces)
    local = weights.scale * bounds.elbo(weights.local).sum()
    return local + (weights.global_log_p - weights.global_log_q).mean()


def _elbo_with_analytic_kl(traces: Traces) -> Tensor:
    terms = [_total(term, traces) for term in observation_terms(traces).values()]
    terms += [-_total(term, traces) for term in latent_terms(traces, analytic=True).values()]
    return torch.stack(terms).sum()


def _log_prob(trace: Trace, name: str) -> Tensor:
    trace.compute_log_prob(lambda other, _: other == name)
    return trace.nodes[name]["unscaled_log_prob"]


def _total(term: LatentTerm, traces: Traces) -> Tensor:
    """One term averaged over particles and summed over the N data."""
    return traces.scale * bounds.elbo(term.kl).sum() if term.is_local else term.kl.mean()


def _closed_form(guide_site: Site, model_site: Site | None) -> Tensor | None:
    """KL(q || p) of the shape of the site's batch, or None: unknown, or the two sites are weighted differently.

    A Delta (AutoGuides) is scored as sampled, which is exact: Pyro's formula for it forgets its log-density.
    """
    if model_site is None or kind_of(guide_site) == "Delta" or model_site["mask"] is not guide_site["mask"]:
        return None
    scales = (model_site["scale"], guide_site["scale"])
    if scales[0] is not scales[1] and (isinstance(scales[0], Tensor) or scales[0] != scales[1]):
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


def _check_weights_are_per_datum(traces: Traces) -> None:
    sites = {**sample_sites(traces.guide), **sample_sites(traces.model)}
    outer = [name for name, site in sites.items() if not is_local(site, traces) and not is_deterministic(site)]
    if outer:
        raise ValueError(
            f"IWAE weighs the latents of each datum; got sites outside the data plate: {outer}, whose weight belongs "
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
            "IWAE takes the logarithm of a sum of weights, which a subsample inside one datum makes wrong; got "
            f"the subsampled plates {sorted(subsampled)}. Subsample only the data plate, or use ELBO."
        )
