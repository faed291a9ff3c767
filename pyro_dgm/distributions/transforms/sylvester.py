"""Sylvester flows: many planar flows in one, along directions at right angles."""

__all__ = ["Sylvester"]

from typing import final

import torch
from torch import Tensor
from torch.distributions import Transform

from pyro_dgm.distributions.conditional import check_count
from pyro_dgm.distributions.transforms.conditional import Bijection, ConditionalTransform, Parameters
from pyro_dgm.distributions.transforms.householder import reflect
from pyro_dgm.distributions.transforms.planar import solve_tanh

_DIRECTIONS = ("orthogonal", "householder", "triangular")


@final
class Sylvester(ConditionalTransform):
    r"""The Sylvester flow, :math:`y = x + Q R \tanh(\tilde R Q^\top x + b)`.

    Q has M orthonormal columns, and R and :math:`\tilde R` are upper triangular with
    :math:`r_{ii} \tilde r_{ii} > -1`, so that the log-determinant is a sum of M terms. The inverse takes one monotone
    equation after the other, M of them, each solved to rounding: cheap to draw from, M times dearer to score.

    Pyro's ``Sylvester`` multiplies by Q on the wrong side, so that its log-determinant belongs to another map.

    References:
        Van den Berg, Hasenclever, Tomczak and Welling (2018), Sylvester Normalizing Flows for Variational Inference,
        equations 11 and 13-18, arXiv:1803.05649.

    Arguments:
        features: length D of the vectors.
        context_features: length of the context of which Q, R, :math:`\tilde R` and b are functions; 0 to learn them.
        directions: where Q comes from: ``"orthogonal"`` (a matrix of M columns made orthonormal, here by its QR
            decomposition, where the paper iterates), ``"householder"`` (a product of reflections; M = D) or
            ``"triangular"`` (the identity, or with ``reverse`` the order of the features turned round; M = D; it has no
            parameters).
        num_terms: M, for ``"orthogonal"``; at most D, and D or 8 if that is less when None.
        num_reflections: reflections of ``"householder"``.
        reverse: turns the features' order round, for every other transform with ``"triangular"`` directions.

    Raises:
        ValueError: the directions are unknown, or a number does not go with them.
    """

    cheap = "draw"

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        directions: str = "orthogonal",
        num_terms: int | None = None,
        num_reflections: int = 8,
        reverse: bool = False,
    ) -> None:
        super().__init__(features, context_features)
        if directions not in _DIRECTIONS:
            raise ValueError(
                f"directions must be one of {_DIRECTIONS}; got {directions!r}. 'orthogonal' is the smallest."
            )
        if num_terms is not None and directions != "orthogonal":
            raise ValueError(f"num_terms goes with orthogonal directions; got {directions!r}. Leave it out: it is D.")
        if num_terms is not None and not 1 <= check_count("num_terms", num_terms, 1, "8 is usual.") <= features:
            raise ValueError(f"num_terms must lie between 1 and {features} features; got {num_terms}. 8 is usual.")
        self.directions, self.reverse = directions, reverse
        self.num_reflections = min(check_count("num_reflections", num_reflections, 1, "8 is usual."), features)
        self.num_terms = (num_terms or min(8, features)) if directions == "orthogonal" else features
        of_q = {"orthogonal": features * self.num_terms, "householder": self.num_reflections * features}.get(
            directions, 0
        )
        self.parts = Parameters((self.num_terms**2, 2 * self.num_terms), context_features)
        self.frame = Parameters((of_q,), context_features, scale=1.0) if of_q else None

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        triangles, rest = self.parts(*context)
        triangles = triangles.unflatten(-1, (self.num_terms, self.num_terms))
        other_diagonal, shift = rest.chunk(2, dim=-1)
        # One square matrix holds R's strict upper triangle above its diagonal and the other's, transposed, below.
        r = _triangle(triangles, torch.diagonal(triangles, dim1=-2, dim2=-1))
        s = _triangle(triangles.mT, other_diagonal)
        return _Sylvester(self._directions(shift, *context), r, s, shift)

    def _directions(self, like: Tensor, *context: Tensor) -> Tensor:
        """Q, (*batch, D, M)."""
        if self.frame is None:
            identity = torch.eye(self.features, dtype=like.dtype, device=like.device)
            return identity.flip(0) if self.reverse else identity
        (numbers,) = self.frame(*context)
        if self.directions == "householder":
            return reflect(numbers.unflatten(-1, (self.num_reflections, self.features)))
        return torch.linalg.qr(numbers.unflatten(-1, (self.features, self.num_terms)))[0]


class _Sylvester(Bijection):
    def __init__(self, q: Tensor, r: Tensor, s: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.q, self.r, self.s, self.shift = q, r, s, shift

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bend = torch.tanh(_times(self.s, _times(self.q.mT, x)) + self.shift)
        return x + _times(self.q, _times(self.r, bend)), self._log_det_at(bend)

    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        total = _times(self.q.mT, y)
        r, s = (torch.diagonal(matrix, dim1=-2, dim2=-1) for matrix in (self.r, self.s))
        v = torch.zeros_like(total)
        bend = torch.zeros_like(total)
        for i in reversed(range(total.shape[-1])):
            rest = total[..., i] - (self.r[..., i, :] * bend).sum(-1)
            shift = self.shift[..., i] + (self.s[..., i, :] * v).sum(-1)
            own = solve_tanh(rest, r[..., i], s[..., i], shift)
            place = torch.arange(total.shape[-1], device=total.device) == i
            v = torch.where(place, own.unsqueeze(-1), v)
            bend = torch.where(place, torch.tanh(s[..., i] * own + shift).unsqueeze(-1), bend)
        return y - _times(self.q, _times(self.r, bend)), self._log_det_at(bend)

    def _log_det_at(self, bend: Tensor) -> Tensor:
        r, s = (torch.diagonal(matrix, dim1=-2, dim2=-1) for matrix in (self.r, self.s))
        return torch.log1p(r * s * (1 - bend.square())).sum(-1)


def _triangle(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """An upper triangular matrix whose diagonal lies in (-1, 1)."""
    return matrix.triu(1) + torch.diag_embed(torch.tanh(diagonal))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (*batch, n, m) times vectors (*batch, m), or one matrix times many vectors in one product."""
    if matrix.dim() == 2:
        return vector @ matrix.mT
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
