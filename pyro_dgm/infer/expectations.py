"""Expectations of one program's log-density under draws of either: the terms of wake-sleep, and reconstructions."""

__all__ = ["NLL", "P", "Q", "Source"]

import enum
from collections.abc import Iterable, Sequence
from typing import final

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_dgm.infer.annealing import annealing_of
from pyro_dgm.infer.checks import check_reads_data, check_scores_any_point
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.objective import check_kind
from pyro_dgm.infer.programs import (
    Program,
    Traces,
    compute_log_probs,
    data_frame_of,
    global_log_prob,
    is_deterministic,
    is_local,
    local_log_prob,
    sample_sites,
)
from pyro_dgm.infer.term import Term


class Source(enum.Enum):
    """Where draws come from."""

    P = "the model, run forward"
    Q = "the data, completed by the guide"


P, Q = Source.P, Source.Q


@final
class NLL(Term):
    r"""Minus the expected log-density that one program gives to sites, at draws of the model or of the guide, in nats.

    ``NLL(of="model", at=Q)`` is the wake phase of wake-sleep, :math:`-E_q[\log p(x, z)]`; ``NLL(of="guide", at=P)`` its
    sleep phase, :math:`-E_p[\log q(z | x)]`; ``NLL("x", of="model", at=Q, through_draws=True)`` a reconstruction error
    that trains the guide as well.

    The draws are numbers: only the program whose density it is gets a gradient, unless ``through_draws``, which sends
    it on to the other, through reparameterised draws.

    At P the guide reads simulated data, so each observed site must observe an argument of the programs as it stands
    (or a reshaped view of it): that argument is what is replaced.

    References:
        Hinton, Dayan, Frey and Neal (1995), The wake-sleep algorithm for unsupervised neural networks, Science 268.

    Arguments:
        sites: one name or several; all sites of the program when None (its latents and, of the model, its data).
        of: ``"model"`` or ``"guide"``, the program whose density it is.
        at: ``P`` or ``Q``.
        through_draws: let the gradient reach the other program through the draws; only at Q.

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
        self.sites = None if sites is None else _check_names(sites)
        check_kind("through_draws of NLL", through_draws, bool, "a bool", "False is the default.")
        self.of, self.at, self.through_draws = of, at, through_draws
        if of not in ("model", "guide"):
            raise ValueError(f"of must be 'model' or 'guide'; got {of!r}. It is the program whose density is taken.")
        if not isinstance(at, Source):
            raise ValueError(f"at must be P or Q; got {at!r}. Import them from pyro_dgm.infer.")
        if (of == "model") == (at is P):
            raise ValueError(
                f"a program's own draws teach it nothing, for its score has mean zero; got of={of!r} at={at.name}. Use "
                "of='model' at Q, or of='guide' at P."
            )
        if through_draws and at is P:
            raise ValueError("through_draws trains the guide through its draws; got at=P. Leave it out, or use at=Q.")

    def loss_of(self, draws: Draws) -> Tensor:
        """The term, summed over the N data, averaged over particles."""
        runs = [_at_p(draws)] if self.at is P else draws.shared(is_cut=not self.through_draws).runs
        return torch.stack([self._total(traces) for traces in runs]).mean()

    def check_guide(self, guide: Program) -> None:
        """Raises where the guide is to dream and cannot score given points, or does not read data."""
        if self.at is P:
            check_scores_any_point(guide, "NLL(of='guide', at=P)")
            check_reads_data(guide, "NLL(of='guide', at=P)")

    def _total(self, traces: Traces) -> Tensor:
        trace = traces.model if self.of == "model" else traces.guide
        sites = sample_sites(trace)
        names = (
            [name for name, site in sites.items() if not is_deterministic(site)] if self.sites is None else self.sites
        )
        missing = [name for name in names if name not in sites]
        if missing:
            raise ValueError(
                f"the sites of NLL must be the {self.of}'s; got {missing}, it has {list(sites)}. Name them as there."
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


def _check_names(sites: str | Sequence[str]) -> tuple[str, ...]:
    names = (sites,) if isinstance(sites, str) else tuple(sites) if isinstance(sites, Iterable) else ()
    if not names and isinstance(sites, Iterable):
        raise ValueError(f"the sites of NLL must be one at least; got {sites!r}. None takes all of the program's.")
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"the sites of NLL must be names; got {sites!r}. Write for instance NLL(['x', 'z'], ...).")
    return names


def _at_p(draws: Draws) -> Traces:
    """The guide's density at what the model has simulated, latents and data."""
    simulated = draws.simulated()
    if simulated.unplaced:
        raise ValueError(
            "to dream, the guide must be shown simulated data, so what a site observes must be an argument of the "
            f"programs as it stands; got {simulated.unplaced}, which observe something else. Pass the observed tensor "
            "itself to model and guide."
        )
    dream = simulated.trace.copy()
    for name, site in sample_sites(dream).items():
        dream.nodes[name] = {**site, "value": site["value"].detach()}
    guide = poutine.replay(draws.guide, trace=dream)
    trace = prune_subsample_sites(poutine.trace(guide).get_trace(*simulated.args, **simulated.kwargs))
    missing = [
        name
        for name, site in sample_sites(dream).items()
        if not site["infer"].get("was_observed") and name not in trace.nodes and not is_deterministic(site)
    ]
    if missing:
        raise ValueError(
            f"the guide must sample every latent of the model; got a guide without {missing}. Add pyro.sample("
            f"{missing[0]!r}, ...) to it."
        )
    return Traces(dream, trace, 1, None, data_frame_of(dream), {})
