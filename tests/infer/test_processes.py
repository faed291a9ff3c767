"""Trainers in two processes on the CPU end where one ends that takes the mean of both gradients itself.

The processes are this file, run as a script; they run every case in turn. The reference has no part of the trainer's:
it begins with what the first process had, and steps with the mean of the gradients of both batches.
"""

import functools
import math
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.infer import ELBO, SVI, NonFiniteError
from pyro_dgm.infer.compiling import Compiler
from two_processes import RANKS, join, start_two_processes

STEPS, ROWS, FEATURES = 12, 6, 3
CASES = ["params", "modules"]
HOWS = {"as written": False, "compiled": Compiler("graph", wait=True, quiet=True)}
CLIP_NORM = 5.0


def programs(case):
    """With parameters that begin at random, in the programs or in modules."""
    decoder, encoder = nn.Linear(2, FEATURES), nn.Linear(FEATURES, 2)

    def model(x):
        if case == "modules":
            pyro.module("decoder", decoder)
            weight = decoder.weight
        else:
            weight = pyro.param("weight", lambda: torch.randn(FEATURES, 2))
        with pyro.plate("data", RANKS * ROWS, subsample=torch.arange(ROWS)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, 1.0).to_event(1), obs=x)

    def guide(x):
        if case == "modules":
            pyro.module("encoder", encoder)
            slope = encoder.weight
        else:
            slope = pyro.param("slope", lambda: torch.randn(2, FEATURES))
        with pyro.plate("data", RANKS * ROWS, subsample=torch.arange(ROWS)):
            pyro.sample("z", dist.Normal(x @ slope.T, 0.5).to_event(1))

    return model, guide


def batch(rank, step):
    return torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(100 * rank + step))


def seed(rank, step):
    torch.manual_seed(1000 + 100 * rank + step)


def main(rank, folder):
    """One of the processes."""
    join(rank, folder)
    results = {}
    for case in CASES:
        for how, compiler in HOWS.items():
            pyro.clear_param_store()
            torch.manual_seed(rank)
            optim = functools.partial(torch.optim.Adam, lr=0.05)
            group = torch.distributed.group.WORLD
            svi = SVI(*programs(case), optim, ELBO(), clip_norm=CLIP_NORM, compile=compiler, group=group)
            seed(rank, 0)
            losses = []
            for step in range(STEPS):
                seed(rank, step)
                losses.append(svi.step(batch(rank, step)))
            with pytest.raises(NonFiniteError):  # in both, though only one has it
                svi.step(batch(rank, STEPS) * (1e30 if rank else 1.0))
            assert svi.compiled is None or (svi.compiled.num_compiled == 1 and not svi.compiled.refusals)
            parameters = [p.detach().clone() for group in svi.optimizer.param_groups for p in group["params"]]
            results[case, how] = parameters, losses
    results["diverging"] = diverging(rank)
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def diverging(rank):
    """Steps of which one, in one process, has parameters that Pyro's validation refuses before there is a loss."""
    pyro.clear_param_store()
    model, _ = programs("params")

    def guide(x):
        slope = pyro.param("slope", torch.ones(2, FEATURES))
        cubes = x**3
        with pyro.plate("data", RANKS * ROWS, subsample=torch.arange(ROWS)):
            pyro.sample("z", dist.Normal((x + cubes - cubes) @ slope.T, 0.5).to_event(1))

    optim, group = functools.partial(torch.optim.Adam, lr=0.05), torch.distributed.group.WORLD
    svi = SVI(model, guide, optim, ELBO(), nonfinite="skip", group=group)
    losses = [svi.step(batch(rank, step) * (1e30 if (rank, step) == (1, 3) else 1.0)) for step in range(6)]
    return losses, svi.num_skipped, [p.detach().clone() for _, p in pyro.get_param_store().named_parameters()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What each process ended with: the parameters and its losses, by case."""
    folder = tmp_path_factory.mktemp("processes")
    start_two_processes(__file__, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def reference(case):
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide = programs(case)
    seed(0, 0)
    ELBO().loss(model, guide, batch(0, 0))  # makes the parameters
    parameters = [p for _, p in pyro.get_param_store().named_parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for rank in range(RANKS):
            seed(rank, step)
            total += float(ELBO().loss_and_grads(model, guide, batch(rank, step))) / RANKS
        for parameter in parameters:
            parameter.grad = None if parameter.grad is None else parameter.grad / RANKS
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        losses.append(total)
    return [p.detach().clone() for p in parameters], losses


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("case", CASES)
def test_processes_train_as_one_with_the_mean_gradient(trained, case, how):
    (first, losses), (second, others) = (results[case, how] for results in trained)
    expected, expected_losses = reference(case)
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)
    assert losses == others == pytest.approx(expected_losses, rel=1e-4)

    def by_size(parameters):
        return sorted(parameters, key=lambda p: (p.shape, float(p.norm())))

    torch.testing.assert_close(by_size(first), by_size(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_step_that_one_process_cannot_take_is_skipped_by_all(trained):
    (losses, num_skipped, first), (others, num_too, second) = (results["diverging"] for results in trained)
    assert num_skipped == num_too == 1
    assert [math.isnan(loss) for loss in losses] == [math.isnan(loss) for loss in others] == [i == 3 for i in range(6)]
    assert losses[:3] + losses[4:] == others[:3] + others[4:]
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)


def test_a_process_must_be_of_the_group():
    with pytest.raises(ValueError, match="a process must be one of the group"):
        SVI(*programs("modules"), functools.partial(torch.optim.Adam, lr=0.05), ELBO(), group=object())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
