"""Recipes are plain values: how they change, what they refuse, and what they build."""

import dataclasses
import math

import pytest
import torch

from contracts import refuses
from pyro_dgm import datasets
from pyro_dgm.evaluation import elbo_parts
from pyro_dgm.recipes import (
    RECIPES,
    AdversarialVAERecipe,
    ClassifierRecipe,
    CodedGANRecipe,
    DensityRecipe,
    GANRecipe,
    MixtureRecipe,
    SBNRecipe,
    System,
    TranslationRecipe,
    VAERecipe,
    change,
    get,
)

GAMES = (AdversarialVAERecipe, CodedGANRecipe, GANRecipe, TranslationRecipe)
OTHERS = (ClassifierRecipe, DensityRecipe, MixtureRecipe, *GAMES)
OF_IMAGES = [name for name, recipe in RECIPES.items() if not isinstance(recipe, OTHERS)]
OF_BELIEF_NETS = [name for name, recipe in RECIPES.items() if isinstance(recipe, SBNRecipe)]

# Settings


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("latent_features", "7", 7),
        ("latent_features", 7, 7),
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "1", 1.0),
        ("learning_rate", 2, 2.0),
        ("analytic_kl", "False", False),
        ("hidden_features", "(300,200)", (300, 200)),
        ("hidden_features", "[300, 200]", (300, 200)),
        ("hidden_features", "300", (300,)),
        ("hidden_features", [300], (300,)),
        ("hidden_features", "()", ()),
        ("patience", "5", 5),
        ("patience", "None", None),
        ("objective", "iwae", "iwae"),
    ],
)
def test_settings_are_read_as_their_fields_have_them(name, given, kept):
    changed = change(RECIPES["vae"], {name: given})
    assert getattr(changed, name) == kept
    assert type(getattr(changed, name)) is type(kept)


def test_a_setting_can_go_back_to_none():
    assert change(change(RECIPES["vae"], {"patience": 3}), {"patience": "None"}).patience is None


def test_a_changed_recipe_is_another_and_all_are_frozen():
    recipe = get("vae")
    assert change(recipe, {}) == recipe
    assert change(recipe, {"epochs": 3}) != recipe
    assert get("vae").epochs != 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent_features", "2.5"),
        ("latent_features", "many"),
        ("latent_features", "True"),
        ("latent_features", True),
        ("latent_features", "None"),
        ("learning_rate", "nan"),
        ("learning_rate", "__import__('os')"),
        ("learning_rate", "True"),
        ("analytic_kl", "no"),
        ("analytic_kl", "1"),
        ("hidden_features", "200,x"),
        ("hidden_features", "(200, 2.5)"),
        ("patience", "2.5"),
        ("patience", "soon"),
        ("objective", 3),
        ("epochs", ""),
    ],
)
def test_a_value_of_another_type_is_refused_with_an_example(name, value):
    with refuses(ValueError, repr(name), repr(value), repr(getattr(RECIPES["vae"], name))):
        change(RECIPES["vae"], {name: value})


def test_unknown_settings_name_the_nearest_or_all():
    with refuses(ValueError, "got 'latent_feature'", "latent_features"):
        change(RECIPES["vae"], {"latent_feature": 2})
    with refuses(ValueError, "got 'lr'", "learning_rate", "epochs"):
        change(RECIPES["vae"], {"lr": 1e-3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "transformer"}, "got 'transformer'"),
        ({"posterior": "flow"}, "got 'flow'"),
        ({"likelihood": "gaussian"}, "got 'gaussian'"),
        ({"objective": "vae"}, "got 'vae'"),
        ({"activation": "gelu"}, "got 'gelu'"),
        ({"num_particles": 0}, "num_particles must be at least 1; got 0"),
        ({"latent_features": 0}, "latent_features must be at least 1; got 0"),
        ({"hidden_features": (200, 0)}, "hidden_features must be at least 1"),
        ({"channels": (-1,)}, "channels must be at least 1"),
        ({"batch_size": -5}, "batch_size must be at least 1; got -5"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"levels": 1}, "levels must be at least 2; got 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": -1e-3}, "learning_rate must be positive"),
        ({"learning_rate": math.inf}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"network": "conv", "hidden_features": ()}, "got hidden_features=()"),
        ({"latent": "binary"}, "got 'binary'"),
        ({"latent_classes": 1}, "latent_classes must be at least 2; got 1"),
        ({"latent": "categorical", "posterior": "full"}, "and posterior='full'"),
        ({"latent": "categorical", "gradient": "stl"}, "for categorical latents; got 'stl'"),
        ({"gradient": "gumbel"}, "for normal latents; got 'gumbel'"),
        ({"gradient": "relax"}, "got 'relax'"),
        ({"posterior": "glow"}, "got 'glow'"),
        ({"prior": "uniform"}, "got 'uniform'"),
        ({"sylvester": "square"}, "got 'square'"),
        ({"num_transforms": 0}, "num_transforms must be at least 1; got 0"),
        ({"num_pseudo_inputs": 0}, "num_pseudo_inputs must be at least 1; got 0"),
        ({"concentration": 0.0}, "concentration must be positive"),
        ({"latent": "spherical", "posterior": "iaf"}, "got prior='standard' and posterior='iaf'"),
        ({"latent": "stick-breaking", "prior": "flow"}, "got prior='flow' and posterior='diagonal'"),
        ({"latent": "spherical", "latent_features": 1}, "got latent_features=1"),
        ({"prior": "vamp", "conditional": True}, "got conditional=True"),
        ({"prior": "vamp", "posterior": "bnaf"}, "got posterior='bnaf'"),
        ({"posterior": "auxiliary", "network": "conv"}, "got network='conv'"),
        ({"posterior": "iaf", "hidden_features": ()}, "got hidden_features=() with network='mlp'"),
        ({"beta": -0.1}, "beta must be a finite number of at least 0; got -0.1"),
        ({"beta": math.inf}, "beta must be"),
        ({"beta": 0.5, "objective": "iwae"}, "objective='iwae' and beta=0.5"),
        ({"free_bits": math.nan}, "free_bits must be"),
        ({"free_bits": 0.5, "objective": "renyi"}, "objective='renyi' and free_bits=0.5"),
        ({"free_bits_per": "datum"}, "got 'datum'"),
        ({"mmd": -1.0}, "mmd must be"),
        ({"mmd": 1.0, "batch_size": 1}, "got batch_size=1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature_end": math.inf}, "temperature_end must be positive"),
        ({"kl_warmup": -1}, "kl_warmup must lie between 0 and epochs"),
        ({"kl_warmup": 21}, "got 21 with epochs=20"),
        ({"temperature_epochs": 21}, "--set temperature_epochs=20"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with refuses(ValueError, message):
        change(RECIPES["vae"], settings)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("sbn-nvil", {"objective": "elbo"}, "got 'elbo'"),
        ("sbn-nvil", {"layers": ()}, "got layers=()"),
        ("sbn-nvil", {"layers": (8, 0)}, "layers must be at least 1"),
        ("sbn-nvil", {"patience": 0}, "patience must be at least 1"),
        ("sbn-nvil", {"learning_rate": 0.0}, "learning_rate must be positive"),
        ("realnvp", {"transform": "bnaf"}, "got 'bnaf'"),
        ("realnvp", {"num_transforms": 0}, "num_transforms must be at least 1; got 0"),
        ("neural-spline-flow", {"bound": -1.0}, "bound must be positive"),
        ("mixture-em", {"covariance": "tied"}, "got 'tied'"),
        ("mixture-em", {"components": 0}, "components must be at least 1; got 0"),
        ("mixture-em", {"minimum_variance": 0.0}, "minimum_variance must be positive"),
    ],
)
def test_other_recipes_refuse_values_out_of_range(recipe, settings, message):
    with refuses(ValueError, message):
        change(RECIPES[recipe], settings)


def test_unknown_recipes_name_the_nearest():
    with refuses(ValueError, "got 'vea'", "Did you mean vae"):
        get("vea")
    with refuses(ValueError, "got 'transformer'", "vae-full-covariance"):
        get("transformer")


def test_every_recipe_says_what_it_is_and_where_from():
    for name, recipe in RECIPES.items():
        assert recipe.summary
        assert recipe.source
        assert name == name.lower()


# What they build


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_recipe_learns_the_digits(name, small_of):
    """An epoch of small networks lowers the loss of the validation data, and moves every parameter."""
    torch.manual_seed(0)
    recipe = change(get(name), small_of(name, learning_rate=0.01, batch_size=32))
    system = recipe.build(datasets.digits())
    assert system.image_shape == (1, 8, 8)
    assert system.is_discrete
    valid = system.arguments(system.dataset.valid)
    before = float(-elbo_parts(system.model, system.guide, *valid).elbo.mean())
    start = [parameter.clone() for parameter in parameters_of(system)]
    for batch in system.batches:
        system.trainer.step(*batch) if isinstance(batch, tuple) else system.trainer.step(batch)
    assert not any(torch.equal(*pair) for pair in zip(start, parameters_of(system), strict=True))
    after = float(-elbo_parts(system.model, system.guide, *valid).elbo.mean())
    assert after < before - (0.5 if name in OF_BELIEF_NETS else 6)  # nets begin at the mean of the data


def parameters_of(system: System) -> list[torch.Tensor]:
    return [*system.model.parameters(), *system.guide.parameters()]


def test_dynamic_binarisation_is_for_training_only(small):
    system = change(get("vae"), small).build(datasets.digits())
    first, second = (torch.cat(list(system.batches)) for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.sum() != second.sum()
    assert set(system.dataset.test.x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(system.dataset.test.x, change(get("vae"), small).build(datasets.digits()).dataset.test.x)
    assert "binarised once" in system.dataset.protocol


def test_a_conditional_recipe_gives_labels_as_context(small):
    system = change(get("cvae"), small).build(datasets.digits())
    x, context = system.arguments(system.dataset.test)
    assert torch.equal(context.argmax(1), system.dataset.test.y)
    assert context.shape == (len(x), 10)
    assert context.dtype == x.dtype


def test_classes_that_only_the_test_data_have_are_counted(small, make_dataset):
    dataset = make_dataset((5,))
    dataset.test.y[0] = 6
    system = change(get("cvae"), small).build(dataset)
    assert system.arguments(system.dataset.train)[1].shape == (30, 7)
    system.arguments(system.dataset.test)


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 7, 4), (2, 6, 6)])
def test_convolutional_recipes_take_images_of_any_shape(shape, small, make_dataset):
    system = change(get("vae-conv"), small).build(make_dataset(shape))
    assert system.image_shape == (shape if shape[0] != 2 else None)
    assert math.isfinite(system.trainer.step(next(iter(system.batches))))


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ["continuous-bernoulli", "normal", "discretized-logistic"])
@pytest.mark.parametrize("recipe", ["vae", "cvae"])
def test_grey_levels_have_three_more_likelihoods(recipe, network, likelihood, small):
    settings = {**small, "network": network, "likelihood": likelihood, "levels": 17}
    system = change(get(recipe), settings).build(datasets.digits())
    assert system.is_discrete == (likelihood == "discretized-logistic")
    batch = next(iter(system.batches))
    args = batch if isinstance(batch, tuple) else (batch,)
    assert len(args[0].unique()) > 2
    assert math.isfinite(system.trainer.step(*args))


def test_points_take_a_normal_likelihood(small):
    system = change(get("cvae"), {**small, "likelihood": "normal"}).build(datasets.moons(num_train=100))
    assert system.image_shape is None
    assert not system.is_discrete
    assert math.isfinite(system.trainer.step(*next(iter(system.batches))))


@pytest.mark.parametrize(
    ("settings", "dataset", "parts"),
    [
        ({}, lambda make: datasets.moons(), ("'real'", "--set likelihood=normal")),
        ({"likelihood": "normal", "network": "conv"}, lambda make: datasets.moons(), ("(2,)", "--set network=mlp")),
        ({"likelihood": "discretized-logistic"}, lambda make: make((1, 4, 4)), ("'binary'",)),
        ({"conditional": True}, lambda make: make((4,), labelled=False), ("class labels", "recipe vae")),
        ({}, lambda make: make((6,), "tokens"), ("'tokens'", "mnist")),
        ({"likelihood": "normal"}, lambda make: make((6, 3), "sequence"), ("'sequence'", "mnist")),
    ],
)
def test_data_of_the_wrong_kind_are_refused_with_the_cure(settings, dataset, parts, small, make_dataset):
    with refuses(ValueError, *parts):
        change(get("vae"), {**small, **settings}).build(dataset(make_dataset))


def test_building_is_reproducible(small):
    def first_parameters(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(change(get("vae"), small).build(datasets.digits()).guide.parameters())

    assert torch.equal(first_parameters(1), first_parameters(1))
    assert not torch.equal(first_parameters(1), first_parameters(2))
    assert isinstance(get("vae"), VAERecipe)


@pytest.mark.parametrize("name", ["realnvp", "neural-spline-flow"])
def test_a_flow_learns_the_moons(name):
    """Three epochs, seed 0: above the best single normal, below the entropy of the moons with their noise of 0.1."""
    torch.manual_seed(0)
    dataset = datasets.moons(num_train=4000, num_test=1000)
    system = change(get(name), {"epochs": 3, "hidden_features": (32, 32), "learning_rate": 0.003}).build(dataset)
    for _ in range(3):
        for batch in system.batches:
            system.trainer.step(batch)
    found = float(elbo_parts(system.model, system.guide, dataset.test.x).elbo.mean())
    normal = torch.distributions.MultivariateNormal(dataset.train.x.mean(0), dataset.train.x.T.cov())
    assert float(normal.log_prob(dataset.test.x).mean()) + 0.2 < found < -0.9
    assert set(system.figures(dataset.test.x)) == {"density"}


def test_a_flow_refuses_images():
    with refuses(ValueError, "'digits', of kind 'grey'", "--data ring"):
        get("realnvp").build(datasets.digits())


@pytest.mark.parametrize(
    "settings",
    [
        {"posterior": "low-rank"},
        {"posterior": "mixture"},
        {"posterior": "householder"},
        {"posterior": "affine-coupling", "prior": "mixture"},
        {"posterior": "sylvester", "sylvester": "triangular", "prior": "flow"},
        {"posterior": "iaf", "prior": "vamp"},
        {"posterior": "auxiliary", "prior": "flow", "conditional": True},
        {"posterior": "spline-coupling", "network": "conv"},
        {"posterior": "semi-implicit", "network": "conv", "conditional": True},
        {"latent": "spherical", "network": "conv"},
        {"posterior": "bnaf", "objective": "iwae", "num_particles": 3},
        {"posterior": "planar", "gradient": "stl"},
        {"prior": "vamp", "gradient": "dreg", "objective": "iwae", "num_particles": 3},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_guides_priors_and_networks_go_together(settings, small_of):
    torch.manual_seed(0)
    settings = {"analytic_kl": False, **small_of("vae", latent_features=3, **settings)}
    system = change(get("vae"), settings).build(datasets.digits())
    batch = next(iter(system.batches))
    args = batch if isinstance(batch, tuple) else (batch,)
    assert all(math.isfinite(system.trainer.step(*args)) for _ in range(2))
    test = [values[:5] for values in system.arguments(system.dataset.test)]
    assert elbo_parts(system.model, system.guide, *test).elbo.isfinite().all()
