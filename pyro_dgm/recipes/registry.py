"""Recipes by name."""

__all__ = ["RECIPES", "get"]

import difflib

from pyro_dgm.recipes.recipe import Recipe
from pyro_dgm.recipes.vae import VAERecipe

RECIPES: dict[str, Recipe] = {
    "vae": VAERecipe(
        summary="variational autoencoder, fully connected",
        source="Kingma and Welling (2014), arXiv:1312.6114",
    ),
    "vae-conv": VAERecipe(
        summary="variational autoencoder, convolutional",
        source="Kingma and Welling (2014), arXiv:1312.6114",
        network="conv",
    ),
    "vae-full-covariance": VAERecipe(
        summary="variational autoencoder whose guide has a full covariance",
        source="Kingma and Welling (2019), section 2.5.1, arXiv:1906.02691",
        posterior="full",
        analytic_kl=False,
    ),
    "cvae": VAERecipe(
        summary="conditional variational autoencoder, given the class label",
        source="Sohn, Lee and Yan (2015), NeurIPS",
        conditional=True,
    ),
    "iwae": VAERecipe(
        summary="importance-weighted autoencoder, K = 5",
        source="Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519",
        objective="iwae",
        num_particles=5,
    ),
    "iwae-dreg": VAERecipe(
        summary="importance-weighted autoencoder by the doubly reparameterised gradient, K = 5",
        source="Tucker, Lawson, Gu and Maddison (2019), arXiv:1810.04152",
        objective="iwae",
        gradient="dreg",
        num_particles=5,
    ),
    "renyi": VAERecipe(
        summary="variational autoencoder by the Renyi bound, alpha = 0.5, K = 5",
        source="Li and Turner (2016), arXiv:1602.02311",
        objective="renyi",
        num_particles=5,
    ),
}
"""Every recipe by the name that the command line knows."""


def get(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        ValueError: the name is unknown; the message gives the nearest ones.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, cutoff=0.4) or list(RECIPES)
        raise ValueError(f"a recipe must be one of {list(RECIPES)}; got {name!r}. Did you mean {' or '.join(near)}?")
    return RECIPES[name]
