r"""Gradient estimators as functions of importance weights: what a bound's gradient is made of, and how it is estimated.

Let :math:`f(\log w_1, \ldots, \log w_K)` be the bound of one datum and :math:`c_k = \partial f / \partial \log w_k`.
With reparameterised draws its gradient for the guide has two parts,

.. math:: \sum_k c_k \big( \underbrace{\partial_z \log w_k \, \partial_\phi z_k}_{\text{path}}
    - \underbrace{\partial_\phi \log q_\phi(z_k)}_{\text{score}} \big),

and the estimators differ in what multiplies the score, latent by latent, and in what multiplies the path:

- ``reparam``: as it stands;
- ``stl`` (sticking the landing): no score. Unbiased for the ELBO, whose score has mean zero, and biased for any other
  bound;
- ``dreg`` (doubly reparameterised): the score's mean is itself reparameterised, which leaves
  :math:`c_k - \partial c_k / \partial \log w_k` on the path and no score. Unbiased for every bound; for the ELBO it is
  ``stl``;
- ``score``, ``nvil``, ``loo``: no path; the score is multiplied by a learning signal, the bound less a baseline, and by
  :math:`-c_k` as always. Unbiased, for draws of any kind, as long as the baseline does not know the draw.

Discrete latents have more, which need runs or draws of their own and are in ``control_variates``, ``relaxations`` and
``enumeration``: ``rebar`` and ``relax`` (the score, less that of a relaxed bound, plus the relaxed bound's own
gradient), ``disarm`` (the score of a draw and its mirror image together) and ``enumerate`` (the sum over all values),
all unbiased; ``straight_through`` and ``gumbel`` (the path of a relaxed draw), biased.
"""

__all__ = ["coefficients", "double_coefficients", "leave_one_out"]

from collections.abc import Callable

import torch
from torch import Tensor

Bound = Callable[[Tensor], Tensor]


def coefficients(bound: Bound, log_weights: Tensor) -> Tensor:
    """The derivative of a bound for each log-weight.

    Arguments:
        bound: maps (K, B) to (B,).
        log_weights: of shape (K, B).

    Returns:
        c_k of each datum, (K, B), without gradient.
    """
    return torch.func.grad(_summed(bound))(log_weights.detach())


def double_coefficients(bound: Bound, log_weights: Tensor) -> Tensor:
    r"""What multiplies the path in the doubly reparameterised gradient: :math:`c_k - \partial c_k / \partial \log w_k`.

    For IWAE these are the squares of the normalised weights, for the Renyi bound
    :math:`\alpha \tilde w_k + (1 - \alpha) \tilde w_k^2`, for the ELBO 1 / K.

    References:
        Tucker, Lawson, Gu and Maddison (2019), Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives,
        equations 8 and 12, arXiv:1810.04152; here for any bound.

    Arguments:
        bound: maps (K, B) to (B,).
        log_weights: of shape (K, B).

    Returns:
        One factor per particle and datum, (K, B), without gradient.
    """
    log_weights = log_weights.detach()
    pulled = torch.func.vjp(torch.func.grad(_summed(bound)), log_weights)
    first, pull_back = pulled[0], pulled[1]
    particles = torch.eye(len(log_weights)).to(log_weights).unsqueeze(-1).expand(-1, -1, log_weights.shape[1])
    (second,) = torch.func.vmap(pull_back)(particles)  # (K, K, B), for all data at once
    return first - second.diagonal().T  # the diagonal comes last, (B, K)


def leave_one_out(bound: Bound, log_weights: Tensor) -> Tensor:
    r"""The learning signal of each particle: the bound less the bound without what that particle has found.

    The baseline puts the mean of the other log-weights in the place of :math:`\log w_k`, so it does not know the draw.
    For the IWAE bound this is VIMCO; for the ELBO it is the difference to the mean of the others, over K.

    References:
        Mnih and Rezende (2016), Variational Inference for Monte Carlo Objectives, equations 7 and 8,
        arXiv:1602.06725; Kool, van Hoof and Welling (2019), Buy 4 REINFORCE Samples, Get a Baseline for Free.

    Arguments:
        bound: maps (K, B) to (B,).
        log_weights: of shape (K, B), K at least 2.

    Returns:
        One signal per particle and datum, (K, B), without gradient.
    """
    log_weights = log_weights.detach()
    num_particles = len(log_weights)
    own = torch.eye(num_particles, dtype=torch.bool, device=log_weights.device).unsqueeze(-1)  # (K, K, 1)
    others = log_weights.masked_fill(own, 0.0).sum(dim=1) / (num_particles - 1)  # no subtraction: a weight may be zero
    replaced = torch.where(own, others, log_weights)  # (K, K, B): in row k, particle k is the mean of the others
    return bound(log_weights) - torch.stack([bound(row) for row in replaced])


def _summed(bound: Bound) -> Callable[[Tensor], Tensor]:
    """The bound summed over the data, whose derivatives are each datum's own."""

    def summed(log_weights: Tensor) -> Tensor:
        return bound(log_weights).sum()

    return summed
