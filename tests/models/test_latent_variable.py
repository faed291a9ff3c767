"""The latent-variable model with its amortized guide: contracts, and the truth where it is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from contracts import check_model, check_training, seeded_loss, tensors_of
from pyro_dgm.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiagonalNormal,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    FullNormal,
    LearnableNormal,
    Normal,
    StandardNormal,
)
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, Batched, ConvDecoder, ConvEncoder, ResidualMLP

B, D, X, C = 6, 2, 8, 3  # rows, latents, features, context
IMAGE = (1, 5, 6)

both_settings = pytest.mark.parametrize("local", [False, True])


def tanh_mlp(in_features: int, out_features: int) -> MLP:
    return MLP(in_features, out_features, (16,), activation=nn.Tanh)


def encoder(in_features: int = X) -> DiagonalNormal:
    return DiagonalNormal(tanh_mlp(in_features, 2 * D))


def conv_encoder(**kwargs: int) -> ConvEncoder:
    return ConvEncoder(IMAGE, 2 * D, (4,), 16, activation=nn.Tanh, **kwargs)


def conv_decoder(channels: int = 1, in_features: int = D) -> ConvDecoder:
    return ConvDecoder(in_features, (channels, *IMAGE[1:]), (4,), 16, activation=nn.Tanh)


def vae():
    return LatentVariableModel(StandardNormal(D), Bernoulli(tanh_mlp(D, X))), AmortizedGuide(z=encoder())


def vae_residual():
    likelihood = Normal(ResidualMLP(D, X, 16, 1, activation=nn.Tanh), scale="learned")
    return LatentVariableModel(LearnableNormal(D), likelihood), AmortizedGuide(z=encoder())


def vae_full_covariance():
    posterior = FullNormal(tanh_mlp(X, FullNormal.num_parameters(D)))
    return LatentVariableModel(StandardNormal(D), ContinuousBernoulli(tanh_mlp(D, X))), AmortizedGuide(z=posterior)


def vae_conv():
    likelihood = Bernoulli(conv_decoder(), event_dim=3)
    return LatentVariableModel(StandardNormal(D), likelihood), AmortizedGuide(z=DiagonalNormal(conv_encoder()))


def vae_grey_levels():
    likelihood = DiscretizedLogistic(conv_decoder(2))
    return LatentVariableModel(StandardNormal(D), likelihood), AmortizedGuide(z=DiagonalNormal(conv_encoder()))


def vae_grey_level_mixture():
    likelihood = DiscretizedLogisticMixture(conv_decoder(6), 2)
    return LatentVariableModel(StandardNormal(D), likelihood), AmortizedGuide(z=DiagonalNormal(conv_encoder()))


def vae_own_network():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2 * D))
    likelihood = Normal(conv_decoder(), event_dim=3, scale=0.5)
    guide = AmortizedGuide(z=DiagonalNormal(Batched(net, event_dim=3)))
    return LatentVariableModel(StandardNormal(D), likelihood), guide


def vae_classes():
    logits = nn.Sequential(tanh_mlp(D, 4 * X), nn.Unflatten(-1, (X, 4)))
    encode = nn.Sequential(nn.Embedding(4, 2), nn.Flatten(-2), tanh_mlp(2 * X, 2 * D))
    likelihood = Categorical(logits, event_dim=1)
    return LatentVariableModel(StandardNormal(D), likelihood), AmortizedGuide(z=DiagonalNormal(encode))


def cvae():
    model = LatentVariableModel(DiagonalNormal(tanh_mlp(C, 2 * D)), Bernoulli(tanh_mlp(D + C, X)))
    return model, AmortizedGuide(z=encoder(X + C))


def cvae_conv():
    likelihood = Bernoulli(conv_decoder(in_features=D + C), event_dim=3)
    guide = AmortizedGuide(z=DiagonalNormal(conv_encoder(context_features=C)))
    return LatentVariableModel(StandardNormal(D), likelihood), guide


def bits(*shape: int) -> Tensor:
    return torch.bernoulli(torch.full((B, *shape), 0.5), generator=torch.Generator().manual_seed(0))


def labels() -> Tensor:
    return torch.eye(C)[torch.arange(B) % C]


MODELS = [
    pytest.param(vae, bits(X), None, id="vae"),
    pytest.param(vae_residual, bits(X) - 0.5, None, id="vae-residual"),
    pytest.param(vae_full_covariance, 0.5 * bits(X), None, id="vae-full-covariance"),
    pytest.param(vae_conv, bits(*IMAGE), None, id="vae-conv"),
    pytest.param(vae_grey_levels, bits(*IMAGE), None, id="vae-grey-levels"),
    pytest.param(vae_grey_level_mixture, bits(*IMAGE), None, id="vae-grey-level-mixture"),
    pytest.param(vae_own_network, bits(*IMAGE), None, id="vae-own-network"),
    pytest.param(vae_classes, (3 * bits(X)).long(), None, id="vae-classes"),
    pytest.param(cvae, bits(X), labels(), id="cvae"),
    pytest.param(cvae_conv, bits(*IMAGE), labels(), id="cvae-conv"),
]


@pytest.mark.parametrize(("build", "x", "context"), MODELS)
def test_model_contract(build, x, context):
    check_model(build, x, context)


def test_without_data_or_number_it_simulates_one_datum_or_one_per_row_of_context():
    assert vae()[0]().shape == (1, X)
    assert cvae()[0](c=labels()).shape == (B, X)


def test_the_context_moves_prior_likelihood_and_guide():
    model, guide = cvae()
    other = labels().roll(1, 0)
    for program in (model, guide):
        first = poutine.trace(program).get_trace(bits(X), labels())
        for name, site in first.nodes.items():
            if name in ("z", "x") and site["type"] == "sample":
                replayed = poutine.replay(program, first)
                second = poutine.trace(replayed).get_trace(bits(X), other).nodes[name]
                assert not torch.allclose(site["fn"].log_prob(site["value"]), second["fn"].log_prob(second["value"]))


# Closed form: z ~ N(0, I), x | z ~ N(W z + b, s^2 I)


def linear_gaussian() -> tuple[LatentVariableModel, AmortizedGuide, Tensor, Tensor]:
    """A linear-Gaussian model with its exact posterior as guide, data, and their log evidence, all in float64."""
    weight, bias = torch.randn(X, D, dtype=torch.float64), torch.randn(X, dtype=torch.float64)
    log_scale = torch.tensor(-0.4, dtype=torch.float64)
    variance = (2 * log_scale).exp()
    decoder = MLP(D, X, hidden_features=()).double()
    posterior = MLP(X, FullNormal.num_parameters(D), hidden_features=()).double()
    model = LatentVariableModel(StandardNormal(D), Normal(decoder, scale="learned")).double()
    guide = AmortizedGuide(z=FullNormal(posterior))

    precision = torch.eye(D, dtype=torch.float64) + weight.T @ weight / variance
    gain = torch.linalg.solve(precision, weight.T / variance)  # posterior mean: gain (x - b)
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    row, column = torch.tril_indices(D, D, offset=-1)
    with torch.no_grad():
        decoder.layers[0].weight.copy_(weight)
        decoder.layers[0].bias.copy_(bias)
        model.likelihood.log_scale.copy_(log_scale)
        posterior.layers[0].weight.zero_()
        posterior.layers[0].weight[:D] = gain
        posterior.layers[0].bias[:D] = -gain @ bias
        posterior.layers[0].bias[D : 2 * D] = factor.diagonal().log()
        posterior.layers[0].bias[2 * D :] = factor[row, column]

    x = 3 * torch.randn(B, X, dtype=torch.float64)
    covariance = weight @ weight.T + variance * torch.eye(X, dtype=torch.float64)
    r = x - bias
    log_evidence = -0.5 * (
        (r @ torch.linalg.inv(covariance) * r).sum(-1) + torch.linalg.slogdet(covariance)[1] + X * math.log(2 * math.pi)
    )
    return model, guide, x, log_evidence


def test_weights_are_the_evidence_when_the_guide_is_the_posterior():
    model, guide, x, log_evidence = linear_gaussian()
    weights = log_weights(model, guide, x, num_particles=7).local
    torch.testing.assert_close(weights, log_evidence.expand(7, B), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceGraph_ELBO])
def test_the_stock_loss_is_the_evidence_when_the_guide_is_the_posterior(objective):
    model, guide, x, log_evidence = linear_gaussian()
    loss = SVI(model, guide, pyro.optim.Adam({}), objective()).evaluate_loss(x, data_size=10 * B)
    assert loss == pytest.approx(-10 * float(log_evidence.sum()), abs=1e-4)


def test_with_an_analytic_kl_the_stock_loss_is_the_evidence_on_average():
    torch.manual_seed(0)
    model, guide, x, log_evidence = linear_gaussian()
    svi = SVI(model, guide, pyro.optim.Adam({}), TraceMeanField_ELBO())
    losses = torch.tensor([svi.evaluate_loss(x) for _ in range(200)])
    assert abs(losses.mean() + log_evidence.sum()) < 5 * losses.std() / math.sqrt(200) + 1e-4


def test_simulated_data_have_the_mean_and_covariance_of_the_model():
    torch.manual_seed(0)
    model, _, _, _ = linear_gaussian()
    num = 20_000
    with torch.no_grad():
        x = model(num=num)
        weight, bias = (tensor.detach() for tensor in model.likelihood.net.layers[0].parameters())
        variance = (2 * model.likelihood.log_scale).exp()
    covariance = weight @ weight.T + variance * torch.eye(X)
    spread = covariance.diagonal()
    assert ((x.mean(0) - bias).abs() < 5 * (spread / num).sqrt()).all()
    error = ((covariance**2 + torch.outer(spread, spread)) / num).sqrt()  # of a sample covariance
    assert ((torch.cov(x.T) - covariance).abs() < 5 * error).all()


# Global latents: a prior over the decoder's weights


def bayesian_vae() -> tuple[LatentVariableModel, AmortizedGuide]:
    net = tanh_mlp(D, X)
    to_pyro_module_(net)
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand(layer.weight.shape).to_event(2))
    return LatentVariableModel(StandardNormal(D), Bernoulli(net)), AmortizedGuide(z=encoder())


WEIGHTS = ["likelihood.net.layers.0.weight", "likelihood.net.layers.2.weight"]


class WithGlobals(PyroModule):
    """An AutoGuide over the weights beside an amortized one over z."""

    def __init__(self, model: nn.Module, local: nn.Module) -> None:
        super().__init__()
        self.over_weights = AutoNormal(poutine.block(model, hide=["z"]))
        self.local = local

    def forward(self, *args, **kwargs):
        return {**self.over_weights(*args, **kwargs), **self.local(*args, **kwargs)}


def test_global_weights_stand_outside_the_data_plate_and_are_not_rescaled():
    model, _ = bayesian_vae()
    trace = poutine.trace(model).get_trace(bits(X), data_size=10 * B)
    assert [name for name in trace.stochastic_nodes if name not in ("data", "z")] == WEIGHTS
    for name in WEIGHTS:
        assert trace.nodes[name]["cond_indep_stack"] == ()
        assert trace.nodes[name]["scale"] == 1.0
    assert trace.nodes["x"]["scale"] == trace.nodes["z"]["scale"] == 10.0


@both_settings
def test_an_autoguide_over_the_weights_trains_beside_an_amortized_one(local):
    with pyro.settings.context(module_local_params=local):
        model, amortized = bayesian_vae()
        guide = WithGlobals(model, amortized)
        x = bits(X)
        kwargs = {"data_size": 10 * B}
        guide(x, **kwargs)  # an AutoGuide makes its parameters at its first call
        before = [p.clone() for p in (*guide.parameters(), *model.parameters())]
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        first = sum(svi.evaluate_loss(x, **kwargs) for _ in range(10))
        for _ in range(30):
            svi.step(x, **kwargs)
        assert sum(svi.evaluate_loss(x, **kwargs) for _ in range(10)) < first
        after = (*guide.parameters(), *model.parameters())
        assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@both_settings
@pytest.mark.parametrize("together", ["list", "function"])
def test_autoguide_and_amortized_guide_train_side_by_side_without_a_common_module(local, together):
    with pyro.settings.context(module_local_params=local):
        model, amortized = bayesian_vae()
        over_weights = AutoNormal(poutine.block(model, hide=["z"]))

        def guide(*args, **kwargs):
            draws = [over_weights, amortized] if together == "list" else [amortized, over_weights]
            return {name: value for draw in draws for name, value in draw(*args, **kwargs).items()}

        x = bits(X)
        guide(x)
        before = [p.clone() for p in (*amortized.parameters(), *model.parameters(), *over_weights.parameters())]
        SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x)
        after = (*amortized.parameters(), *model.parameters(), *over_weights.parameters())
        assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


# With the setting on, stock SVI cannot train an AutoDiagonalNormal of any model: it holds an nn.Parameter.
@pytest.mark.parametrize(("auto", "local"), [(AutoNormal, False), (AutoNormal, True), (AutoDiagonalNormal, False)])
@pytest.mark.parametrize("build", [vae, bayesian_vae])
def test_an_autoguide_over_everything_trains_on_a_fixed_batch(build, auto, local):
    with pyro.settings.context(module_local_params=local):
        model, _ = build()
        guide = auto(model)
        x = bits(X)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
        first = sum(svi.evaluate_loss(x) for _ in range(10))
        for _ in range(30):
            svi.step(x)
        assert sum(svi.evaluate_loss(x) for _ in range(10)) < first
        assert guide.median(x)["z"].shape == (B, D)


def test_predictive_draws_the_weights_once_for_all_data():
    model, _ = bayesian_vae()
    draws = Predictive(model, num_samples=4)(num=B)
    assert draws[WEIGHTS[0]].squeeze(1).shape == (4, 16, D)
    assert draws["x"].shape == (4, B, X)


def frozen_vae():
    model, guide = vae()
    return model.requires_grad_(False), guide


def test_a_frozen_model_stays_as_it_is_while_its_guide_trains():
    model, guide = frozen_vae()
    before, guide_before = tensors_of(model), tensors_of(guide)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(bits(X))
    assert all(map(torch.equal, tensors_of(model), before))
    assert not any(map(torch.equal, tensors_of(guide), guide_before))


def test_the_contract_notices_a_parameter_that_does_not_train():
    with pytest.raises(AssertionError):
        check_training(frozen_vae, Trace_ELBO(), bits(X))


def test_subsampled_batches_give_an_unbiased_loss():
    torch.manual_seed(0)
    model, guide, x, _ = linear_gaussian()
    full = seeded_loss(Trace_ELBO(), model, guide, x)
    parts = [seeded_loss_of_part(model, guide, x[start : start + 2]) for start in range(0, B, 2)]
    assert sum(parts) / len(parts) == pytest.approx(full, rel=1e-5)


def seeded_loss_of_part(model: nn.Module, guide: nn.Module, x: Tensor) -> float:
    return SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO()).evaluate_loss(x, data_size=B)
