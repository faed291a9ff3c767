"""Wake-sleep and its kin against exact gradients: enumerated latents, quadrature over dreamed data.

Each Monte Carlo gradient is tested per parameter at 5 standard errors over 200 steps of 500 copies of the data, seed 0.
"""

import itertools
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from torch.nn.functional import logsigmoid

from contracts import refuses, tensors_of
from exact_programs import PARAMETERS, Bits, Chain, X, estimates, exact_bound, exact_gradient
from pyro_dgm.distributions import ConditionalDistribution, DiagonalNormal
from pyro_dgm.guides import AmortizedGuide, MixturePosterior, PerDatumGuide, SigmoidBeliefGuide, StructuredGuide
from pyro_dgm.infer import (
    DATA,
    ELBO,
    IWAE,
    NLL,
    PIWAE,
    SVI,
    Constant,
    ForwardKL,
    KLAnnealing,
    P,
    Q,
    ReweightedWakeSleep,
    TailAdaptive,
    WakeSleep,
    bounds,
)
from pyro_dgm.models import GaussianMixture, LinearGaussian
from pyro_dgm.nn import MLP

STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
ENCODER = slice(6, None)  # elements of the flattened gradient that are the guide's


def log_p_of_bits(program, x):
    """Log p(x, z), (B, 8)."""
    return program.tables(x)[0]


def log_q_of_bits(program, x):
    """Log q(z | x), (B, 8)."""
    return program.tables(x)[1]


def wake_theta(program):
    """-E_q log p(x, z), the guide being a mere weight."""
    return -(log_q_of_bits(program, X).exp().detach() * log_p_of_bits(program, X)).sum()


def sleep_phi(program):
    """-E_p log q(z | x) per datum dreamed, times their number: the sum over z, Gauss-Hermite quadrature over x."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    nodes, weights = torch.as_tensor(nodes), torch.as_tensor(weights / math.sqrt(2 * math.pi))
    with torch.no_grad():
        loc = program.weight[0] * STATES[:, 0] + STATES[:, 1:] @ program.weight[1:]  # (8,)
        log_prior = dist.Bernoulli(logits=program.prior[0]).log_prob(STATES[:, 0])
        conditional = dist.Bernoulli(logits=program.prior[1:] + STATES[:, :1]).log_prob(STATES[:, 1:]).sum(-1)
    total = torch.zeros((), dtype=torch.float64)
    for s in range(8):
        log_q = log_q_of_bits(program, loc[s] + nodes)[:, s]  # (nodes,)
        total = total - (log_prior + conditional)[s].exp() * (weights * log_q).sum()
    return len(X) * total


def wake_phi(program, num_particles):
    """-E[sum_k w_k log q(z_k | x)] with self-normalised weights as numbers, over all 8^K draws."""
    log_p, log_q = log_p_of_bits(program, X).detach(), log_q_of_bits(program, X)
    total = torch.zeros((), dtype=torch.float64)
    for draws in itertools.product(range(8), repeat=num_particles):
        chosen = list(draws)
        weights = (log_p - log_q.detach())[:, chosen].softmax(-1)
        total = total - (log_q.detach()[:, chosen].sum(-1).exp() * (weights * log_q[:, chosen]).sum(-1)).sum()
    return total


def exact(value, program):
    """The gradient of a loss as ``estimates`` has it: of what is maximised, zero where there is none."""
    parameters = [getattr(program, name) for name in PARAMETERS]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return -torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
    )


def test_wake_sleep_has_the_exact_gradients_of_its_two_phases(assert_mean):
    program = Bits()
    truth = exact(wake_theta(program), program) + exact(sleep_phi(program), program)
    assert_mean(estimates(program, WakeSleep(), 200, copies=500), truth)


def test_wake_sleep_is_the_sum_of_two_terms(assert_mean):
    program = Bits()
    truth = exact(wake_theta(program), program) + exact(sleep_phi(program), program)
    assert_mean(estimates(program, NLL(of="model", at=Q) + NLL(of="guide", at=P), 200, copies=500), truth)


@pytest.mark.parametrize(("wake", "sleep"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.25)])
def test_reweighted_wake_sleep_has_the_exact_gradients_of_its_phases(wake, sleep, assert_mean):
    """The model's is the IWAE gradient (an identity of the field); the guide's, the phases' in their proportions."""
    program = Bits()
    theta = exact_gradient(exact_bound(program, bounds.iwae), program)
    theta[ENCODER] = 0
    truth = theta + exact(wake * wake_phi(program, 2) + sleep * sleep_phi(program), program)
    objective = ReweightedWakeSleep(2, wake_phi=wake, sleep_phi=sleep)
    assert_mean(estimates(program, objective, 200, copies=500), truth)


def test_wake_theta_is_the_gradient_of_iwae_draw_by_draw():
    for program in (Bits(), Chain()):
        rows = []
        for objective in (ReweightedWakeSleep(4), IWAE(4, gradient="score"), IWAE(4, moves="model")):
            torch.manual_seed(0)
            rows.append(estimates(program, objective, 1)[0][: -program.encoder.numel()])
        torch.testing.assert_close(rows[0], rows[1])
        torch.testing.assert_close(rows[0], rows[2])


def test_the_double_reparameterisation_of_wake_phi_has_the_same_mean():
    """Two Monte Carlo means, of 100 steps of 2000 copies each: the errors of both count."""
    program = Chain()
    found = estimates(program, ForwardKL(4, gradient="dreg"), 100, copies=2000)
    other = estimates(program, ForwardKL(4), 100, copies=2000)
    z = (found.mean(0) - other.mean(0)) / ((found.var(0) + other.var(0)) / 100).sqrt().clamp(min=1e-12)
    assert z.abs().max() < 5
    guide = slice(-program.encoder.numel(), None)
    assert other.mean(0)[guide].abs().max() > 0.05
    assert not found[:, : -program.encoder.numel()].any()


@pytest.mark.parametrize("objective", [ForwardKL(4, gradient="dreg"), TailAdaptive(4), TailAdaptive(3, beta=0.0)])
def test_an_exact_guide_has_no_gradient(objective, exact_guide_program):
    model, guide, loc, x = exact_guide_program
    objective.differentiable_loss(model, guide, x).backward()
    assert loc.grad.abs().max() < 1e-9


@pytest.fixture
def exact_guide_program():
    """Z ~ N(0, 1), x ~ N(z, 1) and the exact posterior N(x / 2, 1 / 2), its slope a parameter."""
    slope = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(zero, one))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, math.sqrt(0.5)))

    return model, guide, slope, X


def test_tail_adaptive_weights_are_those_of_the_paper():
    """With the ranks 1..K of the weights from above, the k-th power -1 of the tail share is K / rank."""
    program = Chain()
    torch.manual_seed(1)
    found = estimates(program, TailAdaptive(3), 1)[0][6 - 2 :]
    torch.manual_seed(1)
    program.zero_grad()
    x = X
    noise = []

    def rsample(loc, scale):
        noise.append(torch.randn(3, 2, 2, dtype=torch.float64))
        return loc + scale * noise[-1]

    loc = x.unsqueeze(-1) * program.encoder[0]
    z = rsample(loc, program.encoder[1].exp())
    w = rsample(z * program.encoder[2] + loc, 0.9)
    fixed = program.encoder.detach()
    log_p = dist.Normal(program.prior, 1.0).log_prob(z).sum(-1) + dist.Normal(z, 0.8).log_prob(w).sum(-1)
    log_p = log_p + dist.Normal(w @ program.weight, 1.0).log_prob(x)
    still = x.unsqueeze(-1) * fixed[0]
    log_q = dist.Normal(still, fixed[1].exp()).log_prob(z).sum(-1)
    log_q = log_q + dist.Normal(z * fixed[2] + still, 0.9).log_prob(w).sum(-1)
    log_w = log_p - log_q
    rank = 3 - log_w.argsort(0).argsort(0)  # 1 for the largest
    factors = (3 / rank) / (3 / rank).sum(0)
    gradient = torch.autograd.grad((factors * log_w).sum(), program.encoder)[0]
    torch.testing.assert_close(found, gradient.flatten())


def test_each_phase_moves_its_own_program_only():
    for program in (Bits(), Chain()):
        for term, is_guide in ((NLL(of="model", at=Q), False), (NLL(of="guide", at=P), True)):
            gradient = estimates(program, term, 1)[0]
            guide, model = gradient[-program.encoder.numel() :], gradient[: -program.encoder.numel()]
            assert guide.any() == is_guide
            assert model.any() != is_guide


def test_a_reconstruction_trains_both():
    program = Chain()
    gradient = estimates(program, NLL("x", of="model", at=Q, through_draws=True), 1)[0]
    assert gradient[-program.encoder.numel() :].any()
    assert gradient[2:4].all()


def test_piwae_is_iwae_for_the_model_and_miwae_for_the_guide(assert_mean):
    program = Bits()
    truth = exact_gradient(exact_bound(program, bounds.iwae), program)
    guide = exact_gradient(exact_bound(program, partial(bounds.miwae, num_groups=2)), program)
    truth[ENCODER] = guide[ENCODER]
    assert_mean(estimates(program, PIWAE(2, 2), 200, copies=500), truth)


def test_weights_are_per_datum():
    """Pitfall 3: the guide's gradient of a batch is the sum of its data's own, whatever the size of the batch."""
    program = Chain()
    draws = torch.randn(5, 6, 2, dtype=torch.float64), torch.randn(5, 6, 2, dtype=torch.float64)
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)

    def gradient(rows):
        program.zero_grad()

        class Fixed(pyro.poutine.messenger.Messenger):
            def _pyro_sample(self, msg):
                if msg["name"] in "zw" and msg["value"] is None:
                    base = msg["fn"].base_dist
                    msg["value"] = base.loc + base.scale * draws["zw".index(msg["name"])][:, rows]

        ReweightedWakeSleep(5, max_plate_nesting=1).loss_and_grads(program.model, Fixed()(program.guide), x[rows])
        return program.encoder.grad.clone()

    whole = gradient(list(range(6)))
    torch.testing.assert_close(whole, sum(gradient([row]) for row in range(6)))


@pytest.mark.parametrize("objective", [WakeSleep(), ReweightedWakeSleep(3, sleep_phi=1.0), NLL(of="guide", at=P)])
def test_a_guide_that_cannot_score_given_points_is_refused_by_name(objective):
    """Pitfall 4: planar flows have no inverse."""
    flow = T.planar(2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0).expand([len(x), 2]).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    with refuses(ValueError, "'z'", "cannot"):
        objective.differentiable_loss(model, guide, X.float())


class OwnDrawsOnly(ConditionalDistribution):
    """A planar flow of Pyro's, which has no inverse, and says so."""

    scores_any_point = False

    def __init__(self):
        super().__init__()
        self.base, self.flow = DiagonalNormal(MLP(4, 4, ())), T.planar(2)

    def forward(self, *context):
        return dist.TransformedDistribution(self.base(*context), [self.flow])


class Own(pyro.nn.PyroModule):
    """A guide of somebody's, which says nothing."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.flow(x))


AT_GIVEN_POINTS = [
    NLL(of="guide", at=P),
    ELBO() + 0.5 * NLL(of="guide", at=P),
    WakeSleep(),
    ForwardKL(3),
    ForwardKL(3, gradient="dreg"),
    ReweightedWakeSleep(3),
    ReweightedWakeSleep(3, wake_phi=0.0, sleep_phi=1.0),
]


@pytest.mark.parametrize("objective", AT_GIVEN_POINTS, ids=lambda objective: type(objective).__name__)
@pytest.mark.parametrize("guard", [lambda guide: guide, KLAnnealing(Constant(0.5))], ids=["plain", "annealed"])
def test_a_guide_that_says_so_is_refused_by_name_before_anything_is_run(objective, guard):
    model, guide = LinearGaussian(2, 4), AmortizedGuide(y=DiagonalNormal(MLP(4, 4)), z=OwnDrawsOnly())
    state, before = torch.get_rng_state(), tensors_of(model, guide)
    for act in (objective.differentiable_loss, objective.loss, objective.loss_and_grads):
        with refuses(ValueError, "AmortizedGuide", "['z']", "an inverse"):
            act(model, guard(guide), torch.randn(5, 4, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, tensors_of(model, guide), before))
    assert all(parameter.grad is None for parameter in (*model.parameters(), *guide.parameters()))


@pytest.mark.parametrize(
    "objective",
    [*AT_GIVEN_POINTS, TailAdaptive(3), ELBO(3, gradient="stl"), ELBO(3, gradient="loo"), IWAE(3, gradient="dreg")],
    ids=lambda objective: type(objective).__name__,
)
def test_a_guide_that_does_not_say_so_is_found_out_where_it_is_scored(objective):
    """Cut draws are no draws of the flow's any more: none of these may come to a number."""
    with refuses(ValueError, "'z' (TransformedDistribution)", "an inverse"):
        objective.differentiable_loss(LinearGaussian(2, 4), Own(OwnDrawsOnly()), torch.randn(5, 4))


@pytest.mark.parametrize("objective", [ELBO(3), IWAE(3), PIWAE(2, 2), IWAE(3, moves="model"), NLL(of="model", at=Q)])
def test_what_scores_the_guide_at_its_own_draws_takes_it(objective):
    model, guide = LinearGaussian(2, 4), AmortizedGuide(z=OwnDrawsOnly())
    objective.differentiable_loss(model, guide, torch.randn(5, 4)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_every_guide_says_whether_it_scores_any_point():
    can = AmortizedGuide(z=DiagonalNormal(MLP(4, 4)))
    mixture = MixturePosterior(GaussianMixture(3, 2))
    for guide in (can, mixture, SigmoidBeliefGuide(4, (3,)), PerDatumGuide(5, z=2)):
        assert guide.scores_any_point is True
    for guide in (AmortizedGuide(z=OwnDrawsOnly()), StructuredGuide({"a": can.sites.z, "z": OwnDrawsOnly()}, {})):
        assert guide.scores_any_point is False
        assert guide.scored_when_drawn == ("z",)


def test_the_data_that_the_guide_dreams_of_must_be_an_argument():
    program = Bits()
    with refuses(ValueError, "argument", "'x'"):
        NLL(of="guide", at=P).differentiable_loss(lambda x: program.model(2 * x), lambda x: program.guide(2 * x), X)


def test_wake_sleep_trains_in_stock_svi_on_programs_of_a_stranger():
    """Only plain pyro.sample, pyro.param and functions; the exact log-likelihood rises."""
    pyro.set_rng_seed(0)
    x = torch.bernoulli(torch.full((200, 3), 0.5)) * torch.bernoulli(torch.full((200, 1), 0.5))

    def model(x):
        prior = pyro.param("prior", torch.zeros(()))
        weight = pyro.param("weight", torch.tensor([0.3, -0.1, 0.2]))
        bias = pyro.param("bias", torch.zeros(3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=prior))
            pyro.sample("x", dist.Bernoulli(logits=z.unsqueeze(-1) * weight + bias).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x @ slope + pyro.param("offset", torch.zeros(()))))

    def log_evidence():
        store = pyro.get_param_store()
        prior, weight, bias = store["prior"], store["weight"], store["bias"]
        on = logsigmoid(prior) + dist.Bernoulli(logits=weight + bias).log_prob(x).sum(-1)
        off = logsigmoid(-prior) + dist.Bernoulli(logits=bias).log_prob(x).sum(-1)
        return float(torch.logaddexp(on, off).mean().detach())

    for objective in (WakeSleep(), ReweightedWakeSleep(5, sleep_phi=0.5)):
        pyro.clear_param_store()
        svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.02}), objective)
        svi.step(x)
        before = log_evidence()
        for _ in range(150):
            svi.step(x)
        assert log_evidence() > before + 0.1


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: NLL(of="decoder", at=Q), ("'model' or 'guide'", "'decoder'")),
        (lambda: NLL(of="model", at="Q"), ("P, Q or DATA", "'Q'")),
        (lambda: NLL(of="model", at=P), ("mean zero", "at=P")),
        (lambda: NLL(of="guide", at=DATA, through_draws=True), ("through_draws", "at=DATA")),
        (lambda: ForwardKL(1), ("at least 2", "got 1")),
        (lambda: ForwardKL(3, gradient="nvil"), ("'score' or 'dreg'", "'nvil'")),
        (lambda: TailAdaptive(3, beta=math.inf), ("beta", "inf")),
        (lambda: ReweightedWakeSleep(5, wake_phi=0.0), ("one phase", "sleep_phi=0")),
        (lambda: ReweightedWakeSleep(5, sleep_phi=-1.0), ("sleep_phi", "-1")),
    ],
)
def test_bad_input_is_refused(make, parts):
    with refuses(ValueError, *parts):
        make()


def test_an_unknown_site_is_refused():
    program = Bits()
    with refuses(ValueError, "'y'", "'rest'"):
        NLL("y", of="guide", at=P).differentiable_loss(program.model, program.guide, X)


def test_svi_trains_a_sum_of_terms_and_evaluates_it():
    program = Bits()
    svi = SVI(program.model, program.guide, partial(torch.optim.Adam, lr=0.01), ELBO(2) + 0.5 * NLL(of="guide", at=P))
    assert math.isfinite(svi.step(X))
    assert math.isfinite(svi.evaluate_loss(X))
