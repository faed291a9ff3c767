"""Objectives bound to their programs under DistributedDataParallel: two processes on the CPU, each with its own batch.

The processes are this file, run as a script; they train every objective in turn, so that starting them is paid for
once. What they end with is compared with a single process that takes the mean of the two gradients itself.
"""

import sys
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from every_objective import EVERY_OBJECTIVE
from pyro_dgm.distributions import Bernoulli, ConditionalDistribution, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import BoundObjective
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP
from two_processes import RANKS, join, start_two_processes

STEPS, ROWS = 3, 6


class Bits(ConditionalDistribution):
    """A prior over bits, whose logits are learned."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(features))

    def forward(self, *context: Tensor) -> Any:
        return dist.Bernoulli(logits=self.logits).to_event(1)


def build(name: str) -> BoundObjective:
    """The objective with its programs, the same on every process."""
    objective, discrete, _ = EVERY_OBJECTIVE[name]
    torch.manual_seed(0)
    decoder = Bernoulli(MLP(2, 5, (4,)))
    if discrete:
        model, guide = LatentVariableModel(Bits(2), decoder), AmortizedGuide(z=Bernoulli(MLP(5, 2, (4,))))
    else:
        model, guide = (
            LatentVariableModel(StandardNormal(2), decoder),
            AmortizedGuide(z=DiagonalNormal(MLP(5, 4, (4,)))),
        )
    return objective()(model, guide)


def batch(rank: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(10 * rank + step)
    return torch.rand(ROWS, 5, generator=generator).round()


def seed_noise(rank: int, step: int) -> None:
    torch.manual_seed(1000 + 10 * rank + step)


def parameters_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters() if parameter.requires_grad]


def main(rank: int, folder: Path) -> None:
    """One of the processes."""
    join(rank, folder)
    results = {}
    for name in EVERY_OBJECTIVE:
        is_partial = EVERY_OBJECTIVE[name].moves != "both"
        module = DistributedDataParallel(build(name), find_unused_parameters=is_partial)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
        for step in range(STEPS):
            optimizer.zero_grad()
            seed_noise(rank, step)
            module(batch(rank, step)).backward()
            optimizer.step()
        results[name] = parameters_of(module)
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Tensor]]]:
    """What each process ended with: the parameters, by case."""
    folder = tmp_path_factory.mktemp("distributed")
    start_two_processes(__file__, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", EVERY_OBJECTIVE)
def test_both_processes_end_with_the_same_parameters(trained, name):
    first, second = (results[name] for results in trained)
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)
    still = list(map(torch.equal, first, parameters_of(build(name))))
    assert not all(still)
    assert any(still) == (EVERY_OBJECTIVE[name].moves != "both")


# nvil's running means follow the data a process has seen: any are right, and one process alone has others
@pytest.mark.parametrize("name", [name for name in EVERY_OBJECTIVE if name != "nvil"])
def test_they_are_those_of_the_mean_gradient(trained, name):
    module = build(name)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(RANKS):
            seed_noise(rank, step)
            (module(batch(rank, step)) / RANKS).backward()
        optimizer.step()
    torch.testing.assert_close(parameters_of(module), trained[0][name], rtol=1e-5, atol=1e-6)


def test_the_processes_had_different_batches_and_noise():
    assert not torch.equal(batch(0, 0), batch(1, 0))
    draws = []
    for rank in range(RANKS):
        seed_noise(rank, 0)
        draws.append(torch.randn(3))
    assert not torch.equal(*draws)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
