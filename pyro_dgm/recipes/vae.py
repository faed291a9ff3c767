"""Variational autoencoders: prior, likelihood, guide and objective put together by name."""

__all__ = ["VAERecipe"]

import math
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyro_dgm.datasets import Batches, Dataset, Split, binarize, fix_binarization
from pyro_dgm.distributions import (
    Bernoulli,
    ConditionalDistribution,
    ContinuousBernoulli,
    DiagonalNormal,
    DiscretizedLogistic,
    FullNormal,
    Normal,
    StandardNormal,
)
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, Objective, Renyi
from pyro_dgm.infer.estimators import ESTIMATORS
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder
from pyro_dgm.recipes.recipe import System

_CHOICES = {
    "network": ("mlp", "conv"),
    "posterior": ("diagonal", "full"),
    "likelihood": ("bernoulli", "continuous-bernoulli", "normal", "discretized-logistic"),
    "objective": ("elbo", "iwae", "renyi"),
    "gradient": ESTIMATORS,
    "activation": ("relu", "tanh"),
}
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
_POSTERIORS = {"diagonal": DiagonalNormal, "full": FullNormal}


@final
@dataclass(frozen=True)
class VAERecipe:
    """A variational autoencoder with one latent vector per datum.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        network: ``"mlp"`` on flat data, or ``"conv"`` on images.
        posterior: ``"diagonal"`` or ``"full"`` covariance.
        likelihood: ``"bernoulli"`` (grey levels are then binarised anew every time they are seen), or
            ``"continuous-bernoulli"``, ``"normal"`` (learned scale), ``"discretized-logistic"`` on grey levels.
        conditional: everything is conditioned on the class label.
        objective: ``"elbo"``, ``"iwae"`` or ``"renyi"``.
        gradient: estimator of its gradient, ``"auto"``, ``"stl"``, ``"dreg"`` and so on.
        alpha: of the Renyi bound.
        num_particles: number K of latents per datum in training.
        analytic_kl: closed-form KL in the ELBO.
        latent_features: length of z.
        hidden_features: widths of the hidden layers, from the data inwards; a conv network has one, between the
            convolutions and z, of the first width.
        channels: channels of the convolutions, from the image inwards.
        activation: ``"relu"`` or ``"tanh"``.
        levels: values of a pixel, for the discretized logistic.
        learning_rate: of Adam.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        patience: epochs without a better validation bound after which training stops; None to train to the end.

    Raises:
        ValueError: a choice is unknown, or a number out of range.
    """

    summary: str
    source: str
    network: str = "mlp"
    posterior: str = "diagonal"
    likelihood: str = "bernoulli"
    conditional: bool = False
    objective: str = "elbo"
    gradient: str = "auto"
    alpha: float = 0.5
    num_particles: int = 1
    analytic_kl: bool = True
    latent_features: int = 50
    hidden_features: tuple[int, ...] = (200, 200)
    channels: tuple[int, ...] = (32, 64)
    activation: str = "relu"
    levels: int = 256
    learning_rate: float = 1e-3
    batch_size: int = 100
    epochs: int = 20
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}; got {getattr(self, name)!r}. Choose one of them.")
        for name in ("num_particles", "latent_features", "hidden_features", "channels", "batch_size", "epochs"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,), default=1) < 1:
                raise ValueError(f"{name} must be at least 1; got {value}. Choose a positive number.")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2; got {self.levels}. It is 256 for 8-bit images.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, or None; got {self.patience}. 10 is a usual choice.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite; got {self.learning_rate}. Adam likes 1e-3.")
        if self.network == "conv" and not self.hidden_features:
            raise ValueError("a conv network has a hidden layer; got hidden_features=(). Use hidden_features=(200,).")

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the networks.

        Arguments:
            dataset: data that can be looked at as vectors or images, in memory.
            seed: seed of the order of the data, and of their dynamic binarisation.
            device: where everything is put.

        Raises:
            ValueError: the recipe cannot model data of this kind; nothing has been built then.
        """
        self._check(dataset)
        is_dynamic = self.likelihood == "bernoulli" and dataset.kind == "grey"
        dataset = fix_binarization(dataset) if is_dynamic else dataset
        is_image = len(dataset.event_shape) == 3 and dataset.event_shape[0] in (1, 3)
        image_shape = dataset.event_shape if is_image else None
        dataset = _moved(dataset, device, flat=self.network == "mlp")
        classes = _num_classes(dataset) if self.conditional else 0
        model, guide = (program.to(device) for program in self._programs(dataset.event_shape, classes))

        def arguments(split: Split) -> tuple[Tensor, ...]:
            if not classes:
                return (split.x,)
            assert split.y is not None
            return split.x, one_hot(split.y, classes).to(split.x.dtype)

        return System(
            model=model,
            guide=guide,
            objective=self._objective(),
            optimizer=torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=self.learning_rate),
            batches=Batches(
                *arguments(dataset.train),
                batch_size=self.batch_size,
                seed=seed,
                transform=binarize if is_dynamic else None,
            ),
            dataset=dataset,
            arguments=arguments,
            image_shape=image_shape,
            latent_features=self.latent_features,
            is_discrete=self.likelihood in ("bernoulli", "discretized-logistic"),
        )

    def _check(self, dataset: Dataset) -> None:
        accepted = {
            "bernoulli": ("grey", "binary"),
            "continuous-bernoulli": ("grey", "binary"),
            "discretized-logistic": ("grey",),
            "normal": ("grey", "binary", "real"),
        }[self.likelihood]
        if dataset.kind not in accepted:
            cure = "Use --set likelihood=normal." if dataset.kind == "real" else "Choose images, such as mnist."
            raise ValueError(
                f"a {self.likelihood} likelihood models data of kind {accepted}; got {dataset.name!r}, of kind "
                f"{dataset.kind!r}. {cure}"
            )
        if self.network == "conv" and len(dataset.event_shape) != 3:
            raise ValueError(
                f"a convolutional network needs images (channels, height, width); got {dataset.name!r} with data of "
                f"shape {dataset.event_shape}. Use --set network=mlp."
            )
        if self.conditional and not _num_classes(dataset):
            raise ValueError(
                f"a conditional model needs class labels; got {dataset.name!r}, which has none. Use the recipe vae, or "
                "labelled data such as mnist."
            )

    def _programs(self, event_shape: tuple[int, ...], classes: int) -> tuple[LatentVariableModel, AmortizedGuide]:
        posterior = _POSTERIORS[self.posterior]
        num_outputs = posterior.num_parameters(self.latent_features)
        model = LatentVariableModel(StandardNormal(self.latent_features), self._likelihood(event_shape, classes))
        guide = AmortizedGuide(z=posterior(self._encoder(event_shape, classes, num_outputs)))
        return model, guide

    def _encoder(self, event_shape: tuple[int, ...], classes: int, num_outputs: int) -> nn.Module:
        activation = _ACTIVATIONS[self.activation]
        if self.network == "mlp":
            return MLP(event_shape[0] + classes, num_outputs, self.hidden_features, activation)
        return ConvEncoder(event_shape, num_outputs, self.channels, self.hidden_features[0], classes, activation)

    def _likelihood(self, event_shape: tuple[int, ...], classes: int) -> ConditionalDistribution:
        activation = _ACTIVATIONS[self.activation]
        copies = 2 if self.likelihood == "discretized-logistic" else 1  # parameters per pixel
        num_inputs = self.latent_features + classes
        net: nn.Module
        if self.network == "mlp":
            net = MLP(num_inputs, copies * event_shape[0], self.hidden_features[::-1], activation)
        else:
            shape = (copies * event_shape[0], *event_shape[1:])
            net = ConvDecoder(num_inputs, shape, self.channels[::-1], self.hidden_features[0], activation)
        event_dim = len(event_shape)
        if self.likelihood == "bernoulli":
            return Bernoulli(net, event_dim)
        if self.likelihood == "continuous-bernoulli":
            return ContinuousBernoulli(net, event_dim)
        if self.likelihood == "normal":
            return Normal(net, event_dim, scale="learned")
        return DiscretizedLogistic(net, event_dim, self.levels)

    def _objective(self) -> Objective:
        options: dict[str, Any] = {"gradient": self.gradient, "max_plate_nesting": 1}
        if self.objective == "iwae":
            return IWAE(self.num_particles, **options)
        if self.objective == "renyi":
            return Renyi(self.alpha, self.num_particles, **options)
        return ELBO(self.num_particles, analytic_kl=self.analytic_kl, **options)


def _num_classes(dataset: Dataset) -> int:
    """The number of classes, or 0 where a split has no labels."""
    labels = [split.y for split in (dataset.train, dataset.valid, dataset.test)]
    return 0 if any(y is None for y in labels) else 1 + max(int(y.max()) for y in labels if y is not None)


def _moved(dataset: Dataset, device: str, flat: bool) -> Dataset:
    """The data on a device, as vectors if asked for."""

    def move(split: Split) -> Split:
        x = split.x.flatten(1) if flat else split.x
        return Split(x.to(device), None if split.y is None else split.y.to(device), split.lengths)

    shape = (math.prod(dataset.event_shape),) if flat else dataset.event_shape
    return replace(
        dataset, train=move(dataset.train), valid=move(dataset.valid), test=move(dataset.test), event_shape=shape
    )
