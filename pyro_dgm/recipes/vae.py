"""Variational autoencoders: prior, likelihood, guide and objective put together by name."""

__all__ = ["VAERecipe"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import MultiStepLR

from pyro_dgm.datasets import Batches, Dataset, Split, binarize, fix_binarization
from pyro_dgm.distributions import (
    Bernoulli,
    ConditionalDistribution,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Normal,
)
from pyro_dgm.infer import SVI
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder
from pyro_dgm.recipes.checks import check_choices, check_counts, check_positive
from pyro_dgm.recipes.data import moved, num_classes
from pyro_dgm.recipes.latents import LATENT_CHOICES, VAEPrograms, check_latents, latent_programs
from pyro_dgm.recipes.objectives import check_objective, vae_annealing, vae_objective
from pyro_dgm.recipes.recipe import System

_CHOICES = {
    "network": ("mlp", "conv"),
    "likelihood": ("bernoulli", "continuous-bernoulli", "normal", "discretized-logistic"),
    "activation": ("relu", "tanh"),
    **LATENT_CHOICES,
}
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


@final
@dataclass(frozen=True)
class VAERecipe:
    """A variational autoencoder with one latent vector per datum: normal, one-hot, on the simplex or on the sphere.

    The InfoVAE of alpha and lambda (Zhao, Song and Ermon 2019) has ``beta`` = 1 - alpha and ``mmd`` = alpha + lambda
    - 1; a Wasserstein autoencoder has ``beta`` = 0. What is reported of any of them is the plain ELBO.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        network: ``"mlp"`` on flat data, or ``"conv"`` on images.
        latent: ``"normal"``; ``"categorical"``, one-hot variables with a uniform prior; ``"stick-breaking"``, weights
            of broken sticks by Kumaraswamy fractions; or ``"spherical"``, on the unit sphere.
        posterior: family of the guide of normal latents: ``"diagonal"``, ``"full"``, ``"low-rank"``, ``"mixture"``,
            ``"semi-implicit"``, ``"auxiliary"``, or a flow: ``"planar"``, ``"sylvester"``, ``"iaf"`` and so on.
        prior: of normal latents: ``"standard"``, ``"mixture"`` of Gaussians, ``"vamp"`` (the guide at learned
            pseudo-inputs) or ``"flow"`` (masked autoregressive).
        num_transforms: of a flow, in guide or prior.
        flow_features: widths of the hidden layers of flows with networks; at least as wide as the latent.
        sylvester: where a Sylvester flow's directions come from: ``"orthogonal"``, ``"householder"``, ``"triangular"``.
        rank: of a low-rank covariance.
        components: of a mixture, in guide or prior.
        num_pseudo_inputs: of a VampPrior, which begin at rows of the training data.
        auxiliary_features: length of the auxiliary variable.
        noise_features: length of a semi-implicit guide's noise.
        num_mixing: draws of that noise beside the one that made the latent, in its bound.
        concentration: of the stick-breaking prior: the expected number of large weights grows with it.
        likelihood: ``"bernoulli"`` (grey levels are then binarised anew every time they are seen), or
            ``"continuous-bernoulli"``, ``"normal"`` (learned scale), ``"discretized-logistic"`` on grey levels.
        conditional: everything is conditioned on the class label.
        objective: ``"elbo"``, ``"iwae"`` or ``"renyi"``.
        gradient: estimator of its gradient, ``"auto"``, ``"stl"``, ``"dreg"``, ``"gumbel"`` and so on.
        alpha: of the Renyi bound.
        num_particles: number K of latents per datum in training.
        analytic_kl: take the ELBO's KL from guide to prior in closed form.
        beta: weight of the ELBO's divergence.
        free_bits: nats of the ELBO's divergence that each group of latents has for free.
        free_bits_per: what a group is, ``"site"`` (all of z) or ``"dimension"``.
        mmd: weight of the maximum mean discrepancy from aggregated posterior to prior, in nats per datum.
        kl_warmup: epochs in which the weight of the divergence rises from 0 to 1; 0 for none.
        temperature: of relaxed one-hot draws, at the start.
        temperature_end: of relaxed one-hot draws, once it has fallen.
        temperature_epochs: epochs in which it falls, exponentially; 0 to stay at the start.
        latent_features: length of z: numbers, or one-hot variables.
        latent_classes: classes of each one-hot variable.
        hidden_features: widths of the hidden layers, from the data inwards; a conv network has one, between the
            convolutions and z, of the first width.
        channels: channels of the convolutions, from the image inwards.
        activation: ``"relu"`` or ``"tanh"``.
        levels: values of a pixel, for the discretized logistic.
        learning_rate: of Adam.
        cooldown: epochs at the end in which the learning rate is a tenth of that; a run made longer stays at it.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        patience: epochs without a better validation bound after which training stops; None to train to the end.
        compile: compile the step, and wait until that is done, so that runs repeat bit by bit.

    Raises:
        ValueError: a choice is unknown, a number out of range, or two settings do not go together.
    """

    summary: str
    source: str
    network: str = "mlp"
    latent: str = "normal"
    posterior: str = "diagonal"
    prior: str = "standard"
    num_transforms: int = 4
    flow_features: tuple[int, ...] = (200,)
    sylvester: str = "orthogonal"
    rank: int = 5
    components: int = 10
    num_pseudo_inputs: int = 500
    auxiliary_features: int = 50
    noise_features: int = 50
    num_mixing: int = 20
    concentration: float = 5.0
    likelihood: str = "bernoulli"
    conditional: bool = False
    objective: str = "elbo"
    gradient: str = "auto"
    alpha: float = 0.5
    num_particles: int = 1
    analytic_kl: bool = True
    beta: float = 1.0
    free_bits: float = 0.0
    free_bits_per: str = "site"
    mmd: float = 0.0
    kl_warmup: int = 0
    temperature: float = 1.0
    temperature_end: float = 0.5
    temperature_epochs: int = 0
    latent_features: int = 50
    latent_classes: int = 10
    hidden_features: tuple[int, ...] = (200, 200)
    channels: tuple[int, ...] = (32, 64)
    activation: str = "relu"
    levels: int = 256
    learning_rate: float = 1e-3
    cooldown: int = 0
    batch_size: int = 100
    epochs: int = 20
    patience: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_counts(self, "num_particles", "latent_features", "hidden_features", "channels", "batch_size", "epochs")
        check_counts(self, "num_transforms", "flow_features", "rank", "components", "num_pseudo_inputs")
        check_counts(self, "auxiliary_features", "noise_features", "num_mixing")
        check_positive(self, {"learning_rate": "Adam likes 1e-3.", "concentration": "5 is usual."})
        check_objective(self)
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2; got {self.levels}. It is 256 for 8-bit images.")
        if self.latent_classes < 2:
            raise ValueError(f"latent_classes must be at least 2; got {self.latent_classes}. 10 is a usual number.")
        check_latents(self)
        if not self.hidden_features and (self.network == "conv" or self.posterior != "diagonal"):
            raise ValueError(
                f"a conv network has a hidden layer, as has the encoder of a flow; got hidden_features=() with "
                f"network={self.network!r} and posterior={self.posterior!r}. Use hidden_features=(200,)."
            )

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
        dataset = moved(dataset, device, flat=self.network == "mlp")
        classes = num_classes(dataset) if self.conditional else 0
        model, guide, has_means = self._programs(dataset, classes)
        model, guide = model.to(device), guide.to(device)

        def arguments(split: Split) -> tuple[Tensor, ...]:
            if not classes:
                return (split.x,)
            assert split.y is not None
            return split.x, one_hot(split.y, classes).to(split.x.dtype)

        batches = Batches(
            *arguments(dataset.train),
            batch_size=self.batch_size,
            seed=seed,
            transform=binarize if is_dynamic else None,
            drop_last=bool(self.mmd) and len(dataset.train.x) % self.batch_size == 1,  # which has no pairs
        )
        trainer = self._trainer(model, guide, len(batches), device)
        return System(
            model=model,
            guide=guide,
            trainer=trainer,
            scheduler=MultiStepLR(trainer.optimizer, [self.epochs - self.cooldown]) if self.cooldown else None,
            batches=batches,
            dataset=dataset,
            arguments=arguments,
            image_shape=image_shape,
            latent="z",
            latent_features=self._latent_length,
            is_continuous=self.latent in ("normal", "spherical"),
            has_means=has_means,
            is_discrete=self.likelihood in ("bernoulli", "discretized-logistic"),
        )

    @property
    def _latent_length(self) -> int:
        return self.latent_features * (self.latent_classes if self.latent == "categorical" else 1)

    def _trainer(self, model: nn.Module, guide: nn.Module, steps_per_epoch: int, device: str) -> SVI:
        objective, annealing = vae_objective(self, steps_per_epoch), vae_annealing(self, steps_per_epoch)
        learned = [part.to(device) for part in objective.parts().values()]
        parameters = list(nn.ModuleList([model, guide, *learned]).parameters())  # a VampPrior's guide is the model's
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        compiler = Compiler(wait=True) if self.compile else False
        if annealing is None:
            return SVI(model, guide, optimizer, objective, compile=compiler)
        return SVI(annealing(model), annealing(guide), optimizer, objective, compile=compiler)

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
        if self.conditional and not num_classes(dataset):
            raise ValueError(
                f"a conditional model needs class labels; got {dataset.name!r}, which has none. Use the recipe vae, or "
                "labelled data such as mnist."
            )

    def _programs(self, dataset: Dataset, classes: int) -> VAEPrograms:
        shape = dataset.event_shape
        return latent_programs(
            self,
            self._likelihood(shape, classes),
            lambda num_outputs: self._encoder(shape, classes, num_outputs),
            lambda num_more: self._features(shape, classes + num_more),
            dataset.train.x,
        )

    @property
    def make_activation(self) -> type[nn.Module]:
        """What stands between two layers."""
        return _ACTIVATIONS[self.activation]

    def _encoder(self, event_shape: tuple[int, ...], more: int, num_outputs: int) -> nn.Module:
        if self.network == "mlp":
            return MLP(event_shape[0] + more, num_outputs, self.hidden_features, self.make_activation)
        hidden = self.hidden_features[0]
        return ConvEncoder(event_shape, num_outputs, self.channels, hidden, more, self.make_activation)

    def _features(self, event_shape: tuple[int, ...], more: int) -> nn.Module:
        """The encoder up to its last hidden layer."""
        *wide, last = self.hidden_features
        net: nn.Module
        if self.network == "mlp":
            net = MLP(event_shape[0] + more, last, wide, self.make_activation)
        else:
            first = self.hidden_features[0]
            net = ConvEncoder(event_shape, last, self.channels, first, more, self.make_activation)
        return _Activated(net, self.make_activation())

    def _likelihood(self, event_shape: tuple[int, ...], classes: int) -> ConditionalDistribution:
        activation = self.make_activation
        copies = 2 if self.likelihood == "discretized-logistic" else 1  # parameters per pixel
        num_inputs = self._latent_length + classes
        net: nn.Module
        if self.network == "mlp":
            net = MLP(num_inputs, copies * event_shape[0], self.hidden_features[::-1], activation)
        else:
            shape = (copies * event_shape[0], *event_shape[1:])
            net = ConvDecoder(num_inputs, shape, self.channels[::-1], self.hidden_features[0], activation)
        net = _OfOneHot(net) if self.latent == "categorical" else net
        event_dim = len(event_shape)
        if self.likelihood == "bernoulli":
            return Bernoulli(net, event_dim)
        if self.likelihood == "continuous-bernoulli":
            return ContinuousBernoulli(net, event_dim)
        if self.likelihood == "normal":
            return Normal(net, event_dim, scale="learned")
        return DiscretizedLogistic(net, event_dim, self.levels)


class _OfOneHot(nn.Module):
    """A network of one-hot variables, (*batch, variables, classes), as one vector."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, *context: Tensor) -> Tensor:
        """Joins the variables and runs the network."""
        return self.net(z.flatten(-2), *context)


class _Activated(nn.Module):
    """A network with an activation at its end, which takes several inputs."""

    def __init__(self, net: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.net, self.activation = net, activation

    def forward(self, *inputs: Tensor) -> Tensor:
        """Runs the network, then the activation."""
        return self.activation(self.net(*inputs))
