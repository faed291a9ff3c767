"""Objectives: the bounds one trains by, for stock ``pyro.infer.SVI``, for a torch optimiser, and for our trainers."""

__all__ = ["CIWAE", "ELBO", "IWAE", "MIWAE", "Renyi"]

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from pyro_dgm.infer import bounds
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.objective import Objective
from pyro_dgm.infer.programs import Traces
from pyro_dgm.infer.terms import Term, latent_terms, observation_terms


@final
class ELBO(Objective):
    r"""The evidence lower bound, :math:`E_q[\log p(x, z) - \log q(z | x)]`, averaged over K particles.

    Every estimator is unbiased for it. With ``analytic_kl`` the KL from guide to prior is taken in closed form wherever
    Pyro knows it, which lowers the variance as long as the guide is far from the posterior (there the sampled bound
    has none); elsewhere it is sampled as before.

    References:
        Kingma and Welling (2014), Auto-Encoding Variational Bayes, equations 2 and 3 (analytic), arXiv:1312.6114;
        Roeder, Wu and Duvenaud (2017), Sticking the Landing, arXiv:1703.09194 (``gradient="stl"``).

    Arguments:
        num_particles: number K of latents drawn per datum.
        analytic_kl: take closed-form KLs where they are known. Model and guide must then draw their latents in the
            same order, so that no latent's prior depends on one the guide draws later, and all by ``"reparam"``.
        options: ``gradient``, ``baseline``, ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: at the first step, when ``analytic_kl`` is asked for and the latents come in different orders;
            or when it is asked for together with another gradient.
    """

    def __init__(self, num_particles: int = 1, *, analytic_kl: bool = False, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.analytic_kl = analytic_kl
        if analytic_kl and self.gradient not in ("auto", "reparam"):
            raise ValueError(
                f"analytic_kl goes with reparameterised gradients; got gradient={self.gradient!r}. Use "
                "analytic_kl=False, or gradient='auto'."
            )

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.elbo``."""
        return bounds.elbo(log_weights)

    def bound(self, runs: Sequence[Traces]) -> Tensor:
        """The ELBO, summed over the N data."""
        evaluate = _elbo_with_analytic_kl if self.analytic_kl else _elbo
        return torch.stack([evaluate(traces) for traces in runs]).mean()


@final
class IWAE(Objective):
    r"""The importance-weighted bound, :math:`E_q[\log \frac{1}{K} \sum_k w_k]`, with weights per datum.

    A lower bound on the log evidence that tightens as K grows; with K = 1 it is the ELBO. The signal-to-noise ratio of
    its reparameterised gradient for the guide falls as K grows; that of ``gradient="dreg"`` rises. ``"stl"`` is biased
    for it. With discrete latents ``"loo"`` is VIMCO.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, equations 8 and 13,
        arXiv:1509.00519; Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better,
        arXiv:1802.04537; Tucker et al. (2019), arXiv:1810.04152; Mnih and Rezende (2016), arXiv:1602.06725.

    Arguments:
        num_particles: number K of latents drawn per datum.
        options: ``gradient``, ``baseline``, ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: at the first step, when a site belongs to no datum, or a plate inside the datum is subsampled.
    """

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.iwae``."""
        return bounds.iwae(log_weights)


@final
class MIWAE(Objective):
    r"""The mean over M groups of the importance-weighted bound of K / M particles each; see ``bounds.miwae``.

    References:
        Rainforth et al. (2018), section 4.1, arXiv:1802.04537.

    Arguments:
        num_particles: number K of latents drawn per datum, in all groups together.
        num_groups: number M of groups, a divisor of K.
        options: ``gradient``, ``baseline``, ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: K is not a multiple of M; at the first step, as for ``IWAE``.
    """

    def __init__(self, num_particles: int, num_groups: int, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.num_groups = num_groups
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.miwae``."""
        return bounds.miwae(log_weights, self.num_groups)


@final
class CIWAE(Objective):
    r"""A mixture of ELBO and importance-weighted bound, :math:`\beta` times the one and the rest of the other.

    References:
        Rainforth et al. (2018), section 4.2, arXiv:1802.04537.

    Arguments:
        num_particles: number K of latents drawn per datum.
        beta: weight of the ELBO, in [0, 1].
        options: ``gradient``, ``baseline``, ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: beta is outside [0, 1]; at the first step, as for ``IWAE``.
    """

    def __init__(self, num_particles: int, beta: float, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.beta = beta
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.ciwae``."""
        return bounds.ciwae(log_weights, self.beta)


@final
class Renyi(Objective):
    r"""The variational Renyi bound of any real alpha, with weights per datum; minus infinity is VR-max.

    Pyro's ``RenyiELBO`` has the plate's N / B inside the logarithm and no gradient for discrete latents; this one is
    right under minibatches and takes any estimator.

    References:
        Li and Turner (2016), Renyi Divergence Variational Inference, equation 13, arXiv:1602.02311.

    Arguments:
        alpha: any real number, or minus infinity; see ``bounds.renyi`` for what it bounds and from which side.
        num_particles: number K of latents drawn per datum.
        options: ``gradient``, ``baseline``, ``vectorize_particles`` and ``max_plate_nesting`` of ``Objective``.

    Raises:
        ValueError: alpha is NaN or plus infinity; at the first step, as for ``IWAE``.
    """

    def __init__(self, alpha: float, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.alpha = alpha
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.renyi``."""
        return bounds.renyi(log_weights, self.alpha)


def _elbo(traces: Traces) -> Tensor:
    weights = weigh(traces)
    local = weights.scale * bounds.elbo(weights.local).sum()
    return local + (weights.global_log_p - weights.global_log_q).mean()


def _elbo_with_analytic_kl(traces: Traces) -> Tensor:
    terms = [_total(term, traces) for term in observation_terms(traces).values()]
    terms += [-_total(term, traces) for term in latent_terms(traces, analytic=True).values()]
    return torch.stack(terms).sum()


def _total(term: Term, traces: Traces) -> Tensor:
    """One term averaged over particles and summed over the N data."""
    return traces.scale * bounds.elbo(term.value).sum() if term.is_local else term.value.mean()
