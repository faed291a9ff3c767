"""The ArviZ export: every value is where it belongs, and ArviZ can work with it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from contracts import refuses
from pyro_dgm.datasets import ppca
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.evaluation import pareto_k, read_netcdf, to_arviz, write_netcdf
from pyro_dgm.evaluation._arviz_compat import import_arviz
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

GROUPS = ("posterior", "posterior_predictive", "log_likelihood", "observed_data", "sample_stats")


def values(data: Any, group: str, name: str) -> Tensor:
    return torch.as_tensor(data[group][name].values)


def layout(data: Any, group: str) -> dict[str, tuple[str, ...]]:
    return {name: data[group][name].dims for name in data[group].data_vars}


@pytest.fixture
def vae() -> tuple[LatentVariableModel, AmortizedGuide]:
    model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 6, (5,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(6, 4, (5,))))


def test_groups_and_dimensions(vae):
    data = to_arviz(*vae, torch.ones(3, 6), num_samples=10, attributes={"run": "a", "rows": [4, 7, 9]})
    assert layout(data, "posterior") == {"z": ("chain", "draw", "data", "z_dim_0")}
    assert layout(data, "posterior_predictive") == {"x": ("chain", "draw", "data", "x_dim_0")}
    assert layout(data, "log_likelihood") == {"x": ("chain", "draw", "data")}
    assert layout(data, "observed_data") == {"x": ("data", "x_dim_0")}
    assert layout(data, "sample_stats") == {"log_weights": ("chain", "draw", "data"), "pareto_k": ("data",)}
    assert values(data, "posterior", "z").shape == (1, 10, 3, 2)
    assert data["posterior"].attrs["run"] == "a"
    assert list(data["posterior"].attrs["rows"]) == [4, 7, 9]


def test_values_are_those_of_the_densities(vae):
    model, guide = vae
    x = torch.rand(3, 6).round()
    data = to_arviz(model, guide, x, num_samples=30)
    z = values(data, "posterior", "z")[0]
    with torch.no_grad():
        log_likelihood = model.likelihood(z).log_prob(x)  # (K, B)
        log_weights = log_likelihood + model.prior().log_prob(z) - guide.sites.z(x).log_prob(z)
    torch.testing.assert_close(values(data, "log_likelihood", "x")[0], log_likelihood)
    torch.testing.assert_close(values(data, "sample_stats", "log_weights")[0], log_weights)
    torch.testing.assert_close(values(data, "sample_stats", "pareto_k"), pareto_k(log_weights))
    assert torch.equal(values(data, "observed_data", "x"), x)


def test_predictions_come_from_the_drawn_latents():
    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1e-6), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x, 0.5))

    data = to_arviz(model, guide, torch.randn(4), num_samples=20)
    z, x = values(data, "posterior", "z"), values(data, "posterior_predictive", "x")
    torch.testing.assert_close(z, x, atol=1e-4, rtol=0)
    assert layout(data, "posterior") == {"z": ("chain", "draw", "rows")}
    assert layout(data, "log_likelihood") == {"x": ("chain", "draw", "rows")}
    assert layout(data, "sample_stats") == {"log_weights": ("chain", "draw", "rows"), "pareto_k": ("rows",)}


def with_everything(x: Tensor, y: Tensor) -> None:
    """A global latent, one that is not vectorised over data, two locals, a nested plate, a factor, a global datum."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("seen", dist.Normal(w[..., 0], 1.0), obs=torch.tensor(0.5))
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        k = pyro.sample("k", dist.Categorical(logits=torch.zeros(3)))
        pyro.deterministic("shift", a + k, event_dim=0)
        with pyro.plate("inner", 5, dim=-2):
            pyro.sample("x", dist.Normal(a + k, 1.0), obs=x.T)
        pyro.sample("y", dist.Normal(a[..., None].expand(*a.shape, 2), 1.0).to_event(1), obs=y)
        pyro.factor("penalty", -(a**2))


def guide_of_everything(x: Tensor, y: Tensor) -> None:
    pyro.sample("w", dist.Normal(torch.ones(2), 0.5).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Normal(x.mean(-1), 0.5))
        pyro.deterministic("half", a / 2, event_dim=0)
        pyro.sample("k", dist.Categorical(logits=torch.zeros(3)))


def test_nothing_is_dropped_and_every_dimension_has_its_name():
    x, y = torch.randn(4, 5), torch.randn(4, 2)
    data = to_arviz(with_everything, guide_of_everything, x, y, num_samples=7)
    assert layout(data, "posterior") == {
        "w": ("chain", "draw", "w_dim_0"),
        "a": ("chain", "draw", "data"),
        "k": ("chain", "draw", "data"),
    }
    assert layout(data, "posterior_predictive") == {
        "seen": ("chain", "draw"),
        "x": ("chain", "draw", "inner", "data"),
        "y": ("chain", "draw", "data", "y_dim_0"),
    }
    assert layout(data, "observed_data") == {"seen": (), "x": ("inner", "data"), "y": ("data", "y_dim_0")}
    assert layout(data, "log_likelihood") == {
        "seen": ("chain", "draw"),
        "x": ("chain", "draw", "data"),
        "y": ("chain", "draw", "data"),
    }
    assert layout(data, "sample_stats") == {
        "log_weights": ("chain", "draw", "data"),
        "pareto_k": ("data",),
        "log_weights_global": ("chain", "draw"),
    }
    w, a, k = (values(data, "posterior", name)[0] for name in ("w", "a", "k"))
    per_element = dist.Normal(a + k, 1.0).log_prob(x.T[:, None]).permute(1, 0, 2)  # (K, inner, data)
    torch.testing.assert_close(values(data, "log_likelihood", "x")[0], per_element.sum(1))
    seen = dist.Normal(w[:, 0], 1.0).log_prob(torch.tensor(0.5))
    torch.testing.assert_close(values(data, "log_likelihood", "seen")[0], seen)
    prior, posterior = dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.Normal(torch.ones(2), 0.5).to_event(1)
    expected = seen + prior.log_prob(w) - posterior.log_prob(w)
    torch.testing.assert_close(values(data, "sample_stats", "log_weights_global")[0], expected)
    assert torch.equal(values(data, "observed_data", "x"), x.T)


def test_data_outside_the_data_plate_have_one_likelihood_a_draw():
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("others", 6, dim=-1):
            pyro.sample("u", dist.Normal(w.unsqueeze(-1) if w.dim() == 1 else w, 1.0), obs=torch.ones(6))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(w.unsqueeze(-1) if w.dim() == 1 else w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))

    data = to_arviz(model, guide, torch.randn(3), num_samples=8)
    w = values(data, "posterior", "w")[0]
    assert layout(data, "log_likelihood") == {"u": ("chain", "draw"), "x": ("chain", "draw", "data")}
    expected = dist.Normal(w[:, None], 1.0).log_prob(torch.ones(6)).sum(-1)
    torch.testing.assert_close(values(data, "log_likelihood", "u")[0], expected)


def test_arviz_works_on_it(linear):
    """With the exact posterior (K = 2000, seed 0) its summary is the closed form, and leaving a datum out predicts
    it with p(x): the harmonic mean of p(x | z), which is tame where noise dominates.
    """
    arviz = import_arviz()
    linear = type(linear)(ppca(features=4, noise_sd=4.0, num_train=1, num_valid=1, num_test=12))
    data = to_arviz(linear.model, linear.guide(), linear.x, num_samples=2000)
    loc, covariance = linear.posterior(linear.x)
    summary = arviz.summary(data, var_names=["z"], kind="stats", round_to="none")
    error = covariance.diagonal().sqrt().expand_as(loc).flatten() / math.sqrt(2000)
    assert ((torch.tensor(summary["mean"].values) - loc.flatten()).abs() < 5 * error).all()
    loo = arviz.loo(data, var_name="x")
    elpd = loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd
    assert float(elpd) == pytest.approx(float(linear.truth(linear.x).sum()), abs=0.3)
    assert data["posterior"]["z"].sel(chain=0, rows=3).dims == ("draw", "z_dim_0")


def test_a_file_gives_it_back(vae, tmp_path: Path):
    data = to_arviz(*vae, torch.ones(3, 6), num_samples=10, attributes={"run": "a", "rows": [4, 7, 9]})
    found = read_netcdf(write_netcdf(data, tmp_path / "posterior.nc"))
    for group in GROUPS:
        assert layout(found, group) == layout(data, group)
        for name in layout(data, group):
            np.testing.assert_array_equal(found[group][name].values, data[group][name].values)
    assert found["posterior"].attrs["run"] == "a"
    assert list(found["posterior"].attrs["rows"]) == [4, 7, 9]


def test_modules_are_evaluated_and_put_back_into_their_modes():
    dropout = nn.Dropout(0.5)
    modes: list[bool] = []
    dropout.register_forward_hook(lambda module, *_: modes.append(module.training))
    model = LatentVariableModel(StandardNormal(2), Bernoulli(nn.Sequential(nn.Linear(2, 6), dropout)))
    guide = AmortizedGuide(z=DiagonalNormal(MLP(6, 4, (5,))))
    to_arviz(model, guide, torch.ones(3, 6), num_samples=2)
    assert modes
    assert not any(modes)
    assert all(module.training for program in (model, guide) for module in program.modules())


def test_too_few_draws_are_refused(vae):
    with refuses(ValueError, "at least 2; got 1"):
        to_arviz(*vae, torch.ones(3, 6), num_samples=1)
    with pytest.raises(TypeError, match=r"got 2\.5"):
        to_arviz(*vae, torch.ones(3, 6), num_samples=2.5)
