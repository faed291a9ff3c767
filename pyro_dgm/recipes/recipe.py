"""What a recipe is: plain values that build a system to train."""

__all__ = ["CountingTrainer", "Drawn", "Recipe", "System", "change"]

import ast
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pyro_dgm.datasets import Batches, Dataset, Split
from pyro_dgm.training import Trainer


class CountingTrainer(Trainer, Protocol):
    """A trainer that counts its steps, as ``SVI`` and ``ExactEM`` do."""

    num_steps: int


class Drawn(NamedTuple):
    """Data that a system has drawn, as they are pictured and judged.

    Arguments:
        x: the data, (n, *event).
        codes: the class or the code that each was drawn for, (n,), int64; None where there are none.
    """

    x: Tensor
    codes: Tensor | None = None


class System(NamedTuple):
    """Everything needed to train and evaluate, built by a recipe for one data set.

    Arguments:
        model: the model.
        guide: its guide.
        trainer: what trains them, with its objective and optimiser; it may see them annealed, as nothing else does.
        batches: the training data in minibatches, as the programs take them.
        dataset: the data as evaluated, binarised where the likelihood needs it.
        arguments: gives the programs' arguments for a split: (x,) or (x, context).
        image_shape: (C, H, W) when x can be looked at as a grey or colour image, else None.
        latent: the latent that is looked at as a datum's code, by name.
        latent_features: its length.
        is_continuous: whether it is: only then are there points between two of them.
        is_discrete: whether the likelihood gives masses: only then are bits per dimension a code length.
        has_means: whether the mean of that latent is known in closed form, to be looked at.
        scheduler: of the trainer's learning rate, stepped after every epoch.
        figures: draws what there is to see of data, by name, in place of codes and images.
        numbers: finds what is reported of a split in place of the ELBO and its parts, as rows of ``evaluation.json``;
            such a system judges data and draws none, unless it has ``draws``.
        validate: finds what is reported of the validation data in place of the ELBO and its parts; with no ``loss``
            among it, no epoch is better than another.
        draws: draws so many data, of the averaged generator where there is one, classes or codes in turn; where it is
            None the model is run forward.
        knows_classes: whether these codes are the classes of the data, or found without them.
        has_densities: whether model and guide have all their densities: only then there is something for ArviZ.
        proposal: makes a guide with a density, to be fitted to the trained model for an estimate of log p(x), where
            the system's own guide has none.
    """

    model: nn.Module
    guide: nn.Module
    trainer: CountingTrainer
    batches: Batches
    dataset: Dataset
    arguments: Callable[[Split], tuple[Tensor, ...]]
    image_shape: tuple[int, ...] | None
    latent: str
    latent_features: int
    is_continuous: bool
    is_discrete: bool
    has_means: bool = True
    scheduler: LRScheduler | None = None
    figures: Callable[[Tensor], dict[str, Figure]] | None = None
    numbers: Callable[[Split], list[dict[str, Any]]] | None = None
    validate: Callable[[], dict[str, float]] | None = None
    draws: Callable[[int], Drawn] | None = None
    knows_classes: bool = False
    has_densities: bool = True
    proposal: Callable[[], nn.Module] | None = None


class Recipe(Protocol):
    """A frozen dataclass of plain values with a name, what it is, where it comes from, and ``build``."""

    @property
    def summary(self) -> str:
        """What it is, in a line."""

    @property
    def source(self) -> str:
        """The paper."""

    @property
    def epochs(self) -> int:
        """Passes through the data, unless asked otherwise."""

    @property
    def patience(self) -> int | None:
        """Epochs without a better validation bound after which training stops; None to train to the end."""

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set."""


def change(recipe: Any, settings: Mapping[str, Any]) -> Any:
    """A recipe with some of its values changed.

    Arguments:
        recipe: a frozen dataclass whose fields are str, bool, int, float, tuple[int, ...] or one of them or None.
        settings: new values by field; strings are read as Python literals where the field is no string.

    Raises:
        ValueError: a field is unknown (the nearest ones are named), or a value has another type than the field's.
    """
    kinds = typing.get_type_hints(type(recipe))
    for name in settings:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds)
            cure = f"Did you mean {' or '.join(near)}?" if near else f"Its settings are {', '.join(kinds)}."
            raise ValueError(f"a setting must be one of the recipe's; got {name!r}. {cure}")
    values = {name: _read(name, value, kinds[name], getattr(recipe, name)) for name, value in settings.items()}
    return dataclasses.replace(recipe, **values)


def _read(name: str, value: Any, kind: Any, example: Any) -> Any:
    """The value as the field's type has it."""
    read = value
    if isinstance(value, str) and kind is not str:
        try:
            read = ast.literal_eval(value)
        except (ValueError, SyntaxError) as err:
            raise _wrong_type(name, value, kind, example) from err
    if kind is float and type(read) is int:
        return float(read)
    if typing.get_origin(kind) is tuple:
        items = tuple(read) if isinstance(read, list | tuple) else (read,)
        if all(type(item) is typing.get_args(kind)[0] for item in items):
            return items
    elif type(read) in (typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)):
        return read
    raise _wrong_type(name, value, kind, example)


def _wrong_type(name: str, value: Any, kind: Any, example: Any) -> ValueError:
    text = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return ValueError(
        f"setting {name!r} must be of type {text}, such as {example!r}; got {value!r}. Write it as Python does, for "
        "instance hidden_features=(200,200)."
    )
