"""Couplings: one half of the features is transformed given the other, cheaply both ways."""

__all__ = ["AffineCoupling", "SplineCoupling"]

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_dgm.distributions.transforms.conditional import Bijection, ConditionalTransform, check_context
from pyro_dgm.distributions.transforms.elementwise import Affine, Elementwise, Spline
from pyro_dgm.nn import MLP


@final
class AffineCoupling(ConditionalTransform):
    r"""The affine coupling of RealNVP: :math:`y_2 = e^{s(x_1)} x_2 + m(x_1)` and :math:`y_1 = x_1`.

    Cheap both to draw from and to score.

    References:
        Dinh, Sohl-Dickstein and Bengio (2017), Density Estimation using Real NVP, equations 4-8, arXiv:1605.08803.

    Arguments:
        features: length D of the vectors, at least 2.
        context_features: length of the context, which the network is given as well; 0 for none.
        hidden_features: widths of the network's hidden layers.
        reverse: the last half stays and the first is transformed, as in every other transform of a flow.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        hidden_features: Sequence[int] = (100, 100),
        reverse: bool = False,
    ) -> None:
        super().__init__(features, context_features, least=2)
        self.element = Affine()
        self.net = _Half(features, context_features, hidden_features, self.element.num_parameters, reverse)

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        return _Coupling(self.net.given(*context), self.element, self.net.sizes, self.net.reverse)


@final
class SplineCoupling(ConditionalTransform):
    r"""A coupling by monotone rational quadratic splines: every feature of one half, its knots given the other half.

    Cheap both to draw from and to score. Outside of ``[-bound, bound]`` it is the identity.

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, section 3, arXiv:1906.04032.

    Arguments:
        features: length D of the vectors, at least 2.
        context_features: length of the context, which the network is given as well; 0 for none.
        hidden_features: widths of the network's hidden layers.
        num_bins: pieces of a spline.
        bound: half the width of the interval on which it is one.
        reverse: the last half stays and the first is transformed, as in every other transform of a flow.

    Raises:
        ValueError: a width or the bound is not positive.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        hidden_features: Sequence[int] = (100, 100),
        num_bins: int = 8,
        bound: float = 5.0,
        reverse: bool = False,
    ) -> None:
        super().__init__(features, context_features, least=2)
        self.element = Spline(num_bins, bound)
        self.net = _Half(features, context_features, hidden_features, self.element.num_parameters, reverse)

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        return _Coupling(self.net.given(*context), self.element, self.net.sizes, self.net.reverse)


class _Half(nn.Module):
    """The parameters of one half of the features, given the other half and the context."""

    def __init__(
        self, features: int, context_features: int, hidden_features: Sequence[int], num_parameters: int, reverse: bool
    ) -> None:
        super().__init__()
        self.context_features, self.num_parameters, self.reverse = context_features, num_parameters, reverse
        self.sizes = (features // 2, features - features // 2)
        kept, changed = self.sizes[::-1] if reverse else self.sizes
        self.mlp = MLP(kept + context_features, changed * num_parameters, hidden_features)
        last = self.mlp.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)  # so that it begins near the identity
        nn.init.zeros_(last.bias)

    def given(self, *context: Tensor) -> Callable[[Tensor], Tensor]:
        """The network in a context, which maps one half (*batch, D1) to the other's (*batch, D2, num_parameters)."""
        given = (check_context(context, self.context_features),) if self.context_features else ()
        return lambda kept: self.mlp(kept, *given).unflatten(-1, (-1, self.num_parameters))


class _Coupling(Bijection):
    """One half changed given the other."""

    def __init__(
        self, net: Callable[[Tensor], Tensor], element: Elementwise, sizes: tuple[int, int], reverse: bool
    ) -> None:
        super().__init__()
        self.net, self.element, self.sizes, self.reverse = net, element, sizes, reverse

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed, each = self._read(x)
        y = each(changed)
        return self._joined(kept, y), each.log_abs_det_jacobian(changed, y).sum(-1)

    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        kept, changed, each = self._read(y)
        x = each.inv(changed)
        return self._joined(kept, x), each.log_abs_det_jacobian(x, changed).sum(-1)

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor, Transform]:
        """The half that is kept, the other one, and what is to be done to its elements."""
        first, last = x.split(self.sizes, dim=-1)
        kept, changed = (last, first) if self.reverse else (first, last)
        parameters = self.net(kept)
        return kept, changed.expand(parameters.shape[:-1]), self.element(parameters)  # a context may have more rows

    def _joined(self, kept: Tensor, changed: Tensor) -> Tensor:
        kept = kept.expand(*changed.shape[:-1], -1)
        return torch.cat([changed, kept] if self.reverse else [kept, changed], dim=-1)
