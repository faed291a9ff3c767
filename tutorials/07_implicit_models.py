# %% [markdown]
# # 7. Implicit models: a GAN in forty lines of Pyro
#
# A generator turns noise into data, and nobody knows its density. In Pyro that is one honest line:
# `pyro.sample("x", Implicit(generator(z), event_dim=1), obs=x)`. What needs a density refuses such a site. What learns
# without one is a game: a critic learns to tell data from draws, and the model moves so that it cannot. This tutorial
# plays that game on eight Gaussians, takes it apart, and swaps its parts. The page takes three minutes.

# %%
import functools
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm import datasets, plotting
from pyro_dgm.adversarial import (
    IPM,
    R1,
    AdversarialTrainer,
    Contrast,
    Critic,
    GradientPenalty,
    Hinge,
    Minimax,
    NonSaturating,
    ReverseKL,
    Steps,
    Wasserstein,
)
from pyro_dgm.distributions import Implicit
from pyro_dgm.evaluation import mode_coverage, perfect_coverage
from pyro_dgm.infer import DATA, ELBO, P
from pyro_dgm.nn import MLP

STEPS = int(os.environ.get("STEPS", "8000"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-07"))
BATCH = 256

# %% [markdown]
# ## The game
#
# The model is yours. It draws z, computes x, and says that x has no density. Run with data it observes them; run under
# `poutine.uncondition` it is the simulator. A plain torch module will do (a `PyroModule` too, with the setting
# `module_local_params`, lest a second one begin with the parameters of the first).


# %%
class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(2, 2, (128, 128))

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            return pyro.sample("x", Implicit(self.net(z), event_dim=1), obs=x)


def simulate(model: nn.Module, num: int) -> Tensor:
    """Draws of the model."""
    with torch.no_grad():
        return pyro.poutine.uncondition(model)(torch.zeros(num, 2))


ring = datasets.ring()  # eight Gaussians on a circle, standard deviation 0.02
x = ring.train.x


def play(contrast: Contrast, schedule: Steps | None = None, steps: int = STEPS) -> AdversarialTrainer:
    player, critic = (functools.partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.99)) for lr in (5e-4, 1e-3))
    trainer = AdversarialTrainer(Generator(), contrast, player, critic, schedule=schedule, ema=0.999)
    for step in range(1, steps + 1):
        losses = trainer.step(x[torch.randint(len(x), (BATCH,))])
        if step % max(1, steps // 2) == 0:
            shown = {**losses, **trainer.report()}.items()
            print(f"step {step:5d}: " + ", ".join(f"{name} {value:.2f}" for name, value in shown if "norm" not in name))
    return trainer


# %% [markdown]
# `DATA` and `P` (the model, run forward) are sources of draws. A `Contrast` compares two of them at a site by a critic.
# R1 is a penalty on the critic's slope at the data; without one this game does not come to rest.

# %%
pyro.set_rng_seed(0)
print("non-saturating GAN")
trainer = play(Contrast("x", DATA, P, Critic(MLP(2, 1, (128, 128))), penalties=[R1(0.1)]))

# %% [markdown]
# What the numbers say. `accuracy_num` and `accuracy_den`: how often the critic is right about data and about draws.
# Both at 1, it has won, and teaches little; at a half, it cannot tell. `log_ratio_num` and `log_ratio_den` would be
# KL(data || model) and -KL(model || data) in nats if the critic were optimal, which it never is: the losses of a game
# are no scores and no bounds. So draws are judged by something else. Here the modes are known, and can be counted.

# %%
angles = torch.arange(8) * torch.pi / 4
means = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
print(f"{'perfect':<22} 8 modes, high quality {perfect_coverage(5000, num_modes=8).high_quality:.3f}, sd 1.00")


def judge(name: str, model: nn.Module) -> Tensor:
    draws = simulate(model, 5000)
    found = mode_coverage(draws, means, sd=0.02)
    print(f"{name:<22} {found.num_hit} modes, high quality {found.high_quality:.3f}, sd {found.sd_ratio:.2f}")
    return draws[:2000]


clouds = {"live": judge("live", trainer.model), "averaged": judge("averaged", trainer.averaged["model"])}

# %% [markdown]
# The generator circles around its goal; the running average of its parameters (`ema=0.999`) sits in the middle of the
# circle. A draw is of high quality within three standard deviations of a mode: 98.9 % of a perfect generator's are. An
# sd below 1 says that the modes are sharper than the data's: quality is not everything.
#
# ## What the critic learns, and what the player minimises
#
# These are two choices. To see it, take a model that knows only a shift, N(1, 1) against data from N(0, 1), and let the
# critic learn by itself: `Steps(critic=1, player=0)`. The logistic estimator's best score is the log-ratio of the
# densities, here 1/2 - x.


# %%
class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("x", Implicit(self.theta + torch.randn(len(x), 1), event_dim=1), obs=x)


model, critic = Shift(), Critic(nn.Linear(1, 1))
learner = functools.partial(torch.optim.Adam, lr=0.01)
learning = AdversarialTrainer(model, Contrast("x", DATA, P, critic), None, learner, schedule=Steps(critic=1, player=0))
for _ in range(min(STEPS, 1500)):
    learning.step(torch.randn(1000, 1))
print(f"the critic has learned {critic.net.bias.item():.2f} + {critic.net.weight.item():.2f} x; exact is 0.5 - 1.0 x")

# %% [markdown]
# One critic, three players. The gradient of KL(model || data) in the shift is 1. The non-saturating game's is smaller
# by that of twice the Jensen-Shannon divergence, which is the minimax game's: on the same draws the two add up to the
# reverse KL, whatever the critic, for -log s + log(1 - s) is minus the logit.

# %%
critic.requires_grad_(False)
data = torch.randn(100_000, 1)
gradients = {}
for objective in (NonSaturating(), Minimax(), ReverseKL()):
    model.zero_grad()
    pyro.set_rng_seed(1)
    term = Contrast("x", DATA, P, critic, objective=objective)
    (term.differentiable_loss(model, lambda x: None, data) / len(data)).backward()
    gradients[type(objective).__name__] = model.theta.grad.item()
print({name: round(value, 3) for name, value in gradients.items()})
assert abs(gradients["NonSaturating"] + gradients["Minimax"] - gradients["ReverseKL"]) < 1e-3

# %% [markdown]
# ## Other games, a line each
#
# Estimator, objective and penalty are arguments. A Wasserstein critic needs its slope held, here by a one-sided
# penalty, and several updates for each of the generator.

# %%
GAMES = {
    "WGAN-GP, one-sided": ((Wasserstein(), IPM(), [GradientPenalty(0.1, one_sided=True)]), Steps(critic=5)),
    "hinge, R1": ((Hinge(), IPM(), [R1(0.1)]), Steps()),
}
for name, (parts, schedule) in GAMES.items():
    pyro.set_rng_seed(0)
    print(name)
    contrast = Contrast("x", DATA, P, Critic(MLP(2, 1, (128, 128))), *parts)
    trainer = play(contrast, schedule, steps=max(1, STEPS // (2 * schedule.critic)))
    clouds[name] = judge(name, trainer.averaged["model"])
plotting.save_figure(plotting.point_clouds(clouds, ring.test.x, columns=5), OUT / "games.png")

# %% [markdown]
# These had fewer updates, so the picture is no contest; `benchmarks/modes.py` is.
#
# ## Why a bound will not have it
#
# The ELBO needs log p(x | z). An `Implicit` site has none, and says so instead of making one up.


# %%
def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


try:
    ELBO().loss(trainer.model, guide, x[:10])
except ValueError as error:
    print(f"ELBO: {error}")
print(f"pictures in {OUT}")
