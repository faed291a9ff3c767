"""Autoregressive flows: every feature is transformed given those before it."""

__all__ = ["BlockAutoregressive", "InverseAutoregressive", "MaskedAutoregressive", "SplineAutoregressive"]

import copy
from collections.abc import Callable, Sequence
from typing import final

import torch
from pyro.distributions.transforms.block_autoregressive import BlockAutoregressive as PyroBlockAutoregressive
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_dgm.distributions.transforms.conditional import Bijection, ConditionalTransform, Parameters, check_context
from pyro_dgm.distributions.transforms.elementwise import Affine, Elementwise, Gated, Spline
from pyro_dgm.nn.inputs import check_size

_RESIDUALS = ("normal", "gated")


@final
class InverseAutoregressive(ConditionalTransform):
    r"""The inverse autoregressive flow, :math:`y_i = \sigma_i x_i + (1 - \sigma_i) m_i` given x before i.

    The gates and means are a masked network's of the earlier elements of x and of the context, which it is fed beside
    them. Cheap to draw from: one pass. Scoring a point that it did not draw takes D passes.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), Improving Variational Inference with Inverse
        Autoregressive Flow, equations 10, 13 and 14, algorithm 1, arXiv:1606.04934; Germain, Gregor, Murray and
        Larochelle (2015), MADE, arXiv:1502.03509.

    Arguments:
        features: length D of the vectors, at least 2.
        context_features: length of the context; 0 for none.
        hidden_features: widths of the masked network's hidden layers, each at least D.
        gated: the update above; otherwise :math:`y_i = e^{s_i} x_i + m_i`, which can stretch as well.
        forget_bias: added to the logits of the gates, so that the flow begins near the identity.
        reverse: goes through the features from the last to the first, as every other transform of a flow should.

    Raises:
        ValueError: a width is not positive, or a hidden layer narrower than the vectors.
    """

    cheap = "draw"

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        hidden_features: Sequence[int] = (320,),
        gated: bool = True,
        forget_bias: float = 2.0,
        reverse: bool = False,
    ) -> None:
        super().__init__(features, context_features, least=2)
        self.element: Elementwise = Gated(forget_bias) if gated else Affine()
        self.net = _Masked(features, context_features, hidden_features, self.element.num_parameters, reverse)
        if not gated:  # which has its bias for that
            self.net.begin_small()

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        return _Autoregressive(self.net.given(*context), self.element, self.net.order)


@final
class MaskedAutoregressive(ConditionalTransform):
    r"""The masked autoregressive flow, :math:`y_i = (x_i - m_i) e^{-s_i}` given y before i.

    Cheap to score: one pass. Drawing takes D passes. So it suits priors and likelihoods, and the inverse
    autoregressive flow suits guides.

    References:
        Papamakarios, Pavlakou and Murray (2017), Masked Autoregressive Flow for Density Estimation, equations 3-5,
        arXiv:1705.07057.

    Arguments:
        features: length D of the vectors, at least 2.
        context_features: length of the context; 0 for none.
        hidden_features: widths of the masked network's hidden layers, each at least D.
        reverse: goes through the features from the last to the first, as every other transform of a flow should.

    Raises:
        ValueError: a width is not positive, or a hidden layer narrower than the vectors.
    """

    cheap = "score"

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        hidden_features: Sequence[int] = (100,),
        reverse: bool = False,
    ) -> None:
        super().__init__(features, context_features, least=2)
        self.element = Affine()
        self.net = _Masked(features, context_features, hidden_features, self.element.num_parameters, reverse)
        self.net.begin_small()

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        return _Autoregressive(self.net.given(*context), self.element, self.net.order).inv


@final
class SplineAutoregressive(ConditionalTransform):
    r"""A rational quadratic spline of every feature whose knots depend on the features before it.

    Cheap to draw from; with ``inverse`` cheap to score. Outside of ``[-bound, bound]`` it is the identity.

    References:
        Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, section 3, arXiv:1906.04032.

    Arguments:
        features: length D of the vectors, at least 2.
        context_features: length of the context; 0 for none.
        hidden_features: widths of the masked network's hidden layers, each at least D.
        num_bins: pieces of a spline.
        bound: half the width of the interval on which it is one.
        inverse: the transform the other way round.
        reverse: goes through the features from the last to the first.

    Raises:
        ValueError: a width or the bound is not positive, or a hidden layer is narrower than the vectors.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        hidden_features: Sequence[int] = (100,),
        num_bins: int = 8,
        bound: float = 5.0,
        inverse: bool = False,
        reverse: bool = False,
    ) -> None:
        super().__init__(features, context_features, least=2)
        self.element = Spline(num_bins, bound)
        self.inverse, self.cheap = inverse, "score" if inverse else "draw"
        self.net = _Masked(features, context_features, hidden_features, self.element.num_parameters, reverse)
        self.net.begin_small()

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        bijection = _Autoregressive(self.net.given(*context), self.element, self.net.order)
        return bijection.inv if self.inverse else bijection


@final
class BlockAutoregressive(ConditionalTransform):
    r"""The block neural autoregressive flow: a network of block-triangular weights, monotone in every feature.

    Cheap to draw from, together with the density of the draw; it has no inverse, so it cannot score any other point.
    ``Inverse(BlockAutoregressive(D))`` scores any point and cannot be drawn from: a density to fit to data. A context
    scales and shifts what goes into it.

    References:
        De Cao, Titov and Aziz (2019), Block Neural Autoregressive Flow, equations 7-12, arXiv:1904.04676.

    Arguments:
        features: length D of the vectors.
        context_features: length of the context; 0 for none.
        hidden_factors: units per feature of each hidden layer.
        residual: ``"gated"``, :math:`\alpha x + (1 - \alpha) f(x)`, or ``"normal"``, :math:`x + f(x)`. Without either
            the image of f would be a bounded part of the space.

    Raises:
        ValueError: a number is not positive, or the residual is unknown.
    """

    cheap = "draw"

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        hidden_factors: Sequence[int] = (8, 8),
        residual: str = "gated",
    ) -> None:
        super().__init__(features, context_features)
        for factor in hidden_factors:
            check_size("hidden_factors", factor)
        if residual not in _RESIDUALS:
            raise ValueError(f"residual must be one of {_RESIDUALS}; got {residual!r}. 'gated' is the paper's.")
        self.block = PyroBlockAutoregressive(features, hidden_factors=list(hidden_factors), residual=residual)
        self.parts = Parameters((features, features), context_features) if context_features else None

    @property
    def scores_any_point(self) -> bool:
        """No: it has no inverse."""
        return False

    def forward(self, *context: Tensor) -> Transform:
        """Returns the bijection."""
        return _Block(self.block, None if self.parts is None else self.parts(*context))


class _Masked(nn.Module):
    """A masked network: the parameters of every feature, given the features before it and the context."""

    def __init__(
        self, features: int, context_features: int, hidden_features: Sequence[int], num_parameters: int, reverse: bool
    ) -> None:
        super().__init__()
        widths = [check_size("hidden_features", width) for width in hidden_features]
        if not widths or min(widths) < features:
            raise ValueError(
                f"every hidden layer of a masked network must be at least as wide as the {features} features; got "
                f"hidden_features={tuple(hidden_features)}. Use one layer of {max(100, 2 * features)}."
            )
        self.context_features = context_features
        self.order = tuple(range(features))[:: -1 if reverse else 1]
        permutation = torch.tensor(self.order)
        self.made = (
            ConditionalAutoRegressiveNN(features, context_features, widths, [num_parameters], permutation)
            if context_features
            else AutoRegressiveNN(features, widths, [num_parameters], permutation)
        )

    def begin_small(self) -> None:
        """A tenth of the last layer, so that many transforms in a row begin near the identity."""
        last = self.made.layers[-1]
        with torch.no_grad():
            last.weight *= 0.1
            last.bias *= 0.1

    def given(self, *context: Tensor) -> Callable[[Tensor], Tensor]:
        """The network in a context, which maps (*batch, D) to (*batch, D, num_parameters)."""
        if not self.context_features:
            return lambda x: self.made(x).mT
        c = check_context(context, self.context_features)

        def net(x: Tensor) -> Tensor:
            batch = torch.broadcast_shapes(x.shape[:-1], c.shape[:-1])
            return self.made(x.expand(*batch, -1), context=c).mT

        return net


class _Autoregressive(Bijection):
    """Forwards by one pass of the network, backwards by one for every feature."""

    def __init__(self, net: Callable[[Tensor], Tensor], element: Elementwise, order: Sequence[int]) -> None:
        super().__init__()
        self.net, self.element, self.order = net, element, order

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parameters = self.net(x)
        x = x.expand(parameters.shape[:-1])  # the context may have more dimensions
        each = self.element(parameters)
        y = each(x)
        return y, each.log_abs_det_jacobian(x, y).sum(-1)

    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(y.shape[-1], device=y.device)
        x = torch.zeros_like(y)
        for i in self.order:  # its parameters depend on what has been found already
            parameters = self.net(x)  # (*batch, D, ...), in which the context may have more dimensions
            x = torch.where(places == i, self.element(parameters).inv(y.expand(parameters.shape[:-1])), x)
        each = self.element(self.net(x))
        return x, each.log_abs_det_jacobian(x, y.expand_as(x)).sum(-1)


class _Block(Bijection):
    """Pyro's block autoregressive transform, remembering nothing in the module."""

    def __init__(self, block: PyroBlockAutoregressive, affine: tuple[Tensor, ...] | None) -> None:
        super().__init__()
        self.block = copy.copy(block)  # shares the parameters, and keeps the log-determinant to itself
        self.affine = affine

    def forwards(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(x[..., 0])
        if self.affine is not None:
            shift, log_scale = self.affine
            x, log_det = log_scale.exp() * x + shift, log_scale.sum(-1)
        y = self.block._call(x)
        return y, log_det + self.block._cached_logDetJ.sum(-1)

    def backwards(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(
            "a BlockAutoregressive transform goes one way only; got a call of its inverse. Use InverseAutoregressive "
            "or SplineAutoregressive, or Inverse(BlockAutoregressive(...)) for a density that is not drawn from."
        )
