"""Terms that bring the aggregated posterior to the prior."""

__all__ = ["MMD", "SlicedWasserstein"]

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from pyro_dgm.infer.checks import trains
from pyro_dgm.infer.divergences import mmd, sliced_wasserstein
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.objective import check_kind
from pyro_dgm.infer.programs import is_local, per_datum, sample_sites
from pyro_dgm.infer.term import Term


class AggregateMatching(Term):
    """A divergence between the latents of a minibatch, drawn from the guide, and as many drawn from the model.

    Added to a bound, its weight is in nats per datum: the loss is the divergence times the number N of data. The
    gradient reaches the guide through reparameterised (or relaxed) draws, and a learned prior likewise.

    Arguments:
        site: the latent.
    """

    def __init__(self, site: str) -> None:
        super().__init__()
        check_kind(f"the site of {type(self).__name__}", site, str, "one name", "Add a term for each latent.")
        self.site = site

    @abstractmethod
    def divergence(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """The divergence of two sets of draws, (n, D) each, a scalar."""

    def loss_of(self, draws: Draws) -> Tensor:
        """The divergence times the number N of data."""
        runs = draws.shared().runs
        prior = draws.simulated().trace
        for name, trace in (("guide", runs[0].guide), ("model", prior)):
            if self.site not in sample_sites(trace):
                raise ValueError(
                    f"the site must be a latent of model and guide; got {self.site!r}, and the {name} has "
                    f"{list(sample_sites(trace))}. Name it as there."
                )
        site = runs[0].guide.nodes[self.site]
        if not is_local(site, runs[0]):
            raise ValueError(
                f"an aggregated posterior is one over the data; got {self.site!r}, outside the data plate. Use ELBO "
                "for it."
            )
        if torch.is_grad_enabled() and not site["value"].requires_grad and trains(runs[0], draws.model, draws.guide):
            raise ValueError(
                f"the draws of {self.site!r} must carry a gradient to the guide; got ones that do not. Use "
                "gradient='reparam', or a relaxation, 'gumbel', for discrete latents."
            )
        posterior = torch.cat([per_datum(traces.guide.nodes[self.site], traces) for traces in runs])  # (K, B, D)
        one = runs[0]._replace(model=prior, guide=prior, num_particles=1, particle_dim=None)
        drawn = per_datum(prior.nodes[self.site], one).flatten(0, 1)  # (B, D)
        total = torch.stack([self.divergence(particle, drawn) for particle in posterior]).mean()
        return runs[0].scale * runs[0].num_data * total


@final
class MMD(AggregateMatching):
    """The squared maximum mean discrepancy between aggregated posterior and prior; see ``divergences.mmd``.

    ``ELBO(beta=b) + w * MMD("z")`` is an InfoVAE, with beta = 0 a Wasserstein autoencoder. (Pyro's ``Trace_MMD``
    compares the particles of one datum, never the batch.)

    References:
        Zhao, Song and Ermon (2019), InfoVAE, equation 7, arXiv:1706.02262; Tolstikhin, Bousquet, Gelly and Schoelkopf
        (2018), Wasserstein Auto-Encoders, algorithm 2, arXiv:1711.01558.

    Arguments:
        site: the latent.
        kernel: ``"imq"`` or ``"gaussian"``.
        bandwidth: of the kernel; the usual one when None.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the kernel is unknown, or the bandwidth not positive; at the first step, when the site is no latent
            of the data, its draws carry no gradient, or the batch holds a single datum.
    """

    def __init__(self, site: str, kernel: str = "imq", bandwidth: float | None = None) -> None:
        super().__init__(site)
        check_kind("bandwidth of MMD", bandwidth, int | float | None, "a number", "None takes the usual one.")
        self.kernel, self.bandwidth = kernel, bandwidth
        mmd(torch.zeros(2, 1), torch.zeros(2, 1), kernel, bandwidth)

    def divergence(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """``divergences.mmd``."""
        return mmd(posterior, prior, self.kernel, self.bandwidth)


@final
class SlicedWasserstein(AggregateMatching):
    """The squared sliced Wasserstein distance between aggregated posterior and prior.

    References:
        Kolouri, Pope, Martin and Rohde (2019), Sliced-Wasserstein Autoencoder, arXiv:1804.01947.

    Arguments:
        site: the latent.
        num_projections: random directions per step.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: there is no direction; at the first step, when the site is no latent of the data or its draws carry
            no gradient.
    """

    def __init__(self, site: str, num_projections: int = 50) -> None:
        super().__init__(site)
        cure = "50 is the default."
        check_kind("num_projections of SlicedWasserstein", num_projections, int, "a whole number", cure)
        self.num_projections = num_projections
        sliced_wasserstein(torch.zeros(1, 1), torch.zeros(1, 1), num_projections)

    def divergence(self, posterior: Tensor, prior: Tensor) -> Tensor:
        """``divergences.sliced_wasserstein``."""
        return sliced_wasserstein(posterior, prior, self.num_projections)
