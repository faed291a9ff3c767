"""Recipes by name."""

__all__ = ["RECIPES", "get"]

import difflib

from pyro_dgm.recipes.adversarial import ADVERSARIAL
from pyro_dgm.recipes.classifier import ClassifierRecipe
from pyro_dgm.recipes.density import DensityRecipe
from pyro_dgm.recipes.mixture import MixtureRecipe
from pyro_dgm.recipes.recipe import Recipe
from pyro_dgm.recipes.sbn import SBNRecipe
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
    "vae-annealed": VAERecipe(
        summary="variational autoencoder whose KL is annealed linearly over 10 epochs",
        source="Bowman et al. (2016), arXiv:1511.06349; Sønderby et al. (2016), arXiv:1602.02282",
        kl_warmup=10,
    ),
    "vae-free-bits": VAERecipe(
        summary="variational autoencoder with 0.25 nats of KL for free in every latent dimension",
        source="Kingma et al. (2016), arXiv:1606.04934",
        free_bits=0.25,
        free_bits_per="dimension",
    ),
    "info-vae": VAERecipe(
        summary="InfoVAE by the maximum mean discrepancy, alpha = 0.5, lambda = 10.5",
        source="Zhao, Song and Ermon (2019), arXiv:1706.02262",
        beta=0.5,
        mmd=10.0,
    ),
    "wae-mmd": VAERecipe(
        summary="Wasserstein autoencoder by the maximum mean discrepancy, lambda = 10",
        source="Tolstikhin, Bousquet, Gelly and Schoelkopf (2018), arXiv:1711.01558",
        beta=0.0,
        mmd=10.0,
    ),
    "categorical-vae-gumbel": VAERecipe(
        summary="variational autoencoder of 20 one-hot variables by Gumbel-softmax, annealed",
        source="Jang, Gu and Poole (2017), arXiv:1611.01144",
        latent="categorical",
        gradient="gumbel",
        temperature_epochs=20,
        latent_features=20,
    ),
    "vae-planar": VAERecipe(
        summary="variational autoencoder whose guide is a planar flow of 16 transforms",
        source="Rezende and Mohamed (2015), arXiv:1505.05770",
        posterior="planar",
        num_transforms=16,
        analytic_kl=False,
    ),
    "vae-sylvester": VAERecipe(
        summary="variational autoencoder whose guide is an orthogonal Sylvester flow",
        source="Van den Berg, Hasenclever, Tomczak and Welling (2018), arXiv:1803.05649",
        posterior="sylvester",
        analytic_kl=False,
    ),
    "vae-iaf": VAERecipe(
        summary="variational autoencoder whose guide is an inverse autoregressive flow",
        source="Kingma et al. (2016), arXiv:1606.04934",
        posterior="iaf",
        flow_features=(320,),
        analytic_kl=False,
    ),
    "vae-maf-prior": VAERecipe(
        summary="variational autoencoder whose prior is a masked autoregressive flow",
        source="Chen et al. (2017), arXiv:1611.02731; Papamakarios, Pavlakou and Murray (2017), arXiv:1705.07057",
        prior="flow",
        num_transforms=2,
        analytic_kl=False,
    ),
    "vae-vamp": VAERecipe(
        summary="variational autoencoder whose prior is its guide at 500 learned pseudo-inputs",
        source="Tomczak and Welling (2018), arXiv:1705.07120",
        prior="vamp",
        analytic_kl=False,
    ),
    "vae-auxiliary": VAERecipe(
        summary="auxiliary deep generative model: a guide with a variable of its own",
        source="Maaløe, Sønderby, Sønderby and Winther (2016), arXiv:1602.05473",
        posterior="auxiliary",
        analytic_kl=False,
    ),
    "vae-semi-implicit": VAERecipe(
        summary="variational autoencoder whose guide is semi-implicit",
        source="Yin and Zhou (2018), arXiv:1805.11183",
        posterior="semi-implicit",
        analytic_kl=False,
    ),
    "stick-breaking-vae": VAERecipe(
        summary="variational autoencoder of 50 stick-breaking weights",
        source="Nalisnick and Smyth (2017), arXiv:1605.06197",
        latent="stick-breaking",
        analytic_kl=False,
    ),
    "spherical-vae": VAERecipe(
        summary="variational autoencoder on the sphere, in 10 dimensions, by the power spherical distribution",
        source="De Cao and Aziz (2020), arXiv:2006.04437; Davidson et al. (2018), arXiv:1804.00891",
        latent="spherical",
        latent_features=10,
    ),
    "sbn-nvil": SBNRecipe(
        summary="sigmoid belief net by neural variational inference",
        source="Mnih and Gregor (2014), arXiv:1402.0030",
        objective="nvil",
    ),
    "sbn-vimco": SBNRecipe(
        summary="sigmoid belief net by the multi-sample bound with leave-one-out baselines, K = 5",
        source="Mnih and Rezende (2016), arXiv:1602.06725",
        objective="vimco",
        num_particles=5,
    ),
    "sbn-rws": SBNRecipe(
        summary="sigmoid belief net by reweighted wake-sleep, K = 5",
        source="Bornschein and Bengio (2015), arXiv:1406.2751",
        objective="rws",
        num_particles=5,
    ),
    "sbn-rebar": SBNRecipe(
        summary="sigmoid belief net by REBAR",
        source="Tucker et al. (2017), arXiv:1703.07370",
        objective="rebar",
    ),
    "sbn-relax": SBNRecipe(
        summary="sigmoid belief net by RELAX",
        source="Grathwohl et al. (2018), arXiv:1711.00123",
        objective="relax",
    ),
    "helmholtz-wake-sleep": SBNRecipe(
        summary="Helmholtz machine by wake-sleep",
        source="Hinton, Dayan, Frey and Neal (1995), Science 268",
        objective="wake-sleep",
    ),
    "realnvp": DensityRecipe(
        summary="flow of 8 affine couplings as a density of points",
        source="Dinh, Sohl-Dickstein and Bengio (2017), arXiv:1605.08803",
    ),
    "neural-spline-flow": DensityRecipe(
        summary="flow of 4 couplings by rational-quadratic splines as a density of points",
        source="Durkan, Bekasov, Murray and Papamakarios (2019), arXiv:1906.04032",
        transform="spline-coupling",
        num_transforms=4,
    ),
    "mixture-em": MixtureRecipe(
        summary="mixture of 8 Gaussians by exact expectation maximisation",
        source="Dempster, Laird and Rubin (1977), JRSS B 39",
    ),
    "classifier": ClassifierRecipe(
        summary="convolutional classifier, whose features judge generated images",
        source="LeCun, Bottou, Bengio and Haffner (1998), Proceedings of the IEEE 86",
    ),
    **ADVERSARIAL,
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
