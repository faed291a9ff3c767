"""The classifier: it learns, reports its accuracy, and judges images."""

import json
import math

import pytest
import torch

from contracts import refuses
from pyro_dgm import datasets
from pyro_dgm.__main__ import main
from pyro_dgm.datasets import Dataset, Split
from pyro_dgm.evaluation import frechet_distance, inception_score, precision_recall
from pyro_dgm.models import DensityModel
from pyro_dgm.nn import ConvEncoder
from pyro_dgm.recipes import Classifier, ClassifierRecipe, Run, change, classifier_features, evaluate, get, start_run
from pyro_dgm.training import CheckpointError

SMALL = {"channels": (8, 16), "num_features": 24, "epochs": 15, "learning_rate": 3e-3, "batch_size": 50}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = start_run("classifier", "digits", tmp_path_factory.mktemp("runs") / "classifier", settings=SMALL)
    run.train(resume=False, progress=False)
    return run


def test_it_tells_the_digits_apart_and_says_how_well(run):
    """15 epochs of a small network, seed 0: above 90 % of the 256 test images."""
    report = evaluate(run, progress=False)
    log_p, accuracy = json.loads((run.folder / "evaluation.json").read_text())
    test = run.system.dataset.test
    classifier = classifier_features(run)
    right = classifier.log_probs(test.x).argmax(1) == test.y
    assert accuracy["metric"] == "accuracy"
    assert accuracy["value"] == pytest.approx(100 * float(right.double().mean()))
    assert accuracy["value"] > 90
    assert accuracy["unit"] == "% of the data"
    share = float(right.double().mean())
    assert accuracy["standard_error"] == pytest.approx(100 * math.sqrt(share * (1 - share) / 255), rel=1e-6)
    assert log_p["metric"] == "log p(y | x)"
    expected = -torch.nn.functional.cross_entropy(classifier.log_probs(test.x), test.y)
    assert log_p["value"] == pytest.approx(float(expected), rel=1e-5)
    for number in (log_p, accuracy):
        assert {"recipe": "classifier", "data": "digits", "split": "test", "num_data": 256}.items() <= number.items()
    assert {path.stem for path in report.pictures} == {"training", "features", "least_certain"}
    assert str(report).splitlines()[1].startswith("test accuracy   ")
    assert "(K =" not in str(report)


def test_it_is_validated_by_its_likelihood_alone(run):
    (name, value), *others = run.validate().items()
    assert (name, others) == ("loss", [])
    valid = run.system.dataset.valid
    expected = torch.nn.functional.cross_entropy(classifier_features(run).log_probs(valid.x), valid.y)
    assert value == pytest.approx(float(expected), rel=1e-5)


def test_a_folder_gives_the_trained_network(run):
    x = run.system.dataset.test.x
    before = torch.get_rng_state()
    torch.manual_seed(5)
    opened, there = classifier_features(str(run.folder)), classifier_features(run)
    assert isinstance(opened, Classifier)
    torch.testing.assert_close(opened.features(x), there.features(x), rtol=0, atol=0)
    torch.testing.assert_close(opened.log_probs(x), there.log_probs(x), rtol=0, atol=0)
    torch.set_rng_state(before)


def test_features_lead_to_the_classes_and_images_may_be_flat_and_many(run):
    x = run.system.dataset.test.x
    classifier = classifier_features(run)
    features = classifier.features(x)
    assert features.shape == (256, 24)
    assert not features.requires_grad
    assert float(features.min()) == 0
    torch.testing.assert_close(classifier.net.head[-1](features).log_softmax(1), classifier.log_probs(x))
    torch.testing.assert_close(classifier.log_probs(x).exp().sum(1), torch.ones(256))
    torch.testing.assert_close(classifier.features(x.flatten(1)), features)
    torch.testing.assert_close(classifier.features(x.repeat(6, 1, 1, 1))[-256:], features)
    assert classifier.num_classes == 10
    classifier.train()
    classifier.features(x)
    assert classifier.net.training


def test_it_judges_noise_to_be_unlike_the_digits(run):
    valid, test = run.system.dataset.valid.x, run.system.dataset.test.x
    torch.manual_seed(0)
    noise = test.flatten()[torch.randperm(test.numel())].reshape(test.shape)
    classifier = classifier_features(run)
    data, good, bad = (classifier.features(x) for x in (valid, test, noise))
    assert frechet_distance(data, good) < 0.2 * frechet_distance(data, bad)
    assert precision_recall(data, good).coverage > precision_recall(data, bad).coverage + 0.3
    assert inception_score(classifier.log_probs(test), 2).mean > inception_score(classifier.log_probs(noise), 2).mean


def test_it_is_a_model_of_labels_given_images():
    torch.manual_seed(0)
    system = change(get("classifier"), SMALL).build(datasets.digits())
    assert isinstance(system.model, DensityModel)
    y, x = system.arguments(system.dataset.test)
    assert torch.equal(y, system.dataset.test.y)
    assert system.model(None, x).shape == y.shape  # labels are drawn
    before = [parameter.clone() for parameter in system.model.parameters()]
    system.trainer.step(*next(iter(system.batches)))
    assert not any(torch.equal(*pair) for pair in zip(before, system.model.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 7, 4), (2, 6, 6)])
def test_images_may_be_of_any_shape(shape, make_dataset):
    system = change(get("classifier"), SMALL).build(make_dataset(shape))
    assert math.isfinite(system.trainer.step(*next(iter(system.batches))))
    drawn = system.figures(system.dataset.test.x)
    assert set(drawn) == ({"features"} if shape[0] == 2 else {"features", "least_certain"})


@pytest.mark.slow
def test_compiled_steps_are_those_as_written():
    losses = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        system = change(get("classifier"), {**SMALL, "compile": is_compiled}).build(datasets.digits())
        losses.append([system.trainer.step(*batch) for _ in range(2) for batch in system.batches])
    assert system.trainer.compiled.num_compiled
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_from_the_shell_it_is_fitted_and_not_sampled(folder, capsys):
    words = ["--set", "num_features=8", "--epochs", "1", "--quiet", "--out", str(folder)]
    assert main(["fit", "classifier", *words]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert main(["sample", str(folder)]) == 2
    assert "which judges them" in capsys.readouterr().err
    assert not (folder / "samples.png").exists()


def test_data_that_cannot_be_classified_are_refused(make_dataset):
    build = get("classifier").build
    with refuses(ValueError, "(2,)", "mnist"):
        build(datasets.moons())
    with refuses(ValueError, "two classes", "has 0"):
        build(make_dataset((1, 4, 4), labelled=False))
    one = Split(torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64))
    with refuses(ValueError, "two classes", "has 1"):
        build(Dataset("stub", one, one, one, "0" * 64, "made up", (1, 4, 4), "grey"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_features": 0}, "num_features must be at least 1; got 0"),
        ({"channels": (8, 0)}, "channels must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with refuses(ValueError, message):
        ClassifierRecipe("", "", **settings)


def test_images_and_runs_of_another_kind_are_refused(run, trained, folder):
    classifier = classifier_features(run)
    x = run.system.dataset.test.x
    for judge in (classifier.features, classifier.log_probs):
        with refuses(TypeError, "images", "list"):
            judge([0.0])
        for bad in (x[:0], x[0], x[:, :, :7], x.flatten(1)[:, 1:], x[0, 0, 0]):
            with refuses(ValueError, "(n, 1, 8, 8)", str(tuple(bad.shape))):
                judge(bad)
        with refuses(ValueError, "finite", "got 64 values"):
            judge(x[:1] * math.nan)
        with refuses(TypeError, "torch.float64"):
            judge(x.double())
    with refuses(TypeError, "ConvEncoder", "Linear"):
        Classifier(torch.nn.Linear(2, 2))
    assert isinstance(classifier.net, ConvEncoder)
    for other in (trained, trained.folder):
        with refuses(ValueError, "got one of 'vae'", "fit classifier --data digits"):
            classifier_features(other)
    with refuses(ValueError, "config.json"):
        classifier_features(folder)
    start_run("classifier", "digits", folder, settings=SMALL)
    with pytest.raises(CheckpointError, match="no trained parameters yet"):
        classifier_features(folder)
