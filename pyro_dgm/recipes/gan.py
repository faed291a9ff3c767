"""Generative adversarial networks: what the critic learns, what the generator minimises, and what keeps them stable."""

__all__ = ["GANRecipe"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from pyro_dgm import plotting
from pyro_dgm.adversarial import (
    DRAGAN,
    IPM,
    NWJ,
    R1,
    R2,
    AdversarialTrainer,
    BoundaryEquilibrium,
    Contrast,
    Critic,
    CriticEstimator,
    DonskerVaradhan,
    EnergyCritic,
    EnergyMargin,
    FDivergence,
    ForwardKL,
    GradientPenalty,
    Hinge,
    LeastSquares,
    LeCam,
    Logistic,
    Minimax,
    NonSaturating,
    Penalty,
    PlayerObjective,
    Relativistic,
    ReverseKL,
    Steps,
    Wasserstein,
    spectrally_normalized,
)
from pyro_dgm.adversarial.critics import CriticModule
from pyro_dgm.datasets import Dataset, Split
from pyro_dgm.distributions import Generated, StandardNormal
from pyro_dgm.evaluation import decode, simulate
from pyro_dgm.guides import EmptyGuide
from pyro_dgm.infer import DATA, MMD, P
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder, DCCritic, DCGenerator
from pyro_dgm.recipes.checks import check_choices, check_counts, check_no_less_than_zero, check_positive
from pyro_dgm.recipes.data import moved, num_classes
from pyro_dgm.recipes.games import (
    NUM_PICTURED,
    Ended,
    check_kind_of_data,
    check_network,
    compiled,
    drawn_in_parts,
    game_numbers,
    in_turn,
    optimizer_of,
    pictured,
    placed,
    validated,
    whole_batches,
)
from pyro_dgm.recipes.recipe import Drawn, System

NO_CRITIC = "mmd"
_ENERGIES = ("energy-margin", "boundary-equilibrium")
_F = ("kl", "reverse-kl", "pearson", "neyman", "squared-hellinger", "jensen-shannon", "total-variation")
_OBJECTIVES: dict[str, Callable[[], PlayerObjective]] = {
    "non-saturating": NonSaturating,
    "minimax": Minimax,
    "ipm": IPM,
    "reverse-kl": ReverseKL,
    "forward-kl": ForwardKL,
}
_CHOICES = {
    "estimator": (
        *("logistic", "least-squares", "hinge", "wasserstein", "relativistic", "nwj", "donsker-varadhan"),
        *_ENERGIES,
        *_F,
        NO_CRITIC,
    ),
    "objective": tuple(_OBJECTIVES),
    "penalty": ("none", "r1", "r2", "gp", "gp-one-sided", "dragan", "lecam"),
    "network": ("mlp", "dcgan"),
    "normalization": ("none", "batch", "spectral"),
    "optimizer": ("adam", "rmsprop"),
}
_OF_SLOPES = ("r1", "r2", "gp", "gp-one-sided", "dragan")
_PATHS, _STEPS = 5, 10


@final
@dataclass(frozen=True)
class GANRecipe:
    """A generator of data from noise, and a critic that tells its draws from the data; or none, and a kernel instead.

    There is no density and no bound, so no loss says which epoch is best, and there is no patience. Grey levels are
    taken as they are; the last layer of a generator of images keeps to [0, 1].

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        estimator: what the critic learns: ``"logistic"``, ``"least-squares"``, ``"hinge"``, ``"wasserstein"``,
            ``"relativistic"``, ``"nwj"``, ``"donsker-varadhan"``, an f-divergence (``"kl"``, ``"reverse-kl"``,
            ``"pearson"`` and so on), ``"energy-margin"`` or ``"boundary-equilibrium"``, whose critic is an autoencoder;
            or ``"mmd"``: no critic, but the maximum mean discrepancy of data and draws.
        objective: what the generator minimises: ``"non-saturating"``, ``"minimax"``, ``"ipm"``, ``"reverse-kl"``,
            ``"forward-kl"``.
        penalty: on the critic: ``"r1"``, ``"r2"``, ``"gp"``, ``"gp-one-sided"``, ``"dragan"``, ``"lecam"``.
        gamma: weight of the penalty.
        margin: energy that draws are given at least, for ``"energy-margin"``.
        diversity: the ratio of energies aimed at, for ``"boundary-equilibrium"``.
        label_smoothing: of the logistic critic.
        normalization: of the critic: ``"none"``, ``"batch"`` (dcgan) or ``"spectral"``.
        clip: largest size of the critic's weights; 0 for no limit.
        pac: how many draws the critic looks at together.
        critic_steps: updates of the critic for each of the generator, all by the same batch.
        conditional: generator and critic are given the class label.
        network: ``"mlp"`` on flat data, or ``"dcgan"`` on images.
        latent_features: length of the noise.
        hidden_features: widths of the hidden layers of an mlp, of the critic's autoencoder too.
        code_features: width of the middle of the critic's autoencoder.
        channels: channels of the convolutions, from the image inwards, of generator and critic.
        image_size: height and width to which images are padded with zeros; 0 to leave them as they are.
        ema: decay of the running average of the generator that is evaluated; 0 for the generator itself.
        optimizer: of both players, ``"adam"`` or ``"rmsprop"``.
        learning_rate: of the generator.
        critic_learning_rate: of the critic.
        beta1: of Adam, for the mean of the gradient.
        beta2: of Adam, for its square.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        compile: compile both players' turns, and wait until that is done; a run that is resumed rounds otherwise.

    Raises:
        ValueError: a choice is unknown, a number out of range, or two settings do not go together.
    """

    summary: str
    source: str
    estimator: str = "logistic"
    objective: str = "non-saturating"
    penalty: str = "none"
    gamma: float = 1.0
    margin: float = 1.0
    diversity: float = 0.5
    label_smoothing: float = 0.0
    normalization: str = "none"
    clip: float = 0.0
    pac: int = 1
    critic_steps: int = 1
    conditional: bool = False
    network: str = "mlp"
    latent_features: int = 32
    hidden_features: tuple[int, ...] = (128, 128)
    code_features: int = 8
    channels: tuple[int, ...] = (32, 64)
    image_size: int = 0
    ema: float = 0.0
    optimizer: str = "adam"
    learning_rate: float = 2e-4
    critic_learning_rate: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    batch_size: int = 64
    epochs: int = 50
    compile: bool = False

    @property
    def patience(self) -> None:
        """None: no epoch is better than another."""
        return

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_counts(self, "pac", "critic_steps", "latent_features", "hidden_features", "code_features", "channels")
        check_counts(self, "batch_size", "epochs")
        check_positive(self, {"learning_rate": "2e-4 is usual.", "critic_learning_rate": "2e-4 is usual."})
        check_positive(self, {"margin": "1 is the default."})
        check_no_less_than_zero(self, {"gamma": "10 is usual.", "clip": "0.01 is WGAN's."})
        check_no_less_than_zero(self, {"image_size": "32 is usual; 0 leaves images as they are."})
        _check_together(self)

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the networks.

        Arguments:
            dataset: images or points, in memory.
            seed: seed of the order of the data.
            device: where everything is put.

        Raises:
            ValueError: the recipe cannot model data of this kind; nothing has been built then.
        """
        self._check(dataset)
        is_image = len(dataset.event_shape) == 3 and dataset.event_shape[0] in (1, 3)
        dataset = _padded(dataset, self.image_size) if is_image and self.image_size else dataset
        image_shape = dataset.event_shape if is_image else None
        dataset = moved(dataset, device, flat=self.network == "mlp")
        classes = num_classes(dataset) if self.conditional else 0
        model = self._model(dataset, classes).to(dataset.train.x)
        trainer = self._trainer(model, dataset, classes)

        def arguments(split: Split) -> tuple[Tensor, ...]:
            if not classes:
                return (split.x,)
            assert split.y is not None
            return split.x, one_hot(split.y, classes).to(split.x.dtype)

        def draws(num: int) -> Drawn:
            return _draws(trainer.averaged.get("model", model), num, classes, dataset.train.x)

        def numbers(split: Split) -> list[dict[str, Any]]:
            return game_numbers(dataset, split, draws(len(split.x)).x)

        def figures(x: Tensor) -> dict[str, Figure]:
            drawn = draws(NUM_PICTURED if image_shape else len(x))
            return {**pictured(drawn, x, image_shape), **self._ways(trainer, image_shape, x)}

        return System(
            model=model,
            guide=EmptyGuide(),
            trainer=trainer,
            batches=whole_batches(*arguments(dataset.train), batch_size=self.batch_size, seed=seed),
            dataset=dataset,
            arguments=arguments,
            image_shape=image_shape,
            latent="z",
            latent_features=self.latent_features,
            is_continuous=True,
            is_discrete=False,
            figures=figures,
            numbers=numbers,
            validate=lambda: validated(dataset, draws),
            draws=draws,
            knows_classes=True,
            has_densities=False,
        )

    def _check(self, dataset: Dataset) -> None:
        check_kind_of_data(
            dataset, ("grey", "binary", "real"), "Choose images, such as mnist, or points, such as ring."
        )
        check_network(self.network, dataset)
        if self.image_size and (len(dataset.event_shape) != 3 or self.image_size < max(dataset.event_shape[1:])):
            raise ValueError(
                f"images are padded to a size not below their own; got image_size={self.image_size} for "
                f"{dataset.name!r} of shape {dataset.event_shape}. Use image_size=0 to leave them as they are."
            )
        if self.conditional and not num_classes(dataset):
            raise ValueError(
                f"a conditional model needs class labels; got {dataset.name!r}, which has none. Use the recipe gan, or "
                "labelled data such as mnist."
            )

    def _model(self, dataset: Dataset, classes: int) -> LatentVariableModel:
        shape, num_inputs = dataset.event_shape, self.latent_features + classes
        net: nn.Module
        if self.network == "dcgan":
            net = DCGenerator(num_inputs, shape, self.channels[::-1])
        else:
            net = MLP(num_inputs, shape[0], self.hidden_features[::-1])
            net = net if dataset.kind == "real" else Ended(net, nn.Sigmoid())
        return LatentVariableModel(StandardNormal(self.latent_features), Generated(net, len(shape)))

    def _trainer(self, model: nn.Module, dataset: Dataset, classes: int) -> AdversarialTrainer:
        own, other = (
            optimizer_of(self.optimizer, rate, self.beta1, self.beta2)
            for rate in (self.learning_rate, self.critic_learning_rate)
        )
        ema = self.ema or None
        if self.estimator == NO_CRITIC:
            return AdversarialTrainer(model, MMD("x", num=DATA, den=P), own, ema=ema, compile=compiled(self.compile))
        terms = placed(self._contrast(dataset, classes), dataset.train.x)
        return AdversarialTrainer(
            model, terms, own, other, schedule=Steps(critic=self.critic_steps), ema=ema, compile=compiled(self.compile)
        )

    def _contrast(self, dataset: Dataset, classes: int) -> Contrast:
        sites = ["x", "c"] if classes else ["x"]
        critic = self._critic(dataset.event_shape, classes)
        penalties = [] if self.penalty == "none" else [_penalty(self.penalty, self.gamma)]
        return Contrast(sites, DATA, P, critic, _estimator(self), _OBJECTIVES[self.objective](), penalties)

    def _critic(self, shape: tuple[int, ...], classes: int) -> CriticModule:
        if self.estimator in _ENERGIES:
            return EnergyCritic(self._autoencoder(shape), order=2 if self.estimator == "energy-margin" else 1)
        net: nn.Module
        if self.network == "dcgan":
            packed = (self.pac * shape[0], *shape[1:])
            net = DCCritic(packed, 1, self.channels, self.pac * classes, self.normalization == "batch")
        else:
            net = MLP(self.pac * (shape[0] + classes), 1, self.hidden_features, lambda: nn.LeakyReLU(0.2))
        net = spectrally_normalized(net) if self.normalization == "spectral" else net
        return Critic(net, pac=self.pac, clip=self.clip or None)

    def _autoencoder(self, shape: tuple[int, ...]) -> nn.Module:
        if self.network == "mlp":
            hidden = (*self.hidden_features, self.code_features, *self.hidden_features[::-1])
            return MLP(shape[0], shape[0], hidden, nn.ELU)
        width = self.hidden_features[0] if self.hidden_features else self.code_features
        return nn.Sequential(
            ConvEncoder(shape, self.code_features, self.channels, width, activation=nn.ELU),
            ConvDecoder(self.code_features, shape, self.channels[::-1], width, nn.ELU),
        )

    def _ways(self, trainer: AdversarialTrainer, image_shape: tuple[int, ...] | None, x: Tensor) -> dict[str, Figure]:
        """Ways between noise vectors, where no class is given."""
        if image_shape is None or self.conditional:
            return {}
        start, end = torch.randn(2, _PATHS, 1, self.latent_features).to(x)
        share = torch.linspace(0, torch.pi / 2, _STEPS).to(x).view(1, -1, 1)
        z = share.cos() * start + share.sin() * end  # a quarter of a circle: standard normal all along
        generator = trainer.averaged.get("model", trainer.model)
        drawn = decode(generator, {"z": z.flatten(0, 1)}, num=_PATHS * _STEPS, sample=True)["x"]
        return {"interpolations": plotting.interpolations(drawn.reshape(_PATHS, _STEPS, *image_shape).clamp(0, 1))}


def _draws(model: nn.Module, num: int, classes: int, like: Tensor) -> Drawn:
    if not classes:
        return Drawn(drawn_in_parts(lambda start, rows: simulate(model, num=rows)["x"], num))
    codes = in_turn(num, classes, like)
    context = one_hot(codes, classes).to(like.dtype)
    x = drawn_in_parts(lambda start, rows: simulate(model, None, context[start : start + rows])["x"], num)
    return Drawn(x, codes)


def _estimator(recipe: GANRecipe) -> CriticEstimator:
    name = recipe.estimator
    if name in _F:
        return FDivergence(name)
    makers: dict[str, Callable[[], CriticEstimator]] = {
        "logistic": lambda: Logistic(recipe.label_smoothing),
        "least-squares": LeastSquares,
        "hinge": Hinge,
        "wasserstein": Wasserstein,
        "relativistic": Relativistic,
        "nwj": NWJ,
        "donsker-varadhan": DonskerVaradhan,
        "energy-margin": lambda: EnergyMargin(recipe.margin),
        "boundary-equilibrium": lambda: BoundaryEquilibrium(recipe.diversity),
    }
    return makers[name]()


def _penalty(name: str, gamma: float) -> Penalty:
    if name == "gp-one-sided":
        return GradientPenalty(gamma, one_sided=True)
    return {"r1": R1, "r2": R2, "gp": GradientPenalty, "dragan": DRAGAN, "lecam": LeCam}[name](gamma)


def _padded(dataset: Dataset, size: int) -> Dataset:
    """Images with a black margin."""
    height, width = ((size - own) for own in dataset.event_shape[1:])
    margins = (width // 2, width - width // 2, height // 2, height - height // 2)

    def enlarge(split: Split) -> Split:
        return split._replace(x=pad(split.x, margins))

    return replace(
        dataset,
        train=enlarge(dataset.train),
        valid=enlarge(dataset.valid),
        test=enlarge(dataset.test),
        event_shape=(dataset.event_shape[0], size, size),
        protocol=f"{dataset.protocol}; padded with zeros to {size} x {size}",
    )


def _check_together(recipe: GANRecipe) -> None:
    """Raises a ``ValueError`` where settings do not go together."""
    name = recipe.estimator
    for beta in ("beta1", "beta2"):
        if not 0 <= getattr(recipe, beta) < 1:
            raise ValueError(
                f"{beta} of Adam must lie in [0, 1); got {getattr(recipe, beta)}. 0.5 and 0.999 are usual."
            )
    if not 0 <= recipe.ema < 1:
        raise ValueError(f"ema must lie in [0, 1); got {recipe.ema}. 0.999 is usual; 0 averages nothing.")
    if recipe.batch_size < max(recipe.pac, 2):
        raise ValueError(
            f"a batch holds two rows at least, and as many as are packed; got batch_size={recipe.batch_size} with "
            f"pac={recipe.pac}. Use a larger batch."
        )
    if name == NO_CRITIC:
        return
    _OBJECTIVES[recipe.objective]().check(_estimator(recipe), nn.Identity())
    is_bounded = recipe.penalty in _OF_SLOPES or recipe.normalization == "spectral" or recipe.clip
    if name == "wasserstein" and not is_bounded:
        raise ValueError(
            "a Wasserstein critic must be kept from growing; got neither penalty, spectral normalisation nor clip. Use "
            "--set penalty=gp-one-sided, or --set clip=0.01."
        )
    if recipe.normalization == "batch" and (recipe.network == "mlp" or recipe.penalty in _OF_SLOPES):
        raise ValueError(
            "batch normalisation is for the critic of a dcgan without penalties, which need a slope for each draw; got "
            f"network={recipe.network!r} and penalty={recipe.penalty!r}. Use --set normalization=none."
        )
    if name in _ENERGIES and (recipe.conditional or recipe.pac > 1 or recipe.clip or recipe.normalization != "none"):
        raise ValueError(
            f"the critic of {name} is a plain autoencoder of single data; got conditional={recipe.conditional}, pac="
            f"{recipe.pac}, clip={recipe.clip} and normalization={recipe.normalization!r}. Leave them as they are."
        )
