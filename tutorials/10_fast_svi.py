# %% [markdown]
# # 10. Fast SVI: the step of your own Pyro program, compiled
#
# A step of SVI on a small model is mostly Python: handlers, traces, distributions. `SVI(..., compile=True)` traces the
# whole step, optimiser included, and runs it as one function with the same random numbers. Here that is done to plain
# Pyro programs: what it saves, what it costs, what prevents it, and what does not. The page takes two minutes and a C++
# compiler, as torch.compile does; BACKEND=graph does without, and saves less.

# %%
import os
import time
import warnings
from functools import partial
from pathlib import Path
from timeit import timeit

os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # to see what a first run costs; leave this out

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from pyro_dgm import datasets, plotting
from pyro_dgm.infer import SVI
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.training import fit

EPOCHS, STEPS = int(os.environ.get("EPOCHS", "1200")), int(os.environ.get("STEPS", "500"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-10"))
COMPILED = Compiler(os.environ["BACKEND"]) if "BACKEND" in os.environ else True
LATENT, HIDDEN, PIXELS = 8, 200, 64
torch.set_num_threads(1)  # tensors so small are faster by themselves, and the compiler has a processor of its own
train = datasets.digits().train.x.flatten(1)  # (1285, 64) grey
adam = partial(torch.optim.Adam, lr=1e-3)

# %% [markdown]
# ## A plain Pyro program
#
# This is the VAE of the first tutorial; nothing in it is of this library. Two of them will be trained, so each names
# its parameters differently: under the same names Pyro's store would hand the second those of the first.


# %%
class VAE(nn.Module):
    """p(z) p(x | z), and q(z | x)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))

    def model(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module(f"{self.name}.encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# %% [markdown]
# ## From the start
#
# Both train alone, one after the other, on the same batches and noise; the clock runs from the first step on. Before
# compiling three steps are watched and two traced, which takes longer. Then a thread compiles while steps go on as
# written, more slowly, for the two share an interpreter. Every shape of batch has a version of its own, so `drop_last`
# leaves out the smaller last batch. `svi.compiled` knows how many versions there are, and why others are refused.

# %%
trainers, losses, clocks = {}, {}, {}
for name, compile in {"as written": False, "compiled": COMPILED}.items():
    pyro.set_rng_seed(0)
    vae = VAE(name)
    svi = trainers[name] = SVI(vae.model, vae.guide, adam, TraceMeanField_ELBO(), compile=compile)
    batches = datasets.Batches(train, batch_size=64, transform=datasets.binarize, drop_last=True)
    found, clock, waited, start = [], [], 0, time.perf_counter()
    for x in (x for _ in range(EPOCHS) for x in batches):
        found.append(svi.step(x) / len(x))
        clock.append(time.perf_counter() - start)
        waited += compile is not False and svi.compiled.num_compiled == 0
    losses[name], clocks[name] = torch.tensor(found).double(), clock
    print(f"{name:<10} {len(found)} steps in {clock[-1]:.1f} s, last loss {found[-1]:.3f} nats per image")
print("its first steps, ms:", *(f"{1000 * s:.0f}" for s in torch.tensor([0, *clock[:8]]).diff()))
svi.compiled.wait()
ready = clock[min(waited, len(clock) - 1)]
print(f"compiled after {ready:.1f} s; versions: {svi.compiled.num_compiled}, refusals: {svi.compiled.refusals}")
gap = (losses["compiled"] / losses["as written"] - 1).abs()
print(f"losses differ by at most {gap.max():.0e} of themselves; in the first 100 steps by {gap[:100].max():.0e}")

# %% [markdown]
# The losses agree up to rounding, which may grow as training goes on. Steps are timed in turns: whatever else the
# machine does, it does to both.


# %%
def median_ms(*actions: partial) -> list[float]:
    """Milliseconds that each action takes, in turns: the median."""
    seconds = torch.tensor([[timeit(action, number=1) for action in actions] for _ in range(STEPS)])
    return (1000 * seconds.median(0).values).tolist()


written, compiled = median_ms(*(partial(one.step, x) for one in trainers.values()))
bars = {"VAE, as written": written, "VAE, compiled": compiled}

# %% [markdown]
# ## What makes it refuse, and the cure
#
# Bayesian logistic regression on scikit-learn's breast cancer data, under an AutoGuide. The likelihood is tempered by a
# Python float that the training loop raises from 0.1 to 1. The prior's scale is computed from the data, and `.item()`
# would make a number of it, which a compiled step would freeze. So it is taken as written, and a warning says so.

# %%
x, y = (torch.tensor(column).float() for column in load_breast_cancer(return_X_y=True))  # (569, 30), (569,)
x = (x - x.mean(0)) / x.std(0)


def regression(x: Tensor, y: Tensor) -> None:
    """The joint density p(w) p(b) p(y | x, w, b), the likelihood to the power of `temper`."""
    scale = x.square().mean().rsqrt()
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), scale.item() if use_item else scale).to_event(1))
    b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 3.0))
    with pyro.plate("data", len(x)), poutine.scale(scale=temper):
        pyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


temper, use_item = 0.1, True
svi = SVI(regression, AutoNormal(regression), adam, Trace_ELBO(), compile=COMPILED)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(6):
        svi.step(x, y)
print(f"{len(svi.compiled.refusals)} refusal:", str(caught[0].message).splitlines()[0])

# %% [markdown]
# The cure is to leave `.item()` out. Annealed float and learning rate change at every step without compiling again: a
# float that is seen to change becomes an input.

# %%
pyro.clear_param_store()
use_item, guide = False, AutoNormal(regression)
plain, svi = (SVI(regression, guide, adam, Trace_ELBO(), compile=compile) for compile in (False, COMPILED))
svi.step(x, y)  # which makes the guide's parameters, and with them the optimiser
scheduler = torch.optim.lr_scheduler.LinearLR(svi.optimizer, 1.0, 0.1, total_iters=STEPS)
for step in range(STEPS):
    temper = min(1.0, 0.1 + 2 * step / STEPS)
    svi.step(x, y)
    scheduler.step()
    svi.compiled.wait()
print(f"{STEPS} steps later, versions: {svi.compiled.num_compiled}, refusals: {svi.compiled.refusals}")

# %% [markdown]
# ## Several steps in one call
#
# This step is so short that calling it is a good part of it. `steps` takes one for each batch; its first call compiles
# several in one graph. `fit` does the same with `steps_per_call`, and calls back, validates and saves in between.

# %%
many = [(x, y)] * 50
svi.steps(many)
svi.compiled.wait()
written, compiled, several = median_ms(*(partial(one.step, x, y) for one in (plain, svi)), partial(svi.steps, many))
bars |= {"regression, as written": written, "regression, compiled": compiled, "regression, 50 a call": several / 50}
print(*(f"{name:<24} {ms:6.3f} ms a step" for name, ms in bars.items()), sep="\n")
result = fit(svi, many, epochs=STEPS // 10, steps_per_call=len(many), progress=False)
print(f"fit: {result.steps} steps in {result.seconds:.1f} s, loss {result.history[-1]['loss']:.4f} nats per patient")

# %% [markdown]
# ## The picture
#
# On the left the clock runs through the compiling: a short training is over before it pays. A second run of the same
# program pays less, for Inductor keeps what it has compiled on disk, which this page forbids it in its first lines.

# %%
colours, size = {"as written": "#ffa90e", "compiled": "#3f90da", "50 a call": "#3f90da"}, max(1, len(clock) // 100)
figure = Figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(3, 2))
left.axvspan(0, ready, color="0.93")
left.text(ready, 0.96, "compiling ", ha="right", va="top", color="0.4", transform=left.get_xaxis_transform())
for name in trainers:
    seconds, means = clocks[name][size - 1 :: size], losses[name].unfold(0, size, size).mean(1).tolist()
    left.plot(seconds, means, "o-", markevery=[-1], label=name, color=colours[name])
left.set(xlabel="seconds since the first step", ylabel="nats per image", title=f"Loss of the VAE, {EPOCHS} epochs")
left.set(ylim=(min(means) - 0.2, means[1]))
left.legend(frameon=False)
drawn = right.barh(list(bars), list(bars.values()), color=[colours[name.split(", ")[1]] for name in bars])
right.bar_label(drawn, [f"{ms:.2g}" for ms in bars.values()], padding=3)
right.set(xlim=(0, 1.2 * max(bars.values())), ylim=(len(bars) - 0.5, -0.5), title="Milliseconds a step, once compiled")
print(plotting.save_figure(figure, OUT / "seconds.png"))
