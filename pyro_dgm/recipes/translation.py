"""Translation of data into others: by pairs, or between two sets of which nothing tells what belongs together."""

__all__ = ["TranslationRecipe"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm import plotting
from pyro_dgm.adversarial import AdversarialTrainer, Contrast, Critic
from pyro_dgm.datasets import Dataset, Split
from pyro_dgm.distributions import Generated, Implicit, StandardNormal
from pyro_dgm.evaluation import Estimate
from pyro_dgm.guides import EmptyGuide
from pyro_dgm.infer import DATA, NLL, P, Q
from pyro_dgm.infer.data_plate import data_plate
from pyro_dgm.infer.programs import evaluation_mode
from pyro_dgm.infer.term import Term
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder, DCCritic, LocalModule
from pyro_dgm.recipes.checks import check_choices, check_counts, check_no_less_than_zero, check_positive
from pyro_dgm.recipes.data import moved
from pyro_dgm.recipes.games import (
    Ended,
    check_kind_of_data,
    compiled,
    discrepancy,
    game_numbers,
    number,
    optimizer_of,
    placed,
    seeded,
    whole_batches,
)
from pyro_dgm.recipes.recipe import Drawn, System

_CHOICES = {
    "method": ("paired", "unpaired"),
    "change": ("upper-half", "blurred", "inverted", "rotated"),
    "network": ("mlp", "conv"),
}
_TRIPLES, _TRIPLES_IN_A_ROW = 20, 4
_BLOCK = 4  # pixels that are blurred into one

Change = Callable[[Tensor], Tensor]


class _Programs(NamedTuple):
    """Model, guide, what they minimise, and the way from what was changed to what it was."""

    model: nn.Module
    guide: nn.Module
    terms: Term
    translate: Change


@final
@dataclass(frozen=True)
class TranslationRecipe:
    """A network that gives data back after a known change, learned from a critic rather than from an error alone.

    ``"paired"``: each changed datum is the context of its own original, and the critic looks at both (pix2pix).
    ``"unpaired"``: one half of the data is left as it is, the other half is changed, and networks of both directions
    are learned, each with a critic of its range, so that there and back again is where one began (CycleGAN). What they
    find need not be the change itself: any map that matches the two sets and has an inverse satisfies the losses. The
    change is known, so that what is reported can be compared with the truth; both are toys of real tasks.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        method: see above.
        change: ``"upper-half"`` (the lower half is black), ``"blurred"`` (blocks of 4 x 4 pixels), ``"inverted"`` or
            ``"rotated"`` (a quarter turn, of square images or of points).
        weight: of the mean absolute error per element, of pairs or of the way there and back, lambda.
        network: ``"mlp"`` on flat data, or ``"conv"`` on images.
        latent_features: length of the noise beside the context of pairs.
        code_features: width of the middle of a conv network.
        hidden_features: widths of the hidden layers; a conv network has one, of the first width.
        channels: channels of the convolutions, from the image inwards.
        learning_rate: of Adam, for model and guide.
        critic_learning_rate: of Adam, for the critics.
        beta1: of both, for the mean of the gradient.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        compile: compile both players' turns, and wait until that is done; a run that is resumed rounds otherwise.

    Raises:
        ValueError: a choice is unknown, or a number out of range.
    """

    summary: str
    source: str
    method: str = "paired"
    change: str = "upper-half"
    weight: float = 100.0
    network: str = "mlp"
    latent_features: int = 8
    code_features: int = 128
    hidden_features: tuple[int, ...] = (300, 300)
    channels: tuple[int, ...] = (32, 64)
    learning_rate: float = 2e-4
    critic_learning_rate: float = 2e-4
    beta1: float = 0.5
    batch_size: int = 64
    epochs: int = 20
    compile: bool = False

    @property
    def patience(self) -> None:
        """None: no epoch is better than another."""
        return

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_counts(self, "latent_features", "code_features", "hidden_features", "channels", "batch_size", "epochs")
        check_positive(self, {"learning_rate": "2e-4 is usual.", "critic_learning_rate": "2e-4 is usual."})
        check_no_less_than_zero(self, {"weight": "100 is usual for pairs, 10 for cycles."})
        if not 0 <= self.beta1 < 1:
            raise ValueError(f"beta1 of Adam must lie in [0, 1); got {self.beta1}. 0.5 is usual.")
        if self.batch_size < 2:
            raise ValueError(f"a batch holds two rows at least; got batch_size={self.batch_size}. 64 is usual.")
        if self.network == "conv" and not self.hidden_features:
            raise ValueError("a conv network has a hidden layer; got hidden_features=(). Use hidden_features=(300,).")

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the networks.

        Arguments:
            dataset: images or points, in memory.
            seed: seed of the order of the data.
            device: where everything is put.

        Raises:
            ValueError: the recipe cannot change data of this kind; nothing has been built then.
        """
        self._check(dataset)
        original_shape = dataset.event_shape
        image_shape = original_shape if len(original_shape) == 3 and original_shape[0] in (1, 3) else None
        dataset = moved(dataset, device, flat=self.network == "mlp")

        def change(x: Tensor) -> Tensor:
            return _CHANGES[self.change](x.reshape(-1, *original_shape)).reshape(x.shape)

        like, is_paired = dataset.train.x, self.method == "paired"
        build = self._paired if is_paired else self._unpaired
        model, guide, terms, translate = build(dataset)
        own, other = (optimizer_of("adam", r, self.beta1) for r in (self.learning_rate, self.critic_learning_rate))
        trainer = AdversarialTrainer(
            model, terms, own, other, None if is_paired else guide, compile=compiled(self.compile)
        )

        def arguments(split: Split) -> tuple[Tensor, ...]:
            return (split.x, change(split.x)) if is_paired else (change(split.x), split.x)

        def made(x: Tensor) -> Tensor:
            """What is made of data that are changed first."""
            with evaluation_mode(model, guide):
                return translate(change(x))

        def draws(num: int) -> Drawn:
            rows = torch.arange(num, device=like.device) % len(dataset.test.x)
            y = dataset.test.y
            return Drawn(made(dataset.test.x[rows]), None if y is None else y[rows])

        def figures(x: Tensor) -> dict[str, Figure]:
            return _pictured(change(x), made(x), x, image_shape)

        half = len(like) // 2
        data = arguments(dataset.train) if is_paired else (change(like[half : 2 * half]), like[:half])
        return System(
            model=model,
            guide=guide,
            trainer=trainer,
            batches=whole_batches(*data, batch_size=self.batch_size, seed=seed),
            dataset=dataset,
            arguments=arguments,
            image_shape=image_shape,
            latent="z" if is_paired else "a",
            latent_features=self.latent_features if is_paired else like[0].numel(),
            is_continuous=True,
            is_discrete=False,
            figures=figures,
            numbers=lambda split: _numbers(dataset, split, change(split.x), made(split.x)),
            validate=lambda: _validated(dataset.valid.x, made),
            draws=draws,
            knows_classes=True,
            has_densities=False,
        )

    def _check(self, dataset: Dataset) -> None:
        check_kind_of_data(
            dataset, ("grey", "binary", "real"), "Choose images, such as mnist, or points, such as moons."
        )
        shape = dataset.event_shape
        is_square = len(shape) == 3 and shape[1] == shape[2]
        if len(shape) != 3 and (self.change != "rotated" or shape != (2,)):
            raise ValueError(
                f"images can be changed in every way, points be rotated; got change={self.change!r} for "
                f"{dataset.name!r} of shape {shape}. Choose images, such as mnist, or use --set change=rotated."
            )
        if len(shape) == 3 and self.change == "rotated" and not is_square:
            raise ValueError(
                f"a quarter turn keeps the shape of square images; got {dataset.name!r} of shape {shape}. Use --set "
                "change=inverted."
            )
        if self.network == "conv" and len(shape) != 3:
            raise ValueError(
                f"a convolutional network needs images (channels, height, width); got {dataset.name!r} with data of "
                f"shape {shape}. Use --set network=mlp."
            )
        if self.method == "unpaired" and len(dataset.train.x) < 4:
            raise ValueError(
                f"unpaired data are two halves of two rows at least; got {len(dataset.train.x)} rows of "
                f"{dataset.name!r}. Use more data."
            )

    def _paired(self, dataset: Dataset) -> _Programs:
        shape, like = dataset.event_shape, dataset.train.x
        likelihood = Generated(self._translator(dataset, self.latent_features), len(shape), scorer=_laplace(len(shape)))
        model = LatentVariableModel(StandardNormal(self.latent_features), likelihood).to(like)
        contrast = placed(Contrast(["x", "c"], DATA, P, self._critic(shape, 2)), like)
        terms = contrast + NLL("x", of="model", at=P.observed()) * self._share(shape)
        return _Programs(model, EmptyGuide(), terms, lambda c: model(None, c))

    def _unpaired(self, dataset: Dataset) -> _Programs:
        shape, like = dataset.event_shape, dataset.train.x
        there, back = (self._translator(dataset, 0) for _ in range(2))
        model, guide = _There(there, len(shape)).to(like), _Back(back, len(shape)).to(like)
        of_b = placed(Contrast("b", DATA, P, self._critic(shape, 1)), like)
        of_a = placed(Contrast("a", P, Q, self._critic(shape, 1)), like)
        cycles = NLL("b", of="model", at=Q, through_draws=True) + NLL("a", of="guide", at=P, through_draws=True)
        return _Programs(model, guide, of_b + of_a + cycles * self._share(shape), back)

    def _share(self, shape: tuple[int, ...]) -> float:
        """The weight of a sum over elements whose mean has the recipe's."""
        return self.weight / torch.Size(shape).numel()

    def _translator(self, dataset: Dataset, noise: int) -> nn.Module:
        shape = dataset.event_shape
        net = (
            _ThroughCode(shape, noise, self)
            if self.network == "conv"
            else MLP(shape[0] + noise, shape[0], self.hidden_features)
        )
        return net if dataset.kind == "real" else Ended(net, nn.Sigmoid())

    def _critic(self, shape: tuple[int, ...], count: int) -> Critic:
        if self.network == "mlp":
            return Critic(MLP(count * shape[0], 1, self.hidden_features, lambda: nn.LeakyReLU(0.2)))
        return Critic(_Stacked(DCCritic((count * shape[0], *shape[1:]), 1, self.channels, normalize=False)))


@final
class _There(LocalModule):
    """From a to b: the model, whose latent a is data."""

    def __init__(self, net: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.net, self.event_dim = net, event_dim

    def forward(self, b: Tensor, a: Tensor) -> Tensor:
        """Observes b."""
        with data_plate(len(b), None):
            a = pyro.sample("a", Implicit(a, self.event_dim))
            made = self.net(a)
            return pyro.sample("b", Implicit(made, self.event_dim, _laplace(self.event_dim)(made)), obs=b)


@final
class _Back(LocalModule):
    """From b to a: the guide."""

    def __init__(self, net: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.net, self.event_dim = net, event_dim

    def forward(self, b: Tensor, a: Tensor) -> Tensor:
        """Draws what a may have been."""
        made = self.net(b)
        with data_plate(len(b), None):
            return pyro.sample("a", Implicit(made, self.event_dim, _laplace(self.event_dim)(made)))


@final
class _ThroughCode(nn.Module):
    """Noise, if there is any, and an image to an image of the same shape, by way of a vector."""

    def __init__(self, shape: tuple[int, ...], noise: int, recipe: TranslationRecipe) -> None:
        super().__init__()
        code, channels, hidden = recipe.code_features, recipe.channels, recipe.hidden_features[0]
        self.inwards = ConvEncoder(shape, code, channels, hidden, noise)
        self.outwards = ConvDecoder(code, shape, channels[::-1], hidden)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Maps (noise, image) or (image,) to an image."""
        return self.outwards(self.inwards(inputs[-1], *inputs[:-1]).relu())


@final
class _Stacked(nn.Module):
    """A network of several images, as the channels of one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *images: Tensor) -> Tensor:
        """Joins the images and runs the network."""
        return self.net(torch.cat(images, dim=-3))


def _laplace(event_dim: int) -> Callable[[Tensor], Distribution]:
    """Scores by the absolute error."""
    return lambda value: dist.Laplace(value, 1.0).to_event(event_dim)


def _upper_half(x: Tensor) -> Tensor:
    kept = x.clone()
    kept[..., x.shape[-2] // 2 :, :] = 0
    return kept


def _rotated(x: Tensor) -> Tensor:
    return x.rot90(1, (-2, -1)) if x.dim() == 4 else torch.stack([-x[:, 1], x[:, 0]], dim=1)


_CHANGES: dict[str, Change] = {
    "upper-half": _upper_half,
    "blurred": lambda x: F.interpolate(F.avg_pool2d(x, _BLOCK, ceil_mode=True), x.shape[-2:]),
    "inverted": lambda x: 1 - x,
    "rotated": _rotated,
}


def _numbers(dataset: Dataset, split: Split, given: Tensor, made: Tensor) -> list[dict[str, Any]]:
    found = []
    for name, values, meaning in (
        ("absolute error", made, "of what is made of a changed datum; the mean over its elements"),
        ("absolute error of no change", given, "of the changed datum itself, for comparison"),
    ):
        error = Estimate.of((values - split.x).abs().flatten(1).mean(1))
        found.append(number(name, error.mean, "units of x", meaning) | {"standard_error": error.standard_error})
    return [*found, *game_numbers(dataset, split, made)]


def _validated(x: Tensor, made: Change) -> dict[str, float]:
    with seeded():
        drawn = made(x)
    return {"error": float((drawn - x).abs().mean()), "mmd": discrepancy(x, drawn)}


def _pictured(given: Tensor, made: Tensor, x: Tensor, image_shape: tuple[int, ...] | None) -> dict[str, Figure]:
    if image_shape is None:
        return {"translations": plotting.point_clouds({"changed": given, "translated": made}, x)}
    triples = torch.stack([values[:_TRIPLES].reshape(-1, *image_shape) for values in (given, made, x)], dim=1)
    title = "changed, translated, original"
    grid = plotting.image_grid(triples.flatten(0, 1).clamp(0, 1), 3 * _TRIPLES_IN_A_ROW, title)
    return {"translations": grid}
