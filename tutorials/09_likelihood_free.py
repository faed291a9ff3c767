# %% [markdown]
# # 9. Likelihood-free inference: posteriors of simulators
#
# A simulator says what data come of given parameters. It does not say how probable given data are, so Bayes' rule has
# nothing to work with. A critic can fill in: telling parameters beside their own data from parameters beside somebody
# else's, it learns log p(x | theta) / p(x), and that is all that a posterior needs. Every step here is checked against
# an exact answer. The page takes three minutes.


# %%
import functools
import math
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor, nn

from pyro_dgm import plotting
from pyro_dgm.adversarial import AdversarialTrainer, Contrast, Critic, ReverseKL, Steps
from pyro_dgm.distributions import Implicit
from pyro_dgm.infer import KL, P, Q, RatioLikelihood
from pyro_dgm.nn import MLP

STEPS = int(os.environ.get("STEPS", "4000"))
DRAWS = int(os.environ.get("DRAWS", "1000"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-09"))

# %% [markdown]
# ## Neural ratio estimation
#
# Two sources: `P`, the simulator with its parameters from the prior, and `P.shuffled("theta")`, the same with the
# parameters of other rows, which have nothing to do with x. The critic's log-ratio of the two is log p(x, theta) /
# p(x) p(theta). Nobody else learns, so the player takes no steps, and there are no data: the trainer is called with a
# number of simulations.


# %%
def learn_ratio(simulator, features: int) -> Contrast:
    """The ratio of x and theta, from simulations alone."""
    ratio = Contrast(["x", "theta"], P, P.shuffled("theta"), Critic(MLP(features, 1, (64, 64, 64), nn.SiLU)))
    adam = functools.partial(torch.optim.Adam, lr=2e-3)
    trainer = AdversarialTrainer(simulator, ratio, None, adam, schedule=Steps(critic=1, player=0))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(trainer.critic_optimizer, STEPS)
    for _ in range(STEPS):
        trainer.step(512)
        decay.step()
    ratio.critic.requires_grad_(False)
    return ratio


def sample_posterior(simulator, ratio: Contrast, x: Tensor) -> Tensor:
    """Draws of theta given one row of data, by NUTS with the ratio in the place of the likelihood."""
    scored = RatioLikelihood(simulator, ratio.log_ratio, ["x", "theta"])
    chain = MCMC(NUTS(scored, jit_compile=False), num_samples=DRAWS, warmup_steps=DRAWS // 3, disable_progbar=True)
    chain.run(1, x)
    return chain.get_samples()["theta"][:, 0]


# %% [markdown]
# First where the answer is known: five draws from N(theta, 1), theta ~ N(0, 1). The posterior is N(sum x / 6, 1/6).


# %%
def normals(num: int, x: Tensor | None = None) -> Tensor:
    with pyro.plate("data", num):
        theta = pyro.sample("theta", dist.Normal(torch.zeros(num, 1), 1.0).to_event(1))
        return pyro.sample("x", Implicit(theta + torch.randn(num, 5), event_dim=1), obs=x)


pyro.set_rng_seed(0)
ratio = learn_ratio(normals, 5 + 1)
for x in (torch.tensor([[0.3, 1.9, 0.7, 1.2, 0.4]]), torch.tensor([[-2.0, -0.6, -1.5, 0.1, -1.0]])):
    drawn = sample_posterior(normals, ratio, x)
    print(f"conjugate: {drawn.mean():.3f} ± {drawn.std():.3f}; exact {x.sum() / 6:.3f} ± {math.sqrt(1 / 6):.3f}")

# %% [markdown]
# The ratio is amortised: one training, any data.
#
# ## The g-and-k distribution
#
# A standard normal e is bent: x = (1 + 0.8 tanh(g e / 2)) (1 + e^2)^k e. g makes it skewed, k gives it tails. To
# simulate is a line; the density needs an inverse that has no formula. The data are twenty draws, sorted, since their
# order says nothing, and squashed, since a network does not like tails. Parameters are g and t, k = exp(t / 2 - 1),
# both standard normal.


# %%
def bend(e: Tensor, theta: Tensor) -> Tensor:
    g, t = theta[..., :1], theta[..., 1:]
    return (1 + 0.8 * torch.tanh(g * e / 2)) * (1 + e.square()) ** (t / 2 - 1).exp() * e


def g_and_k(num: int, x: Tensor | None = None) -> Tensor:
    with pyro.plate("data", num):
        theta = pyro.sample("theta", dist.Normal(torch.zeros(num, 2), 1.0).to_event(1))
        simulated = bend(torch.randn(num, 20), theta).sort(-1).values
        return pyro.sample("x", Implicit(simulated.asinh(), event_dim=1), obs=x)


pyro.set_rng_seed(1)
ratio = learn_ratio(g_and_k, 20 + 2)
x = bend(torch.randn(1, 20), torch.tensor([1.0, 0.5])).sort(-1).values.asinh()
drawn = sample_posterior(g_and_k, ratio, x)

# %% [markdown]
# Here the density can still be had with some work, and so the posterior on a lattice: with e(x) found by bisection,
# log p(x) = log N(e; 0, 1) - log |dx / de|. The learned one is wider: what the critic misses of x is lost.

# %%
theta = plotting.plane(3.5, 80)  # (6400, 2)
low, high = torch.full((len(theta), 20), -8.0), torch.full((len(theta), 20), 8.0)
for _ in range(40):
    middle = (low + high) / 2
    is_below = bend(middle, theta) < x.sinh()
    low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
e = ((low + high) / 2).requires_grad_()
(slope,) = torch.autograd.grad(bend(e, theta).sum(), e)
normal = dist.Normal(0.0, 1.0)
exact = normal.log_prob(theta).sum(-1) + (normal.log_prob(e.detach()) - slope.log()).sum(-1)
learned = normal.log_prob(theta).sum(-1) + ratio.log_ratio(x.expand(len(theta), 20), theta)


def described(points: Tensor, weights: Tensor) -> str:
    mean = (weights.unsqueeze(-1) * points).sum(0)
    sd = (weights.unsqueeze(-1) * (points - mean).square()).sum(0).sqrt()
    return f"g {mean[0]:.2f} ± {sd[0]:.2f}, t {mean[1]:.2f} ± {sd[1]:.2f}"


print(f"g-and-k, exact    {described(theta, exact.softmax(0))}; simulated with g 1, t 0.5")
print(f"g-and-k, learned  {described(theta, learned.softmax(0))}")
print(f"g-and-k, by NUTS  {described(drawn, torch.full((len(drawn),), 1 / len(drawn)))}")
maps = {"exact": exact - exact.max(), "learned": learned - learned.max()}
plotting.save_figure(plotting.density_maps(maps, 3.5, {"learned": drawn}), OUT / "g_and_k.png")

# %% [markdown]
# ## Likelihood-free variational inference
#
# Now a hierarchy: one global beta ~ N(0, 1), and for each of N data a local z_i ~ N(0, 1) inside a simulator that gives
# x_i = beta + z_i + noise. The guide learns q(beta) and q(z | x, beta). KL("beta") is known; the rest is a contrast of
# x, z and beta between the model, given the guide's beta, and the data completed by the guide, each local z beside its
# own datum. Exact: beta ~ N(sum x / (N + 2), 2 / (N + 2)), and z_i ~ N((x_i - beta) / 2, 1/2).
#
# Errors of the ratio count N times here, so it pays to give the critic what it needs: squares and products.

# %%
N = 20
pyro.set_rng_seed(2)
data = 0.8 + torch.randn(N, 1) + torch.randn(N, 1)


def hierarchy(x: Tensor) -> Tensor:
    beta = pyro.sample("beta", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        return pyro.sample("x", Implicit(beta + z + torch.randn_like(z), event_dim=1), obs=x)


class Guide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.net, self.log_scale_z = nn.Linear(2, 1), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))
        with pyro.plate("data", len(x)):
            loc = self.net(torch.cat([x, beta.expand(len(x), 1)], -1))
            pyro.sample("z", dist.Normal(loc, self.log_scale_z.exp()).to_event(1))


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 + 6, 1)

    def forward(self, *values: Tensor) -> Tensor:
        a = torch.cat(values, -1)
        products = (a.unsqueeze(-1) * a.unsqueeze(-2))[..., *torch.tril_indices(3, 3)]
        return self.linear(torch.cat([a, products], -1))


guide = Guide()
contrast = Contrast(["x", "z", "beta"], P.given("beta"), Q, Critic(Quadratic()), objective=ReverseKL())
player, critic = (functools.partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.99)) for lr in (2e-3, 2e-2))
terms = [KL("beta"), contrast]
trainer = AdversarialTrainer(hierarchy, terms, player, critic, guide, schedule=Steps(critic=3), ema=0.999)
for _ in range(STEPS):
    trainer.step(data)
found, (of_x, of_beta) = trainer.averaged["guide"], trainer.averaged["guide"].net.weight[0].tolist()
exact = f"{data.sum().item() / (N + 2):.3f} ± {math.sqrt(2 / (N + 2)):.3f}"
print(f"hierarchy: beta {found.loc.item():.3f} ± {found.log_scale.exp().item():.3f}; exact {exact}")
print(
    f"hierarchy: z {of_x:.2f} x + {of_beta:.2f} beta ± {found.log_scale_z.exp().item():.3f}; exact 0.50, -0.50, 0.707"
)
print(f"pictures in {OUT}")
