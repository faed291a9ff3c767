"""How the settings of a variational autoencoder become what is minimised."""

__all__ = ["check_objective", "vae_annealing", "vae_objective"]

from typing import TYPE_CHECKING, Any

from pyro_dgm.infer import ELBO, IWAE, MMD, Relaxation, Renyi, Term
from pyro_dgm.infer.annealing import KLAnnealing
from pyro_dgm.infer.estimators import BIASED, DISCRETE, ESTIMATORS, PATH
from pyro_dgm.infer.schedules import Constant, Exponential, Linear
from pyro_dgm.recipes.checks import check_choices, check_no_less_than_zero, check_positive, check_schedules

if TYPE_CHECKING:
    from pyro_dgm.recipes.vae import VAERecipe

_CHOICES = {
    "objective": ("elbo", "iwae", "renyi"),
    "gradient": tuple(name for name in ESTIMATORS if name not in ("relax", "disarm")),  # a network, bits
    "free_bits_per": ("site", "dimension"),
}


def vae_objective(recipe: "VAERecipe", steps_per_epoch: int) -> Term:
    """The bound of a recipe, and the divergence of its aggregated posterior if that has a weight.

    Arguments:
        recipe: its settings.
        steps_per_epoch: optimiser steps in an epoch, which schedules count.
    """
    options: dict[str, Any] = {"gradient": recipe.gradient, "max_plate_nesting": 1}
    if recipe.gradient in (*BIASED, "rebar"):
        options["relaxation"] = _relaxation(recipe, steps_per_epoch)
    bound: Term
    if recipe.objective == "iwae":
        bound = IWAE(recipe.num_particles, **options)
    elif recipe.objective == "renyi":
        bound = Renyi(recipe.alpha, recipe.num_particles, **options)
    else:
        bound = ELBO(
            recipe.num_particles,
            analytic_kl=recipe.analytic_kl,
            beta=recipe.beta,
            free_bits=recipe.free_bits,
            free_bits_per=recipe.free_bits_per,
            **options,
        )
    return bound + MMD("z") * recipe.mmd if recipe.mmd else bound


def vae_annealing(recipe: "VAERecipe", steps_per_epoch: int) -> KLAnnealing | None:
    """The linear warm-up of a recipe's divergence, if it has one."""
    if not recipe.kl_warmup:
        return None
    return KLAnnealing(Linear(0.0, 1.0, over=recipe.kl_warmup, steps_per_epoch=steps_per_epoch))


def check_objective(recipe: "VAERecipe") -> None:
    """Raises a ``ValueError`` where a setting of the objective is out of range, or two of them do not go together."""
    check_choices(recipe, _CHOICES)
    check_no_less_than_zero(
        recipe, {"beta": "1 is the ELBO.", "free_bits": "0 is the plain ELBO.", "mmd": "0 leaves it out."}
    )
    check_positive(recipe, dict.fromkeys(("temperature", "temperature_end"), "1 and 0.5 are usual."))
    check_schedules(recipe, "kl_warmup", "temperature_epochs", "cooldown")
    bent = {name: value for name, value in (("beta", recipe.beta - 1), ("free_bits", recipe.free_bits)) if value}
    if bent and recipe.objective != "elbo":
        name = next(iter(bent))
        raise ValueError(
            f"{name} bends the divergence of the ELBO, which other bounds do not have apart; got "
            f"objective={recipe.objective!r} and {name}={getattr(recipe, name)}. Use objective=elbo, or leave {name} "
            "as it is."
        )
    if recipe.mmd and recipe.batch_size < 2:
        raise ValueError(
            f"mmd compares the latents of a minibatch, at least 2 of them; got batch_size={recipe.batch_size}. 100 is "
            "a usual one."
        )
    wrong = PATH if recipe.latent == "categorical" else DISCRETE
    if recipe.gradient in wrong:
        right = "gumbel or straight_through" if recipe.latent == "categorical" else "auto, stl or dreg"
        raise ValueError(
            f"the gradient must be one for {recipe.latent} latents; got {recipe.gradient!r}. Use --set gradient= with "
            f"{right}."
        )


def _relaxation(recipe: "VAERecipe", steps_per_epoch: int) -> Relaxation:
    if recipe.gradient == "rebar":
        return Relaxation(recipe.temperature)  # which it learns
    if not recipe.temperature_epochs:
        return Relaxation(Constant(recipe.temperature))
    over = recipe.temperature_epochs
    return Relaxation(
        Exponential(recipe.temperature, recipe.temperature_end, over=over, steps_per_epoch=steps_per_epoch)
    )
