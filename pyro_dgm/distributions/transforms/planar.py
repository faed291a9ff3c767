"""Planar and radial flows: a transform that acts along one direction, or around one point."""

__all__ = ["Planar", "Radial", "solve_tanh"]

from typing import final

import torch
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.distributions.transforms.radial import ConditionedRadial
from torch import Tensor
from torch.distributions import Transform
from torch.nn.functional import softplus

from pyro_dgm.distributions.transforms.conditional import Bijection, ConditionalTransform, Parameters

NUM_HALVINGS, NUM_NEWTON_STEPS = 26, 4


@final
class Planar(ConditionalTransform):
    r"""The planar flow, :math:`y = x + u \tanh(w^\top x + b)`, with u bent so that it is invertible.

    Cheap both to draw from and to score: the inverse has no closed form, but it takes one equation in one unknown,
    which is monotone and solved to rounding.

    References:
        Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, equation 10 and appendix A.1,
        arXiv:1505.05770.

    Arguments:
        features: length D of the vectors.
        context_features: length of the context of which u, w and b are an affine function; 0 to learn them.

    Example:
        >>> y = Planar(3)()(torch.zeros(5, 3))
        >>> y.shape
        torch.Size([5, 3])
    """

    def __init__(self, features: int, context_features: int = 0) -> None:
        super().__init__(features, context_features)
        self.parts = Parameters((1, features, features), context_features, scale=features**-0.5)

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        return _Planar(self.parts(*context))


@final
class Radial(ConditionalTransform):
    r"""The radial flow, :math:`y = x + \beta (x - x_0) / (\alpha + |x - x_0|)`, with :math:`\beta > -\alpha`.

    Cheap both to draw from and to score: the inverse is a quadratic equation for the distance from :math:`x_0`.

    References:
        Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, equation 14 and appendix A.2,
        arXiv:1505.05770.

    Arguments:
        features: length D of the vectors.
        context_features: length of the context of which the parameters are an affine function; 0 to learn them.
    """

    def __init__(self, features: int, context_features: int = 0) -> None:
        super().__init__(features, context_features)
        self.parts = Parameters((features, 1, 1), context_features, scale=features**-0.5)

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        return _Radial(self.parts(*context))


def solve_tanh(total: Tensor, r: Tensor, t: Tensor, k: Tensor) -> Tensor:
    r"""Solves :math:`v + r \tanh(t v + k) = s` for v, where :math:`r t > -1` makes the left side rise with v.

    Halving brackets the solution, Newton's steps make it exact; the last one alone is differentiated, which gives the
    derivatives of the solution by the implicit function theorem.

    Arguments:
        total: s.
        r: factor of the hyperbolic tangent.
        t: factor of v.
        k: shift.

    Returns:
        v, of the shape the arguments broadcast to.
    """
    with torch.no_grad():
        width = r.abs()
        v = total + torch.zeros_like(width)
        for _ in range(NUM_HALVINGS):
            width = width / 2
            v = torch.where(v + r * torch.tanh(t * v + k) > total, v - width, v + width)
        for _ in range(NUM_NEWTON_STEPS - 1):
            v = _newton_step(v, total, r, t, k)
    return _newton_step(v, total, r, t, k)


def _newton_step(v: Tensor, total: Tensor, r: Tensor, t: Tensor, k: Tensor) -> Tensor:
    bend = torch.tanh(t * v + k)
    slope = (1 + r * t * (1 - bend.square())).detach()
    return v - (v + r * bend - total) / slope.clamp(min=torch.finfo(slope.dtype).eps)


class _Planar(Bijection):
    """Pyro's planar transform, given an inverse."""

    def __init__(self, parts: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.parts, self.plain = parts, ConditionedPlanar(parts)

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.plain._call(x), self.plain._cached_logDetJ

    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        bias, u, w = self.parts
        u = self.plain.u_hat(u, w)
        steepness = (w * u).sum(-1, keepdim=True)
        along = solve_tanh((w * y).sum(-1, keepdim=True), steepness, torch.ones_like(steepness), bias)  # w^T x
        x = y - u * torch.tanh(along + bias)
        return x, self.forwards(x)[1]


class _Radial(Bijection):
    """Pyro's radial transform, given an inverse."""

    def __init__(self, parts: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.parts, self.plain = parts, ConditionedRadial(parts)

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.plain._call(x), self.plain._cached_logDetJ

    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        centre, alpha, beta = self.parts
        alpha = softplus(alpha)
        beta = softplus(beta) - alpha
        away = y - centre
        distance = away.norm(dim=-1, keepdim=True)  # from the centre; that of x is the positive root of a quadratic
        half = (alpha + beta - distance) / 2
        root = (half.square() + alpha * distance).sqrt()
        r = torch.where(half > 0, alpha * distance / (root + half.clamp(min=0)), root - half)
        x = centre + away * (alpha + r) / (alpha + r + beta)
        return x, self.forwards(x)[1]
