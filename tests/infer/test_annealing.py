import contextlib
import copy
import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal

from contracts import refuses
from pyro_dgm.infer import ELBO, SVI, log_weights
from pyro_dgm.infer.annealing import KLAnnealing, annealing_of
from pyro_dgm.infer.schedules import Constant, Exponential, Linear

ADAM = functools.partial(torch.optim.Adam, lr=0.05)


class Normals(pyro.nn.PyroModule):
    """z ~ N(prior, 1), x ~ N(z, 1), q = N(slope x, exp(log_scale)): everything in closed form."""

    def __init__(self):
        super().__init__()
        for name, value in {"prior": 0.4, "slope": 0.3, "log_scale": -0.5}.items():
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x, data_size=None):
        with self.plate(x, data_size):
            z = pyro.sample("z", dist.Normal(self.prior, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x, data_size=None):
        with self.plate(x, data_size):
            pyro.sample("z", dist.Normal(self.slope * x, self.log_scale.exp()))

    def plate(self, x, data_size):
        if data_size is None:
            return pyro.plate("data", len(x))
        return pyro.plate("data", data_size, subsample=torch.arange(len(x)))

    def elbo(self, x, weight=1.0):
        """Expected log-likelihood and weighted divergence, summed over the data."""
        loc, scale = self.slope * x, self.log_scale.exp()
        fit = -0.5 * ((x - loc) ** 2 + scale**2 + math.log(2 * math.pi))
        kl = 0.5 * (scale**2 + (loc - self.prior) ** 2 - 1) - self.log_scale
        return (fit - weight * kl).sum()


class Coins(pyro.nn.PyroModule):
    """Two bits per datum, the second given the first in both programs, and a normal observation."""

    def __init__(self):
        super().__init__()
        self.prior = torch.nn.Parameter(torch.tensor([0.3, -0.4], dtype=torch.float64))
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -0.7], dtype=torch.float64))
        self.encoder = torch.nn.Parameter(torch.tensor([0.2, -0.5, 0.6], dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.prior[0].expand(len(x))))
            b = pyro.sample("b", dist.Bernoulli(logits=self.prior[1] + a))
            pyro.sample("x", dist.Normal(self.weight[0] * a + self.weight[1] * b, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.encoder[0] + x))
            pyro.sample("b", dist.Bernoulli(logits=self.encoder[1] + self.encoder[2] * a))

    def elbo(self, x, weight):
        """The annealed ELBO by enumeration, summed over the data."""
        total = torch.zeros((), dtype=torch.float64)
        for a, b in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]:
            a, b = x.new_tensor(a), x.new_tensor(b)
            log_p = dist.Bernoulli(logits=self.prior[0]).log_prob(a) + dist.Bernoulli(
                logits=self.prior[1] + a
            ).log_prob(b)
            log_q = dist.Bernoulli(logits=self.encoder[0] + x).log_prob(a.expand(len(x)))
            log_q = log_q + dist.Bernoulli(logits=self.encoder[1] + self.encoder[2] * a).log_prob(b)
            log_lik = dist.Normal(self.weight[0] * a + self.weight[1] * b, 1.0).log_prob(x)
            total = total + (log_q.exp() * (log_lik + weight * (log_p - log_q))).sum()
        return total


X = torch.tensor([0.7, -1.2, 0.1], dtype=torch.float64)


def annealed(programs, weight, sites=None):
    annealing = KLAnnealing(Constant(weight), sites)
    return annealing(programs.model), annealing(programs.guide)


def gradients_of(loss, programs):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(programs.parameters()), allow_unused=True)])


CLOSED_FORM = [
    TraceMeanField_ELBO(),
    ELBO(analytic_kl=True),
    ELBO(num_particles=3, analytic_kl=True),
    ELBO(num_particles=3, analytic_kl=True, vectorize_particles=False),
]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("objective", CLOSED_FORM)
def test_the_divergence_is_weighted(objective, weight, assert_mean):
    """Pitfall 13, against the closed form; K = 1 or 3, 400 draws, 5 standard errors."""
    torch.manual_seed(0)
    programs, objective = Normals(), copy.copy(objective)
    model, guide = annealed(programs, weight)
    losses = [objective.differentiable_loss(model, guide, X) for _ in range(400)]
    assert_mean(torch.stack(losses).detach(), -programs.elbo(X, weight).detach())
    truth = gradients_of(-programs.elbo(X, weight), programs)
    assert_mean(torch.stack([gradients_of(loss, programs) for loss in losses]), truth)


def test_a_weight_of_one_changes_nothing():
    programs = Normals()
    pairs = {}
    for name, pair in {"plain": (programs.model, programs.guide), "annealed": annealed(programs, 1.0)}.items():
        torch.manual_seed(0)
        pairs[name] = ELBO(num_particles=3).loss(*pair, X)
    assert pairs["plain"] == pairs["annealed"]


OBJECTIVES = {
    "Trace_ELBO": lambda: Trace_ELBO(),
    "vectorised": lambda: Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    "TraceGraph_ELBO": lambda: TraceGraph_ELBO(),
    "score": lambda: ELBO(gradient="score"),
    "nvil": lambda: ELBO(gradient="nvil"),
    "loo": lambda: ELBO(num_particles=2, gradient="loo"),
    "in turn": lambda: ELBO(num_particles=2, gradient="loo", vectorize_particles=False),
    "rebar": lambda: ELBO(gradient="rebar"),
    "disarm": lambda: ELBO(gradient="disarm"),
    "enumerate": lambda: ELBO(gradient="enumerate"),
}


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.5])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_gradient_of_discrete_latents_is_right(objective, weight, assert_mean):
    """Pitfall 13: against enumeration; 300 estimates of 40 copies of each datum, 5 standard errors."""
    torch.manual_seed(1)
    programs, objective = Coins(), objective()
    model, guide = annealed(programs, weight)
    x, estimates = X.repeat(40), []
    for _ in range(300):
        programs.zero_grad()
        if isinstance(objective, TraceGraph_ELBO):  # which has no differentiable_loss
            objective.loss_and_grads(model, guide, x)
        else:
            objective.differentiable_loss(model, guide, x).backward()
        estimates.append(torch.cat([p.grad.flatten() / 40 for p in programs.parameters()]))
    assert_mean(torch.stack(estimates), gradients_of(-programs.elbo(X, weight), programs))


def scales(program, *args):
    sites = poutine.trace(program).get_trace(*args).nodes
    return {name: (site["scale"], annealing_of(site)) for name, site in sites.items() if site["type"] == "sample"}


def test_only_latents_are_weighted():
    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        pyro.deterministic("double", 2 * shift)
        pyro.factor("factor", shift)
        with pyro.plate("data", 10, subsample_size=2), poutine.scale(scale=3.0):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = scales(KLAnnealing(Constant(0.25))(model), torch.zeros(2))
    assert found["shift"] == (0.25, 0.25)
    assert found["z"] == (0.25 * 3 * 5, 0.25)
    assert {name: annealing for name, (_, annealing) in found.items() if annealing != 1} == {"shift": 0.25, "z": 0.25}
    assert found["double"][0] == found["factor"][0] == found["data"][0] == 1.0
    assert found["x"][0] == 15.0
    only_z = scales(KLAnnealing(Constant(0.25), sites=["z"])(model), torch.zeros(2))
    assert (only_z["shift"], only_z["z"]) == ((1.0, 1.0), (0.25 * 15, 0.25))


@pytest.mark.parametrize("weight", [0.0, 1e-40, 0.3])
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_the_factor_of_a_replayed_latent_is_recorded_once_and_can_be_divided_out(order, weight):
    """Replay gives the model's site the guide's infer dict; the record is not kept there."""
    programs = Normals()
    annealing = KLAnnealing(Constant(weight))
    trace = poutine.trace(annealing(programs.guide)).get_trace(X)
    if order == "inside":
        model = poutine.replay(annealing(programs.model), trace=trace)
    else:
        model = annealing(poutine.replay(programs.model, trace=trace))
    site = poutine.trace(model).get_trace(X).nodes["z"]
    assert torch.equal(site["value"], trace.nodes["z"]["value"])
    assert annealing_of(site) == site["scale"] == max(weight, 1e-30)
    assert site["infer"] == {}
    scored = site["fn"].log_prob(site["value"]).float() * site["scale"]
    torch.testing.assert_close(scored / annealing_of(site), site["fn"].log_prob(site["value"]).float())


def test_the_users_infer_dict_is_left_alone():
    infer = {"mine": 1}
    KLAnnealing(Constant(0.5))(lambda: pyro.sample("z", dist.Normal(0.0, 1.0), infer=infer))()
    assert infer == {"mine": 1}


def test_applied_twice_it_acts_once_and_two_multiply():
    programs = Normals()
    first, second = KLAnnealing(Constant(0.5)), KLAnnealing(Constant(0.25))
    assert scales(first(first(programs.model)), X)["z"] == (0.5, 0.5)
    assert scales(first(second(first(programs.model))), X)["z"] == (0.125, 0.125)
    with pytest.raises(ZeroDivisionError):
        first(first(lambda: 1 / 0))()
    assert scales(first(programs.model), X)["z"] == (0.5, 0.5)
    assert scales(programs.model, X)["z"] == (1.0, 1.0)


def test_it_is_suspended_and_comes_back():
    annealing = KLAnnealing(Constant(0.5))
    model = annealing(Normals().model)
    with annealing.suspended(), annealing.suspended():
        assert scales(model, X)["z"] == (1.0, 1.0)
    with pytest.raises(ZeroDivisionError), annealing.suspended():
        1 / 0  # noqa: B018
    assert scales(model, X)["z"] == (0.5, 0.5)


def test_an_autoguide_made_from_annealed_programs_weighs_its_auxiliary_latents():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    annealing = KLAnnealing(Constant(0.5))
    guide = annealing(AutoNormal(annealing(model)))
    found = scales(guide, X.float())
    assert {found["scale"], found["scale_unconstrained"]} == {(0.5, 0.5)}
    assert math.isfinite(SVI(annealing(model), guide, ADAM, Trace_ELBO()).step(X.float()))


def test_stock_svi_trains_by_hand():
    """With a learning rate of zero its loss is that of the closed form, at every weight."""
    programs = Normals()

    def guide(x):
        slope = pyro.param("slope", programs.slope.detach())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, programs.log_scale.exp()))

    annealing = KLAnnealing(Linear(0.0, 1.0, over=3))
    svi = pyro.infer.SVI(
        annealing(programs.model), annealing(guide), pyro.optim.SGD({"lr": 0.0}), TraceMeanField_ELBO()
    )
    for t in range(5):
        assert annealing.value == min(t / 3, 1)
        losses = {}
        for weight in (annealing.value, None):
            torch.manual_seed(t)
            with annealing.suspended() if weight is None else contextlib.nullcontext():
                losses[weight] = svi.step(X)
        kl = (programs.elbo(X, 0.0) - programs.elbo(X, 1.0)).item()
        assert losses[annealing.value] - losses[None] == pytest.approx((annealing.value - 1) * kl)
        annealing.step()


def svi_of(programs, schedule, objective=None, **options):
    annealing = KLAnnealing(schedule)
    loss = ELBO(analytic_kl=True) if objective is None else objective
    return SVI(annealing(programs.model), annealing(programs.guide), ADAM, loss, **options)


def test_svi_advances_every_schedule_once():
    schedule = Linear(0.0, 1.0, over=10)
    programs = Normals()
    one, other = KLAnnealing(schedule, sites=["z"]), KLAnnealing(schedule, sites=["z"])
    model, guide = (one(other(program)) for program in (programs.model, programs.guide))
    svi = SVI(model, guide, ADAM, ELBO(capacity=Linear(0.0, 5.0, over=20)))
    for _ in range(4):
        svi.step(X)
    assert [each.num_steps for each in svi.schedules()] == [4, 4]
    assert svi.report()["kl_weight"] == pytest.approx(0.3)


def test_several_schedules_are_reported_by_number():
    programs = Normals()
    one, other = KLAnnealing(Linear(0.0, 1.0, over=10)), KLAnnealing(Constant(0.5))
    svi = SVI(*(one(other(program)) for program in (programs.model, programs.guide)), ADAM, ELBO())
    svi.step(X)
    assert svi.report() == {"kl_weight_0": 0.0, "kl_weight_1": 0.5, "elbo": svi.report(full=True)["elbo"]}


def test_the_unweighted_elbo_is_reported_beside_the_annealed_loss(assert_mean):
    """Pitfall 13: the objective and the bound are two numbers; 1000 draws, 5 standard errors."""
    torch.manual_seed(0)
    programs = Normals()
    svi = svi_of(programs, Linear(0.0, 1.0, over=10), report_every=3)
    x = X.repeat(5)
    assert svi.report() == {}
    with_elbo = []
    for t in range(7):
        svi.step(x, data_size=90)
        report = svi.report()
        assert report["kl_weight"] == pytest.approx(t / 10)
        with_elbo += [t] if "elbo" in report else []
    assert with_elbo == [0, 2, 5]
    estimates = []
    for seed in range(1000):
        torch.manual_seed(seed)  # a report puts the generator back
        estimates.append(svi.report(full=True)["elbo"])
    assert_mean(torch.tensor(estimates, dtype=torch.float64), programs.elbo(x).item() / 15)


def test_a_report_takes_no_random_numbers_and_moves_no_batch_norm():
    class WithNorm(Normals):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(1).double()

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.norm(x.unsqueeze(-1)).squeeze(-1) * self.slope, 1.0))

    programs = WithNorm()
    svi = svi_of(programs, Linear(0.0, 1.0, over=10))
    svi.step(X)
    state, generator = copy.deepcopy(svi.state_dict()), torch.get_rng_state()
    assert svi.report(full=True) == svi.report(full=True)
    assert programs.training
    assert torch.equal(torch.get_rng_state(), generator)
    for name, tensor in svi.state_dict()["modules"]["model"].items():
        assert torch.equal(tensor, state["modules"]["model"][name])


def test_global_latents_count_once_in_the_report(assert_mean):
    """Against a closed form: z ~ N(0, 1) and q = N(loc, 1) globally; 2000 draws, 5 standard errors."""

    class Shift(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def model(self, x):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            with pyro.plate("data", 12, subsample=torch.arange(len(x))):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x):
            pyro.sample("z", dist.Normal(self.loc, 1.0))

    programs = Shift()
    svi = svi_of(programs, Linear(0.0, 1.0, over=10), ELBO())
    svi.step(X)
    estimates = []
    for seed in range(2000):
        torch.manual_seed(seed)
        estimates.append(svi.report(full=True)["elbo"])
    loc = programs.loc.detach()
    truth = -0.5 * ((X - loc) ** 2 + 1 + math.log(2 * math.pi)).mean() - 0.5 * loc**2 / 12
    assert_mean(torch.tensor(estimates, dtype=torch.float64), truth)


def test_latents_enumerated_in_the_guide_are_weighted_and_reported_exactly():
    programs = Coins()
    encoder = programs.encoder.detach()

    def guide(x):
        shift = pyro.param("shift", encoder[0].clone())
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=shift + x))
            pyro.sample("b", dist.Bernoulli(logits=encoder[1] + encoder[2] * a))

    annealing = KLAnnealing(Linear(0.2, 1.0, over=10))
    guide = annealing(pyro.infer.config_enumerate(guide, "parallel"))
    svi = SVI(annealing(programs.model), guide, ADAM, TraceEnum_ELBO(max_plate_nesting=1))
    truth = programs.elbo(X, 0.2).item()
    assert svi.step(X) == pytest.approx(-truth)
    with torch.no_grad():
        programs.encoder[0] = pyro.param("shift")
    assert svi.report()["elbo"] == pytest.approx(programs.elbo(X, 1.0).item() / 3)


def test_evaluation_is_without_annealing():
    """Pitfall 13: what is validated by must not change with the weight."""
    programs = Normals()
    svi = svi_of(programs, Linear(0.0, 1.0, over=10))
    plain = SVI(programs.model, programs.guide, ADAM, ELBO(analytic_kl=True))
    losses = []
    for one in (svi, plain):
        torch.manual_seed(3)
        losses.append(one.evaluate_loss(X))
    assert losses[0] == losses[1]
    weights = [log_weights(*pair, X).local.sum() for pair in ((svi.model, svi.guide), (svi.model, svi.guide))]
    assert all(weight.isfinite() for weight in weights)
    assert svi.schedules()[0].num_steps == 0


def test_a_skipped_step_advances_nothing_and_reports_nothing():
    programs = Normals()
    svi = svi_of(programs, Linear(0.0, 1.0, over=10), nonfinite="skip")
    svi.step(X)
    svi.step(torch.full_like(X, 1e200))
    assert svi.num_skipped == 1
    assert svi.schedules()[0].num_steps == 1
    assert svi.report(full=True) == {}
    svi.step(X)
    assert svi.report()["kl_weight"] == pytest.approx(0.1)


def test_a_state_resumes_the_schedules_bitwise():
    """Pitfall 19, with a weight that changes."""

    def build():
        return svi_of(Normals(), Linear(0.0, 1.0, over=5), ELBO(capacity=Linear(0.0, 2.0, over=7)))

    torch.manual_seed(0)
    svi = build()
    for _ in range(2):
        svi.step(X)
    saved, generator = copy.deepcopy(svi.state_dict()), torch.get_rng_state()
    assert saved["schedules"] == [{"num_steps": 2}, {"num_steps": 2}]
    straight = [(svi.step(X), svi.report(full=True)) for _ in range(4)]
    resumed = build()
    resumed.load_state_dict(saved)
    torch.set_rng_state(generator)
    assert [(resumed.step(X), resumed.report(full=True)) for _ in range(4)] == straight


def test_a_state_with_other_schedules_is_refused():
    svi, plain = svi_of(Normals(), Linear(0.0, 1.0, over=5)), SVI(Normals().model, Normals().guide, ADAM, ELBO())
    svi.step(X)
    programs = Normals()
    plain = SVI(programs.model, programs.guide, ADAM, ELBO())
    plain.step(X)
    before = copy.deepcopy(plain.state_dict())
    with refuses(ValueError, "schedules", "got 1 for 0"):
        plain.load_state_dict(svi.state_dict())
    assert plain.state_dict()["num_steps"] == before["num_steps"]


def test_programs_annealed_differently_are_refused():
    programs = Normals()
    schedule = Linear(0.0, 1.0, over=5)
    annealing = KLAnnealing(schedule)
    for model, guide in [
        (annealing(programs.model), programs.guide),
        (programs.model, annealing(programs.guide)),
        (annealing(programs.model), KLAnnealing(schedule, sites=["z"])(programs.guide)),
        (annealing(programs.model), KLAnnealing(Linear(0.0, 1.0, over=5))(programs.guide)),
    ]:
        with refuses(ValueError, "around model and guide"):
            SVI(model, guide, ADAM, ELBO())
    twins = [KLAnnealing(schedule)(program) for program in (programs.model, programs.guide)]
    svi = SVI(*twins, ADAM, ELBO())
    svi.step(X)
    assert schedule.num_steps == 1
    assert set(svi.report()) == {"kl_weight", "elbo"}


def test_annealing_inside_of_condition_is_refused():
    programs = Normals()
    annealing = KLAnnealing(Constant(0.5))
    with refuses(ValueError, "poutine.condition"):
        SVI(poutine.condition(annealing(programs.model), data={"z": X}), annealing(programs.guide), ADAM, ELBO())
    conditioned = annealing(poutine.condition(programs.model, data={"z": X}))
    assert scales(conditioned, X)["z"] == (1.0, 1.0)


def test_a_site_that_is_nowhere_is_refused_at_the_first_step():
    programs = Normals()
    annealing = KLAnnealing(Constant(0.5), sites=["z", "zz"])
    before = programs.slope.item()
    with refuses(ValueError, "['zz']"):
        SVI(annealing(programs.model), annealing(programs.guide), ADAM, ELBO()).step(X)
    assert programs.slope.item() == before


BAD = [
    (TypeError, lambda: KLAnnealing(0.5), "Constant(value)"),
    (TypeError, lambda: KLAnnealing(Constant(0.5), sites="z"), "['z']"),
    (ValueError, lambda: KLAnnealing(Constant(-0.1)), "at least 0"),
    (ValueError, lambda: KLAnnealing(Linear(1.0, -1.0, over=5)), "at least 0"),
    (ValueError, lambda: svi_of(Normals(), Exponential(0.1, 1.0, over=5), report_every=0), "report_every"),
]


@pytest.mark.parametrize(("error", "build", "part"), BAD)
def test_bad_arguments_are_refused(error, build, part):
    with refuses(error, part):
        build()
