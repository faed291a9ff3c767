"""The recipe that is trained without a gradient, and whose numbers are exact."""

import pytest
import torch

from contracts import refuses
from pyro_dgm import datasets
from pyro_dgm.recipes import Run, change, evaluate, get, sample, start_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = start_run("mixture-em", "pinwheel", tmp_path_factory.mktemp("runs") / "mixture", settings={"epochs": 5})
    run.train(resume=False, progress=False)
    return run


def test_each_epoch_raises_the_likelihood_of_the_training_data(run):
    losses = [row["loss"] for row in run.history()]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.01
    assert run.trainer.num_steps == 5


def test_the_numbers_are_the_exact_evidence(run):
    """Also where importance weights, equal up to rounding, have a tail to fit a Pareto distribution to."""
    exact = float(run.system.model.log_evidence(run.system.dataset.test.x).mean().detach())
    for num_particles in (3, 100):
        report = evaluate(run, num_particles=num_particles, progress=False)
        found = {number["metric"]: number for number in report.numbers}
        assert found["ELBO"]["value"] == pytest.approx(exact, abs=1e-4)
        assert found["log p(x)"]["value"] == pytest.approx(exact, abs=1e-4)
        assert found["log p(x)"]["num_pareto_k_over_0.7"] == 0
        assert "not to be trusted" not in str(report)


def test_the_pictures_are_the_components_and_points(run, tmp_path):
    report = evaluate(run, num_particles=3, progress=False)
    assert {path.stem for path in report.pictures} == {"training", "components"}
    (figure,) = run.system.figures(run.system.dataset.test.x).values()
    assert len(figure.axes[0].patches) == 2 * 8
    assert sample(run, 30, tmp_path / "points.png").stat().st_size > 1000


@pytest.mark.parametrize("covariance", ["diagonal", "full", "spherical"])
def test_the_ellipses_have_the_components_covariances(covariance):
    """At two standard deviations, as wide and high as the square roots of the eigenvalues say."""
    system = change(get("mixture-em"), {"covariance": covariance, "components": 2}).build(datasets.moons(num_train=200))
    system.trainer.step(system.dataset.train.x)
    (figure,) = system.figures(system.dataset.test.x).values()
    components = system.model._component(torch.arange(2))
    matrices = (
        components.covariance_matrix if covariance == "full" else torch.diag_embed(components.base_dist.scale.square())
    )
    for ellipse, matrix in zip(figure.axes[0].patches[1::2], matrices, strict=True):
        expected = 4 * torch.linalg.eigvalsh(matrix).sqrt()
        assert sorted([ellipse.width, ellipse.height]) == pytest.approx(expected.tolist(), rel=1e-4)


def test_data_of_the_wrong_kind_are_refused_with_the_cure():
    with refuses(ValueError, "kind 'real'; got 'digits', of kind 'grey'", "--data ring"):
        get("mixture-em").build(datasets.digits())
    with refuses(ValueError, "each of the 8 components; got 5"):
        get("mixture-em").build(datasets.moons(num_train=5))
