"""Autoencoders with a critic: of their latents, of their data, or of both together."""

__all__ = ["AdversarialVAERecipe"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from pyro_dgm.adversarial import (
    AdversarialTrainer,
    Contrast,
    Critic,
    FeatureMatching,
    ReverseKL,
    StandardizedCritic,
    Steps,
)
from pyro_dgm.datasets import Dataset, Split, binarize, fix_binarization
from pyro_dgm.distributions import (
    Bernoulli,
    ConditionalDistribution,
    DiagonalNormal,
    Generated,
    Normal,
    StandardNormal,
)
from pyro_dgm.evaluation import Estimate, decode, encode, simulate
from pyro_dgm.guides import AdaptiveContrastGuide, AmortizedGuide
from pyro_dgm.infer import DATA, ELBO, KL, NLL, P, Q
from pyro_dgm.infer.programs import evaluation_mode
from pyro_dgm.infer.term import Term
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder
from pyro_dgm.recipes.checks import check_choices, check_counts, check_no_less_than_zero, check_positive
from pyro_dgm.recipes.data import moved
from pyro_dgm.recipes.games import (
    Ended,
    check_kind_of_data,
    check_network,
    compiled,
    discrepancy,
    drawn_in_parts,
    game_numbers,
    number,
    optimizer_of,
    placed,
    seeded,
    whole_batches,
)
from pyro_dgm.recipes.recipe import Drawn, System

_CHOICES = {
    "method": ("aae", "avb", "avb-ac", "factor-vae", "vae-gan", "ali"),
    "posterior": ("deterministic", "implicit", "diagonal"),
    "likelihood": ("bernoulli", "normal", "implicit"),
    "network": ("mlp", "conv"),
}
_POSTERIORS = {  # that make sense; the first of each is the method's own
    "aae": ("deterministic", "implicit", "diagonal"),
    "avb": ("implicit",),
    "avb-ac": ("implicit",),
    "factor-vae": ("diagonal",),
    "vae-gan": ("diagonal",),
    "ali": ("diagonal", "implicit", "deterministic"),
}
_OF_IMPLICIT_DATA = ("vae-gan", "ali")
_RATIO = "ratio estimate by the critic, not a bound, in either direction"


class Programs(NamedTuple):
    """Model and guide, and what they minimise."""

    model: LatentVariableModel
    guide: nn.Module
    terms: Term


@final
@dataclass(frozen=True)
class AdversarialVAERecipe:
    """An autoencoder of which some part has no density, so that a critic learns what would be computed from it.

    ``"aae"``: a reconstruction, and a critic of the latents that brings the aggregated posterior to the prior.
    ``"avb"``: the ELBO with its KL by a critic of (x, z), for a guide without a density; ``"avb-ac"`` with adaptive
    contrast. ``"factor-vae"``: the ELBO, and the total correlation of the latents by a critic, times ``weight``.
    ``"vae-gan"``: the reconstruction in the eyes of a critic of the data, which also tells draws from data.
    ``"ali"``: one critic of (x, z) for both directions (BiGAN). The last two have no density of the data.

    Where a number comes from a critic it says so; log p(x) is estimated by a guide fitted afterwards.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        method: see above.
        posterior: of the guide: ``"deterministic"``, ``"implicit"`` (noise among the encoder's inputs) or
            ``"diagonal"`` (normal).
        likelihood: ``"bernoulli"`` (grey levels are then binarised anew every time they are seen), ``"normal"`` (of
            standard deviation ``scale``), or ``"implicit"`` for ``"vae-gan"`` and ``"ali"``.
        scale: standard deviation of the normal likelihood.
        weight: of the contrast, in nats per datum.
        network: ``"mlp"`` on flat data, or ``"conv"`` on images.
        latent_features: length of z.
        noise_features: length of the guide's noise, where it has some.
        num_basis: elements of the basis of adaptive contrast.
        hidden_features: widths of the hidden layers, from the data inwards; a conv network has one, of the first width.
        critic_features: widths of the hidden layers of the critic, likewise.
        channels: channels of the convolutions, from the image inwards.
        critic_steps: updates of the critic for each of model and guide, all by the same batch.
        learning_rate: of Adam, for model and guide.
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
    method: str = "aae"
    posterior: str = "deterministic"
    likelihood: str = "bernoulli"
    scale: float = 1.0
    weight: float = 1.0
    network: str = "mlp"
    latent_features: int = 8
    noise_features: int = 16
    num_basis: int = 8
    hidden_features: tuple[int, ...] = (300, 300)
    critic_features: tuple[int, ...] = (300, 300)
    channels: tuple[int, ...] = (32, 64)
    critic_steps: int = 1
    learning_rate: float = 5e-4
    critic_learning_rate: float = 1e-3
    beta1: float = 0.5
    batch_size: int = 100
    epochs: int = 20
    compile: bool = False

    @property
    def patience(self) -> None:
        """None: where there is a critic, no loss tells which epoch is best."""
        return

    def __post_init__(self) -> None:
        check_choices(self, _CHOICES)
        check_counts(self, "latent_features", "noise_features", "num_basis", "hidden_features", "critic_features")
        check_counts(self, "channels", "critic_steps", "batch_size", "epochs")
        check_positive(self, {"learning_rate": "5e-4 is usual.", "critic_learning_rate": "1e-3 is usual."})
        check_positive(self, {"scale": "1 is the squared error."})
        check_no_less_than_zero(self, {"weight": "1 is the default."})
        _check_together(self)

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the networks.

        Arguments:
            dataset: images or points, in memory.
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
        model, guide, terms = self._programs(dataset)
        own, other = (optimizer_of("adam", r, self.beta1) for r in (self.learning_rate, self.critic_learning_rate))
        trainer = AdversarialTrainer(
            model, terms, own, other, guide, schedule=Steps(critic=self.critic_steps), compile=compiled(self.compile)
        )
        has_mass = self.likelihood == "bernoulli"

        def draws(num: int) -> Drawn:
            return Drawn(
                drawn_in_parts(lambda start, rows: simulate(model, num=rows, means=has_mass and is_image)["x"], num)
            )

        is_plain = self.method == "factor-vae"
        return System(
            model=model,
            guide=guide,
            trainer=trainer,
            batches=whole_batches(
                dataset.train.x,
                batch_size=self.batch_size,
                seed=seed,
                transform=binarize if is_dynamic else None,
            ),
            dataset=dataset,
            arguments=lambda split: (split.x,),
            image_shape=image_shape,
            latent="z",
            latent_features=self.latent_features,
            is_continuous=True,
            is_discrete=has_mass,
            has_means=is_plain,
            numbers=None if is_plain else lambda split: _numbers(self, trainer, dataset, split),
            validate=None if is_plain else lambda: _validated(trainer, dataset.valid.x),
            draws=draws,
            has_densities=is_plain,
            proposal=self._proposal(dataset) if has_mass and not is_plain else None,
        )

    def _check(self, dataset: Dataset) -> None:
        kinds = ("grey", "binary") if self.likelihood == "bernoulli" else ("grey", "binary", "real")
        cure = "Use --set likelihood=normal." if dataset.kind == "real" else "Choose images, such as mnist."
        check_kind_of_data(dataset, kinds, cure)
        check_network(self.network, dataset)

    def _programs(self, dataset: Dataset) -> Programs:
        shape, like = dataset.event_shape, dataset.train.x
        model = LatentVariableModel(StandardNormal(self.latent_features), self._likelihood(shape, dataset.kind))
        guide, critic = self._guide(shape), self._critic(shape)
        terms = _TERMS[self.method](critic, self.weight)
        for _, term in terms.terms:
            if isinstance(term, Contrast):
                placed(term, like)
        return Programs(model.to(like), guide.to(like), terms)

    def _likelihood(self, shape: tuple[int, ...], kind: str) -> ConditionalDistribution:
        net: nn.Module
        if self.network == "mlp":
            net = MLP(self.latent_features, shape[0], self.hidden_features[::-1])
        else:
            net = ConvDecoder(self.latent_features, shape, self.channels[::-1], self.hidden_features[0])
        if self.likelihood == "bernoulli":
            return Bernoulli(net, len(shape))
        net = net if kind == "real" else Ended(net, nn.Sigmoid())
        if self.likelihood == "normal":
            return Normal(net, len(shape), scale=self.scale)
        return Generated(net, len(shape))

    def _guide(self, shape: tuple[int, ...]) -> nn.Module:
        d, noise = self.latent_features, self.noise_features
        if self.method == "avb-ac":
            basis = [MLP(noise, d, (64, 64)) for _ in range(self.num_basis)]
            return AdaptiveContrastGuide(self._encoder(shape, (self.num_basis + 1) * d), basis, noise)
        if self.posterior == "diagonal":
            return AmortizedGuide(z=DiagonalNormal(self._encoder(shape, DiagonalNormal.num_parameters(d))))
        more = noise if self.posterior == "implicit" else 0
        return AmortizedGuide(z=Generated(self._encoder(shape, d, more), noise_features=more))

    def _encoder(self, shape: tuple[int, ...], num_outputs: int, more: int = 0) -> nn.Module:
        if self.network == "mlp":
            return MLP(shape[0] + more, num_outputs, self.hidden_features)
        return ConvEncoder(shape, num_outputs, self.channels, self.hidden_features[0], more)

    def _critic(self, shape: tuple[int, ...]) -> nn.Module:
        """Of z, of x with features, or of (x, z)."""
        d, wide = self.latent_features, self.critic_features
        if self.method in ("aae", "factor-vae"):
            return Critic(MLP(d, 1, wide, _leaky))
        if self.method == "vae-gan":
            return Critic(nn.Linear(wide[-1], 1), features=Ended(self._reader(shape, wide[-1], wide[:-1], 0), _leaky()))
        joint = self._reader(shape, 1, wide, d)
        return StandardizedCritic(joint) if self.method == "avb-ac" else Critic(joint)

    def _reader(self, shape: tuple[int, ...], num_outputs: int, wide: tuple[int, ...], more: int) -> nn.Module:
        if self.network == "mlp":
            return MLP(shape[0] + more, num_outputs, wide, _leaky)
        return ConvEncoder(shape, num_outputs, self.channels, (*wide, num_outputs)[0], more, _leaky)

    def _proposal(self, dataset: Dataset) -> Callable[[], nn.Module]:
        outputs = DiagonalNormal.num_parameters(self.latent_features)
        return lambda: AmortizedGuide(z=DiagonalNormal(self._encoder(dataset.event_shape, outputs)))


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


def _reconstruction() -> Term:
    return NLL("x", of="model", at=Q, through_draws=True)


def _adaptive(critic: nn.Module, weight: float) -> Any:
    sites = ["x", "z", "z_loc", "z_scale"]
    rest = Contrast(sites, Q.redrawn("z"), Q, critic, objective=ReverseKL(), weight=weight)
    return _reconstruction() + KL("z", analytic=False) + rest


def _vae_gan(critic: nn.Module, weight: float) -> Any:
    seen = Contrast(
        "x", DATA, P.given("z"), critic, objective=FeatureMatching(paired=True), weight=weight, learns=False
    )
    rebuilt = Contrast("x", DATA, P.given("z", through_draws=False), critic)
    return KL("z") + seen + Contrast("x", DATA, P, critic) + rebuilt


_TERMS: dict[str, Callable[[nn.Module, float], Any]] = {
    "aae": lambda critic, weight: _reconstruction() + Contrast("z", P, Q, critic, weight=weight),
    "avb": lambda critic, weight: (
        _reconstruction() + Contrast(["x", "z"], P.observed(), Q, critic, objective=ReverseKL(), weight=weight)
    ),
    "avb-ac": _adaptive,
    "factor-vae": lambda critic, weight: (
        ELBO() + Contrast("z", Q.shuffled("z", each_feature=True), Q, critic, objective=ReverseKL(), weight=weight)
    ),
    "vae-gan": _vae_gan,
    "ali": lambda critic, weight: 1.0 * Contrast(["x", "z"], Q, P, critic, weight=weight),
}


def _numbers(
    recipe: AdversarialVAERecipe, trainer: AdversarialTrainer, dataset: Dataset, split: Split
) -> list[dict[str, Any]]:
    """Reconstruction and match of the latents; the ELBO by ratio where it is one; and what draws are asked."""
    model, x = trainer.model, split.x
    found = [_reconstruction_number(recipe, trainer, x)]
    if recipe.method in ("avb", "avb-ac") and recipe.weight == 1:
        found.append(number("ELBO", -trainer.evaluate_loss(x)["loss"], "nats per datum", _RATIO))
    z = encode(trainer.guide, x, sample=True)["z"]
    value = discrepancy(z, torch.randn_like(z))
    meaning = "squared, of latents of the data and of the prior, by inverse multiquadratics; unbiased, 0 is perfect"
    found.append(number("MMD of q(z) and p(z)", value, "squared discrepancy", meaning))
    drawn = drawn_in_parts(lambda start, rows: simulate(model, num=rows)["x"], len(x))
    return [*found, *game_numbers(dataset, split, drawn)]


def _reconstruction_number(recipe: AdversarialVAERecipe, trainer: AdversarialTrainer, x: Tensor) -> dict[str, Any]:
    z = encode(trainer.guide, x, sample=True)["z"]
    if recipe.likelihood == "implicit":
        error = Estimate.of((decode(trainer.model, {"z": z}, x, sample=True)["x"] - x).square().flatten(1).sum(1))
        name, unit, meaning = "reconstruction error", "squared units of x", "sum over the features of a datum"
    else:
        assert isinstance(trainer.model, LatentVariableModel)
        with evaluation_mode(trainer.model):
            error = Estimate.of(trainer.model.likelihood(z).log_prob(x))
        name, unit, meaning = "E_q log p(x | z)", "nats per datum", "minus the reconstruction error"
    return number(name, error.mean, unit, meaning) | {"standard_error": error.standard_error}


def _validated(trainer: AdversarialTrainer, x: Tensor) -> dict[str, float]:
    """The trainer's loss without its critic's steps, which is none to choose by, and the match of the latents."""
    with seeded():
        z = encode(trainer.guide, x, sample=True)["z"]
        return {"objective": trainer.evaluate_loss(x)["loss"], "mmd": discrepancy(z, torch.randn_like(z))}


def _check_together(recipe: AdversarialVAERecipe) -> None:
    """Raises a ``ValueError`` where settings do not go together."""
    allowed = _POSTERIORS[recipe.method]
    if recipe.posterior not in allowed:
        raise ValueError(
            f"the posterior of {recipe.method} must be one of {allowed}; got {recipe.posterior!r}. Use --set "
            f"posterior={allowed[0]}."
        )
    is_implicit = recipe.method in _OF_IMPLICIT_DATA
    if is_implicit != (recipe.likelihood == "implicit"):
        raise ValueError(
            f"{' and '.join(_OF_IMPLICIT_DATA)} have an implicit likelihood, and no other method has; got likelihood="
            f"{recipe.likelihood!r} with method={recipe.method!r}. Use --set likelihood="
            f"{'implicit' if is_implicit else 'bernoulli'}."
        )
    if not recipe.critic_features or (recipe.network == "conv" and not recipe.hidden_features):
        raise ValueError(
            f"a critic has a hidden layer, as has a conv network; got critic_features={recipe.critic_features} and "
            f"hidden_features={recipe.hidden_features}. Use (300,)."
        )
    if not 0 <= recipe.beta1 < 1:
        raise ValueError(f"beta1 of Adam must lie in [0, 1); got {recipe.beta1}. 0.5 is usual.")
    if recipe.batch_size < 2:
        raise ValueError(f"a batch holds two rows at least; got batch_size={recipe.batch_size}. 100 is usual.")
