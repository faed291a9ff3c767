"""Adversarial recipes: what they learn, how they are validated, judged and shown, and how they are gone on with."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from contracts import refuses
from interrupted_runs import assert_equal, crash_after
from pyro_dgm import datasets
from pyro_dgm.__main__ import main
from pyro_dgm.datasets import Batches
from pyro_dgm.distributions import DiagonalNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LinearGaussian
from pyro_dgm.nn import MLP
from pyro_dgm.recipes import (
    AdversarialVAERecipe,
    CodedGANRecipe,
    GANRecipe,
    Run,
    TranslationRecipe,
    change,
    classifier_features,
    evaluate,
    fitted_evidence,
    get,
    open_run,
    sample,
    start_run,
)
from pyro_dgm.recipes.games import game_numbers, whole_batches
from pyro_dgm.recipes.judging import accuracy_of_codes, judged
from pyro_dgm.recipes.recipe import Drawn
from pyro_dgm.training import load_checkpoint

SMALL = {"hidden_features": (16,), "latent_features": 2, "epochs": 1}


def by_metric(numbers: list[dict]) -> dict[str, dict]:
    return {number["metric"]: number for number in numbers}


# What draws are asked


def test_codes_are_matched_to_classes_one_to_one():
    """The truth is the best of all six renamings."""
    torch.manual_seed(0)
    codes, classes = torch.randint(3, (2, 40))
    shares = [
        float((torch.tensor(names)[codes] == classes).double().mean()) for names in itertools.permutations(range(3))
    ]
    assert accuracy_of_codes(codes, classes, matched=True) == max(shares)
    assert accuracy_of_codes(codes, classes, matched=False) == shares[0]
    assert accuracy_of_codes(torch.tensor([5, 5, 7]), torch.tensor([0, 0, 1]), matched=True) == 1
    with refuses(ValueError, "(2,)", "(3,)"):
        accuracy_of_codes(codes[:2], classes[:3], matched=True)


def test_draws_that_are_the_data_have_all_modes_and_no_discrepancy():
    dataset = datasets.ring()
    found = by_metric(game_numbers(dataset, dataset.test, dataset.valid.x))
    assert found["modes covered"]["value"] == 8
    assert found["modes covered"]["meaning"].endswith("8 is perfect")
    assert found["high quality"]["value"] == pytest.approx(0.989, abs=0.01)  # 3 standard errors of 1000 draws
    assert abs(found["MMD"]["value"]) < 0.01
    far = by_metric(game_numbers(dataset, dataset.test, torch.zeros(1000, 2)))
    assert far["modes covered"]["value"] == 0
    assert far["MMD"]["value"] > 1


def test_a_short_batch_is_left_out_unless_it_is_the_only_one():
    assert [len(batch) for batch in whole_batches(torch.arange(10), batch_size=4, seed=0)] == [4, 4]
    assert [len(batch) for batch in whole_batches(torch.arange(3), batch_size=4, seed=0)] == [3]


def test_a_judge_tells_good_draws_from_bad_ones_and_their_classes(judge):
    """Data in the place of draws, and the same with shuffled pixels."""
    classifier, dataset = classifier_features(judge), datasets.digits()
    x, y = dataset.valid.x, dataset.valid.y
    torch.manual_seed(0)
    noise = x.flatten()[torch.randperm(x.numel())].reshape(x.shape)
    good = by_metric(judged(classifier, dataset.test.x, Drawn(x, y), knows_classes=True, reference=dataset.train.x))
    bad = by_metric(judged(classifier, dataset.test.x, Drawn(noise, y), knows_classes=True, reference=dataset.train.x))
    assert good["Fréchet distance"]["value"] < 0.2 * bad["Fréchet distance"]["value"]
    assert good["coverage"]["value"] > bad["coverage"]["value"] + 0.3
    assert good["right class"]["value"] > 0.9 > bad["right class"]["value"]
    renamed = judged(classifier, dataset.test.x, Drawn(x, (y + 3) % 10), knows_classes=False, reference=x)
    assert by_metric(renamed)["purity of the codes"]["value"] == good["right class"]["value"]
    wide = torch.nn.functional.pad(x, (2, 2, 2, 2))
    padded = judged(classifier, dataset.test.x, Drawn(wide, y), knows_classes=True, reference=x)
    assert by_metric(padded)["right class"]["value"] == good["right class"]["value"]


def test_a_guide_fitted_afterwards_finds_the_evidence():
    """Principal component analysis, whose evidence is known; K = 500, seed 0, weights of small variance."""
    torch.manual_seed(0)
    model = LinearGaussian(2, 4)
    with torch.no_grad():
        x = model(num=400)
    before = [parameter.clone() for parameter in model.parameters()]
    found = fitted_evidence(
        model,
        lambda: AmortizedGuide(z=DiagonalNormal(MLP(4, 4, ()))),
        Batches(x, batch_size=100),
        (x[:100],),
        num_particles=500,
        epochs=100,
        learning_rate=0.03,
    )
    assert found.estimate.mean == pytest.approx(model.log_evidence(x[:100]).mean().item(), abs=0.02)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


# The runs


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Run:
    settings = {"channels": (8, 16), "num_features": 24, "epochs": 8, "learning_rate": 5e-3, "batch_size": 50}
    run = start_run("classifier", "digits", tmp_path_factory.mktemp("runs") / "judge", settings=settings)
    run.train(resume=False, progress=False)
    return run


def test_a_gan_finds_the_modes_of_the_ring(folder):
    """Two epochs of R1 with quick players are no convergence, but they bring the draws near: seed 0."""
    settings = {"hidden_features": (64, 64), "learning_rate": 1e-3, "epochs": 2, "latent_features": 4, "ema": 0.9}
    run = start_run("gan-r1", "ring", folder, settings=settings)
    before = run.validate()
    run.train(resume=False, progress=False)
    after = run.validate()
    assert set(after) == {"mmd"}
    assert after["mmd"] < 0.3 * before["mmd"]


@pytest.mark.parametrize(
    ("recipe", "settings", "data", "pictures"),
    [
        ("gan-r1", {"ema": 0.9}, "ring", {"training", "samples"}),
        ("conditional-gan", {}, "moons", {"training", "samples"}),
        ("dcgan", {"channels": (4, 8), "image_size": 12}, "digits", {"training", "samples", "interpolations"}),
        ("infogan", {"channels": (4, 8)}, "digits", {"training", "samples", "code_1", "code_2"}),
        ("infogan", {"network": "mlp", "normalization": "spectral"}, "ring", {"training", "samples"}),
        ("cyclegan", {}, "moons", {"training", "translations"}),
        ("wae-gan", {"latent_features": 2}, "moons", {"training", "latent_space", "samples"}),
        ("ali", {"network": "conv", "channels": (4, 8)}, "digits", None),
    ],
)
def test_runs_are_evaluated_and_sampled(recipe, settings, data, pictures, folder):
    quick = {**SMALL, "batch_size": 64 if data == "digits" else 500, **settings}
    run = start_run(recipe, data, folder, settings=quick)
    run.train(resume=False, progress=False)
    report = evaluate(run, "valid", num_particles=2, progress=False)
    found = {path.stem for path in report.pictures}
    assert found == pictures if pictures else {"samples", "reconstructions", "manifold"} < found
    assert report.arviz is None
    assert "ArviZ" not in str(report)
    assert not (folder / "posterior.nc").exists()
    for number in report.numbers:
        assert number["meaning"]
        assert math.isfinite(number["value"])
    assert "MMD" in by_metric(report.numbers)
    assert sample(run, 12, folder / "twelve.png").stat().st_size > 1000
    assert evaluate(run, "valid", num_particles=2, progress=False).numbers == report.numbers


@pytest.mark.parametrize("recipe", ["gan-r1", "dcgan", "infogan", "avb", "cyclegan"])
def test_a_run_that_was_interrupted_ends_bitwise_where_it_would_have(recipe, small_of, tmp_path):
    """20 steps an epoch of 64 digits, or fewer; a crash in the second; another seed between."""
    settings = small_of(recipe, epochs=2)
    straight = start_run(recipe, "digits", tmp_path / "straight", seed=3, settings=settings)
    straight.train(resume=False, progress=False)
    crashing = start_run(recipe, "digits", tmp_path / "crashed", seed=3, settings=settings)
    crash_after(crashing, 18)
    torch.manual_seed(999)
    open_run(tmp_path / "crashed").train(resume=True, progress=False)
    assert_equal(*(load_checkpoint(tmp_path / name / "last.ckpt") for name in ("straight", "crashed")))


def test_what_is_drawn_is_of_the_averaged_generator(folder):
    run = start_run("gan-r1", "ring", folder, settings=SMALL)
    run.trainer.step(run.system.dataset.train.x[:64])
    with torch.no_grad():
        for parameter in run.trainer.averaged["model"].parameters():
            parameter.zero_()
    assert not run.system.draws(7).x.any()
    assert run.system.model(num=7).any()


def test_numbers_of_a_critic_say_that_they_are_no_bounds(small_of, folder):
    run = start_run("avb", "digits", folder, settings=small_of("avb"))
    run.train(resume=False, progress=False)
    found = by_metric(evaluate(run, num_particles=3, progress=False).numbers)
    assert "not a bound" in found["ELBO"]["meaning"]
    assert "fitted to the trained model" in found["log p(x)"]["meaning"]
    assert found["log p(x)"]["num_particles"] == 3
    assert json.loads((folder / "evaluation.json").read_text())[1]["standard_error"] is None


def test_the_factor_vae_keeps_its_bound(small_of, folder):
    run = start_run("factor-vae", "digits", folder, settings=small_of("factor-vae"))
    run.train(resume=False, progress=False)
    assert {"loss", "kl", "reconstruction"} == set(run.validate())
    report = evaluate(run, num_particles=3, progress=False)
    assert by_metric(report.numbers)["ELBO"]["meaning"].startswith("lower bound")
    assert report.arviz is not None


def test_a_judge_is_asked_from_the_shell(judge, folder, capsys):
    words = ["--set", "channels=(4,8)", "--epochs", "1", "--quiet", "--no-evaluation", "--out", str(folder)]
    assert main(["fit", "infogan", *words]) == 0
    assert main(["evaluate", str(folder), "--quiet", "--judge", str(judge.folder)]) == 0
    streams = capsys.readouterr()
    assert "test purity of the codes" in streams.out
    assert "test Fréchet distance" in streams.out
    assert main(["evaluate", str(folder), "--quiet", "--judge", str(folder)]) == 2
    assert "features come from a run of the recipe classifier" in capsys.readouterr().err
    with refuses(ValueError, "which draws none"):
        evaluate(judge, judge=judge, progress=False)


def test_judges_look_at_likelihood_models_too(trained, judge, tmp_path):
    copy = Run(tmp_path, *trained[1:])
    found = by_metric(evaluate(copy, num_particles=2, progress=False, judge=judge).numbers)
    assert found["Fréchet distance"]["value"] > 0
    assert "right class" not in found


# What is refused


@pytest.mark.parametrize(
    ("kind", "settings", "parts"),
    [
        (GANRecipe, {"estimator": "vae"}, ("got 'vae'",)),
        (GANRecipe, {"estimator": "wasserstein"}, ("kept from growing", "clip=0.01")),
        (GANRecipe, {"objective": "reverse-kl", "estimator": "hinge", "penalty": "gp"}, ("log-ratio",)),
        (GANRecipe, {"objective": "minimax", "estimator": "energy-margin"}, ("Minimax",)),
        (GANRecipe, {"normalization": "batch"}, ("got network='mlp'",)),
        (GANRecipe, {"normalization": "batch", "network": "dcgan", "penalty": "r1"}, ("penalty='r1'",)),
        (GANRecipe, {"estimator": "energy-margin", "pac": 2}, ("pac=2",)),
        (GANRecipe, {"pac": 8, "batch_size": 4}, ("batch_size=4", "pac=8")),
        (GANRecipe, {"beta1": 1.0}, ("beta1", "got 1.0")),
        (GANRecipe, {"ema": 1.0}, ("ema", "got 1.0")),
        (GANRecipe, {"gamma": math.nan}, ("gamma",)),
        (GANRecipe, {"critic_steps": 0}, ("critic_steps",)),
        (CodedGANRecipe, {"num_codes": 1}, ("num_codes",)),
        (CodedGANRecipe, {"normalization": "batch"}, ("got network='mlp'",)),
        (CodedGANRecipe, {"num_continuous": -1}, ("num_continuous",)),
        (AdversarialVAERecipe, {"method": "avb"}, ("got 'deterministic'", "posterior=implicit")),
        (AdversarialVAERecipe, {"likelihood": "implicit"}, ("likelihood=bernoulli",)),
        (AdversarialVAERecipe, {"weight": -1.0}, ("weight",)),
        (AdversarialVAERecipe, {"critic_features": ()}, ("critic_features=()",)),
        (TranslationRecipe, {"change": "edges"}, ("got 'edges'",)),
        (TranslationRecipe, {"network": "conv", "hidden_features": ()}, ("hidden_features=()",)),
        (TranslationRecipe, {"batch_size": 1}, ("batch_size=1",)),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, settings, parts):
    with refuses(ValueError, *parts):
        kind("", "", **settings)


@pytest.mark.parametrize(
    ("recipe", "settings", "data", "parts"),
    [
        ("dcgan", {}, "moons", ("(2,)", "network=mlp")),
        ("gan", {"image_size": 32}, "moons", ("image_size=32",)),
        ("dcgan", {"image_size": 4}, "digits", ("image_size=4", "(1, 8, 8)")),
        ("conditional-gan", {}, "ppca", ("class labels", "'ppca'")),
        ("gan", {}, "tiny", ("'tokens'", "mnist")),
        ("infogan", {}, "moons", ("network=mlp",)),
        ("ac-gan", {"network": "mlp", "normalization": "none"}, "ppca", ("two classes", "has 0")),
        ("adversarial-autoencoder", {}, "moons", ("'real'", "likelihood=normal")),
        ("pix2pix", {}, "moons", ("upper-half", "change=rotated")),
        ("cyclegan", {}, "oblong", ("square", "change=inverted")),
    ],
)
def test_data_of_another_kind_are_refused_before_anything_is_built(recipe, settings, data, parts, make_dataset):
    dataset = {
        "tiny": lambda: make_dataset((6,), "tokens"),
        "oblong": lambda: make_dataset((1, 4, 6)),
    }.get(data, lambda: datasets.load(data))()
    with refuses(ValueError, *parts):
        change(get(recipe), settings).build(dataset)


def test_there_is_no_patience_in_a_game(folder):
    assert get("dcgan").patience is None
    with refuses(ValueError, "patience"):
        start_run("gan", "ring", folder, settings={"patience": 3})
    assert not Path(folder).exists()
