"""Householder flows: reflections, which turn a space without stretching it."""

__all__ = ["Householder", "reflect"]

from typing import final

import torch
from pyro.distributions.transforms.householder import ConditionedHouseholder
from torch import Tensor
from torch.distributions import Transform

from pyro_dgm.distributions.transforms.conditional import Bijection, ConditionalTransform, Parameters
from pyro_dgm.nn.inputs import check_size


@final
class Householder(ConditionalTransform):
    r"""The Householder flow, a product of reflections :math:`y = x - 2 v v^\top x / |v|^2`.

    It keeps volumes, so that the log-determinant is 0: after a base of diagonal covariance it gives a full one. Cheap
    both to draw from and to score.

    References:
        Tomczak and Welling (2016), Improving Variational Auto-Encoders using Householder Flow, equations 9-11,
        arXiv:1611.09630.

    Arguments:
        features: length D of the vectors.
        context_features: length of the context of which the vectors v are an affine function; 0 to learn them.
        num_reflections: how many reflections follow each other.
    """

    def __init__(self, features: int, context_features: int = 0, num_reflections: int = 1) -> None:
        super().__init__(features, context_features)
        self.num_reflections = check_size("num_reflections", num_reflections)
        self.parts = Parameters((num_reflections * features,), context_features, scale=1.0)

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        (vectors,) = self.parts(*context)
        return _Householder(vectors.unflatten(-1, (self.num_reflections, self.features)))


def reflect(vectors: Tensor) -> Tensor:
    """The orthogonal matrix of a product of reflections: vectors (*batch, H, D) give (*batch, D, D)."""
    features = vectors.shape[-1]
    matrix = torch.eye(features, dtype=vectors.dtype, device=vectors.device).expand(*vectors.shape[:-2], -1, -1)
    for vector in (vectors / vectors.norm(dim=-1, keepdim=True)).unbind(-2):
        matrix = matrix - 2 * vector.unsqueeze(-1) * (vector.unsqueeze(-2) @ matrix)
    return matrix


class _Householder(Bijection):
    """Pyro's product of reflections."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.plain = ConditionedHouseholder(vectors)

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.plain._call(x)
        return y, torch.zeros_like(y[..., 0])

    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.plain._inverse(y)
        return x, torch.zeros_like(x[..., 0])
