"""Terms that bring two sources of draws together by a distance that needs no density and no critic."""

__all__ = ["MMD", "Energy", "SlicedWasserstein"]

from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from pyro_dgm.infer.checks import trains
from pyro_dgm.infer.divergences import energy_distance, mmd, sliced_wasserstein
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.expectations import check_names
from pyro_dgm.infer.objective import check_kind
from pyro_dgm.infer.programs import is_local, per_datum, sample_sites
from pyro_dgm.infer.rows import read, stands_for
from pyro_dgm.infer.sources import P, Q, Source
from pyro_dgm.infer.term import Term


class Matching(Term):
    """A distance between the draws of two sources, over a minibatch.

    By default these are latents drawn from the guide, the aggregated posterior, and as many drawn from the model.
    Added to a bound, its weight is in nats per datum: the loss is the distance times the number N of data. The gradient
    goes through reparameterised (or relaxed, or implicit) draws of either source.

    Arguments:
        sites: one name or several, which are joined.
        num: the one source; the draws of Q may be several per datum, each set being compared.
        den: the other source.
    """

    def __init__(self, sites: str | Sequence[str], num: Source = Q, den: Source = P) -> None:
        super().__init__()
        name = type(self).__name__
        self.sites = check_names(sites, name)
        for source in (num, den):
            check_kind(f"a source of {name}", source, Source, "P, Q or DATA", "Import them from pyro_dgm.infer.")
        if num == den:
            raise ValueError(f"{name} compares two sources; got {num} twice. For instance num=DATA, den=P.")
        self.num, self.den = num, den
        self.needs_runs = Q in (num, den)

    @abstractmethod
    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of two sets of draws, (n, D) each, a scalar."""

    def loss_of(self, draws: Draws) -> Tensor:
        """The distance times the number N of data."""
        if Q in (self.num, self.den):
            self._check_latents(draws)
        x, y = (self._draws_of(draws, source) for source in (self.num, self.den))
        if torch.is_grad_enabled() and not (x.requires_grad or y.requires_grad) and self._is_to_train(draws):
            raise ValueError(
                f"the draws of {list(self.sites)} must carry a gradient to a program; got ones that do not. Use "
                "gradient='reparam', or a relaxation, 'gumbel', for discrete latents."
            )
        pairs = [(one, other) for one in x for other in y]
        return stands_for(draws) * torch.stack([self.divergence(one, other) for one, other in pairs]).mean()

    def _is_to_train(self, draws: Draws) -> bool:
        """Whether somebody expects a gradient: a guide that is frozen as a whole does not."""
        return Q not in (self.num, self.den) or trains(draws.shared().runs[0], draws.model, draws.guide)

    def _draws_of(self, draws: Draws, source: Source) -> Tensor:
        """The draws of a source, (K, B, D)."""
        if source != Q:
            return torch.cat([value.flatten(1) for value in _as_vectors(read(draws, source, self.sites))], -1)[None]
        joined = []
        for traces in draws.shared().runs:
            of_guide = sample_sites(traces.guide)
            latents = [name for name in self.sites if name in of_guide]
            own = {name: per_datum(of_guide[name], traces) for name in latents}
            rest = [name for name in self.sites if name not in own]
            data = dict(zip(rest, _as_vectors(read(draws, source, rest)), strict=True)) if rest else {}
            values = [own[name] if name in own else data[name].flatten(1) for name in self.sites]
            joined.append(torch.cat([value.expand(traces.num_particles, *value.shape[-2:]) for value in values], -1))
        return torch.cat(joined)

    def _check_latents(self, draws: Draws) -> None:
        runs = draws.shared().runs
        for name in self.sites:
            site = sample_sites(runs[0].guide).get(name)
            if site is None and name not in draws.data():
                raise ValueError(
                    f"the site must be a latent of model and guide, or data; got {name!r}, and the guide has "
                    f"{list(sample_sites(runs[0].guide))}. Name it as there."
                )
            if site is not None and not is_local(site, runs[0]):
                raise ValueError(
                    f"an aggregated posterior is one over the data; got {name!r}, outside the data plate. Use ELBO for "
                    "it."
                )


@final
class MMD(Matching):
    """The squared maximum mean discrepancy between two sources; see ``divergences.mmd``.

    ``ELBO(beta=b) + w * MMD("z")`` is an InfoVAE, with beta = 0 a Wasserstein autoencoder, and
    ``MMD("x", num=DATA, den=P)`` a generative moment matching network. (Pyro's ``Trace_MMD`` compares the particles of
    one datum, never the batch.)

    References:
        Zhao, Song and Ermon (2019), InfoVAE, equation 7, arXiv:1706.02262; Tolstikhin, Bousquet, Gelly and Schoelkopf
        (2018), Wasserstein Auto-Encoders, algorithm 2, arXiv:1711.01558; Li, Swersky and Zemel (2015), Generative
        Moment Matching Networks, arXiv:1502.02761.

    Arguments:
        sites: one name or several, which are joined.
        kernel: ``"imq"`` or ``"gaussian"``.
        bandwidth: of the kernel; the usual one when None.
        num: the one source.
        den: the other source.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the kernel is unknown, the bandwidth not positive, or the sources equal; at the first step, when a
            site is in neither source, the draws carry no gradient, or the batch holds a single datum.
    """

    def __init__(
        self,
        sites: str | Sequence[str],
        kernel: str = "imq",
        bandwidth: float | None = None,
        *,
        num: Source = Q,
        den: Source = P,
    ) -> None:
        super().__init__(sites, num, den)
        check_kind("bandwidth of MMD", bandwidth, int | float | None, "a number", "None takes the usual one.")
        self.kernel, self.bandwidth = kernel, bandwidth
        mmd(torch.zeros(2, 1), torch.zeros(2, 1), kernel, bandwidth)

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """``divergences.mmd``."""
        return mmd(x, y, self.kernel, self.bandwidth)


@final
class SlicedWasserstein(Matching):
    """The squared sliced Wasserstein distance between two sources.

    References:
        Kolouri, Pope, Martin and Rohde (2019), Sliced-Wasserstein Autoencoder, arXiv:1804.01947.

    Arguments:
        sites: one name or several, which are joined.
        num_projections: random directions per step.
        num: the one source.
        den: the other source.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: there is no direction, or the sources are equal; at the first step, as for ``MMD``.
    """

    def __init__(
        self, sites: str | Sequence[str], num_projections: int = 50, *, num: Source = Q, den: Source = P
    ) -> None:
        super().__init__(sites, num, den)
        cure = "50 is the default."
        check_kind("num_projections of SlicedWasserstein", num_projections, int, "a whole number", cure)
        self.num_projections = num_projections
        sliced_wasserstein(torch.zeros(1, 1), torch.zeros(1, 1), num_projections)

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """``divergences.sliced_wasserstein``."""
        return sliced_wasserstein(x, y, self.num_projections)


@final
class Energy(Matching):
    """The energy distance between two sources; see ``divergences.energy_distance``.

    References:
        Székely and Rizzo (2013), Energy statistics, JSPI 143; Bellemare et al. (2017), The Cramér Distance,
        arXiv:1705.10743.

    Arguments:
        sites: one name or several, which are joined.
        num: the one source.
        den: the other source.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the sources are equal; at the first step, as for ``MMD``.
    """

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """``divergences.energy_distance``."""
        return energy_distance(x, y)


def _as_vectors(values: Sequence[Tensor]) -> list[Tensor]:
    """One vector for each row; a number is one of length 1, and whole numbers become real."""
    rows = [value.unsqueeze(-1) if value.dim() == 1 else value for value in values]
    return [value if torch.is_floating_point(value) else value.to(torch.get_default_dtype()) for value in rows]
