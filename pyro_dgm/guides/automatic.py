"""Guides made from a model: an encoder for its latents per datum, an AutoGuide for the rest."""

__all__ = ["AutoAmortizedGuide", "amortize"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoGuide, AutoNormal
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Distribution, ReshapeTransform, Transform, biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import one_hot

from pyro_dgm.distributions import Bernoulli, Categorical, ConditionalDistribution
from pyro_dgm.distributions.families import OF_SEVERAL, posterior_family
from pyro_dgm.infer.programs import Program, Site, kind_of, unwrapped
from pyro_dgm.infer.reading import DataPlate, Latents, exposing, read_latents, run_aside
from pyro_dgm.nn import LocalModule
from pyro_dgm.nn.inputs import concatenate


def amortize(
    model: Program,
    encoder: nn.Module,
    *args: Any,
    family: str = "diagonal",
    global_guide: Callable[[Program], AutoGuide] = AutoNormal,
    family_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> "AutoAmortizedGuide":
    r"""Reads a model and makes its guide: :math:`q(\theta) \prod_i q(z_i | h, z_{<i})` with :math:`h` = encoder(x).

    The latents in the plate of the data are drawn in the model's order, each from the family, given the encoder's
    features of the datum and the latents before it; a bijection takes it to its support (positive, unit interval,
    simplex and so on; bounds are read once). Bits and classes get their own distributions; of a single number, a family
    that couples several is the diagonal one. Latents outside of the plate get an AutoGuide.

    Arguments:
        model: a Pyro program with observed sites.
        encoder: a network given the model's positional arguments, which returns features, (B, H).
        args: positional arguments of the model, a batch of data for instance; looked at, not learned from.
        family: of the continuous latents, as in ``posterior_family``: ``"diagonal"``, ``"full"``, ``"iaf"`` and so on.
        global_guide: makes the guide of the latents outside of the plate.
        family_options: of the family.
        kwargs: keyword arguments of the model.

    Returns:
        The guide, which takes the model's arguments; all its parameters are there.

    Raises:
        TypeError: the encoder is no module, or returns no tensor.
        ValueError: there are no arguments, the model has no latent of the data, one of them stands in a further plate,
            is of a kind that has no such guide, is masked or scaled, or has bounds that differ between data or runs, or
            the encoder's features have no row per datum.

    Example:
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         rate = pyro.sample("rate", dist.LogNormal(torch.zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Poisson(rate.unsqueeze(-1).expand(*rate.shape, 3)).to_event(1), obs=x)
        >>> guide = amortize(model, nn.Linear(3, 8), torch.ones(5, 3), family="planar")
        >>> bool((guide(torch.ones(7, 3))["rate"] > 0).all())
        True
    """
    if not args and not kwargs:
        raise ValueError(
            "amortize reads the model by running it; got no arguments for it. Pass a batch of data, as in "
            "amortize(model, encoder, x)."
        )
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"the encoder must be a module; got {type(encoder).__name__}. For instance MLP(784, 200).")
    latents = read_latents(model, args, kwargs)
    if latents.plate is None:
        raise ValueError(
            "an encoder is for latents in the plate of the data; got a model whose latents are "
            f"{latents.others or 'none'}, which stand in no such plate. Use an AutoGuide, such as AutoNormal(model)."
        )
    parts = _parts(latents, latents.plate, encoder, args, family, family_options or {})
    with pyro.settings.context(module_local_params=True):
        outer = global_guide(exposing(model, latents.others)) if latents.others else None
    reads_all_rows = bool(args) and isinstance(args[0], Tensor) and len(args[0]) == latents.plate.full_size
    guide = AutoAmortizedGuide(latents.plate, encoder, parts, outer, latents.others, reads_all_rows)
    run_aside(guide, model, args, kwargs)  # whereupon an AutoGuide has its parameters
    return guide


@final
class AutoAmortizedGuide(LocalModule):
    """The guide that ``amortize`` makes.

    Arguments:
        plate: of the data.
        encoder: given the model's positional arguments.
        parts: the distribution of every latent of the data, by name, in the model's order.
        global_guide: of the other latents, or None if there are none.
        global_names: their names.
        reads_all_rows: whether the programs' first argument has all N rows, of which the model draws some.
    """

    def __init__(
        self,
        plate: DataPlate,
        encoder: nn.Module,
        parts: Mapping[str, "_Part"],
        global_guide: AutoGuide | None,
        global_names: Sequence[str],
        reads_all_rows: bool,
    ) -> None:
        super().__init__()
        self.plate, self.names, self.global_names = plate, tuple(parts), tuple(global_names)
        self.reads_all_rows = reads_all_rows
        self.encoder = encoder
        self.parts = nn.ModuleList(parts.values())
        self.globals = global_guide

    @property
    def scores_any_point(self) -> bool:
        """Whether its density is known at any point, for every latent; an AutoGuide's is not."""
        return not self.scored_when_drawn

    @property
    def scored_when_drawn(self) -> list[str]:
        """Names of the latents whose density is known at their last draws alone."""
        own = [name for name, conditional in self.conditionals().items() if not conditional.scores_any_point]
        return [*own, *self.global_names]

    def conditionals(self) -> dict[str, ConditionalDistribution]:
        """The conditional distribution of every latent of the data, before it is taken to its support."""
        return {name: part.conditional for name, part in self._named_parts()}

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws the latents; takes what the model takes.

        Returns:
            One draw of each latent by name.

        Raises:
            ValueError: the encoder's features have no row per datum.
        """
        draws = {} if self.globals is None else dict(self.globals(*args, **kwargs))
        features = None if self.plate.num_drawn is not None else features_of(self.encoder, args)
        full_size = self._full_size(args) if features is None else kwargs.get("data_size")
        with self.plate.open(0 if features is None else len(features), full_size) as rows:
            if features is None:
                features = features_of(self.encoder, [_rows_of(arg, rows, full_size) for arg in args])
            inner = (1,) * (-self.plate.dim - 1)  # for the plates that the model opens inside of the data's
            given = [features.reshape(len(features), *inner, features.shape[-1])]
            for name, part in self._named_parts():
                draws[name] = pyro.sample(name, part(concatenate(given)))
                given.append(part.coordinates(draws[name]))
        return draws

    def _full_size(self, args: Sequence[Any]) -> int | None:
        """N where the model draws its rows: as many as the first argument has, or as it was when the model was read."""
        sizes = [len(arg) for arg in args if isinstance(arg, Tensor) and arg.dim()]
        return sizes[0] if self.reads_all_rows and sizes else self.plate.full_size

    def _named_parts(self) -> list[tuple[str, "_Part"]]:
        return list(zip(self.names, self.parts, strict=True))  # type: ignore[arg-type]  # a ModuleList of parts


@final
class _Part(LocalModule):
    """One latent's conditional distribution, over its own event and support.

    Arguments:
        conditional: over vectors, or over the event itself where there is no bijection.
        bijection: from vectors to the event, or None.
        event_dim: dimensions of the event.
        num_classes: of a categorical latent, else 0.
    """

    def __init__(
        self,
        conditional: ConditionalDistribution,
        bijection: Transform | None,
        event_dim: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.conditional, self.bijection = conditional, bijection
        self.event_dim, self.num_classes = event_dim, num_classes

    def forward(self, features: Tensor) -> Distribution:
        """The distribution given the features, (*batch, H)."""
        d = self.conditional(features)
        if self.bijection is None:
            return d
        return dist.TransformedDistribution(d, [self.bijection.with_cache(1)])  # whose cache is this draw's alone

    def coordinates(self, value: Tensor) -> Tensor:
        """A value as a vector of numbers, (*batch, numbers)."""
        if self.bijection is not None:
            return self.bijection.inv(value)
        if self.num_classes:
            value = one_hot(value.long(), self.num_classes)
        value = value.to(next(self.parameters()).dtype)
        return value.reshape(*value.shape[: value.dim() - self.event_dim - (self.num_classes > 0)], -1)


@final
class _Shaped(nn.Module):
    """An affine map whose output has a shape."""

    def __init__(self, features: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.linear = nn.Linear(features, self.shape.numel())

    def forward(self, features: Tensor) -> Tensor:
        """Maps (*batch, H) to (*batch, *shape)."""
        return self.linear(features).reshape(*features.shape[:-1], *self.shape)


def features_of(encoder: nn.Module, args: Sequence[Any]) -> Tensor:
    """The encoder's features of the arguments, checked: (B, H).

    Raises:
        TypeError: it returns no tensor.
        ValueError: it returns another shape.
    """
    try:
        features = encoder(*args)
    except TypeError as err:
        raise TypeError(
            f"the encoder is called with the model's positional arguments; got {len(args)} of them, and: {err}. Pass "
            "the data by position, and give the encoder a forward that takes all of them."
        ) from err
    if not isinstance(features, Tensor):
        raise TypeError(f"the encoder must return a tensor; got {type(features).__name__}. Join its outputs.")
    if features.dim() != 2:
        raise ValueError(f"the encoder must return features (B, H); got shape {tuple(features.shape)}. Flatten them.")
    return features


def _parts(
    latents: Latents,
    plate: DataPlate,
    encoder: nn.Module,
    args: Sequence[Any],
    family: str,
    options: Mapping[str, Any],
) -> "dict[str, _Part]":
    features = run_aside(lambda *given: features_of(encoder, given), encoder, args, {})
    if len(features) not in (plate.rows, plate.full_size):
        raise ValueError(
            f"the encoder's features must have one row for each of the {plate.rows} data in the plate {plate.name!r}; "
            f"got shape {tuple(features.shape)}. Let it keep the first dimension."
        )
    parts: dict[str, _Part] = {}
    width = features.shape[-1]
    for name, site in latents.local.items():
        if further := latents.further_plates(name):
            raise ValueError(
                f"amortize makes guides of latents in the data's plate alone; got {name!r}, which stands in {further} "
                "as well. Make that dimension part of the event with .to_event(1), or write a guide by hand."
            )
        parts[name] = _part(name, site, latents.supports[name], family, width, options).to(features)
        width += parts[name].coordinates(site["value"]).shape[-1]
    return parts


def _part(name: str, site: Site, support: Constraint, family: str, width: int, options: Mapping[str, Any]) -> _Part:
    """The guide of one latent of the data, given ``width`` features."""
    event = tuple(site["fn"].event_shape)
    if support.is_discrete:
        return _discrete_part(name, site, width)
    try:
        to_support = biject_to(support)
    except NotImplementedError:
        raise ValueError(
            f"amortize knows supports that numbers can be mapped to; got {name!r}, a {kind_of(site)} on "
            f"{support}. Give it a conditional distribution of its own in a StructuredGuide."
        ) from None
    inner = torch.Size(to_support.inverse_shape(event))
    if inner.numel() == 1 and family in OF_SEVERAL:
        family, options = "diagonal", {}
    conditional = posterior_family(family, inner.numel(), width, **options)
    if len(event) == 1 and getattr(support, "base_constraint", None) is constraints.real:
        return _Part(conditional, None, 1)
    from_vector = ReshapeTransform(torch.Size([inner.numel()]), inner)
    return _Part(conditional, ComposeTransform([from_vector, to_support]), len(event))


def _discrete_part(name: str, site: Site, width: int) -> _Part:
    fn, kind = site["fn"], kind_of(site)
    event = tuple(fn.event_shape)
    if kind == "Bernoulli":
        return _Part(Bernoulli(_Shaped(width, event), len(event)), None, len(event))
    if kind == "Categorical":
        classes = unwrapped(fn).probs.shape[-1]
        return _Part(Categorical(_Shaped(width, (*event, classes)), len(event)), None, len(event), classes)
    if kind == "OneHotCategorical" and len(event) in (1, 2):
        return _Part(_OneHot(width, event), None, len(event))
    raise ValueError(
        f"amortize knows discrete latents that are Bernoulli, Categorical or OneHotCategorical; got {name!r}, a "
        f"{kind}. Give it a conditional distribution of its own in a StructuredGuide."
    )


class _OneHot(ConditionalDistribution):
    """One-hot variables of any event shape."""

    def __init__(self, width: int, event: tuple[int, ...]) -> None:
        super().__init__()
        self.net = _Shaped(width, event)

    def forward(self, *context: Tensor) -> Distribution:
        """Returns the distribution of batch shape (*batch,)."""
        return dist.OneHotCategorical(logits=self.net(*context)).to_event(len(self.net.shape) - 1)


def _rows_of(arg: Any, rows: Tensor, full_size: int | None) -> Any:
    """The rows that a plate has drawn of an argument that has all of them."""
    return arg[rows] if isinstance(arg, Tensor) and arg.dim() and len(arg) == full_size else arg
