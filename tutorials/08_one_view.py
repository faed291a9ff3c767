# %% [markdown]
# # 8. One view: the VAE, wake-sleep and the GAN are rows of one table
#
# A model is p(x, z), a guide is q(z | x). Every method here brings two joint distributions together: the model run
# forward, and the data completed by the guide. They differ in where they draw and in how they score what they drew:
#
# - both densities known: a **bound**, a function of log p(x, z) - log q(z | x);
# - one density known: an **expectation** of it under draws of the other side;
# - no density needed: a **contrast**, learned by a critic, or a distance of draws.
#
# This tutorial trains one model and one guide by seven methods and measures all of them alike. The model is linear and
# Gaussian, so that log p(x) and the posterior are known exactly, also where a method never asks for them. The view is
# that of Hu, Yang, Salakhutdinov and Xing (2018), On Unifying Deep Generative Models, arXiv:1706.00550. Two minutes.

# %%
import functools
import os
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from pyro_dgm import datasets, plotting
from pyro_dgm.adversarial import R1, AdversarialTrainer, Contrast, Critic, ReverseKL
from pyro_dgm.distributions import DiagonalNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import DATA, ELBO, MMD, NLL, P, Q, Term
from pyro_dgm.infer.divergences import mmd
from pyro_dgm.models import LinearGaussian
from pyro_dgm.nn import MLP

STEPS = int(os.environ.get("STEPS", "4000"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-08"))
data = datasets.ppca(features=2, latent_features=1, noise_sd=0.5, num_train=5000, num_test=2000).dataset
train, test = data.train.x, data.test.x

# %% [markdown]
# ## Three sources
#
# `P` is the model run forward, `Q` the data completed by the guide, `DATA` the data alone. `P.observed()` is a latent
# of the model beside a datum that it did not generate. A critic over some sites is a network of their values.


# %%
def critic(*features: int) -> Critic:
    """Scores sites of these lengths."""
    return Critic(MLP(sum(features), 1, (64, 64), nn.Tanh))


def reconstruction() -> Term:
    """Minus E_q log p(x | z), which trains model and guide."""
    return NLL("x", of="model", at=Q, through_draws=True)


METHODS: dict[str, Callable[[], Term]] = {
    "VAE": lambda: ELBO(),
    "wake-sleep": lambda: NLL(of="model", at=Q) + NLL(of="guide", at=P),
    "InfoVAE": lambda: ELBO() + MMD("z", num=Q, den=P),
    "AVB": lambda: (
        reconstruction()
        + Contrast(["x", "z"], P.observed(), Q, critic(2, 1), objective=ReverseKL(), penalties=[R1(0.01)])
    ),
    "adversarial autoencoder": lambda: reconstruction() + Contrast("z", P, Q, critic(1), penalties=[R1(0.1)]),
    "ALI": lambda: Contrast(["x", "z"], Q, P, critic(2, 1), penalties=[R1(0.1)]),
    "GAN, sleep phase": lambda: Contrast("x", DATA, P, critic(2), penalties=[R1(0.1)]) + NLL(of="guide", at=P),
}

# %% [markdown]
# The terms know what they are, so the table writes itself. Read a row as a recipe. The VAE's bound is one number, since
# both densities are there; wake-sleep takes its two halves apart, one program's density at the other's draws; AVB keeps
# the half it can score and has a critic learn the other; a GAN scores nothing and compares. Where no term has a guide
# in it, there is no inference: our GAN gets its guide from the sleep phase.


# %%
def described(term: Term) -> dict[str, list[str]]:
    """What a sum of terms consists of, by kind."""
    cells: dict[str, list[str]] = {"bound": [], "expectation": [], "contrast": []}
    for weight, part in (1.0 * term).terms:
        factor = "" if weight == 1 else f"{weight:g} "
        if isinstance(part, NLL):
            own = "x, z" if part.sites is None else ", ".join(part.sites)
            kind, text = "expectation", f"{part.of} of {own} at {part.at}"
        elif isinstance(part, Contrast | MMD):
            how = f"{type(part.objective).__name__}" if isinstance(part, Contrast) else "MMD"
            kind, text = "contrast", f"{', '.join(part.sites)}: {part.num} | {part.den}, {how}"
        else:
            kind, text = "bound", type(part).__name__
        cells[kind].append(factor + text)
    return cells


print(f"{'':<24}{'bound':<7}{'expectation':<34}contrast: num | den, what the programs minimise")
for name, make in METHODS.items():
    cells = [" + ".join(parts) for parts in described(make()).values()]
    print(f"{name:<24}{cells[0]:<7}{cells[1]:<34}{cells[2]}")

# %% [markdown]
# ## One training, seven losses
#
# The same trainer takes all of them; with no critic it is plain descent. (What is added to a bound can do harm: with
# ten times the MMD this InfoVAE is caught where the model ignores z.)


# %%
def trained(term: Term) -> tuple[LinearGaussian, AmortizedGuide]:
    """A new model and guide."""
    pyro.set_rng_seed(0)
    model, guide = (
        LinearGaussian(1, 2),
        AmortizedGuide(z=DiagonalNormal(nn.Linear(2, DiagonalNormal.num_parameters(1)))),
    )
    player, other = (functools.partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.99)) for lr in (2e-3, 4e-3))
    trainer = AdversarialTrainer(model, term, player, other, guide, ema=0.999)
    for _ in range(STEPS):
        trainer.step(train[torch.randint(len(train), (256,))])
    return trainer.averaged["model"], trainer.averaged["guide"]


def measured(model: LinearGaussian, guide: AmortizedGuide) -> tuple[float, float, float]:
    """Mean log p(x), the MMD of draws to data, and how far the guide is from the model's own posterior."""
    with torch.no_grad():
        latent, posterior = guide.sites.z(test), model.posterior(test)
        q = Normal(latent.base_dist.loc[:, 0], latent.base_dist.scale[:, 0])
        p = Normal(posterior.mean[:, 0], posterior.variance[:, 0].sqrt())
        discrepancy = mmd(model(num=len(test)), test)
        return model.log_evidence(test).mean().item(), 1000 * discrepancy.item(), kl_divergence(q, p).mean().item()


best = LinearGaussian(1, 2)
best.fit_closed_form(train)
pyro.set_rng_seed(1)
clouds: dict[str, Tensor] = {}
print(f"\n{'':<24}{'log p(x)':>10}{'1000 MMD^2':>12}{'KL(q || p(z | x))':>19}")
print(f"{'maximum likelihood':<24}{best.log_evidence(test).mean():>10.3f}{1000 * mmd(best(num=2000), test):>12.2f}")
for name, make in METHODS.items():
    model, guide = trained(make())
    numbers = measured(model, guide)
    print(f"{name:<24}{numbers[0]:>10.3f}{numbers[1]:>12.2f}{numbers[2]:>19.4f}")
    clouds[name] = model(num=1000).detach()
plotting.save_figure(plotting.point_clouds(clouds, test, columns=4), OUT / "draws.png")
print(f"pictures in {OUT}")
