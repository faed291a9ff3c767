"""How the settings of a variational autoencoder become its latents: prior and guide."""

__all__ = ["LATENT_CHOICES", "VAEPrograms", "check_latents", "latent_programs"]

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_dgm.distributions import (
    ConditionalDistribution,
    DiagonalNormal,
    Encoded,
    FlowPrior,
    MixturePrior,
    OneHotCategorical,
    PowerSpherical,
    SphericalUniform,
    StandardNormal,
    StickBreakingKumaraswamy,
    StickBreakingPrior,
    UniformOneHot,
    VampPrior,
)
from pyro_dgm.distributions.families import FAMILIES, posterior_family
from pyro_dgm.guides import AmortizedGuide, StructuredGuide
from pyro_dgm.models import AuxiliaryModel, LatentVariableModel
from pyro_dgm.nn import MLP

if TYPE_CHECKING:
    from pyro_dgm.recipes.vae import VAERecipe

LATENT_CHOICES = {
    "latent": ("normal", "categorical", "stick-breaking", "spherical"),
    "posterior": (*FAMILIES, "auxiliary"),
    "prior": ("standard", "mixture", "vamp", "flow"),
    "sylvester": ("orthogonal", "householder", "triangular"),
}

_WITH_MEANS = ("diagonal", "full", "low-rank")
_AUTOREGRESSIVE = ("iaf", "maf", "spline-autoregressive")
_COUPLINGS = ("affine-coupling", "spline-coupling")


class VAEPrograms(NamedTuple):
    """The two programs, and whether the mean of the guide's latent is known."""

    model: nn.Module
    guide: nn.Module
    has_means: bool


def latent_programs(
    recipe: "VAERecipe",
    likelihood: ConditionalDistribution,
    encoder: Callable[[int], nn.Module],
    features: Callable[[int], nn.Module],
    data: Tensor,
) -> VAEPrograms:
    """Puts prior, guide and likelihood together.

    Arguments:
        recipe: the settings.
        likelihood: p(x | z).
        encoder: makes a network from the data, and the class, to so many numbers.
        features: makes a network from the data, and the class, to the last hidden layer, given as many more inputs.
        data: of training, (N, *event), for pseudo-inputs.
    """
    if recipe.posterior == "auxiliary":
        return _auxiliary(recipe, likelihood, encoder, features, data)
    posterior = _posterior(recipe, encoder, features)
    model = LatentVariableModel(_prior(recipe, posterior, data), likelihood)
    has_means = recipe.latent == "spherical" or (recipe.latent == "normal" and recipe.posterior in _WITH_MEANS)
    return VAEPrograms(model, AmortizedGuide(z=posterior), has_means)


def check_latents(recipe: "VAERecipe") -> None:
    """Raises a ``ValueError`` where settings of the latents do not go together."""
    if recipe.latent != "normal" and (recipe.posterior, recipe.prior) != ("diagonal", "standard"):
        raise ValueError(
            f"{recipe.latent} latents have a prior and a posterior of their own; got prior={recipe.prior!r} and "
            f"posterior={recipe.posterior!r}. Use prior=standard and posterior=diagonal, or latent=normal."
        )
    if recipe.prior == "vamp" and recipe.conditional:
        raise ValueError(
            "a VampPrior knows posteriors of data alone; got conditional=True. Use prior=flow, or leave the labels out."
        )
    if recipe.prior == "vamp" and recipe.posterior in ("auxiliary", "semi-implicit", "bnaf"):
        raise ValueError(
            f"a VampPrior scores its posterior at any point; got posterior={recipe.posterior!r}, which cannot. Use "
            "posterior=diagonal or full."
        )
    if recipe.posterior == "auxiliary" and recipe.network != "mlp":
        raise ValueError(f"an auxiliary guide joins vectors; got network={recipe.network!r}. Use network=mlp.")
    if recipe.latent in ("stick-breaking", "spherical") and recipe.latent_features < 2:
        raise ValueError(
            f"{recipe.latent} latents have at least 2 features; got latent_features={recipe.latent_features}. Use more."
        )


def _prior(recipe: "VAERecipe", posterior: ConditionalDistribution, data: Tensor) -> ConditionalDistribution:
    d = recipe.latent_features
    if recipe.latent == "categorical":
        return UniformOneHot(d, recipe.latent_classes)
    if recipe.latent == "stick-breaking":
        return StickBreakingPrior(d, recipe.concentration)
    if recipe.latent == "spherical":
        return SphericalUniform(d)
    if recipe.prior == "mixture":
        return MixturePrior(d, recipe.components)
    if recipe.prior == "flow":
        return FlowPrior(d, "maf", recipe.num_transforms, hidden_features=_wide(recipe))
    if recipe.prior == "vamp":
        rows = torch.randperm(len(data))[: recipe.num_pseudo_inputs]
        bounds = None if recipe.likelihood == "normal" else (0.0, 1.0)
        return VampPrior(posterior, data[rows].clone(), bounds=bounds)
    return StandardNormal(d)


def _posterior(
    recipe: "VAERecipe", encoder: Callable[[int], nn.Module], features: Callable[[int], nn.Module]
) -> ConditionalDistribution:
    d = recipe.latent_features
    if recipe.latent == "categorical":
        return OneHotCategorical(encoder(d * recipe.latent_classes), recipe.latent_classes)
    if recipe.latent == "stick-breaking":
        return StickBreakingKumaraswamy(encoder(StickBreakingKumaraswamy.num_parameters(d)))
    if recipe.latent == "spherical":
        return PowerSpherical(encoder(PowerSpherical.num_parameters(d)))
    if recipe.posterior == "diagonal":
        return DiagonalNormal(encoder(DiagonalNormal.num_parameters(d)))
    return Encoded(features(0), posterior_family(recipe.posterior, d, recipe.hidden_features[-1], **_options(recipe)))


def _options(recipe: "VAERecipe") -> dict[str, Any]:
    """The options of the posterior's family."""
    own: dict[str, Any] = {
        "low-rank": {"rank": recipe.rank},
        "mixture": {"components": recipe.components},
        "semi-implicit": {"noise_features": recipe.noise_features, "num_mixing": recipe.num_mixing},
        "full": {},
    }.get(recipe.posterior, {"num_transforms": recipe.num_transforms})
    if recipe.posterior == "sylvester":
        own["directions"] = recipe.sylvester
    if recipe.posterior in (*_AUTOREGRESSIVE, *_COUPLINGS):
        own["hidden_features"] = _wide(recipe)
    return own


def _wide(recipe: "VAERecipe") -> tuple[int, ...]:
    """Widths of the flows' networks, which must be at least as wide as the latent."""
    return tuple(max(width, recipe.latent_features) for width in recipe.flow_features)


def _auxiliary(
    recipe: "VAERecipe",
    likelihood: ConditionalDistribution,
    encoder: Callable[[int], nn.Module],
    features: Callable[[int], nn.Module],
    data: Tensor,
) -> VAEPrograms:
    """The auxiliary deep generative model: q(a | x) q(z | x, a), and p(a | x, z) beside p(x, z)."""
    d, extra, width = recipe.latent_features, recipe.auxiliary_features, recipe.hidden_features[-1]
    of_z = Encoded(features(extra), posterior_family("diagonal", d, width))
    of_a = DiagonalNormal(encoder(DiagonalNormal.num_parameters(extra)))
    reverse = DiagonalNormal(
        MLP(data[0].numel() + d, DiagonalNormal.num_parameters(extra), recipe.hidden_features, recipe.make_activation)
    )
    model = AuxiliaryModel(LatentVariableModel(_prior(recipe, of_z, data), likelihood), {"a": reverse})
    return VAEPrograms(model, StructuredGuide({"a": of_a, "z": of_z}, {"z": ["a"]}), True)
