"""Several transforms in a row, by name."""

__all__ = ["KINDS", "stack"]

from typing import Any

from pyro_dgm.distributions.transforms.autoregressive import (
    BlockAutoregressive,
    InverseAutoregressive,
    MaskedAutoregressive,
    SplineAutoregressive,
)
from pyro_dgm.distributions.transforms.conditional import ConditionalTransform
from pyro_dgm.distributions.transforms.coupling import AffineCoupling, SplineCoupling
from pyro_dgm.distributions.transforms.householder import Householder
from pyro_dgm.distributions.transforms.planar import Planar, Radial
from pyro_dgm.distributions.transforms.sylvester import Sylvester
from pyro_dgm.nn.inputs import check_size

KINDS: dict[str, type[ConditionalTransform]] = {
    "planar": Planar,
    "radial": Radial,
    "householder": Householder,
    "sylvester": Sylvester,
    "iaf": InverseAutoregressive,
    "maf": MaskedAutoregressive,
    "affine-coupling": AffineCoupling,
    "spline-coupling": SplineCoupling,
    "spline-autoregressive": SplineAutoregressive,
    "bnaf": BlockAutoregressive,
}
"""The transforms by the names of their flows."""

_ALTERNATING = ("iaf", "maf", "affine-coupling", "spline-coupling", "spline-autoregressive")


def stack(
    kind: str, num_transforms: int, features: int, context_features: int = 0, **options: Any
) -> list[ConditionalTransform]:
    """Transforms of one kind in a row; where an order of the features matters, every other one has it reversed.

    Arguments:
        kind: one of ``KINDS``.
        num_transforms: how many.
        features: length of the vectors.
        context_features: length of the context; 0 for none.
        options: of the transform.

    Raises:
        ValueError: the kind is unknown, or a number out of range.
        TypeError: the transform has no such option.

    Example:
        >>> [transform.reverse for transform in stack("sylvester", 2, 3, directions="triangular")]
        [False, True]
    """
    check_size("num_transforms", num_transforms)
    if kind not in KINDS:
        raise ValueError(f"the kind of transform must be one of {tuple(KINDS)}; got {kind!r}. 'iaf' suits guides.")
    alternates = kind in _ALTERNATING or options.get("directions") == "triangular"
    return [
        KINDS[kind](features, context_features, **options, **({"reverse": bool(i % 2)} if alternates else {}))
        for i in range(num_transforms)
    ]
