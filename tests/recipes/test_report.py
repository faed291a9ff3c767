"""What an evaluation writes: numbers with their protocol, pictures with content, a file for ArviZ."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from contracts import refuses
from pyro_dgm import datasets
from pyro_dgm.evaluation import elbo_parts, log_evidence, read_netcdf
from pyro_dgm.recipes import evaluate, sample, start_run

PICTURES = {"training", "latent_space", "samples", "reconstructions", "interpolations", "manifold"}


@pytest.fixture(scope="module")
def report(trained):
    return evaluate(trained, num_particles=40, progress=False)


def by_metric(numbers: list[dict]) -> dict[str, dict]:
    return {number["metric"]: number for number in numbers}


def has_content(path: Path) -> bool:
    return float(np.asarray(imread(path))[..., :3].std()) > 0.01


def test_every_number_has_its_protocol(report, trained):
    numbers = json.loads((trained.folder / "evaluation.json").read_text())
    assert numbers == json.loads(json.dumps(report.numbers))
    assert list(by_metric(numbers)) == [
        "ELBO",
        "E_q log p(x | z)",
        "KL(q(z | x) || p(z))",
        "bits per dimension",
        "log p(x)",
    ]
    for number in numbers:
        assert math.isfinite(number["value"])
        assert number["standard_error"] >= 0
        assert number["unit"] == ("bits" if number["metric"] == "bits per dimension" else "nats per datum")
        assert number["num_particles"] == (40 if number["metric"] == "log p(x)" else 10)
        assert number["meaning"]
        assert number["data_sha256"] == datasets.digits().digest
        assert "test, then valid, binarised once by Bernoulli draws of seed 0" in number["data_protocol"]
        facts = {"recipe": "vae", "data": "digits", "split": "test", "num_data": 256, "training_seed": 0}
        assert facts.items() <= number.items()
        assert number["training_steps"] == trained.trainer.num_steps == 26


def test_numbers_are_those_of_the_evaluation(report, trained):
    model, guide, (x,) = trained.system.model, trained.system.guide, (trained.system.dataset.test.x,)
    found = by_metric(report.numbers)
    parts = elbo_parts(model, guide, x, num_particles=200)
    evidence = log_evidence(model, guide, x, num_particles=200)
    assert found["ELBO"]["value"] == pytest.approx(float(parts.elbo.mean()), abs=0.2)
    assert found["log p(x)"]["value"] == pytest.approx(evidence.estimate.mean, abs=0.2)
    assert found["log p(x)"]["standard_error"] == pytest.approx(evidence.estimate.standard_error, rel=0.05)
    assert found["ELBO"]["value"] < found["log p(x)"]["value"]
    parts_sum = found["E_q log p(x | z)"]["value"] - found["KL(q(z | x) || p(z))"]["value"]
    assert found["ELBO"]["value"] == pytest.approx(parts_sum)
    assert found["bits per dimension"]["value"] == pytest.approx(-found["ELBO"]["value"] / 64 / math.log(2))
    assert found["log p(x)"]["monte_carlo_error"] < found["log p(x)"]["standard_error"]


def test_evaluating_again_gives_the_same_numbers_and_moves_no_generator(report, copied):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert evaluate(copied, num_particles=40, progress=False).numbers == report.numbers
    assert torch.equal(torch.get_rng_state(), before)
    valid = evaluate(copied, "valid", num_particles=40, progress=False)
    assert by_metric(valid.numbers)["ELBO"]["split"] == "valid"
    assert by_metric(valid.numbers)["ELBO"]["value"] != by_metric(report.numbers)["ELBO"]["value"]


def test_pictures_are_there_and_have_content(report, trained):
    assert {path.stem for path in report.pictures} == PICTURES
    for path in report.pictures:
        assert path.parent == trained.folder
        assert has_content(path)


def test_the_arviz_file_holds_some_of_the_data(report, trained):
    assert report.arviz == trained.folder / "posterior.nc"
    data = read_netcdf(report.arviz)
    rows = torch.as_tensor(data["posterior"].attrs["rows"])
    assert len(rows.unique()) == 100
    x = torch.as_tensor(data["observed_data"]["x"].values.copy())
    assert torch.equal(x, trained.system.dataset.test.x[rows])
    assert data["posterior"].attrs["recipe"] == "vae"
    assert data["posterior"].attrs["data_sha256"] == datasets.digits().digest


def test_the_report_reads_as_a_table(report):
    lines = str(report).splitlines()
    assert lines[0].startswith("test ELBO (K = 10)")
    assert "±" in lines[0]
    assert lines[0].endswith("nats per datum")
    assert lines[-1] == f"ArviZ file                         {report.arviz}"
    assert sum(line.startswith("picture") for line in lines) == len(PICTURES)


def test_estimates_that_importance_sampling_cannot_give_are_marked(copied):
    """With K = 1 there is no Monte Carlo error, which JSON has no number for, and no fit of a tail."""
    report = evaluate(copied, num_particles=1, progress=False)
    text = (copied.folder / "evaluation.json").read_text()
    number = by_metric(json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")))["log p(x)"]
    assert number["monte_carlo_error"] is None
    assert number["num_pareto_k_over_0.7"] == 256
    assert "not to be trusted for 256 data" in str(report)


@pytest.mark.parametrize("settings", [{}, {"network": "conv", "latent_features": 3}])
def test_conditional_runs_are_reported_on(settings, small, folder):
    run = start_run("cvae", "digits", folder, settings={**small, **settings})
    run.train(resume=False, progress=False)
    report = evaluate(run, num_particles=5, progress=False)
    assert {path.stem for path in report.pictures} == PICTURES - {"manifold"}
    assert all(map(has_content, report.pictures))
    assert imread(sample(run, 20, folder / "twenty.png")).size


def test_points_are_reported_on_without_what_is_for_images(small, folder):
    run = start_run("vae", "moons", folder, settings={**small, "likelihood": "normal", "batch_size": 1000})
    run.train(resume=False, progress=False)
    report = evaluate(run, num_particles=5, progress=False)
    assert {path.stem for path in report.pictures} == {"training", "latent_space"}
    assert "bits per dimension" not in by_metric(report.numbers)
    assert has_content(sample(run, 50, folder / "points.png"))


@pytest.mark.parametrize("name", ["categorical-vae-gumbel", "sbn-nvil"])
def test_discrete_latents_are_reported_on_without_ways_between_them(name, small_of, folder):
    run = start_run(name, "digits", folder, settings=small_of(name))
    run.train(resume=False, progress=False)
    report = evaluate(run, num_particles=5, progress=False)
    assert {path.stem for path in report.pictures} == PICTURES - {"interpolations", "manifold"}
    assert all(map(has_content, report.pictures))
    assert has_content(sample(run, 9, folder / "nine.png"))


@pytest.mark.parametrize("num", [1, 3])
def test_very_few_data_are_reported_on(num, small, folder, make_dataset, monkeypatch):
    dataset = make_dataset((1, 4, 4), num=num)
    monkeypatch.setattr(datasets, "load", lambda name: dataset)
    run = start_run("vae", "stub", folder, settings=small)
    run.train(resume=False, progress=False)
    report = evaluate(run, num_particles=5, progress=False)
    assert ("interpolations" in {path.stem for path in report.pictures}) == (num > 1)
    json.loads((folder / "evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_run_cut_short_in_its_first_epoch_is_reported_on_without_curves(small, folder):
    run = start_run("vae", "digits", folder, settings=small)
    run.trainer.step(next(iter(run.system.batches)))
    report = evaluate(run, num_particles=5, progress=False)
    assert {path.stem for path in report.pictures} == PICTURES - {"training"}


def test_samples_come_from_a_fixed_seed(trained, tmp_path):
    first, second = (imread(sample(trained, 9, tmp_path / f"{name}.png")) for name in ("a", "b"))
    np.testing.assert_array_equal(first, second)


def test_bad_input_is_refused(trained, tmp_path):
    with refuses(ValueError, "'valid' or 'test'; got 'train'"):
        evaluate(trained, "train", progress=False)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        evaluate(trained, num_particles=0, progress=False)
    with refuses(ValueError, ".png"):
        sample(trained, 4, tmp_path / "samples.jpg")
