"""Guides made from a user's own models: every support, plate and family, under stock Pyro and this library."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as PyroSVI
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from torch import Tensor, nn

from contracts import assert_every_parameter_has_a_gradient, refuses
from pyro_dgm.distributions import Bernoulli, StandardNormal
from pyro_dgm.distributions.families import FAMILIES, posterior_family
from pyro_dgm.guides import amortize
from pyro_dgm.infer import ELBO, IWAE, SVI, WakeSleep, log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) + 0.5
SMALL = {
    "iaf": {"hidden_features": (8,)},
    "maf": {"hidden_features": (8,)},
    "affine-coupling": {"hidden_features": (8,)},
    "spline-coupling": {"hidden_features": (8,), "num_bins": 4},
    "spline-autoregressive": {"hidden_features": (8,), "num_bins": 4},
    "bnaf": {"hidden_factors": (4,)},
    "semi-implicit": {"noise_features": 3, "num_mixing": 3, "hidden_features": (8,)},
}


def zoo(x: Tensor, data_size: int | None = None) -> Tensor:
    """Latents on every kind of support, each depending on those before, and a global one."""
    sd = pyro.sample("sd", dist.LogNormal(0.0, 1.0))
    size = len(x) if data_size is None else data_size
    with pyro.plate("data", size, subsample=torch.arange(len(x)), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
        rate = pyro.sample("rate", dist.Gamma(2.0, torch.exp(-z[..., 0])))
        share = pyro.sample("share", dist.Beta(torch.ones(2), 2.0).expand([len(x), 2]).to_event(1))
        mix = pyro.sample("mix", dist.Dirichlet(torch.ones(len(x), 4)))
        bit = pyro.sample("bit", dist.Bernoulli(0.3 * torch.ones(len(x))))
        kind = pyro.sample("kind", dist.Categorical(torch.ones(len(x), 3)))
        mean = (z.sum(-1) + rate + share.sum(-1) + bit + kind).unsqueeze(-1) * mix
        return pyro.sample("x", dist.Normal(mean, sd.reshape(*sd.shape, 1)).to_event(1), obs=x)


def pair(x: Tensor) -> None:
    """Two latents, the second given the first: linear and Gaussian."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x.new_zeros(len(x)), 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal((a + b).unsqueeze(-1).expand(*(a + b).shape, 2), 0.5).to_event(1), obs=x)


def made(family: str = "diagonal", **kwargs):
    torch.manual_seed(1)
    return amortize(zoo, MLP(4, 5, (8,), nn.Tanh), X, family=family, **kwargs)


def test_every_latent_is_on_its_support_and_in_its_plate():
    guide = made()
    trace = poutine.trace(guide).get_trace(X[:5])
    model = poutine.trace(poutine.replay(zoo, trace)).get_trace(X[:5])
    model.compute_log_prob()
    trace.compute_log_prob()
    for name in ("z", "rate", "share", "mix", "bit", "kind"):
        site = trace.nodes[name]
        assert [(f.name, f.dim, f.size) for f in site["cond_indep_stack"]] == [("data", -1, 5)]
        assert model.nodes[name]["fn"].support.check(site["value"]).all()
        assert site["log_prob"].shape == (5,)
        assert site["log_prob"].isfinite().all()
    assert not trace.nodes["sd"]["cond_indep_stack"]
    assert trace.nodes["sd"]["value"] > 0
    assert set(trace.nodes["_RETURN"]["value"]) == {*guide.names, "sd"}


@pytest.mark.parametrize("local", [False, True])
def test_stock_svi_trains_every_parameter(local):
    with pyro.settings.context(module_local_params=local):
        guide = made()
        before = {name: value.clone() for name, value in guide.state_dict().items()}
        svi = PyroSVI(zoo, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        for _ in range(3):
            svi.step(X)
        assert all(not torch.equal(before[name], p) for name, p in guide.named_parameters())
        assert len(pyro.get_param_store()) == 0


def test_our_svi_lowers_the_loss():
    guide = made()
    svi = SVI(zoo, guide, functools.partial(torch.optim.Adam, lr=1e-2), ELBO(5, max_plate_nesting=1), compile=False)
    first = sum(svi.step(X) for _ in range(20))
    for _ in range(150):
        svi.step(X)
    assert sum(svi.step(X) for _ in range(20)) < first


def test_the_guide_has_all_its_parameters_at_once_and_can_be_copied():
    """Pitfall 22: AutoGuides have none before their first call, and some cannot be copied after one."""
    guide, other = made("planar"), made("planar")
    assert list(other.state_dict()) == list(guide.state_dict())
    PyroSVI(zoo, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(X)
    other.load_state_dict(guide.state_dict())
    draws = []
    for program in (guide, other, copy.deepcopy(guide)):
        torch.manual_seed(2)
        draws.append(program(X))
    for name in draws[0]:
        torch.testing.assert_close(draws[0][name], draws[1][name])
        torch.testing.assert_close(draws[0][name], draws[2][name])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_on_every_support(family):
    def positive(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0).expand([len(x), 4]).to_event(1))
            mix = pyro.sample("mix", dist.Dirichlet(torch.ones(len(x), 3)))
            pyro.sample("x", dist.Normal(rate * mix.sum(-1, keepdim=True), 0.5).to_event(1), obs=x)

    torch.manual_seed(1)
    guide = amortize(positive, MLP(4, 5, (8,), nn.Tanh), X, family=family, family_options=SMALL.get(family))
    for objective in (ELBO(3), IWAE(3)):
        guide.zero_grad()
        objective.differentiable_loss(positive, guide, X).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in guide.parameters())
    weights = log_weights(positive, guide, X, num_particles=7).local
    assert weights.shape == (7, 6)
    assert weights.isfinite().all()
    assert guide.scores_any_point == (family not in ("bnaf", "semi-implicit"))
    if guide.scores_any_point:
        for options in ({"gradient": "stl"}, {"gradient": "dreg"}):
            IWAE(3, **options).differentiable_loss(positive, guide, X).backward()
        WakeSleep().differentiable_loss(positive, guide, X).backward()


def test_a_chain_of_latents_is_no_mean_field():
    """The exact posterior is correlated; q(a | x) q(b | x, a) holds it. Seed 3; 800 steps; weights then hardly vary."""
    torch.manual_seed(3)
    x = torch.randn(8, 2)
    guide = amortize(pair, nn.Linear(2, 4), x)
    svi = SVI(pair, guide, functools.partial(torch.optim.Adam, lr=1e-2), ELBO(8, max_plate_nesting=1), compile=False)
    for _ in range(800):
        svi.step(x)
    covariance = 5 * torch.ones(2, 2) + 0.25 * torch.eye(2)  # a + b has variance 1 + 4
    evidence = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x)
    with torch.no_grad():
        bound = log_weights(pair, guide, x, num_particles=1000).local.mean(0)
    assert (evidence - bound).mean() < 0.02


def test_minibatches_stand_for_the_data():
    guide = made()
    for program in (zoo, guide):
        trace = poutine.trace(program).get_trace(X[:3], data_size=30)
        assert trace.nodes["z"]["scale"] == 10.0
        assert trace.nodes["sd"]["scale"] == 1.0
    assert ELBO().loss(zoo, guide, X[:3], data_size=30).isfinite()


def test_rows_that_the_model_draws_itself_are_the_guides():
    def model(x: Tensor) -> None:
        with pyro.plate("rows", 6, subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z], -1), 0.5).to_event(1), obs=x[rows])

    guide = amortize(model, MLP(4, 5, (8,)), X)
    trace = poutine.trace(guide).get_trace(X)
    replayed = poutine.trace(poutine.replay(model, trace)).get_trace(X)
    assert torch.equal(replayed.nodes["rows"]["value"], trace.nodes["rows"]["value"])
    assert trace.nodes["z"]["scale"] == replayed.nodes["x"]["scale"] == 3.0
    assert Trace_ELBO().loss(model, guide, X) > 0


def test_rows_that_the_model_is_given_stay_the_models():
    """An explicit subsample leaves a site as drawn rows do, but is nothing that a guide may choose."""
    seen = []

    def model(x: Tensor, rows: Tensor) -> None:
        with pyro.plate("data", 100, subsample=rows) as found:
            seen.append(found)
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z], -1), 0.5).to_event(1), obs=x)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP(4, 5, (8,))

        def forward(self, x: Tensor, rows: Tensor) -> Tensor:
            return self.net(x)

    guide = amortize(model, Encoder(), X, torch.arange(6))
    for objective in (Trace_ELBO(), ELBO(2, max_plate_nesting=1)):
        loss = objective.loss(model, guide, X[:3], torch.tensor([7, 50, 99]))  # a last, smaller batch
        assert seen[-1].tolist() == [7, 50, 99]
        assert abs(float(loss)) < 1e5
    assert poutine.trace(guide).get_trace(X[:3], torch.arange(3)).nodes["z"]["scale"] == pytest.approx(100 / 3)


def test_a_model_read_with_a_data_size_takes_others():
    model = LatentVariableModel(StandardNormal(3), Bernoulli(MLP(3, 4, (8,))))
    x = (X > 1).float()
    guide = amortize(model, MLP(4, 5, (8,)), x, data_size=100)
    for rows, size in ((6, 100), (4, 100), (6, 1000)):
        assert ELBO(2).loss(model, guide, x[:rows], data_size=size).isfinite()


def test_data_of_another_size_whose_rows_the_model_draws():
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z], -1), 0.5).to_event(1), obs=x[rows])

    guide = amortize(model, MLP(4, 5, (8,)), X)
    trace = poutine.trace(guide).get_trace(torch.cat([X, X]))
    assert trace.nodes["z"]["scale"] == 6.0
    assert Trace_ELBO().loss(model, guide, torch.cat([X, X])) > 0


def test_the_encoder_is_used_where_a_global_is_observed():
    def model(x: Tensor) -> None:
        sd = pyro.sample("sd", dist.LogNormal(0.0, 1.0), obs=torch.tensor(0.5))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z], -1), sd).to_event(1), obs=x)

    guide = amortize(model, MLP(4, 5, (8,)), X)
    assert guide.names == ("z",)
    assert guide(X[:2])["z"].shape == (2, 2)


def test_a_guide_with_global_latents_says_that_it_cannot_score_any_point():
    guide = made()
    assert not guide.scores_any_point
    assert guide.scored_when_drawn == ["sd"]
    with refuses(ValueError, "AutoAmortizedGuide", "'sd'"):
        WakeSleep().differentiable_loss(zoo, guide, X)


def test_single_numbers_and_bounds_go_with_every_family():
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Uniform(-1.0, 3.0))
            p = pyro.sample("p", dist.Pareto(torch.ones(len(x)), 2.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(1))
            mean = z + (u + p).unsqueeze(-1)
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    options = {"hidden_features": (8,)}
    guide = amortize(model, MLP(4, 5, (8,)), X, family="iaf", family_options=options)
    draws = guide(X[:4])
    assert ((draws["u"] > -1) & (draws["u"] < 3)).all()
    assert (draws["p"] > 1).all()
    assert IWAE(3).loss(model, guide, X).isfinite()


def test_a_guide_of_a_double_model_is_double():
    x = (X > 1).double()
    model = LatentVariableModel(StandardNormal(3), Bernoulli(MLP(3, 4, (8,)))).double()
    guide = amortize(model, MLP(4, 5, (8,)).double(), x, family="planar")
    assert guide(x)["z"].dtype is torch.float64


def test_a_plate_inside_of_the_datas_keeps_its_dimension():
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1))
            with pyro.plate("pixels", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    guide = amortize(model, MLP(4, 5, (8,)), X, family="full")
    assert poutine.trace(guide).get_trace(X).nodes["z"]["value"].shape == (6, 1, 2)
    assert log_weights(model, guide, X, num_particles=3).local.shape == (3, 6)


def test_our_own_model_with_its_arguments():
    model = LatentVariableModel(StandardNormal(3), Bernoulli(MLP(3, 4, (8,))))
    x = (X > 1).float()
    guide = amortize(model, MLP(4, 5, (8,)), x, family="iaf", family_options={"hidden_features": (8,)})
    ELBO(2).differentiable_loss(model, guide, x, data_size=60).backward()
    assert_every_parameter_has_a_gradient(model)
    draws = Predictive(poutine.uncondition(model), guide=guide, num_samples=3)(x)
    assert draws["x"].shape == (3, 6, 4)


def test_the_global_guide_is_a_choice():
    guide = made(global_guide=AutoDelta)
    assert isinstance(guide.globals, AutoDelta)
    assert guide(X)["sd"] > 0


def test_making_a_guide_changes_nothing():
    state = torch.get_rng_state()
    encoder = MLP(4, 5, (8,)).train()
    torch.set_rng_state(state)
    amortize(pair, nn.Linear(2, 4), X[:, :2])
    assert encoder.training
    assert len(pyro.get_param_store()) == 0


class _Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, -1)


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def _nested(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2), pyro.plate("words", 4, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _counts(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        n = pyro.sample("n", dist.Poisson(torch.ones(len(x))))
        pyro.sample("x", dist.Normal(n.unsqueeze(-1).expand(-1, 4), 1.0).to_event(1), obs=x)


def _observed(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)


def pair_of_z(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.cat([z, z], -1), 0.5).to_event(1), obs=x)


def _weights(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)


def _ragged(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Uniform(torch.zeros(len(x)), x[:, 0]))
        pyro.sample("x", dist.Normal(u.unsqueeze(-1).expand(*u.shape, 4), 1.0).to_event(1), obs=x)


def _random_bounds(x: Tensor) -> None:
    top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Uniform(0.0, top))
        pyro.sample("x", dist.Normal(u.unsqueeze(-1).expand(*u.shape, 4), 1.0).to_event(1), obs=x)


class _OfTwo(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    ("error", "parts", "build"),
    [
        (ValueError, ("no arguments", "amortize(model, encoder, x)"), lambda: amortize(zoo, MLP(4, 5))),
        (TypeError, ("encoder must be a module", "function"), lambda: amortize(zoo, lambda x: x, X)),
        (TypeError, ("must return a tensor", "tuple"), lambda: amortize(zoo, _Pair(), X)),
        (ValueError, ("(B, H)", "(24,)"), lambda: amortize(zoo, nn.Flatten(0), X)),
        (ValueError, ("one row for each of the 6 data", "(1, 24)"), lambda: amortize(zoo, _Flat(), X)),
        (ValueError, ("family", "'realnvp'"), lambda: amortize(zoo, MLP(4, 5), X, family="realnvp")),
        (ValueError, ("'z'", "['words']"), lambda: amortize(_nested, MLP(4, 5), X)),
        (ValueError, ("'n'", "Poisson"), lambda: amortize(_counts, MLP(4, 5), X)),
        (ValueError, ("plate of the data", "none"), lambda: amortize(_observed, MLP(4, 5), X)),
        (ValueError, ("plate of the data", "['w']", "AutoNormal"), lambda: amortize(_weights, MLP(4, 5), X)),
        (ValueError, ("'u'", "upper_bound"), lambda: amortize(_ragged, MLP(4, 5), X)),
        (ValueError, ("'u'", "upper_bound"), lambda: amortize(_random_bounds, MLP(4, 5), X)),
        (
            ValueError,
            ("'z'", "masked or scaled"),
            lambda: amortize(poutine.mask(pair_of_z, mask=X[:, 0] > 1), MLP(4, 5), X),
        ),
        (ValueError, ("'z'", "masked or scaled"), lambda: amortize(poutine.scale(pair_of_z, 0.5), MLP(4, 5), X)),
        (TypeError, ("positional arguments", "1 of them"), lambda: amortize(zoo, _OfTwo(), X)),
        (ValueError, ("family", "'glow'"), lambda: posterior_family("glow", 3, 4)),
    ],
)
def test_bad_input_is_refused(error, parts, build):
    with refuses(error, *parts):
        build()
