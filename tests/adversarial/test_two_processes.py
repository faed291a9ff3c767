"""A GAN trained by two processes that talk by gloo, against one that takes the mean of both gradients itself.

Both processes draw their own data and noise. The penalty is per sample, and batch norm is each process's own.
"""

import functools
import sys
from pathlib import Path

import torch

from pyro_dgm.adversarial import R1, AdversarialTrainer, Contrast, Critic, Steps
from pyro_dgm.distributions import Generated, StandardNormal
from pyro_dgm.infer import DATA, P
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP
from two_processes import RANKS, join, start_two_processes

STEPS, ROWS, RATE = 4, 6, 0.05


def build(group=None) -> AdversarialTrainer:
    """The trainer; every process but the first begins with other parameters, which it is to give up."""
    torch.manual_seed(0 if group is None else torch.distributed.get_rank(group))
    model = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 3, (4,))))
    contrast = Contrast("x", DATA, P, Critic(MLP(3, 1, (4,))), penalties=[R1(1.0)])
    sgd = functools.partial(torch.optim.SGD, lr=RATE)
    return AdversarialTrainer(model, contrast, sgd, sgd, schedule=Steps(simultaneous=True), ema=0.9, group=group)


def batch(rank: int, step: int) -> torch.Tensor:
    return torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(10 * rank + step))


def seed_noise(rank: int, step: int) -> None:
    torch.manual_seed(1000 + 10 * rank + step)


def numbers_of(trainer: AdversarialTrainer) -> list[torch.Tensor]:
    modules = [*trainer.player.modules.values(), *trainer.critic.modules.values(), trainer.averaged["model"]]
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def main(rank: int, folder: Path) -> None:
    """One of the processes."""
    join(rank, folder)
    trainer = build(torch.distributed.group.WORLD)
    losses = []
    for step in range(STEPS):
        seed_noise(rank, step)
        losses.append(trainer.step(batch(rank, step)))
    torch.save({"numbers": numbers_of(trainer), "losses": losses}, folder / f"{rank}.pt")


def mean_gradient_steps() -> tuple[list[torch.Tensor], list[dict[str, float]]]:
    """The same steps by one process: each rank's gradients in turn, their mean, one update of each player."""
    trainer = build()
    trainer._prepare((batch(0, 0),), {})
    losses = []
    for step in range(STEPS):
        found = []
        for rank in range(RANKS):
            seed_noise(rank, step)
            own = trainer._critic_turn.gradient((batch(rank, step),), {})
            critic = [p.grad.clone() for p in trainer.critic.parameters.values()]
            other = trainer._player_turn.gradient((batch(rank, step),), {})
            player = [p.grad.clone() for p in trainer.player.parameters.values()]
            found.append((own, critic, other, player))
        for parameters, place in ((trainer.critic.parameters, 1), (trainer.player.parameters, 3)):
            for i, parameter in enumerate(parameters.values()):
                parameter.grad = torch.stack([one[place][i] for one in found]).mean(0)
        for turn, after in (
            (trainer._critic_turn, trainer._after_critic),
            (trainer._player_turn, trainer._after_player),
        ):
            turn.move()
            after()
        critic_loss, loss = (sum(one[place] for one in found) / RANKS for place in (0, 2))
        losses.append({"critic_loss": critic_loss, "loss": loss})
    return numbers_of(trainer), losses


def test_two_processes_train_as_one_with_the_mean_gradient(tmp_path):
    start_two_processes(__file__, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    for one, other in zip(results[0]["numbers"], results[1]["numbers"], strict=True):
        assert torch.equal(one, other)
    numbers, losses = mean_gradient_steps()
    for found, expected in zip(results[0]["numbers"], numbers, strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(results[0]["losses"], losses, strict=True):
        for name, value in expected.items():
            assert abs(found[name] - value) < 1e-5


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
