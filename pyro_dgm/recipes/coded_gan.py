"""GANs whose draws tell what they were drawn for: a code that the guide finds again, or a class that it predicts."""

__all__ = ["CodedGANRecipe"]

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from pyro_dgm import plotting
from pyro_dgm.adversarial import AdversarialTrainer, Contrast, Critic, Steps, spectrally_normalized
from pyro_dgm.datasets import Dataset, Split
from pyro_dgm.distributions import Implicit
from pyro_dgm.evaluation import decode
from pyro_dgm.infer import DATA, NLL, P
from pyro_dgm.infer.data_plate import data_plate
from pyro_dgm.infer.programs import evaluation_mode
from pyro_dgm.infer.term import Term
from pyro_dgm.nn import MLP, DCCritic, DCGenerator, LocalModule
from pyro_dgm.nn.modes import in_evaluation_mode
from pyro_dgm.recipes.checks import check_choices, check_counts, check_no_less_than_zero, check_positive
from pyro_dgm.recipes.data import moved, num_classes
from pyro_dgm.recipes.games import (
    AT_ONCE,
    NUM_PICTURED,
    Ended,
    check_kind_of_data,
    check_network,
    compiled,
    drawn_in_parts,
    game_numbers,
    in_turn,
    number,
    optimizer_of,
    pictured,
    placed,
    validated,
    whole_batches,
)
from pyro_dgm.recipes.judging import accuracy_of_codes
from pyro_dgm.recipes.recipe import Drawn, System

_CHOICES = {
    "method": ("infogan", "ac-gan"),
    "network": ("mlp", "dcgan"),
    "normalization": ("none", "batch", "spectral"),
}
_LEAST_SCALE = 0.01
_STEPS = 10  # of a continuous code, in a picture
_ROWS = 5


@final
@dataclass(frozen=True)
class CodedGANRecipe:
    """A GAN with codes or classes among its latents, and a guide that reads them off the draws.

    ``"infogan"``: a categorical code and some uniform ones, never seen; the guide q(codes | x) makes the generator keep
    information about them. ``"ac-gan"``: the class, which is seen; the guide q(y | x) learns it from the data, and the
    draws are to be of their class.

    As in both papers the guide reads the features that the critic judges by, so that a code must stand in what makes a
    draw look real and not in a speck beside it; here they are trained by the critic alone, and the guide has its own
    last layers. ``is_shared=False`` gives it a network of its own.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        method: see above.
        num_codes: values of the categorical code of an InfoGAN.
        num_continuous: its uniform codes, in [-1, 1].
        weight: of the guide's log-density, lambda.
        network: ``"mlp"`` on flat data, or ``"dcgan"`` on images.
        normalization: of the critic: ``"none"``, ``"batch"`` (dcgan) or ``"spectral"``.
        is_shared: whether the guide reads the critic's features.
        num_features: how many these are.
        latent_features: length of the noise beside the codes.
        hidden_features: widths of the hidden layers of an mlp.
        channels: channels of the convolutions, from the image inwards.
        ema: decay of the running average of the generator that is evaluated; 0 for the generator itself.
        learning_rate: of Adam, for generator and guide.
        critic_learning_rate: of Adam, for the critic.
        beta1: of both, for the mean of the gradient.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        compile: compile both players' turns, and wait until that is done; a run that is resumed rounds otherwise.

    Raises:
        ValueError: a choice is unknown, a number out of range, or two settings do not go together.
    """

    summary: str
    source: str
    method: str = "infogan"
    num_codes: int = 10
    num_continuous: int = 2
    weight: float = 1.0
    network: str = "mlp"
    normalization: str = "none"
    is_shared: bool = True
    num_features: int = 128
    latent_features: int = 62
    hidden_features: tuple[int, ...] = (128, 128)
    channels: tuple[int, ...] = (32, 64)
    ema: float = 0.0
    learning_rate: float = 1e-3
    critic_learning_rate: float = 2e-4
    beta1: float = 0.5
    batch_size: int = 64
    epochs: int = 10
    compile: bool = False

    @property
    def patience(self) -> None:
        """None: no epoch is better than another."""
        return

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_counts(self, "num_features", "latent_features", "hidden_features", "channels", "batch_size", "epochs")
        check_positive(self, {"learning_rate": "1e-3 is usual.", "critic_learning_rate": "2e-4 is usual."})
        check_no_less_than_zero(self, {"weight": "1 is usual.", "num_continuous": "2 is usual."})
        if self.num_codes < 2:
            raise ValueError(f"num_codes must be at least 2; got {self.num_codes}. 10 is usual.")
        for name in ("beta1", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1); got {getattr(self, name)}. 0.5 and 0 are usual.")
        if self.batch_size < 2:
            raise ValueError(f"a batch holds two rows at least; got batch_size={self.batch_size}. 64 is usual.")
        if self.normalization == "batch" and self.network == "mlp":
            raise ValueError(
                "batch normalisation is for the critic of a dcgan; got network='mlp'. Use --set normalization=none."
            )

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the networks.

        Arguments:
            dataset: images or points, in memory; for an AC-GAN with class labels.
            seed: seed of the order of the data.
            device: where everything is put.

        Raises:
            ValueError: the recipe cannot model data of this kind; nothing has been built then.
        """
        self._check(dataset)
        is_image = len(dataset.event_shape) == 3 and dataset.event_shape[0] in (1, 3)
        image_shape = dataset.event_shape if is_image else None
        dataset = moved(dataset, device, flat=self.network == "mlp")
        like, is_labelled = dataset.train.x, self.method == "ac-gan"
        classes = num_classes(dataset) if is_labelled else self.num_codes
        model = _CodedModel(self._generator(dataset, classes), self._sizes(classes), len(dataset.event_shape)).to(like)
        critic = self._critic(dataset.event_shape).to(like)
        guide = _CodeReader(self._reader(dataset.event_shape, classes, critic), self._sizes(classes)).to(like)
        trainer = self._trainer(model, guide, critic, dataset)

        def arguments(split: Split) -> tuple[Tensor, ...]:
            if not is_labelled:
                return (split.x,)
            assert split.y is not None
            return split.x, split.y

        def generator() -> nn.Module:
            return trainer.averaged.get("model", model)

        def draws(num: int) -> Drawn:
            codes = in_turn(num, classes, like)
            given = {"y": codes} if is_labelled else {"c": one_hot(codes, classes).to(like.dtype)}
            return Drawn(_decoded(generator(), given, num), codes)

        def numbers(split: Split) -> list[dict[str, Any]]:
            drawn = draws(len(split.x))
            return [*game_numbers(dataset, split, drawn.x), *_code_numbers(guide, split, drawn, is_labelled)]

        def figures(x: Tensor) -> dict[str, Figure]:
            drawn = draws(NUM_PICTURED // classes * classes or classes) if image_shape else draws(len(x))
            found = pictured(drawn, x, image_shape)
            if image_shape and not is_labelled:
                found |= _continuous_codes(generator(), self._sizes(classes), image_shape, like)
            return found

        return System(
            model=model,
            guide=guide,
            trainer=trainer,
            batches=whole_batches(*arguments(dataset.train), batch_size=self.batch_size, seed=seed),
            dataset=dataset,
            arguments=arguments,
            image_shape=image_shape,
            latent="y" if is_labelled else "c",
            latent_features=classes,
            is_continuous=False,
            is_discrete=False,
            figures=figures,
            numbers=numbers,
            validate=lambda: validated(dataset, draws),
            draws=draws,
            knows_classes=is_labelled,
            has_densities=False,
        )

    def _check(self, dataset: Dataset) -> None:
        check_kind_of_data(
            dataset, ("grey", "binary", "real"), "Choose images, such as mnist, or points, such as ring."
        )
        check_network(self.network, dataset)
        if self.method == "ac-gan" and num_classes(dataset) < 2:
            raise ValueError(
                f"an auxiliary classifier needs labels of two classes or more; got {dataset.name!r}, which has "
                f"{num_classes(dataset)}. Use the recipe infogan, or labelled data such as mnist."
            )

    def _sizes(self, classes: int) -> "_Sizes":
        is_labelled = self.method == "ac-gan"
        return _Sizes(self.latent_features, classes, 0 if is_labelled else self.num_continuous, is_labelled)

    def _generator(self, dataset: Dataset, classes: int) -> nn.Module:
        shape, num_inputs = dataset.event_shape, self._sizes(classes).total
        if self.network == "dcgan":
            return DCGenerator(num_inputs, shape, self.channels[::-1])
        net = MLP(num_inputs, shape[0], self.hidden_features[::-1])
        return net if dataset.kind == "real" else Ended(net, nn.Sigmoid())

    def _reader(self, shape: tuple[int, ...], classes: int, critic: Critic) -> nn.Module:
        num_outputs = classes + 2 * self._sizes(classes).continuous
        if self.is_shared:
            return _OnFeatures(critic, MLP(self.num_features, num_outputs, (self.num_features,), _Leaky))
        return self._network(shape, num_outputs, normalize=True)

    def _critic(self, shape: tuple[int, ...]) -> Critic:
        trunk = self._network(shape, self.num_features, normalize=self.normalization == "batch")
        head: nn.Module = nn.Linear(self.num_features, 1)
        if self.normalization == "spectral":
            trunk, head = spectrally_normalized(trunk), spectrally_normalized(head)
        return Critic(head, features=nn.Sequential(trunk, _Leaky()))

    def _network(self, shape: tuple[int, ...], num_outputs: int, normalize: bool) -> nn.Module:
        if self.network == "dcgan":
            return DCCritic(shape, num_outputs, self.channels, normalize=normalize)
        return MLP(shape[0], num_outputs, self.hidden_features, _Leaky)

    def _trainer(self, model: nn.Module, guide: nn.Module, critic: Critic, dataset: Dataset) -> AdversarialTrainer:
        terms = placed(Contrast("x", DATA, P, critic), dataset.train.x) + self._information() * self.weight
        own, other = (optimizer_of("adam", r, self.beta1) for r in (self.learning_rate, self.critic_learning_rate))
        return AdversarialTrainer(
            model, terms, own, other, guide, schedule=Steps(), ema=self.ema or None, compile=compiled(self.compile)
        )

    def _information(self) -> Term:
        """What the guide makes of draws, and, where it is a classifier, of the data."""
        if self.method == "ac-gan":
            return NLL("y", of="guide", at=P, through_draws=True) + NLL("y", of="guide", at=DATA)
        sites = ["c", "s"] if self.num_continuous else ["c"]
        return NLL(sites, of="guide", at=P, through_draws=True)


class _Leaky(nn.LeakyReLU):
    """The critics' rectifier."""

    def __init__(self) -> None:
        super().__init__(0.2)


@final
class _OnFeatures(nn.Module):
    """A network on a critic's features, which are not its own to train.

    Arguments:
        critic: whose features are read.
        head: what is made of them.
    """

    def __init__(self, critic: Critic, head: nn.Module) -> None:
        super().__init__()
        self.head, self._critic = head, (critic,)  # in a tuple, it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        """Maps data (*batch, *event) to (*batch, outputs)."""
        (critic,) = self._critic
        with nullcontext() if self.training else in_evaluation_mode([critic]):
            return self.head(critic.features(x))


@dataclass(frozen=True)
class _Sizes:
    """Lengths of noise, categorical code and continuous codes, and whether the code is an observed class."""

    noise: int
    classes: int
    continuous: int
    is_labelled: bool

    @property
    def total(self) -> int:
        """The length of all of them side by side."""
        return self.noise + self.classes + self.continuous


@final
class _CodedModel(LocalModule):
    """Noise z, a one-hot code c or a class y, and continuous codes s; the data are what a network makes of them."""

    def __init__(self, net: nn.Module, sizes: _Sizes, event_dim: int) -> None:
        super().__init__()
        self.net, self.sizes, self.event_dim = net, sizes, event_dim

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, *, num: int = 1, data_size: int | None = None
    ) -> Tensor:
        """Observes data, and their classes where they are labelled, or simulates ``num`` of them."""
        like, sizes = next(self.net.parameters()), self.sizes
        with data_plate(num if x is None else len(x), data_size):
            inputs = [pyro.sample("z", dist.Normal(like.new_zeros(sizes.noise), 1.0).to_event(1))]
            even = like.new_zeros(sizes.classes)
            if sizes.is_labelled:
                label = pyro.sample("y", dist.Categorical(logits=even), obs=y)
                inputs.append(one_hot(label, sizes.classes).to(like.dtype))
            else:
                inputs.append(pyro.sample("c", dist.OneHotCategorical(logits=even)))
            if sizes.continuous:
                ends = like.new_ones(sizes.continuous)
                inputs.append(pyro.sample("s", dist.Uniform(-ends, ends).to_event(1)))
            return pyro.sample("x", Implicit(self.net(*inputs), self.event_dim), obs=x)


@final
class _CodeReader(LocalModule):
    """The codes, or the class, given the data: q(c, s | x) or q(y | x)."""

    def __init__(self, net: nn.Module, sizes: _Sizes) -> None:
        super().__init__()
        self.net, self.sizes = net, sizes

    def forward(
        self, x: Tensor, y: Tensor | None = None, *, num: int = 1, data_size: int | None = None
    ) -> dict[str, Tensor]:
        """Reads the codes of data."""
        logits, loc, scale = self.net(x).split([self.sizes.classes, *[self.sizes.continuous] * 2], dim=-1)
        with data_plate(len(x), data_size):
            if self.sizes.is_labelled:
                return {"y": pyro.sample("y", dist.Categorical(logits=logits))}
            found = {"c": pyro.sample("c", dist.OneHotCategorical(logits=logits))}
            if self.sizes.continuous:
                normal = dist.Normal(loc, softplus(scale) + _LEAST_SCALE)
                found["s"] = pyro.sample("s", normal.to_event(1))
        return found

    def log_probs(self, x: Tensor) -> Tensor:
        """The logarithms of the probabilities of codes or classes, (n, classes), in evaluation mode."""
        with evaluation_mode(self):
            parts = [self.net(part)[:, : self.sizes.classes].log_softmax(1) for part in x.split(AT_ONCE)]
        return torch.cat(parts)


def _decoded(model: nn.Module, given: dict[str, Tensor], num: int) -> Tensor:
    """Data drawn given some of the latents."""

    def part(start: int, rows: int) -> Tensor:
        latents = {name: value[start : start + rows] for name, value in given.items()}
        return decode(model, latents, num=rows, sample=True)["x"]

    return drawn_in_parts(part, num)


def _code_numbers(guide: _CodeReader, split: Split, drawn: Drawn, is_labelled: bool) -> list[dict[str, Any]]:
    """How well the guide reads the draws, and what its codes have to do with the classes of the data."""
    assert drawn.codes is not None
    log_q = guide.log_probs(drawn.x).gather(1, drawn.codes.unsqueeze(1)).mean()
    classes = guide.sizes.classes
    meaning = f"lower bound on the mutual information of code and draw, by the guide; {math.log(classes):.3f} at most"
    found = [number("information of the code", math.log(classes) + float(log_q), "nats", meaning)]
    if split.y is None:
        return found
    share = accuracy_of_codes(guide.log_probs(split.x).argmax(1), split.y, matched=not is_labelled)
    if is_labelled:
        return [*found, number("accuracy", share, "share", "data whose class is the guide's most probable one")]
    meaning = "data whose most probable code is their class's, one code per class at best; labels were never seen"
    return [*found, number("purity of the guide's codes", share, "share", meaning)]


def _continuous_codes(model: nn.Module, sizes: _Sizes, image_shape: tuple[int, ...], like: Tensor) -> dict[str, Figure]:
    """For each continuous code a picture in which it alone rises from left to right, from -1 to 1."""
    found: dict[str, Figure] = {}
    rows = min(_ROWS, sizes.classes)
    z = torch.randn(rows, sizes.noise).to(like).repeat_interleave(_STEPS, 0)
    c = one_hot(in_turn(rows, sizes.classes, like), sizes.classes).to(like).repeat_interleave(_STEPS, 0)
    for code in range(sizes.continuous):
        s = like.new_zeros(rows * _STEPS, sizes.continuous)
        s[:, code] = torch.linspace(-1, 1, _STEPS).to(like).repeat(rows)
        x = _decoded(model, {"z": z, "c": c, "s": s}, len(z))
        found[f"code_{code + 1}"] = plotting.interpolations(x.reshape(rows, _STEPS, *image_shape).clamp(0, 1))
    return found
