import contextlib
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from contracts import refuses
from pyro_dgm.infer import ELBO, log_weights
from pyro_dgm.infer.programs import count_plates, kind_of, module_of, run, run_in_turn, sample_sites


class Normed(PyroModule):
    """A model with batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            flat = self.net(z.reshape(-1, 2)).reshape(z.shape)
            pyro.sample("x", dist.Normal(flat, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


WRAPPERS = {
    "plain": lambda program: program,
    "scaled": lambda program: poutine.scale(program, scale=0.5),
    "scaled and masked": lambda program: poutine.mask(poutine.scale(program, scale=0.5), mask=True),
    "partial": lambda program: functools.partial(program),
    "partial of scaled": lambda program: functools.partial(poutine.scale(program, scale=0.5)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_counting_plates_leaves_no_trace(wrap):
    model = Normed()
    model.net[2].eval()
    x = torch.randn(5, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    with poutine.trace() as outer:
        assert count_plates(wrap(model), model.guide, (x,), {}) == 1
    assert not outer.trace.nodes
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modes_and_generator_are_put_back_when_the_programs_fail():
    model = Normed()
    x = torch.randn(5, 3)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        count_plates(model, model.guide, (x,), {})
    assert all(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_particles_draw_the_same_whether_plates_were_counted_or_given():
    model, x = Normed(), torch.randn(5, 2)
    losses = []
    for nesting in (None, 1):
        torch.manual_seed(0)
        losses.append(ELBO(3, max_plate_nesting=nesting).loss(model, model.guide, x))
    assert torch.equal(*losses)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_plates_are_counted_by_their_leftmost_dimension(depth):
    def model():
        plates = [pyro.plate(f"plate_{i}", 2, dim=-i - 1) for i in range(depth)]
        with contextlib.ExitStack() as stack:
            for plate in plates:
                stack.enter_context(plate)
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert count_plates(model, lambda: None, (), {}) == depth


def test_a_plate_of_the_guide_alone_counts():
    def guide():
        with pyro.plate("extra", 2, dim=-3):
            pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    assert count_plates(lambda: None, guide, (), {}) == 3


def test_a_loop_is_no_plate_dimension():
    def model():
        for i in pyro.plate("data", 3):
            pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))

    assert count_plates(model, lambda: None, (), {}) == 0


def test_data_in_no_plate_is_found_before_it_meets_the_particles():
    def model():
        pyro.sample("x", dist.Normal(torch.zeros(4), 1.0), obs=torch.zeros(4))

    with refuses(ValueError, "'x'", "(4,)"):
        log_weights(model, lambda: None, num_particles=4)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_module_of_a_program(wrap):
    model = Normed()
    assert module_of(wrap(model)) is model
    assert module_of(wrap(model.guide)) is model
    assert module_of(wrap(lambda: None)) is None


def test_the_module_of_a_partial_with_data_is_not_the_data():
    model = Normed()
    assert module_of(functools.partial(model, torch.zeros(2), nn.Linear(1, 1))) is model


def test_the_kind_of_a_site_is_found_under_its_wrappers():
    def program():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Gamma(1.0, torch.ones(2)).to_event(1).mask(torch.ones(3).bool()))

    trace = poutine.trace(program).get_trace()
    assert kind_of(trace.nodes["z"]) == "Gamma"


@pytest.mark.parametrize("num_particles", [1, 4])
def test_a_run_replays_the_latents_of_the_guide(exact, num_particles):
    traces = run(exact.model, exact.wide_guide, (exact.x,), {}, num_particles)
    assert traces.model.nodes["z"]["value"] is traces.guide.nodes["z"]["value"]
    assert list(sample_sites(traces.model)) == ["z", "x"]
    assert traces.num_particles == num_particles
    assert (traces.particle_dim is None) == (num_particles == 1)
    assert traces.num_data == 7


def test_runs_in_turn_draw_their_latents_anew_and_their_rows_once():
    seen = []

    def program():
        with pyro.plate("data", 50, subsample_size=3) as rows:
            seen.append(rows)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    def guide():
        with pyro.plate("data", 50, subsample_size=3) as rows:
            seen.append(rows)
            pyro.sample("z", dist.Normal(0.0, 1.0))

    traces = run_in_turn(program, guide, (), {}, 4)
    assert len(seen) == 8
    assert all(torch.equal(rows, seen[0]) for rows in seen)
    draws = torch.stack([each.guide.nodes["z"]["value"] for each in traces])
    assert len(draws.unique()) == 12
    run(program, guide, (), {})
    assert not torch.equal(seen[0], seen[-1])


@pytest.mark.parametrize("local", [True, False])
def test_a_lazy_guide_may_be_built_while_plates_are_counted(local):
    with pyro.settings.context(module_local_params=local):
        model = Normed()
        guide = AutoNormal(model)
        x = torch.randn(5, 2)
        assert count_plates(model, guide, (x,), {}) == 1
        loss = ELBO(3).differentiable_loss(model, guide, x)
        loss.backward()
        assert all(p.requires_grad and p.grad is not None for p in guide.parameters())
