# %% [markdown]
# # 4. Wake-sleep, and which way round the divergence is
#
# The ELBO trains model and guide by one number. Wake-sleep trains each by a question of its own, asked at draws of the
# other: the draws are only numbers, so the latents may be of any kind. This tutorial takes the algorithm apart, lets
# Helmholtz machines dream of digits, and shows what becomes of a guide that cannot be right. The page takes a minute.

# %%
import functools
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_dgm import datasets, evaluation, plotting
from pyro_dgm.guides import SigmoidBeliefGuide
from pyro_dgm.infer import ELBO, NLL, SVI, ForwardKL, P, Q, ReweightedWakeSleep, WakeSleep
from pyro_dgm.models import SigmoidBeliefNet
from pyro_dgm.nn import MLP
from pyro_dgm.training import fit

EPOCHS = int(os.environ.get("EPOCHS", "100"))
STEPS = int(os.environ.get("STEPS", "1500"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-04"))

digits = datasets.fix_binarization(datasets.digits(), seed=0)
train, test = digits.train.x.flatten(1), digits.test.x.flatten(1)  # (1285, 64) grey, (256, 64) binary


def build() -> tuple[SigmoidBeliefNet, SigmoidBeliefGuide]:
    """A Helmholtz machine: 16 bits above 32 bits above 64 pixels, and the same from the pixels up."""
    pyro.set_rng_seed(0)
    mean = train.mean(0)
    return SigmoidBeliefNet(64, (32, 16), data_mean=mean), SigmoidBeliefGuide(64, (32, 16), data_mean=mean)


# %% [markdown]
# ## Two phases
#
# `NLL(of=..., at=...)` is minus the log-density that one program gives to draws of the other. Awake, at Q, data are
# completed by the guide, and the model learns to make them likely. Asleep, at P, the model makes up latents and data,
# and the guide learns to say which latents they came from. Each moves its own program only, and together they are
# `WakeSleep()`.

# %%
model, guide = build()
batch = datasets.binarize(train[:64], torch.Generator().manual_seed(0))
terms = {
    "wake": NLL(of="model", at=Q),
    "sleep": NLL(of="guide", at=P),
    "wake + sleep": NLL(of="model", at=Q) + NLL(of="guide", at=P),
    "WakeSleep()": WakeSleep(),
}


def norm(program: nn.Module) -> float:
    """The length of a program's gradient."""
    return sum(float(p.grad.square().sum()) for p in program.parameters() if p.grad is not None) ** 0.5


print("length of the gradient   model   guide")
for name, term in terms.items():
    pyro.set_rng_seed(1)
    model.zero_grad()
    guide.zero_grad()
    term.loss_and_grads(model, guide, batch)
    print(f"{name:<22} {norm(model):7.1f} {norm(guide):7.1f}")

# %% [markdown]
# The last two lines agree, for they are the same gradient at the same draws. The sleep phase alone has another one,
# because without a wake phase before it its dreams are made of other random numbers.
#
# ## Dreams
#
# What the sleep phase trains on can be looked at: a dream is a draw from the model, here shown as the mean of its
# pixels given its latents.
#
# Beside wake-sleep stands `ReweightedWakeSleep`, which draws several latents per image and weights them by
# p(x, z) / q(z | x). The model then climbs the importance-weighted bound, and the guide learns at the weighted draws
# of real images (its wake phase; `sleep_phi=1` would add the dreams).

# %%
objectives = {"wake-sleep": WakeSleep(), "reweighted, K = 5": ReweightedWakeSleep(5)}
pauses = sorted({0, max(1, EPOCHS // 20), max(1, EPOCHS // 4), EPOCHS})
evidence = {}
figure = Figure(figsize=(9, 0.6 * len(pauses) + 0.3), layout="constrained")
grid = figure.subplots(len(pauses), len(objectives), squeeze=False)
for column, (name, objective) in zip(grid.T, objectives.items(), strict=True):
    model, guide = build()
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-2), objective)
    batches = datasets.Batches(train, batch_size=64, transform=datasets.binarize)
    column[0].set_title(name)
    for axes, before, pause in zip(column, [0, *pauses], pauses, strict=False):
        if pause:
            fit(svi, batches, epochs=pause - before, progress=False)
        dreams = evaluation.simulate(model, num=8, means=True)["x"].unflatten(1, (8, 8))
        row = torch.cat(list(nn.functional.pad(dreams, (1, 1, 1, 1), value=1)), 1)  # side by side, in white frames
        axes.imshow(row.numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[], frame_on=False)
        if axes in grid[:, 0]:
            axes.set_ylabel(f"{pause} epochs", rotation=0, ha="right", va="center")
    elbo = evaluation.Estimate.of(evaluation.elbo_parts(model, guide, test).elbo)
    evidence[name] = evaluation.log_evidence(model, guide, test, num_particles=500)
    unsure = int((evidence[name].pareto_k > 0.7).sum())
    print(f"{name:<18} test ELBO {elbo}   log p(x) {evidence[name].estimate}, k > 0.7 for {unsure} images")
plain, reweighted = (found.per_datum for found in evidence.values())
print(f"reweighted less plain, log p(x) of each image: {evaluation.Estimate.of(reweighted - plain)} nats")
print(plotting.save_figure(figure, OUT / "dreams.png"))

# %% [markdown]
# Untrained, the machines dream of the mean of all digits, where their biases start; strokes and rings come later. After
# as many epochs, with five draws instead of one, the reweighted machine makes the test images more probable. That is
# one seed; its error is small because the difference is taken image by image.
#
# ## Which way round
#
# The ELBO falls short of log p(x) by KL(q || p), an average over the guide's draws: the guide must not be where the
# posterior is not. Sleep and weighted wake phase bring down KL(p || q), an average over the posterior's draws, the one
# for dreams and the other for data: the guide must be wherever the posterior is. A guide that can be right satisfies
# both. So let it be wrong: x is the square of z with some noise, which loses the sign of z, and the guide is a normal.

# %%
NOISE = 0.4


def square(x: Tensor) -> None:
    """The model: z, and its square."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z**2, NOISE), obs=x)


class OneNormal(nn.Module):
    """The guide: a normal, whose mean and scale are read off x."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(1, 2, (32,))

    def normal(self, x: Tensor) -> dist.Normal:
        """q(z | x)."""
        loc, log_scale = self.net(x.unsqueeze(-1)).unbind(-1)
        return dist.Normal(loc, log_scale.exp())

    def forward(self, x: Tensor) -> None:
        """Draws z."""
        pyro.module("one_normal", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.normal(x))


# %% [markdown]
# With one latent, log p(x), posterior and divergences are sums over a grid. Each guide is also put to use: to estimate
# log p(x) by importance sampling.

# %%
seen = torch.tensor([0.0, 1.0, 3.0])
z = torch.linspace(-10, 10, 8001)
log_joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, NOISE).log_prob(seen.unsqueeze(-1))  # (3, 8001)
log_x = log_joint.logsumexp(-1) + (z[1] - z[0]).log()
log_p = log_joint - log_x.unsqueeze(-1)

figure = Figure(figsize=(9, 3.4), layout="constrained")
panels = figure.subplots(1, len(seen))
for axes, x, exact in zip(panels, seen, log_p.exp(), strict=True):
    axes.fill_between(z, exact, color="0.85", label="exact posterior")
    axes.set(xlim=(-4, 4), xlabel="z", title=f"x = {x:.0f}")
print("trained by           x  KL(q || p)  KL(p || q)    log p(x)  1000 draws    Pareto k")
for name, objective in {"ELBO": ELBO(), "ForwardKL": ForwardKL(20), "sleep": NLL(of="guide", at=P)}.items():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    guide = OneNormal()
    svi = SVI(square, guide, functools.partial(torch.optim.Adam, lr=5e-3), objective)
    for _ in range(STEPS):
        svi.step(torch.randn(100) ** 2 + NOISE * torch.randn(100))  # data for which the model is right
    found = evaluation.log_evidence(square, guide, seen, num_particles=1000)
    with torch.no_grad():
        log_q = torch.stack([guide.normal(x).log_prob(z) for x in seen])  # (3, 8001)
    reverse, forward = (torch.trapezoid(a.exp() * (a - b), z) for a, b in ((log_q, log_p), (log_p, log_q)))
    columns = log_q.exp(), seen, reverse, forward, log_x, found.per_datum, found.pareto_k
    for axes, density, *numbers in zip(panels, *columns, strict=True):
        axes.plot(z, density, label=name, linestyle="dashed" if name == "sleep" else "solid")
        print(f"{name:<10}" + "".join(f"{number:12.2f}" for number in numbers))
panels[0].set_ylabel("density of z given x")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
print(plotting.save_figure(figure, OUT / "directions.png"))

# %% [markdown]
# At x = 0 there is one mode, and all agree. At 1 and 3 the ELBO's guide takes one of two, and pays little more than
# log 2 = 0.69 nats of KL(q || p) for leaving out half. Its estimate of log p(x) leaves out the same half and is short
# by as much; with another seed Pareto k may be below 0.7 all the same, for it sees only what some draws come near.
# The other two guides span both modes and all between. At x = 3 that puts their ELBO tens of nats below log p(x), and
# yet their estimate is right but for noise. So judge wake-sleep by log p(x) as well as by the ELBO, and where
# importance weights are to be trusted, better have a guide that is too wide than one that is too narrow.
