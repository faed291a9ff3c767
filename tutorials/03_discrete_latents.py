# %% [markdown]
# # 3. Discrete latents: the variance of estimators, seen
#
# A latent of zeros and ones has no path for a gradient to follow, so the gradient of the ELBO has to be estimated in
# another way, and there are many. Here they are applied to one small model, so small that the exact gradient is known,
# and their bias and variance can be measured. The data are bars; the page takes about a minute.

# %%
import functools
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_dgm import evaluation, plotting
from pyro_dgm.distributions import Bernoulli
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, SVI, Baseline, Objective, Relaxation
from pyro_dgm.nn import MLP

STEPS = int(os.environ.get("STEPS", "1000"))
AUDITS = int(os.environ.get("AUDITS", "600"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-03"))
SIDE = 4
PIXELS, CAUSES = SIDE**2, 2 * SIDE
pyro.set_rng_seed(0)

# %% [markdown]
# ## Data, model and guide
#
# An image has each of four rows and four columns switched on with probability 1/4; two pixels in a hundred are then
# flipped. The model explains a pixel by eight causes through a noisy or: each cause that is on can switch it on by
# itself. The model is plain Pyro; the guide reads the causes off the image, each by itself. Nothing in them knows how
# their gradients will be taken.

# %%
bars = torch.eye(SIDE).repeat_interleave(SIDE, 1), torch.eye(SIDE).repeat(1, SIDE)  # rows, columns: (4, 16) each
clean = (torch.bernoulli(torch.full((1200, CAUSES), 0.25)) @ torch.cat(bars)).clamp(max=1)
images = (clean - torch.bernoulli(torch.full_like(clean, 0.02))).abs()
train, test = images[:1000], images[1000:]


class NoisyOr(nn.Module):
    """Causes that are on or off, and pixels that any of them can switch on."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.full((CAUSES,), -1.0))
        self.reach = nn.Parameter(0.5 * torch.randn(CAUSES, PIXELS) - 1)
        self.leak = nn.Parameter(torch.full((PIXELS,), -2.0))

    def forward(self, x: Tensor) -> None:
        """The joint density p(z) p(x | z)."""
        pyro.module("noisy_or", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior).expand([len(x), CAUSES]).to_event(1))
            rate = nn.functional.softplus(self.leak) + z @ nn.functional.softplus(self.reach)
            pyro.sample("x", dist.Bernoulli(probs=1 - (-rate).exp()).to_event(1), obs=x)


def build() -> tuple[NoisyOr, AmortizedGuide]:
    """The same model and guide, with the same initial parameters, every time."""
    pyro.set_rng_seed(0)
    return NoisyOr(), AmortizedGuide(z=Bernoulli(MLP(PIXELS, CAUSES, ())))


# %% [markdown]
# A draw is a step function of its probability, whose slope is zero wherever it exists: that is why there is no
# reparameterisation, and `gradient="reparam"` is refused. But an image has only 2^8 = 256 states of its causes, and
# `gradient="enumerate"` sums over all of them: no draws, no noise. Everything below is compared with that.

# %%
exact = ELBO(gradient="enumerate")


def learn(loss: Objective, model: nn.Module, guide: nn.Module, steps: int) -> list[tuple[int, float]]:
    """Trains, and returns the exact ELBO of the test images along the way."""
    pyro.clear_param_store()  # of the parameters of the programs before
    pyro.set_rng_seed(1)
    svi, curve = SVI(model, guide, functools.partial(torch.optim.Adam, lr=2e-2), loss), []
    for step in range(steps + 1):
        if step % max(1, steps // 20) == 0:
            curve.append((step, -exact.loss(model, guide, test).item() / len(test)))
        svi.step(train[torch.randint(len(train), (50,))])
    return curve


# %% [markdown]
# ## The estimators
#
# - `score`: log q(z | x) is differentiable even where z is not. Multiply its gradient by the log-weight: unbiased, and
#   noisy, since the log-weight's size counts and not only whether a draw was better than others.
# - `nvil` subtracts what was to be expected of this image: a running mean and a network of x.
# - `loo` subtracts the mean of the other draws, so it needs two. With `IWAE` in the place of `ELBO` it is VIMCO.
# - `disarm` mirrors the noise behind a draw and compares the two.
# - `rebar` and `relax` subtract a relaxed, differentiable version of the bound and add its own gradient; they learn the
#   temperature, and RELAX a network too, so as to make the variance small.
# - `straight_through` and `gumbel` put the relaxation in the place of the bits (`gumbel` everywhere, `straight_through`
#   in the gradient only). Then there is a path, to another place: they are biased.


# %%
class Surrogate(nn.Module):
    """RELAX's network, of the relaxed causes and the image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(CAUSES + PIXELS, 1, (32,))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """One number per draw and image."""
        return self.net(torch.cat([z, x.expand(*z.shape[:-1], -1)], -1))


def objectives() -> dict[str, Objective]:
    """The ELBO with each estimator, none of which has learned anything yet."""
    return {
        "enumerate": exact,
        "score": ELBO(gradient="score"),
        "nvil": ELBO(gradient="nvil", baseline=Baseline(MLP(PIXELS, 1, (32,)))),
        "loo, K = 2": ELBO(2, gradient="loo"),
        "disarm": ELBO(gradient="disarm"),
        "rebar": ELBO(gradient="rebar"),
        "relax": ELBO(gradient="relax", relaxation=Relaxation(net=Surrogate())),
        "straight_through": ELBO(gradient="straight_through"),
        "gumbel": ELBO(gradient="gumbel"),
    }


# %% [markdown]
# ## Audit
#
# Half-way up, after some exact steps, each estimator draws the gradient of one batch many times, and the audit compares
# their mean with the exact gradient; chance alone makes it differ by the last column. Baselines and control variates
# are given time to learn first, while model and guide are held still.

# %%
model, guide = build()
learn(exact, model, guide, STEPS // 2)
batch, audits = train[:50], {}

print("gradient of the guide   variance  bias / gradient  of it chance")
for name, loss in objectives().items():
    parts = nn.ModuleDict(loss.parts())
    own = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(own, lr=1e-2) if own else None
    for _ in range(AUDITS // 2 if own else 0):
        optimiser.zero_grad()
        loss.loss_and_grads(model, guide, batch)
        optimiser.step()
    parts.requires_grad_(False)
    audits[name] = evaluation.gradient_audit(loss, model, guide, batch, num_steps=AUDITS)
    rows = [row for row in audits[name].rows if row.name.startswith("guide")]
    variance = sum(row.variance.sum() for row in rows)
    bias = sum(row.bias.square().sum() for row in rows).sqrt()
    gradient = sum((row.mean - row.bias).square().sum() for row in rows).sqrt()
    chance = (variance / AUDITS).sqrt()  # what an unbiased mean of so many draws is off by
    print(f"{name:<20} {variance:11.0f} {bias / gradient:16.2f} {chance / gradient:13.2f}")
print(plotting.save_figure(plotting.gradient_audits(audits), OUT / "audits.png"))

# %% [markdown]
# ## What it does to training
#
# Four of them from the same start, with the same steps and batches, and the exact gradient beside them. The picture of
# causes shows how probable each of the eight makes each pixel by itself.

# %%
figure = Figure(figsize=(6, 4), layout="constrained")
axes, causes = figure.add_subplot(), {}
for name in ("enumerate", "score", "loo, K = 2", "rebar", "gumbel"):
    model, guide = build()
    curve = learn(objectives()[name], model, guide, STEPS)
    axes.plot(*zip(*curve, strict=True), label=name, color="black" if name == "enumerate" else None)
    print(f"{name:<10} exact ELBO of the test images {curve[-1][1]:.2f} nats")
    causes[name] = 1 - (-nn.functional.softplus(model.reach.detach())).exp()
axes.set(xlabel="step", ylabel="nats per test image", title="Exact ELBO, trained by each estimator")
axes.legend(frameon=False)
print(plotting.save_figure(figure, OUT / "learning.png"))
title = "rows: " + "; ".join(causes)
grid = plotting.image_grid(torch.cat(list(causes.values())), CAUSES, title, image_shape=(SIDE, SIDE))
print(plotting.save_figure(grid, OUT / "causes.png"))

# %% [markdown]
# ## Which to choose
#
# `enumerate` while the states can be listed; each further bit doubles its cost. Else `loo`, which `"auto"` takes with
# several draws, or `nvil`, which it takes with one: they ask nothing of the model. Here `disarm` (for bits only) and
# `rebar` are as noisy as `loo`, and `relax` is less so; these last two need a model that can be run between the bits.
# Plain `score` has some fifty times the variance of `loo`, and in as many steps finds no bar cleanly. The model's own
# gradient passes no draw, and its noise depends little on the choice; only `gumbel`, which shows the model relaxed
# bits, biases it too. `gumbel` is calm, but the mean of the guide's gradient is off by several times the length of the
# true one: it keeps up at first and falls behind later. `straight_through` is off by as much, and noisy besides. And
# low noise is not all: even the exact gradient has left one cause empty and put two bars into another.
