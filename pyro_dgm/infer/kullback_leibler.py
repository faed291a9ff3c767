"""The divergence of the guide from the prior as a term of its own."""

__all__ = ["KL"]

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from pyro_dgm.infer.checks import check_paths
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.expectations import check_names
from pyro_dgm.infer.programs import Traces, is_deterministic, kind_of, sample_sites
from pyro_dgm.infer.term import Term
from pyro_dgm.infer.terms import closed_form, latent_terms


@final
class KL(Term):
    r"""The divergence :math:`E_q[\log q(z | x) - \log p(z)]` of some latents' guide from their prior, in nats.

    What a bound consists of beside ``NLL(of="model", at=Q, through_draws=True)``, for programs of which some latents
    have densities and others are compared by a ``Contrast``: global latents in likelihood-free inference, or the part
    that adaptive contrast knows. Closed forms are used where there are any; elsewhere it is the mean over the guide's
    draws, which must be reparameterised, and unbiased.

    References:
        Tran, Ranganath and Blei (2017), Hierarchical Implicit Models, equation 4, arXiv:1702.08896.

    Arguments:
        sites: one latent or several; all of the guide when None.
        analytic: use closed forms.

    Raises:
        TypeError: a site is no name.
        ValueError: the list of sites is empty; at the first step, when a latent is in one program only, has no density,
            or is sampled without a path.
    """

    def __init__(self, sites: str | Sequence[str] | None = None, *, analytic: bool = True) -> None:
        super().__init__()
        self.sites = None if sites is None else check_names(sites, "KL")
        self.analytic = analytic

    def loss_of(self, draws: Draws) -> Tensor:
        """The divergence, summed over the N data, averaged over particles."""
        runs = draws.shared(is_weighted=False).runs
        guide, model = sample_sites(runs[0].guide), sample_sites(runs[0].model)
        own = [name for name, site in guide.items() if not (site["is_observed"] or is_deterministic(site))]
        names = own if self.sites is None else self.sites
        wrong = [name for name in names if name not in own or name not in model or kind_of(guide[name]) == "Delta"]
        if wrong or not names:
            raise ValueError(
                f"KL needs latents that model and guide both have, with densities; got {wrong or 'none'}, the guide "
                f"has {own} and the model {list(model)}. Leave out points and auxiliary sites."
            )
        self._check_paths(runs[0], names)
        totals = [term.total(traces) for traces in runs for term in latent_terms(traces, self.analytic, names).values()]
        return torch.stack(totals).sum() / len(runs)

    def _check_paths(self, traces: Traces, names: Sequence[str]) -> None:
        """A latent needs a path unless its divergence is a closed form, and if a later one's depends on it."""
        guide, model = sample_sites(traces.guide), sample_sites(traces.model)
        last = max(list(guide).index(name) for name in names)
        sampled = [
            name
            for place, name in enumerate(guide)
            if place < last
            or (name in names and not (self.analytic and closed_form(guide[name], model[name]) is not None))
        ]
        check_paths(guide, sampled, "KL")
