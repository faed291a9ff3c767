"""Expectations of one program's log-density under draws of either: the terms of wake-sleep, and reconstructions."""

__all__ = ["NLL", "check_names"]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_dgm.infer.annealing import annealing_of
from pyro_dgm.infer.checks import check_paths, check_reads_data, check_scores_any_point
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.forward import with_data
from pyro_dgm.infer.objective import check_kind
from pyro_dgm.infer.programs import (
    Program,
    Site,
    Traces,
    compute_log_probs,
    data_frame_of,
    global_log_prob,
    is_deterministic,
    is_local,
    local_log_prob,
    sample_sites,
)
from pyro_dgm.infer.sources import DATA, Q, Source
from pyro_dgm.infer.term import Term


@final
class NLL(Term):
    r"""Minus the expected log-density that one program gives to sites, at draws of the model or of the guide, in nats.

    ``NLL(of="model", at=Q)`` is the wake phase of wake-sleep, :math:`-E_q[\log p(x, z)]`; ``NLL(of="guide", at=P)`` its
    sleep phase, :math:`-E_p[\log q(z | x)]`; ``NLL("x", of="model", at=Q, through_draws=True)`` a reconstruction error
    that trains the guide as well. ``NLL("c", of="guide", at=P, through_draws=True)`` is the information about c that
    InfoGAN keeps in what it generates; with scorers it is cycle consistency. ``NLL("y", of="guide", at=DATA)`` trains a
    classifier on the data's own labels, and ``NLL("x", of="model", at=P.observed())`` scores the data at latents from
    the prior, as paired translation does.

    The draws are numbers: only the program whose density it is gets a gradient, unless ``through_draws``, which sends
    it on to the other, through reparameterised or implicit draws.

    At P the guide reads simulated data, so each observed site must observe an argument of the programs as it stands
    (or a reshaped view of it): that argument is what is replaced.

    References:
        Hinton, Dayan, Frey and Neal (1995), The wake-sleep algorithm for unsupervised neural networks, Science 268.

    Arguments:
        sites: one name or several; all sites of the program when None (its latents and, of the model, its data).
        of: ``"model"`` or ``"guide"``, the program whose density it is.
        at: of the model, ``Q`` or ``P.observed()``; of the guide, ``P``, ``P.given(...)`` or ``DATA``.
        through_draws: let the gradient reach the other program through the draws; only at Q and P.

    Raises:
        TypeError: a site is no name, or ``through_draws`` no bool.
        ValueError: an option is unknown, the list of sites empty, or a program is scored at its own draws, which
            teaches it nothing; at the first step, when a site is missing, the data cannot be replaced, or the guide
            cannot score given points.
    """

    def __init__(
        self, sites: str | Sequence[str] | None = None, *, of: str, at: Source, through_draws: bool = False
    ) -> None:
        super().__init__()
        self.sites = None if sites is None else check_names(sites, "NLL")
        check_kind("through_draws of NLL", through_draws, bool, "a bool", "False is the default.")
        self.of, self.at, self.through_draws = of, at, through_draws
        if of not in ("model", "guide"):
            raise ValueError(f"of must be 'model' or 'guide'; got {of!r}. It is the program whose density is taken.")
        if not isinstance(at, Source):
            raise ValueError(f"at must be P, Q or DATA; got {at!r}. Import them from pyro_dgm.infer.")
        if not _teaches(of, at):
            raise ValueError(
                f"a program's own draws teach it nothing, for its score has mean zero; got of={of!r} at={at}. Use "
                "of='model' at Q or P.observed(), or of='guide' at P, P.given() or DATA."
            )
        if through_draws and (at.is_observed or at == DATA):
            raise ValueError(
                f"through_draws trains the program that has drawn; got at={at}, which is data. Leave it out, or use "
                "at=Q or at=P."
            )

    def loss_of(self, draws: Draws) -> Tensor:
        """The term, summed over the N data, averaged over particles."""
        return torch.stack([self._total(traces) for traces in self._runs(draws)]).mean()

    def check_guide(self, guide: Program) -> None:
        """Raises where the guide is to dream and cannot score given points, or does not read data."""
        if self.of == "guide":
            check_scores_any_point(guide, f"NLL(of='guide', at={self.at})")
            check_reads_data(guide, f"NLL(of='guide', at={self.at})")

    def _runs(self, draws: Draws) -> list[Traces]:
        if self.at == Q:
            runs = draws.shared(is_cut=not self.through_draws).runs
            if self.through_draws:
                sites = sample_sites(runs[0].guide)
                check_paths(sites, sites, "NLL with through_draws")
            return runs
        if self.of == "model":
            return [_at_data_and_prior(draws, self.at)]
        return [_at_data(draws) if self.at == DATA else _at_dream(draws, self.at, self.through_draws, self.sites)]

    def _total(self, traces: Traces) -> Tensor:
        trace = traces.model if self.of == "model" else traces.guide
        sites = sample_sites(trace)
        names = _scorable(sites, self.at) if self.sites is None else self.sites
        missing = [name for name in names if name not in sites]
        if missing:
            raise ValueError(
                f"the sites of NLL must be the {self.of}'s; got {missing}, it has {list(sites)}. Name them as there."
            )
        own = [name for name in names if (self.at.is_observed or self.at == DATA) and not sites[name]["is_observed"]]
        if own:
            raise ValueError(
                f"at data, sites are scored that the model observes; got {own}, which the {self.of} has drawn itself. "
                "Leave them out."
            )
        if not names:
            raise ValueError(
                f"the {self.of} must have a site to score by NLL; got none. Leave the term out for such a program."
            )
        compute_log_probs(trace, names)
        total = []
        for name in names:
            log_prob = sites[name]["unscaled_log_prob"]
            site = {**sites[name], "scale": sites[name]["scale"] / annealing_of(sites[name])}
            if is_local(site, traces):
                total.append(traces.scale * local_log_prob(site, log_prob, traces).mean(0).sum())
            else:
                total.append(global_log_prob(site, log_prob, traces).mean())
        return -torch.stack(total).sum()


def check_names(sites: str | Sequence[str], term: str) -> tuple[str, ...]:
    """The names of a term's sites, one at least."""
    names = (sites,) if isinstance(sites, str) else tuple(sites) if isinstance(sites, Iterable) else ()
    if not names and isinstance(sites, Iterable):
        raise ValueError(f"the sites of {term} must be one at least; got {sites!r}. None takes all of the program's.")
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"the sites of {term} must be names; got {sites!r}. For instance {term}(['x', 'z'], ...).")
    return names


def _teaches(of: str, at: Source) -> bool:
    """Whether a program can learn by its density at draws of a source."""
    if at.shuffled_sites or at.redrawn_sites:
        return False
    if of == "model":
        return at == Q or at.is_observed
    return at == DATA or (at.program == "model" and not at.is_observed)


def _scorable(sites: Mapping[str, Site], at: Source) -> list[str]:
    """All sites of a program but those that it has just drawn itself."""
    return [
        name
        for name, site in sites.items()
        if not is_deterministic(site) and (site["is_observed"] if at.is_observed or at == DATA else True)
    ]


def _at_dream(draws: Draws, source: Source, through_draws: bool, named: Sequence[str] | None) -> Traces:
    """The guide's density at what the model has simulated, latents and data; of all latents, if none are named."""
    simulated = draws.simulated(source.given_sites, source.is_cut)
    args, kwargs, unplaced = with_data(simulated, draws.args, draws.kwargs)
    if unplaced:
        raise ValueError(
            "to dream, the guide must be shown simulated data, so what a site observes must be an argument of the "
            f"programs as it stands; got {unplaced}, which observe something else. Pass the observed tensor "
            "itself to model and guide."
        )
    dream = simulated.copy()
    if not through_draws:
        args, kwargs = tuple(map(_as_numbers, args)), {name: _as_numbers(value) for name, value in kwargs.items()}
        for name, site in sample_sites(dream).items():
            dream.nodes[name] = {**site, "value": site["value"].detach()}
    with draws.rows:
        trace = poutine.trace(poutine.replay(draws.guide, trace=dream)).get_trace(*args, **kwargs)
    trace = prune_subsample_sites(trace)
    missing = [
        name
        for name, site in sample_sites(dream).items()
        if not site["infer"].get("was_observed") and name not in trace.nodes and not is_deterministic(site)
    ]
    if missing and named is None:
        raise ValueError(
            f"the guide must sample every latent of the model; got a guide without {missing}. Add pyro.sample("
            f"{missing[0]!r}, ...) to it."
        )
    return Traces(dream, trace, 1, None, data_frame_of(dream), {})


def _at_data(draws: Draws) -> Traces:
    """The guide's density at data: of sites that the model observes and the guide can predict from the others."""
    data = {name: site["value"] for name, site in draws.data().items()}
    guide = poutine.condition(draws.guide, data=data)
    with draws.rows:
        trace = prune_subsample_sites(poutine.trace(guide).get_trace(*draws.args, **draws.kwargs))
    return Traces(trace, trace, 1, None, draws.frame(), {})


def _at_data_and_prior(draws: Draws, source: Source) -> Traces:
    """The model's density of the data at latents that it has drawn itself, or was given."""
    trace = draws.observed(source.given_sites, source.is_cut)
    return Traces(trace, trace, 1, None, draws.frame(), {})


def _as_numbers(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
