"""What the settings of a variational autoencoder make of its objective."""

import pytest
import torch

from pyro_dgm import datasets
from pyro_dgm.infer import ELBO, IWAE, MMD, Sum
from pyro_dgm.infer.annealing import KLAnnealing
from pyro_dgm.recipes import RECIPES, System, change, get
from pyro_dgm.recipes.objectives import vae_annealing, vae_objective


def build(name: str, settings: dict, **others) -> tuple[System, torch.Tensor]:
    """A small system and a batch of it."""
    torch.manual_seed(0)
    system = change(get(name), {**settings, **others}).build(datasets.digits())
    return system, next(iter(system.batches))


def loss(objective, system: System, x: torch.Tensor) -> float:
    torch.manual_seed(1)
    return float(objective.loss(system.model, system.guide, x)) / len(x)


def test_beta_and_free_bits_reach_the_elbo():
    objective = vae_objective(change(get("vae"), {"beta": 0.5, "free_bits": 2.0, "free_bits_per": "dimension"}), 10)
    assert isinstance(objective, ELBO)
    assert (objective.beta, objective.free_bits, objective.free_bits_per) == (0.5, 2.0, "dimension")
    assert RECIPES["vae-free-bits"].free_bits > 0


@pytest.mark.parametrize("name", ["vae", "info-vae", "wae-mmd", "vae-free-bits"])
def test_the_trainer_minimises_what_the_settings_say(name, small_of):
    """The loss of the same draws, from the KL in closed form and the discrepancy alone."""
    system, x = build(name, small_of(name))
    recipe = change(get(name), small_of(name))
    torch.manual_seed(1)
    found = system.trainer.evaluate_loss(x) / len(x)
    plain = loss(ELBO(analytic_kl=True, max_plate_nesting=1), system, x)
    without = loss(ELBO(analytic_kl=True, beta=0.0, max_plate_nesting=1), system, x)
    q = system.guide.sites.z(x).base_dist
    per_dimension = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(0).detach()
    assert plain - without == pytest.approx(float(per_dimension.sum()), abs=1e-4)
    cost = recipe.beta * float(per_dimension.clamp(min=recipe.free_bits).sum())
    discrepancy = loss(ELBO(beta=0.0, analytic_kl=True, max_plate_nesting=1) + MMD("z"), system, x) - without
    assert found == pytest.approx(without + cost + recipe.mmd * discrepancy, abs=1e-3)


def test_info_vae_has_the_weights_of_its_alpha_and_lambda():
    """(1 - alpha) times the KL, and (alpha + lambda - 1) times the divergence."""
    alpha, weight = 0.5, 10.5
    recipe = get("info-vae")
    assert (recipe.beta, recipe.mmd) == (1 - alpha, alpha + weight - 1)
    assert "alpha = 0.5, lambda = 10.5" in recipe.summary


def test_a_discrepancy_goes_with_any_bound():
    objective = vae_objective(change(get("iwae"), {"mmd": 3.0}), 10)
    assert isinstance(objective, Sum)
    (first, bound), (second, discrepancy) = objective.terms
    assert (first, second) == (1.0, 3.0)
    assert isinstance(bound, IWAE)
    assert isinstance(discrepancy, MMD)


def test_a_last_batch_of_one_has_no_pairs_and_is_left_out(small_of):
    system, _ = build("wae-mmd", small_of("wae-mmd"), batch_size=107)  # 1285 = 12 * 107 + 1
    assert len(system.batches) == 12
    plain, _ = build("vae", small_of("vae"), batch_size=107)
    assert len(plain.batches) == 13
    for x in system.batches:
        system.trainer.step(x)


def test_the_kl_is_annealed_over_epochs():
    assert vae_annealing(get("vae"), 13) is None
    annealing = vae_annealing(get("vae-annealed"), 13)
    assert isinstance(annealing, KLAnnealing)
    assert annealing.schedule.num_steps_needed == 130
    assert annealing.schedule.value_at(65) == 0.5


def test_the_temperature_falls_over_epochs_or_stays(small_of):
    system, x = build("categorical-vae-gumbel", small_of("categorical-vae-gumbel"))
    (schedule,) = system.trainer.schedules()
    assert (schedule.value_at(0), schedule.value_at(13)) == (1.0, 0.5)
    assert schedule.value_at(6) == pytest.approx(0.5 ** (6 / 13))
    system.trainer.step(x)
    assert schedule.num_steps == 1
    settings = small_of("categorical-vae-gumbel", temperature_epochs=0, temperature=0.7)
    (constant,) = build("categorical-vae-gumbel", settings)[0].trainer.schedules()
    assert (constant.value_at(0), constant.num_steps_needed) == (0.7, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient": "straight_through"},
        {"gradient": "rebar", "analytic_kl": False},
        {"gradient": "loo", "analytic_kl": False, "num_particles": 3},
        {"gradient": "enumerate", "analytic_kl": False, "latent_classes": 3},
        {"objective": "iwae", "num_particles": 3},
        {"mmd": 5.0},
        {"conditional": True},
        {"network": "conv"},
    ],
)
def test_categorical_latents_go_with_other_settings(settings, small_of):
    system, batch = build("categorical-vae-gumbel", small_of("categorical-vae-gumbel"), **settings)
    args = batch if isinstance(batch, tuple) else (batch,)
    assert system.latent_features == 2 * settings.get("latent_classes", 10)
    losses = [system.trainer.step(*args) for _ in range(30)]
    assert losses[-1] < losses[0]
