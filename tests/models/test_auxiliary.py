"""A model extended by auxiliary variables: its contract, p(x) unchanged, and the programs it extends."""

import copy
import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as PyroSVI
from pyro.infer import Predictive, Trace_ELBO, TraceGraph_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from contracts import assert_every_parameter_has_a_gradient, check_model, refuses, seeded_loss
from pyro_dgm.distributions import Bernoulli, ConditionalDistribution, DiagonalNormal, FullNormal, StandardNormal
from pyro_dgm.evaluation import elbo_parts, log_evidence
from pyro_dgm.guides import AmortizedGuide, PerDatumGuide, StructuredGuide
from pyro_dgm.infer import ELBO, IWAE, NLL, SVI, P, ReweightedWakeSleep, WakeSleep, log_weights
from pyro_dgm.models import AuxiliaryModel, LatentVariableModel, LinearGaussian, SigmoidBeliefNet
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder

B, D, X, A, C = 6, 2, 8, 3, 4  # rows, latents, features, auxiliaries, context
IMAGE = (1, 5, 6)


def mlp(in_features: int, out_features: int) -> MLP:
    return MLP(in_features, out_features, (16,), activation=nn.Tanh)


def guide_of(x: int = X, c: int = 0) -> StructuredGuide:
    sites = {"a": DiagonalNormal(mlp(x + c, 2 * A)), "z": DiagonalNormal(mlp(x + A + c, 2 * D))}
    return StructuredGuide(sites, parents={"z": ["a"]})


def vae():
    model = LatentVariableModel(StandardNormal(D), Bernoulli(mlp(D, X)))
    return AuxiliaryModel(model, {"a": DiagonalNormal(mlp(X + D, 2 * A))}), guide_of()


def cvae():
    model = LatentVariableModel(DiagonalNormal(mlp(C, 2 * D)), Bernoulli(mlp(D + C, X)))
    return AuxiliaryModel(model, {"a": DiagonalNormal(mlp(X + D, 2 * A))}, given="z"), guide_of(c=C)


def vae_conv():
    model = LatentVariableModel(StandardNormal(D), Bernoulli(ConvDecoder(D, IMAGE, (4,), 8, nn.Tanh), event_dim=3))
    encoders = [ConvEncoder(IMAGE, out, (4,), 8, width, nn.Tanh) for out, width in ((2 * A, D), (2 * A, 0), (2 * D, A))]
    reverse, first, second = map(DiagonalNormal, encoders)
    return AuxiliaryModel(model, {"a": reverse}), StructuredGuide({"a": first, "z": second}, {"z": ["a"]})


def function():
    """Somebody's function, and two auxiliaries, one of which does not look at what it is given."""

    def model(x=None, c=None, *, num=None, data_size=None):
        num = len(x) if x is not None else num
        subsample = None if data_size is None else torch.arange(num)
        if data_size is not None and data_size < num:
            raise ValueError(f"data_size must be at least the {num} rows; got {data_size}. Give more.")
        with pyro.plate("data", num if data_size is None else data_size, subsample=subsample):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            loc = (z.sum(-1, keepdim=True) * torch.linspace(-1, 1, X)).sin()
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    auxiliary = {"a": DiagonalNormal(mlp(X + D, 2 * A)), "b": StandardNormal(1)}
    sites = {
        "b": DiagonalNormal(mlp(X, 2)),
        "a": DiagonalNormal(mlp(X, 2 * A)),
        "z": DiagonalNormal(mlp(X + A + 1, 2 * D)),
    }
    return AuxiliaryModel(model, auxiliary), StructuredGuide(sites, {"z": ["a", "b"]})


def bits(*shape: int) -> Tensor:
    return torch.bernoulli(torch.full((B, *shape), 0.5), generator=torch.Generator().manual_seed(0))


MODELS = [
    pytest.param(vae, bits(X), None, id="vae"),
    pytest.param(cvae, bits(X), torch.eye(C)[torch.arange(B) % C], id="cvae"),
    pytest.param(vae_conv, bits(*IMAGE), None, id="vae-conv"),
    pytest.param(function, bits(X) - 0.5, None, id="function"),
]
OBJECTIVES = (Trace_ELBO, TraceGraph_ELBO)  # not TraceMeanField_ELBO: the guide draws a before z, the model after it


@pytest.mark.parametrize(("build", "x", "context"), MODELS)
def test_model_contract(build, x, context):
    check_model(build, x, context, OBJECTIVES)


# Closed form: p(x) is what it was


def linear_gaussian() -> tuple[LinearGaussian, Tensor, Tensor]:
    """The model, data, and their log evidence, in float64."""
    torch.manual_seed(0)
    model = LinearGaussian(D, X).double().requires_grad_(False)
    x = model(num=B)
    return model, x, model.log_evidence(x)


def exact() -> tuple[AuxiliaryModel, StructuredGuide, Tensor, Tensor]:
    """The linear-Gaussian model, a reverse model N(F x + G z + h, s^2 I), and the exact posterior of both as guide."""
    model, x, evidence = linear_gaussian()
    of_x, of_z = 0.3 * torch.randn(A, X).double(), torch.randn(A, D).double()
    shift, log_s = torch.randn(A).double(), -0.5
    scaled = model.weight / model._variance().unsqueeze(-1)  # (X, D)
    precision = torch.eye(D).double() + model.weight.T @ scaled
    mean = precision.inverse() @ scaled.T  # of z given x, the model's loc being zero
    marginal = math.exp(2 * log_s) * torch.eye(A).double() + of_z @ precision.inverse() @ of_z.T
    within = (precision + of_z.T @ of_z / math.exp(2 * log_s)).inverse()  # covariance of z given x and a
    pull = within @ of_z.T / math.exp(2 * log_s)  # of a on z
    reverse = linear(torch.cat([of_x, of_z], 1), shift, log_s * torch.ones(A), None)
    first = linear(of_x + of_z @ mean, shift, None, marginal)
    second = linear(torch.cat([within @ precision @ mean - pull @ of_x, pull], 1), -pull @ shift, None, within)
    sites = {"a": FullNormal(first), "z": FullNormal(second)}
    guide = StructuredGuide(sites, {"z": ["a"]})
    return AuxiliaryModel(model, {"a": DiagonalNormal(reverse)}), guide, x, evidence


def linear(weight: Tensor, bias: Tensor, log_scale: Tensor | None, covariance: Tensor | None) -> MLP:
    """A linear network that gives the parameters of a normal whose mean alone depends on its input."""
    if log_scale is not None:
        rest = log_scale.double()
    else:
        factor = torch.linalg.cholesky(covariance)
        row, column = torch.tril_indices(len(factor), len(factor), offset=-1)
        rest = torch.cat([factor.diagonal().log(), factor[row, column]])
    net = MLP(weight.shape[1], len(bias) + len(rest), ()).double()
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].weight[: len(bias)] = weight
        net.layers[0].bias.copy_(torch.cat([bias, rest]))
    return net


@pytest.mark.parametrize("num_particles", [1, 7])
def test_with_the_exact_reverse_model_every_weight_is_the_evidence(num_particles):
    model, guide, x, evidence = exact()
    weights = log_weights(model, guide, x, num_particles=num_particles).local
    torch.testing.assert_close(weights, evidence.expand(num_particles, B), atol=1e-8, rtol=0.0)


def test_with_any_other_the_evidence_is_unchanged():
    """K = 20000, seed 0, the reverse model moved: every datum within 5 standard errors, and the bound below."""
    model, guide, x, evidence = exact()
    with torch.no_grad():
        for parameter in model.auxiliary.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    torch.manual_seed(0)
    found = log_evidence(model, guide, x, num_particles=20_000)
    assert ((found.per_datum - evidence).abs() < 5 * found.standard_error).all()
    assert 0 < found.standard_error.max() < 0.02
    assert elbo_parts(model, guide, x, num_particles=500).elbo.mean() < evidence.mean() - 0.05


@pytest.mark.parametrize("objective", [ELBO(3, gradient="stl"), IWAE(3, gradient="stl"), IWAE(3, gradient="dreg")])
def test_the_exact_guide_has_no_gradient(objective):
    model, guide, x, _ = exact()
    objective.differentiable_loss(model, guide, x).backward()
    assert max(float(p.grad.abs().max()) for p in guide.parameters()) < 1e-8


def test_the_best_reverse_model_is_the_one_of_the_guide():
    """Seed 0: 400 steps on 200 data from 0.2 away come to 0.02 of the evidence, and of the means' slopes to 0.1."""
    model, guide, x, _ = exact()
    truth = [parameter.clone() for parameter in model.auxiliary.parameters()]
    x = model(num=200)
    with torch.no_grad():
        for parameter in model.auxiliary.parameters():
            parameter.add_(0.2)
    optimizer = torch.optim.Adam(model.auxiliary.parameters(), lr=0.02)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        optimizer.zero_grad()
        ELBO().differentiable_loss(model, guide, x).backward()
        optimizer.step()
    found = torch.cat([(new - old)[:A].flatten() for new, old in zip(model.auxiliary.parameters(), truth, strict=True)])
    assert found.abs().max() < 0.1
    assert elbo_parts(model, guide, x).elbo.mean() > model.model.log_evidence(x).mean() - 0.02


# Where the data come from


class Near(ConditionalDistribution):
    """The sum of a datum, almost exactly."""

    def __init__(self, event_dim: int = 1) -> None:
        super().__init__()
        self.event = list(range(-event_dim, 0))

    def forward(self, x: Tensor, *given: Tensor) -> dist.Normal:
        return dist.Normal(x.sum(self.event), 1e-3)


def near(model, event_dim=1):
    return AuxiliaryModel(model, {"a": Near(event_dim)})


def is_near(trace: poutine.Trace) -> bool:
    x = trace.nodes["x"]["value"]
    return bool(torch.allclose(trace.nodes["a"]["value"], x.sum(-1), atol=0.01))


def gaussian(x=None, *, num=3):
    with pyro.plate("data", num if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_the_auxiliary_is_given_the_data_observed_or_simulated():
    model, x = near(gaussian), torch.randn(5, 4)
    for args, kwargs in (((x,), {}), ((), {"x": x}), ((), {"num": 5}), ((None,), {"num": 5})):
        assert is_near(poutine.trace(model).get_trace(*args, **kwargs))
    assert is_near(poutine.trace(poutine.condition(model, {"x": x})).get_trace(num=5))


@pytest.mark.parametrize("shape", [(5, 4), (5, 2, 2)])
def test_where_the_data_are_unobserved_it_is_given_the_simulated_ones(shape):
    def flat(x):
        return gaussian(x.reshape(len(x), -1))

    model, x = near(flat, len(shape) - 1), 100 + torch.randn(shape)
    trace = poutine.trace(poutine.uncondition(model)).get_trace(x)
    assert (trace.nodes["x"]["value"] < 50).all()
    assert is_near(trace)
    for parallel in (False, True):
        draws = Predictive(poutine.uncondition(model), num_samples=7, parallel=parallel)(x)
        assert draws["a"].shape == (7, 5)
        torch.testing.assert_close(draws["a"], draws["x"].sum(-1), atol=0.01, rtol=0.0)


def test_what_no_site_observes_is_given_as_it_is():
    """Covariates stay what they are when the responses are simulated."""

    def regression(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("y", dist.Normal(x.sum(-1) + z, 1.0), obs=y)

    x, y = torch.randn(5, 4), torch.randn(5)
    trace = poutine.trace(poutine.uncondition(near(regression))).get_trace(x, y)
    torch.testing.assert_close(trace.nodes["a"]["value"], x.sum(-1), atol=0.01, rtol=0.0)


def test_dreams_are_of_the_extended_model():
    """The sleep phase scores q(a | x) q(z | x, a) at dreamed x, z and a; the reverse model knows the dreamed x."""
    model = near(gaussian)
    sites = {"a": DiagonalNormal(MLP(4, 2, ())), "z": DiagonalNormal(MLP(4 + 1, 8, ()))}

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.sites = nn.ModuleDict(sites)
            self.seen = []

        def forward(self, x):
            with pyro.plate("data", len(x)):
                q = self.sites["a"](x)
                a = pyro.sample("a", dist.Normal(q.mean.squeeze(-1), 1.0))
                pyro.sample("z", self.sites["z"](x, a.unsqueeze(-1)))
            self.seen.append((x, a))

    guide = Guide()
    x = 100 + torch.randn(5, 4)
    NLL(of="guide", at=P).differentiable_loss(model, guide, x).backward()
    ((dreamed, a),) = guide.seen
    assert (dreamed < 50).all()
    torch.testing.assert_close(a, dreamed.sum(-1), atol=0.01, rtol=0.0)


def test_without_data_and_with_nothing_returned_there_is_no_auxiliary():
    def silent(x=None, *, num=3):
        gaussian(x, num=num)

    model = near(silent)
    assert is_near(poutine.trace(model).get_trace(torch.randn(5, 4)))
    with refuses(ValueError, "given the data", "returned none"):
        model(num=5)
    with refuses(TypeError, "must be a tensor", "tuple"):
        near(lambda num=3: (gaussian(num=num), 1))()
    with refuses(TypeError, "must be a tensor", "int"):
        near(lambda num: gaussian(num=num))(3)


# The plate of the data


def test_it_stands_in_the_plate_of_the_model_whatever_its_name_and_place():
    def rows(x=None, num=5):
        with pyro.plate("rows", 5 if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))  # (B, 1)
            with pyro.plate("columns", 3, dim=-1):
                return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Mean(ConditionalDistribution):
        def forward(self, x: Tensor, z: Tensor) -> dist.Normal:
            return dist.Normal(x.mean(-1, keepdim=True) + z, 1.0)

    model, x = AuxiliaryModel(rows, {"a": Mean()}), torch.randn(5, 3)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(x.mean(-1, keepdim=True), 1.0))
            pyro.sample("z", dist.Normal(a, 1.0))

    for args in ((x,), ()):
        trace = poutine.trace(model).get_trace(*args)
        assert trace.nodes["a"]["cond_indep_stack"] == trace.nodes["z"]["cond_indep_stack"]
        assert trace.nodes["a"]["value"].shape == (5, 1)
    assert log_weights(model, guide, x, num_particles=4).local.shape == (4, 5)
    for parallel in (False, True):
        assert Predictive(model, num_samples=7, parallel=parallel)()["a"].shape == (7, 5, 1)


@pytest.mark.parametrize("vectorize", [False, True])
def test_particles_and_subsampling_scale_it_as_the_latents(vectorize):
    def subsampled(x):
        with pyro.plate("data", 40, subsample_size=5):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 40, subsample_size=5):
            pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(0.0, 1.0))

    model, x = near(subsampled), torch.randn(5, 4)
    loss = Trace_ELBO(num_particles=3, vectorize_particles=vectorize, max_plate_nesting=1)
    for model_trace, _ in loss._get_traces(model, guide, (x,), {}):
        for name in ("z", "x", "a"):
            site = model_trace.nodes[name]
            assert site["scale"] == 8
            frame = site["cond_indep_stack"][-1]
            assert (frame.name, frame.size, frame.full_size) == ("data", 5, 40)


def test_a_latent_of_no_datum_is_refused_as_given():
    def hierarchy(x, num=3):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            with pyro.plate("times", 2, dim=-2):
                pyro.sample("h", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(5)
    for given in ("w", "h"):
        with refuses(ValueError, "plate of the data", repr(given), "pyro.plate"):
            AuxiliaryModel(hierarchy, {"a": Near()}, given=("z", given))(x)
    with refuses(ValueError, "plate of the data", "None"):
        AuxiliaryModel(lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), {"a": Near()})(x)


def test_an_auxiliary_has_one_distribution_per_datum():
    def of_images(x):
        return gaussian(x.flatten(1))

    with refuses(ValueError, "one distribution per datum", "(5, 2)", "(5,)"):
        AuxiliaryModel(of_images, {"a": Near()})(torch.randn(5, 2, 2))


# Programs of others


def test_it_may_be_given_what_is_observed_too():
    def labelled(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=y)
            pyro.sample("x", dist.Normal(z @ torch.ones(D, X), 1.0).to_event(1), obs=x)

    model = AuxiliaryModel(labelled, {"a": DiagonalNormal(mlp(X + 1 + D, 2 * A))}, given=["y", "z"])
    trace = poutine.trace(model).get_trace(bits(X), torch.ones(B, 1))
    assert list(trace.nodes)[-2:] == ["a", "_RETURN"]


@pytest.mark.parametrize("local", [False, True])
def test_sites_and_parameters_of_the_model_keep_their_names(local):
    class Weighted(PyroModule):
        def __init__(self):
            super().__init__()
            self.weight = PyroSample(dist.Normal(torch.zeros(D, X), 1.0).to_event(2))
            self.scale = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)

        def forward(self, x=None, num=3):
            weight = self.weight
            with pyro.plate("data", num if x is None else len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z @ weight, self.scale).to_event(1), obs=x)

    with pyro.settings.context(module_local_params=local):
        inner = Weighted()
        model = AuxiliaryModel(inner, {"a": DiagonalNormal(mlp(X + D, 2 * A))})
        local_guide = guide_of()

        def guide(x):
            pyro.sample("weight", dist.Normal(torch.zeros(D, X), 1.0).to_event(2))
            local_guide(x)

        before = inner.scale.item()
        assert list(poutine.trace(model).get_trace(bits(X)).stochastic_nodes) == ["weight", "data", "z", "a"]
        svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        svi.step(bits(X))
        assert inner.scale.item() != before
        assert "model.scale_unconstrained" in model.state_dict()
        loss = seeded_loss(Trace_ELBO(), model, guide, bits(X))
        assert seeded_loss(Trace_ELBO(), copy.deepcopy(model), guide, bits(X)) == loss


def test_a_method_and_a_handled_program_bring_their_module():
    inner = LatentVariableModel(StandardNormal(D), Bernoulli(mlp(D, X)))
    for program in (inner, inner.forward, poutine.scale(inner, scale=0.5), functools.partial(inner, data_size=60)):
        model = AuxiliaryModel(program, {"a": DiagonalNormal(mlp(X + D, 2 * A))})
        assert len(list(model.parameters())) == len(list(inner.parameters())) + 4
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.model.parameters():
                parameter.fill_(0.0)
        assert poutine.trace(other).get_trace(bits(X)).nodes["x"]["fn"].base_dist.logits.eq(0).all()
        assert not poutine.trace(model).get_trace(bits(X)).nodes["x"]["fn"].base_dist.logits.eq(0).all()
        model.eval()
        assert not inner.training
        inner.train()


def test_stock_svi_trains_a_function_with_parameters_of_pyro():
    x = bits(X)

    def inner(x):
        weight = pyro.param("weight", torch.ones(D, X))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)

    model, guide = AuxiliaryModel(inner, {"a": DiagonalNormal(mlp(X + D, 2 * A))}), guide_of()
    before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
    svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    first = sum(svi.evaluate_loss(x) for _ in range(10))
    for _ in range(30):
        svi.step(x)
    assert sum(svi.evaluate_loss(x) for _ in range(10)) < first
    after = (*model.parameters(), *guide.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not torch.equal(pyro.param("weight"), torch.ones(D, X))


@pytest.mark.parametrize(
    "objective",
    [ELBO(3), ELBO(3, gradient="stl"), IWAE(3, gradient="dreg"), WakeSleep(2), ReweightedWakeSleep(3, sleep_phi=1.0)],
    ids=["elbo", "stl", "dreg", "wake-sleep", "reweighted-wake-sleep"],
)
def test_objectives_train_every_parameter(objective):
    model, guide = vae()
    objective.differentiable_loss(model, guide, bits(X)).backward()
    assert_every_parameter_has_a_gradient(model, guide)
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01), objective, compile=False)
    assert math.isfinite(svi.step(bits(X), data_size=60))


def test_several_latents_and_a_guide_with_parameters_for_every_datum():
    net = SigmoidBeliefNet(X, (4, 3))
    model = AuxiliaryModel(net, {"a": DiagonalNormal(mlp(X + 3 + 4, 2))}, given=("z2", "z1"))
    assert poutine.trace(model).get_trace(num=5).nodes["a"]["value"].shape == (5, 1)
    model, _ = vae()
    ELBO().differentiable_loss(model, PerDatumGuide(B, z=D, a=A), bits(X), index=torch.arange(B)).backward()


# What is refused


def test_names_are_checked():
    inner = LatentVariableModel(StandardNormal(D), Bernoulli(mlp(D, X)))
    reverse = DiagonalNormal(mlp(X + D, 2 * A))
    with refuses(ValueError, "must be sites of the model", "['y']", "['z', 'x']"):
        AuxiliaryModel(inner, {"a": reverse}, given=("z", "y"))(bits(X))
    with refuses(ValueError, "a name of its own", "['z']"):
        AuxiliaryModel(inner, {"z": reverse})(bits(X))
    with refuses(ValueError, "'training'", "Rename"):
        AuxiliaryModel(inner, {"training": reverse})
    with refuses(ValueError, "needs an auxiliary", "none"):
        AuxiliaryModel(inner, {})
    with refuses(ValueError, "given a latent", "none"):
        AuxiliaryModel(inner, {"a": reverse}, given=())
    with refuses(TypeError, "auxiliary 'a'", "MLP"):
        AuxiliaryModel(inner, {"a": mlp(X + D, 2 * A)})
    with refuses(TypeError, "by the name", "DiagonalNormal"):
        AuxiliaryModel(inner, reverse)
    with refuses(TypeError, "Pyro program", "int"):
        AuxiliaryModel(3, {"a": reverse})


def test_a_guide_without_the_auxiliary_is_refused():
    model, _ = vae()
    with refuses(ValueError, "got a guide without ['a']"):
        ELBO().loss(model, AmortizedGuide(z=DiagonalNormal(mlp(X, 2 * D))), bits(X))
