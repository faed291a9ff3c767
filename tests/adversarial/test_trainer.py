"""The adversarial trainer: who moves when, on which draws, with which state; and what it refuses."""

import copy
import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from adversarial_games import Point, Slope, linear_gan, sgd
from contracts import refuses
from pyro_dgm.adversarial import (
    IPM,
    R1,
    AdversarialTrainer,
    Averaged,
    Contrast,
    Critic,
    DonskerVaradhan,
    LeastSquares,
    LeCam,
    Logistic,
    ReverseKL,
    Steps,
    Wasserstein,
    spectrally_normalized,
)
from pyro_dgm.datasets import Batches
from pyro_dgm.distributions import DiagonalNormal, Generated, Implicit, Normal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import DATA, ELBO, MMD, NLL, SVI, KLAnnealing, Linear, NonFiniteError, P, Q
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP
from pyro_dgm.training import fit


def data(num=32, seed=1):
    return torch.randn(num, 2, generator=torch.Generator().manual_seed(seed)) * 0.5 + 1.0


def states_of(trainer):
    return copy.deepcopy(trainer.state_dict())


def assert_same_state(one, other):
    assert one.keys() == other.keys() if isinstance(one, dict) else type(one) is type(other)
    if isinstance(one, dict):
        for name in one:
            assert_same_state(one[name], other[name])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same_state(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


# Who moves


def test_a_gan_learns_the_mean_of_its_data():
    """Seed 0, 500 steps; the averaged model within 0.15 of the mean of 32 fixed points."""
    trainer = linear_gan(penalties=[R1(5.0)], ema=0.99)
    x = data()
    for _ in range(500):
        trainer.step(x)
    with torch.no_grad():
        drawn = trainer.averaged["model"](num=2000)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), atol=0.15, rtol=0)


def test_each_player_moves_by_its_own_loss_alone():
    trainer = linear_gan()
    trainer.step(data())
    before = states_of(trainer)
    assert trainer._critic_turn.gradient((data(),), {}) is not None
    trainer.player.zero_grad()
    trainer._critic_turn.gradient((data(),), {})
    assert all(p.grad is None for p in trainer.player.parameters.values())
    assert all(p.grad is not None for p in trainer.critic.parameters.values())
    trainer.critic.zero_grad()
    trainer._player_turn.gradient((data(),), {})
    assert all(p.grad is None for p in trainer.critic.parameters.values())
    trainer._player_turn.move()
    after = states_of(trainer)
    assert_same_state(before["critic"]["modules"]["0_critic"], after["critic"]["modules"]["0_critic"])
    weight = "likelihood.net.3.weight"
    assert not torch.equal(before["player"]["modules"]["model"][weight], after["player"]["modules"]["model"][weight])
    assert all(p.requires_grad for p in trainer.critic.parameters.values())


@pytest.mark.parametrize(("critic", "player"), [(1, 1), (5, 1), (1, 2), (3, 0)])
def test_steps_count_updates_of_optimisers(critic, player):
    """Pitfall 30: not losses that were computed."""
    trainer = linear_gan(schedule=Steps(critic=critic, player=player))
    for _ in range(3):
        losses = trainer.step(data())
    assert (trainer.num_critic_updates, trainer.num_updates) == (3 * critic, 3 * player)
    assert set(losses) == ({"loss", "critic_loss"} if player else {"critic_loss"})
    steps = {int(state["step"]) for state in trainer.critic_optimizer.state.values()}
    assert steps == {3 * critic}


def test_alternating_steps_see_the_critic_that_has_moved_and_simultaneous_ones_do_not():
    found = {}
    for simultaneous in (True, False):
        model, critic = Point(1.0), Slope(0.0)
        contrast, schedule = Contrast("x", DATA, P, critic, Wasserstein(), IPM()), Steps(simultaneous=simultaneous)
        trainer = AdversarialTrainer(model, contrast, sgd(), sgd(), schedule=schedule)
        trainer.step(torch.zeros(1, dtype=torch.float64))
        found[simultaneous] = model.theta.item(), critic.psi.item()
    assert found[True] == (1.0, -0.1)  # psi was 0 when theta's gradient was taken
    assert found[False] == pytest.approx((1.0 - 0.01, -0.1))


def test_every_update_has_draws_of_its_own():
    drawn = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            drawn.append(z)
            return pyro.sample("x", Implicit(z * pyro.param("scale", torch.tensor(2.0)), 0), obs=x)

    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    contrast = Contrast("x", DATA, P, Critic(MLP(1, 1, (4,))))
    trainer = AdversarialTrainer(model, contrast, adam, adam, schedule=Steps(critic=3))
    trainer.step(torch.randn(4))
    drawn.clear()
    trainer.step(torch.randn(4))
    assert len(drawn) == 4  # 3 for the critic, 1 for the model: each program once an update
    assert len({tuple(z.tolist()) for z in drawn}) == 4


def test_all_terms_of_an_update_share_one_run_of_each_program():
    runs = {"model": 0, "guide": 0}
    torch.manual_seed(0)
    net = LatentVariableModel(StandardNormal(2), Normal(MLP(2, 2, ()), scale=0.5))
    encoder = AmortizedGuide(z=DiagonalNormal(MLP(2, 4, ())))

    def counted(name, module):
        def program(x):
            runs[name] += 1
            return module(x)

        return program

    model, guide = counted("model", net), counted("guide", encoder)
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    terms = [
        Contrast("z", P, Q, Critic(MLP(2, 1, ()))),
        NLL("x", of="model", at=Q, through_draws=True),
        Contrast("x", DATA, P, Critic(MLP(2, 1, ()))),
        MMD("z"),
    ]
    trainer = AdversarialTrainer(model, terms, adam, adam, guide)
    trainer.step(data())
    runs.update(model=0, guide=0)
    trainer.step(data())
    assert runs == {"model": 1 + 2, "guide": 1 + 1}  # the critics'; then P, and the guide with the model at Q


def test_split_batches_are_seen_once_by_the_critic():
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            seen.append(len(x))
            return self.slope * x

    def model(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", Implicit(pyro.param("theta", torch.tensor(0.5)).expand(len(x)), 0), obs=x)

    contrast, schedule = Contrast("x", DATA, P, Watching()), Steps(critic=3, split=True)
    trainer = AdversarialTrainer(model, contrast, sgd(), sgd(), schedule=schedule)
    trainer.step(torch.randn(11))
    assert seen == [4, 4, 4, 4, 3, 3, 3, 3]  # num and den, of the critic's three updates and the player's
    with refuses(ValueError, "3 parts", "got 2 rows"):
        trainer.step(torch.randn(2))
    weights, x, y = torch.ones(2), torch.randn(5, 3), torch.randn(5)
    parts = Steps(critic=2, split=True).batches((weights, x), {"y": y})
    assert [(len(args[0]), len(args[1]), len(kwargs["y"])) for args, kwargs in parts] == [(2, 3, 3), (2, 2, 2)]


def test_clipping_is_by_the_global_norm():
    trainer = linear_gan(clip_norm=1e-3, critic_clip_norm=1e-4)
    trainer.step(data())
    for player, limit in ((trainer.player, 1e-3), (trainer.critic, 1e-4)):
        norm = torch.stack([p.grad.norm() for p in player.parameters.values() if p.grad is not None]).norm()
        assert norm <= limit * 1.001
    assert trainer.report()["grad_norm"] > 1e-3


def test_weights_are_clipped_after_each_update_of_the_critic():
    model, critic = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, ()))), Critic(MLP(2, 1, (4,)), clip=0.01)
    trainer = AdversarialTrainer(model, Contrast("x", DATA, P, critic, Wasserstein(), IPM()), sgd(), sgd())
    trainer.step(data())
    assert max(p.abs().max() for p in critic.parameters()) <= 0.01


def test_a_term_without_a_critic_is_trained_by_descent():
    """ELBO through this trainer and through SVI: the same parameters after 5 steps of SGD on the loss per datum."""
    results = []
    for kind in ("svi", "adversarial"):
        torch.manual_seed(0)
        model = LatentVariableModel(StandardNormal(2), Normal(MLP(2, 2, ()), scale=0.5))
        guide = AmortizedGuide(z=DiagonalNormal(MLP(2, 4, ())))
        torch.manual_seed(1)
        x = data()
        if kind == "svi":
            trainer = SVI(model, guide, sgd(0.01 / len(x)), ELBO(), compile=False)
        else:
            trainer = AdversarialTrainer(model, ELBO(), sgd(0.01), guide=guide)
        for _ in range(5):
            trainer.step(x)
        results.append([p.detach() for p in model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


# State


@pytest.mark.parametrize("every", [1, 4])
def test_a_run_that_is_resumed_is_bitwise_equal(tmp_path, every):
    """With batch norm, lazy penalties, moving averages of estimator and penalty, average and gap, from mid-epoch."""

    def make():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        model = LatentVariableModel(StandardNormal(2), Generated(net))
        critic = Critic(spectrally_normalized(MLP(2, 1, (8,))))
        adam = functools.partial(torch.optim.Adam, lr=1e-2)
        penalties = [R1(1.0, every=3), LeCam(0.1)]
        gan = Contrast("x", DATA, P, critic, DonskerVaradhan(), ReverseKL(), penalties)
        trainer = AdversarialTrainer(model, gan, adam, adam, ema=0.9, report_every=every, schedule=Steps(critic=2))
        return trainer, Batches(data(60), batch_size=10, seed=3)

    def run(folder, steps, resume):
        trainer, batches = make()
        torch.manual_seed(5)
        options = {"checkpoint": folder, "checkpoint_every": 1, "progress": False, "log": folder / "log.jsonl"}
        result = fit(trainer, batches, steps=steps, resume=resume, **options)
        return trainer, result

    whole, history = run(tmp_path / "whole", 16, False)
    run(tmp_path / "parts", 5, False)
    run(tmp_path / "parts", 9, True)
    parts, resumed = run(tmp_path / "parts", 16, True)
    assert_same_state(whole.state_dict(), parts.state_dict())
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in history.history] == [
        {k: v for k, v in row.items() if k not in drop} for row in resumed.history
    ]
    assert "gap" in history.history[-1]


def test_a_state_is_copied_and_not_shared():
    trainer, other = linear_gan(ema=0.9), linear_gan(seed=1, ema=0.9)
    trainer.step(data())
    state = states_of(trainer)
    other.step(data())
    other.load_state_dict(state)
    torch.manual_seed(2)
    first = [trainer.step(data()) for _ in range(3)]
    torch.manual_seed(2)
    assert [other.step(data()) for _ in range(3)] == first
    assert_same_state(trainer.state_dict(), other.state_dict())


def test_a_state_of_another_trainer_is_refused_before_anything_is_changed():
    trainer = linear_gan(ema=0.9)
    trainer.step(data())
    before = states_of(trainer)
    wrong = states_of(trainer)
    wrong["critic"]["modules"]["0_critic"].popitem()
    with refuses(ValueError, "0_critic"):
        trainer.load_state_dict(wrong)
    with refuses(ValueError, "averages of []"):
        trainer.load_state_dict({**states_of(trainer), "averaged": {}})
    assert_same_state(trainer.state_dict(), before)


def test_programs_with_parameters_in_the_store_are_trained_and_resumed():
    def model(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            return pyro.sample("x", Implicit(shift + z, 0), obs=x)

    torch.manual_seed(0)
    contrast = Contrast("x", DATA, P, Critic(MLP(1, 1, (8,))), penalties=[R1(1.0)])
    trainer = AdversarialTrainer(model, contrast, sgd(0.1), sgd(0.1))
    for _ in range(300):
        trainer.step(2.0 + torch.randn(64))
    assert abs(pyro.param("shift").item() - 2.0) < 0.4
    state = states_of(trainer)
    assert "shift" in state["player"]["store"]
    pyro.param("shift").data.fill_(-1.0)
    trainer.load_state_dict(state)
    assert abs(pyro.param("shift").item() - 2.0) < 0.4


# The average


def test_the_average_is_of_parameters_and_batch_norm_is_copied():
    """Pitfall 33."""
    trainer = linear_gan(ema=0.5)
    expected = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for n in range(4):
        trainer.step(data())
        rate = 1 - min(0.5, (1 + n) / (10 + n))
        for name, p in trainer.model.named_parameters():
            expected[name].lerp_(p.detach(), rate)
    average = trainer.averaged["model"]
    for name, p in average.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])
    for (name, own), new in zip(average.named_buffers(), trainer.model.buffers(), strict=True):
        assert torch.equal(own, new), name
    assert int(average.likelihood.net[1].num_batches_tracked) > 0
    assert not any(p.requires_grad for p in average.parameters())


def test_the_average_of_a_users_own_pyro_module_can_be_sampled():
    class Own(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = pyro.nn.PyroModule[nn.Linear](2, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                return pyro.sample("x", Implicit(self.net(z), event_dim=1), obs=x)

    pyro.clear_param_store()
    contrast = Contrast("x", DATA, P, Critic(MLP(2, 1, ())))
    trainer = AdversarialTrainer(Own(), contrast, sgd(), sgd(), ema=0.9)
    trainer.step(data())
    drawn = pyro.poutine.uncondition(trainer.averaged["model"])(data())
    assert drawn.shape == (32, 2)


def test_an_average_keeps_its_spectral_norms():
    """Pitfall 33: vectors of spectral norms that are averaged, or stale, let the weights explode."""
    torch.manual_seed(0)
    net = spectral_norm(nn.Linear(20, 20, bias=False))
    averaged = Averaged(net, 0.99)
    for n in range(300):
        with torch.no_grad():
            net.parametrizations.weight.original.add_(0.3 * torch.randn(20, 20))
        net.train()(torch.zeros(1, 20))
        averaged.update(n)
    for layer in (net, averaged.average):
        assert 0.8 < torch.linalg.matrix_norm(layer.eval().weight.detach(), 2) < 1.3


@pytest.mark.parametrize("decay", [1.0, -0.1, "0.9"])
def test_a_decay_out_of_range_is_refused(decay):
    with refuses(ValueError, "[0, 1)"):
        linear_gan(ema=decay)


# Metrics


def test_the_report_tells_what_the_critic_can_do():
    model, critic = Point(3.0), Slope(-1.0)
    contrast = Contrast("x", DATA, P, critic, penalties=[R1(2.0)])
    trainer = AdversarialTrainer(model, contrast, None, sgd(), schedule=Steps(1, 0), report_every=2)
    x = torch.tensor([-1.0, 1.0, 2.0, -3.0], dtype=torch.float64)
    trainer.step(x)
    report = trainer.report()
    assert report["accuracy_num"] == 0.5
    assert report["accuracy_den"] == 1.0
    assert report["log_ratio_num"] == pytest.approx(0.25)
    assert report["log_ratio_den"] == pytest.approx(-3.0)
    assert report["penalty"] == pytest.approx(1.0)
    assert "gap" not in report
    trainer.step(x)
    assert "gap" not in trainer.report()  # due at even steps
    psi = critic.psi.detach().clone()
    trainer.step(x + 1)
    fresh, seen = (nn.functional.softplus(-psi * own).mean() for own in (x + 1, x))
    assert trainer.report()["gap"] == pytest.approx(float(fresh - seen))


def test_a_critic_that_learns_its_batch_by_heart_shows_a_gap():
    torch.manual_seed(0)
    model = LatentVariableModel(StandardNormal(10), Generated(MLP(10, 10, ())))
    critic = Critic(MLP(10, 1, (128,)))
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    contrast = Contrast("x", DATA, P, critic)
    trainer = AdversarialTrainer(model, contrast, None, adam, schedule=Steps(100, 0), report_every=1)
    gaps = []
    for _ in range(3):
        trainer.step(torch.randn(8, 10))
        gaps.append(trainer.report().get("gap"))
    assert gaps[0] is None
    assert min(gaps[1:]) > 0.5


def test_several_contrasts_report_under_numbers():
    model = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, ())))
    estimators = Logistic(), LeastSquares()
    contrasts = [Contrast("x", DATA, P, Critic(MLP(2, 1, ())), estimator) for estimator in estimators]
    trainer = AdversarialTrainer(model, contrasts, sgd(), sgd())
    trainer.step(data())
    assert {"accuracy_num_0", "accuracy_num_1", "log_ratio_num_0", "grad_norm", "critic_grad_norm"} <= set(
        trainer.report()
    )
    assert "log_ratio_num_1" not in trainer.report()


def test_evaluating_changes_nothing():
    trainer = linear_gan(ema=0.9)
    trainer.step(data())
    before = states_of(trainer)
    found = trainer.evaluate_loss(data())
    assert set(found) == {"loss", "critic_loss"}
    assert_same_state(before, trainer.state_dict())
    assert trainer.model.training


def test_losses_are_per_datum_whatever_the_data_stand_for():
    model, critic = LatentVariableModel(StandardNormal(2), Generated(nn.Identity())), Critic(nn.Linear(2, 1))
    trainer = AdversarialTrainer(model, Contrast("x", DATA, P, critic), None, sgd(), schedule=Steps(1, 0))
    torch.manual_seed(0)
    one = trainer.evaluate_loss(data())
    torch.manual_seed(0)
    assert trainer.evaluate_loss(data(), data_size=3200) == pytest.approx(one)


# Refusals


def make(**changes):
    model = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, ())))
    options = {"terms": Contrast("x", DATA, P, Critic(MLP(2, 1, ()))), "optim": sgd(), "critic_optim": sgd()}
    options.update(changes)
    return AdversarialTrainer(model, options.pop("terms"), options.pop("optim"), options.pop("critic_optim"), **options)


@pytest.mark.parametrize(
    ("error", "build", "parts"),
    [
        (TypeError, lambda: make(optim="adam"), ("optim", "str")),
        (TypeError, lambda: make(schedule=5), ("Steps", "got 5")),
        (TypeError, lambda: make(terms=["x"]), ("terms", "str")),
        (ValueError, lambda: make(terms=[]), ("something to minimise",)),
        (ValueError, lambda: make(clip_norm=0.0), ("positive", "0.0")),
        (ValueError, lambda: make(critic_clip_norm=-1.0), ("critics", "-1.0")),
        (ValueError, lambda: make(report_every=0), ("report_every", "got 0")),
        (ValueError, lambda: make(schedule=Steps(critic=0)), ("critic must learn", "Steps(critic=0)")),
        (ValueError, lambda: Steps(critic=-1), ("critic", "-1")),
        (TypeError, lambda: Steps(player=1.5), ("player", "1.5")),
        (ValueError, lambda: Steps(0, 0), ("somebody must move",)),
        (ValueError, lambda: Steps(2, 1, simultaneous=True), ("simultaneous", "critic=2")),
        (ValueError, lambda: Contrast("x", DATA, DATA, nn.Identity()), ("two sources", "DATA twice")),
        (TypeError, lambda: Contrast("x", DATA, "P", nn.Identity()), ("source", "'P'")),
        (TypeError, lambda: Contrast("x", DATA, P, torch.sigmoid), ("critic", "module")),
        (TypeError, lambda: Contrast("x", DATA, P, nn.Identity(), R1(1.0)), ("estimator", "R1")),
        (TypeError, lambda: Contrast("x", DATA, P, nn.Identity(), penalties=[3]), ("penalty", "got 3")),
        (ValueError, lambda: Contrast("x", DATA, P, nn.Identity(), weight=math.inf), ("finite", "inf")),
        (
            ValueError,
            lambda: Contrast("x", DATA, P, Slope(), Wasserstein(), ReverseKL()),
            ("ratio", "Wasserstein"),
        ),
    ],
)
def test_bad_input_is_refused(error, build, parts):
    with refuses(error, *parts):
        build()


def test_players_may_not_share_parameters():
    net = nn.Linear(2, 2)
    model = LatentVariableModel(StandardNormal(2), Generated(net))
    critic = Critic(nn.Sequential(net, nn.Linear(2, 1)))
    with refuses(ValueError, "parameters of their own", "likelihood.net.weight"):
        AdversarialTrainer(model, Contrast("x", DATA, P, critic), sgd(), sgd())


def test_an_optimiser_of_the_wrong_parameters_is_refused():
    model, critic = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, ()))), Critic(MLP(2, 1, ()))
    contrast = Contrast("x", DATA, P, critic)
    with refuses(ValueError, "in both"):
        AdversarialTrainer(model, contrast, sgd(), torch.optim.SGD([*model.parameters(), *critic.parameters()], lr=0.1))
    some = torch.optim.SGD([next(model.parameters())], lr=0.1)
    trainer = AdversarialTrainer(model, contrast, some, sgd())
    before = [p.detach().clone() for p in model.parameters()]
    with refuses(ValueError, "in no optimiser", "bias"):
        trainer.step(data())
    assert all(torch.equal(p, own) for p, own in zip(model.parameters(), before, strict=True))


def test_missing_optimisers_are_missed_before_anything_moves():
    trainer = make(critic_optim=None)
    before = states_of(trainer)
    with refuses(ValueError, "critics", "optimiser None"):
        trainer.step(data())
    assert_same_state(before, states_of(trainer))
    with refuses(ValueError, "model and guide"):
        make(optim=None).step(data())


def test_nan_is_refused_before_the_update():
    trainer = make()
    trainer.step(data())
    before = states_of(trainer)["player"]["modules"]
    x = data()
    x[3] = math.nan
    with pyro.validation_enabled(False), pytest.raises(NonFiniteError, match="critics"):
        trainer.step(x)
    assert_same_state(before, states_of(trainer)["player"]["modules"])
    assert all(p.isfinite().all() for p in trainer.critic.parameters.values())


def test_a_contrast_is_not_trained_by_svi():
    model, critic = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, ()))), Critic(MLP(2, 1, ()))
    contrast = Contrast("x", DATA, P, critic)
    with refuses(ValueError, "AdversarialTrainer"):
        contrast.differentiable_loss(model, lambda x: None, data())
    critic.requires_grad_(False)
    contrast.differentiable_loss(model, lambda x: None, data()).backward()  # a trained critic that is frozen will do
    assert all(p.grad is not None for p in model.parameters())


def test_a_bound_over_an_implicit_site_is_refused_in_the_trainer_too():
    with refuses(ValueError, "'x' in the model", "Implicit"):
        make(terms=[ELBO()], guide=AmortizedGuide(z=DiagonalNormal(MLP(2, 4, ())))).step(data())


def test_a_site_that_is_not_there_is_refused():
    with refuses(ValueError, "'y'"):
        make(terms=Contrast(["x", "y"], DATA, P, Critic(MLP(2, 1, ())))).step(data())


def test_a_trained_critic_is_a_likelihood():
    """Z ~ N(0, 1), x | z ~ N(z, 1): the ratio of pairs, by a critic of squares; within 0.1 of the exact posterior mean.

    Seed 0, 1500 steps of Adam on 256 pairs; importance sampling from the prior, 20000 draws.
    """

    class Squares(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 1)

        def forward(self, x, z):
            return self.linear(torch.cat([x, z, x * z, x**2, z**2], -1))

    def simulator(num, x=None):
        with pyro.plate("data", num):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", Implicit(z + torch.randn(num), 0), obs=x)

    torch.manual_seed(0)
    contrast = Contrast(["x", "z"], P, P.shuffled("z"), Critic(Squares()))
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    trainer = AdversarialTrainer(simulator, contrast, None, adam, schedule=Steps(1, 0))
    for _ in range(1500):
        trainer.step(256)
    model = contrast.as_likelihood(simulator)
    x = torch.tensor([-1.0, 0.5, 2.0])

    def prior(num, x):
        with pyro.plate("data", num):
            pyro.sample("z", dist.Normal(torch.zeros(num), 1.0))

    trace = pyro.poutine.trace(model).get_trace(3, x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (3,)
    with pyro.plate("particles", 20000, dim=-2):
        particles = pyro.poutine.trace(prior).get_trace(3, x)
        run = pyro.poutine.trace(pyro.poutine.replay(model, particles)).get_trace(3, x)
    run.compute_log_prob()
    weights = run.nodes["x"]["log_prob"].softmax(0)
    mean = (weights * run.nodes["z"]["value"]).sum(0)
    torch.testing.assert_close(mean.detach(), x / 2, atol=0.1, rtol=0)
    with refuses(ValueError, "Wasserstein"):
        Contrast(["x", "z"], P, P.shuffled("z"), Slope(), Wasserstein(), IPM()).as_likelihood(simulator)


# Annealing, averages, penalties and likelihoods in doubt


def explicit_programs():
    torch.manual_seed(0)
    model = LatentVariableModel(StandardNormal(2), Normal(MLP(2, 2, ()), scale=0.5))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(2, 4, ())))


def test_annealing_around_the_programs_advances_with_the_steps():
    model, guide = explicit_programs()
    annealing = KLAnnealing(Linear(0.0, 1.0, over=4))
    terms = [ELBO(), Contrast("z", P, Q, Critic(MLP(2, 1, ())))]
    trainer = AdversarialTrainer(annealing(model), terms, sgd(1e-3), sgd(1e-3), annealing(guide))
    weights = []
    for _ in range(5):
        weights.append(annealing.value)
        trainer.step(data())
    assert weights == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [schedule.num_steps for schedule in trainer.schedules()] == [5]
    other = KLAnnealing(Linear(0.0, 1.0, over=4))
    again = AdversarialTrainer(other(model), terms, sgd(1e-3), sgd(1e-3), other(guide))
    again.load_state_dict(states_of(trainer))
    assert other.value == 1.0


def test_an_average_needs_modules_that_are_there():
    def program(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", Implicit(pyro.param("theta", torch.ones(2)).expand(len(x), 2), 1), obs=x)

    contrast = Contrast("x", DATA, P, Critic(MLP(2, 1, ())))
    with refuses(ValueError, "average", "functions"):
        AdversarialTrainer(program, contrast, sgd(), sgd(), ema=0.9)
    model, _ = explicit_programs()
    guide = pyro.infer.autoguide.AutoNormal(model)
    with refuses(ValueError, "guide whose AutoGuide has not run"):
        AdversarialTrainer(model, ELBO(), sgd(), guide=guide, ema=0.9)


def test_a_penalty_belongs_to_one_contrast():
    model, _ = explicit_programs()
    penalty = R1(1.0, every=2)
    contrasts = [Contrast("x", DATA, P, Critic(MLP(2, 1, ())), penalties=[penalty]) for _ in range(2)]
    with refuses(ValueError, "penalties of its own"):
        AdversarialTrainer(model, contrasts, sgd(), sgd())


def test_a_packed_critic_has_no_ratio_of_single_data():
    with refuses(ValueError, "packs 2 rows"):
        Contrast("x", DATA, P, Critic(MLP(4, 1, ()), pac=2), objective=ReverseKL())
    packed = Contrast("x", DATA, P, Critic(MLP(4, 1, ()), pac=2))
    with refuses(ValueError, "packs 2 rows"):
        packed.log_ratio(torch.zeros(4, 2))


def test_the_learned_ratio_is_a_function_of_its_row():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    contrast = Contrast("x", DATA, P, Critic(net))
    x = torch.randn(6, 2)
    before = [buffer.clone() for buffer in net.buffers()]
    whole = contrast.log_ratio(x)
    torch.testing.assert_close(contrast.log_ratio(x[:2]), whole[:2])
    assert all(torch.equal(one, other) for one, other in zip(before, net.buffers(), strict=True))
    assert net.training


def test_a_parameter_of_two_names_is_stepped_once():
    net = nn.Linear(1, 1, bias=False)

    def model(x):
        pyro.module("one", net)
        pyro.module("other", net)
        with pyro.plate("data", len(x)):
            return pyro.sample("x", Implicit(net(torch.ones(len(x), 1)), 1), obs=x)

    trainer = AdversarialTrainer(model, MMD("x", num=DATA, den=P), sgd())
    trainer.step(torch.randn(4, 1))
    assert len(trainer.player.optimized) == 1


def test_draws_of_another_shape_than_the_data_are_refused():
    model = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, ())))

    def wrong(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("x", Implicit(model.likelihood.net(torch.zeros(len(x), 2))[:, :1], 1), obs=x)

    contrast = Contrast("x", DATA, P, Critic(nn.Linear(1, 1)))
    with refuses(ValueError, "(32, 2)", "(32, 1)"):
        AdversarialTrainer(wrong, contrast, None, sgd(), schedule=Steps(1, 0)).step(data())


def test_a_state_with_a_hole_is_refused():
    trainer = linear_gan(ema=0.9)
    trainer.step(data())
    state = states_of(trainer)
    del state["seen"]
    with refuses(ValueError, "['seen']"):
        trainer.load_state_dict(state)
