# %% [markdown]
# # 5. Flow guides: seeing a posterior bend
#
# A diagonal normal is the textbook guide, and it cannot bend. Where the posterior does, the bound pays for it, and the
# model is pulled towards posteriors that are easy to describe. This tutorial draws posteriors of two latents on a
# lattice, lays guides of growing freedom beside them, and counts what each one loses. The page takes two minutes.

# %%
import functools
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm import datasets, evaluation, plotting
from pyro_dgm.distributions import Bernoulli, StandardNormal
from pyro_dgm.guides import AutoAmortizedGuide, amortize
from pyro_dgm.infer import ELBO, SVI, log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

STEPS = int(os.environ.get("STEPS", "2500"))
EPOCHS = int(os.environ.get("EPOCHS", "150"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-05"))
EXTENT = 3.5
lattice = plotting.plane(EXTENT, 80)  # (6400, 2)

# %% [markdown]
# ## A model whose posterior is a horseshoe
#
# Two standard normals, of which we see one number, `z1^2 + z2` and a little noise. Whoever sees a large number knows
# that z lies on a parabola, and on which one, but not where on it.


# %%
def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
        mean = z[..., :1].square() + z[..., 1:]
        pyro.sample("x", dist.Normal(mean, 0.3).to_event(1), obs=x)


def log_posterior(x: Tensor) -> Tensor:
    """log p(x, z) on the lattice for each of a few x: the posterior's logarithm but for a constant, (B, 6400)."""
    prior = dist.Normal(0.0, 1.0).log_prob(lattice).sum(-1)
    return prior + dist.Normal(lattice[:, 0].square() + lattice[:, 1], 0.3).log_prob(x)


pyro.set_rng_seed(0)
z = torch.randn(512, 2)
x = z[:, :1].square() + z[:, 1:] + 0.3 * torch.randn(512, 1)
cell = (2 * EXTENT / 80) ** 2
evidence = float(log_posterior(x).logsumexp(-1).mean()) + float(torch.tensor(cell).log())

# %% [markdown]
# ## Guides, one argument apart
#
# `amortize` reads the model, finds the latents in the plate of the data, and makes a guide of the family asked for; the
# encoder is yours. The model above is plain Pyro and knows nothing of it.

# %%
FAMILIES = {
    "diagonal": {},
    "full": {},
    "planar": {"num_transforms": 8},
    "iaf": {"num_transforms": 4, "hidden_features": (32,), "gated": False},
}


def fit_guide(family: str) -> AutoAmortizedGuide:
    """A guide of the family, trained on the data."""
    pyro.set_rng_seed(1)
    encoder = nn.Sequential(MLP(1, 32, (32,), nn.Tanh), nn.Tanh())
    guide = amortize(model, encoder, x, family=family, family_options=FAMILIES[family])
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=3e-3), ELBO(4, max_plate_nesting=1))
    for _ in range(STEPS):
        svi.step(x[torch.randint(len(x), (64,))])
    return guide


guides = {family: fit_guide(family) for family in FAMILIES}
print(f"log p(x) by quadrature      {evidence:.3f} nats per datum")
for family, guide in guides.items():
    with torch.no_grad():
        bound = float(log_weights(model, guide, x, num_particles=100).local.mean())
    print(f"{family:<10} bound {bound:8.3f}, loses {evidence - bound:.3f}")

# %% [markdown]
# A flow of this library scores any point, planar ones too, so its density can be drawn. Look at the row of x = 3: the
# diagonal guide sits on one arm of the horseshoe or spreads thinly over the middle, a full covariance can only tilt,
# and the flows bend.

# %%
few = torch.tensor([[-1.0], [1.0], [3.0]])
maps: dict[str, Tensor] = {}
for i, value in enumerate(few):
    maps[f"p(z | x = {value.item():g})"] = log_posterior(value)
    for family, guide in guides.items():
        with torch.no_grad():
            q = guide.conditionals()["z"](guide.encoder(few[i : i + 1]))
            maps[f"{family}, x = {value.item():g}"] = q.log_prob(lattice.unsqueeze(1)).squeeze(1).clamp(min=-50)
plotting.save_figure(plotting.density_maps(maps, EXTENT, columns=1 + len(FAMILIES)), OUT / "horseshoes.png")

# %% [markdown]
# ## Real data: posteriors of digits
#
# Now the decoder is learned as well, and it adapts to its guide: with a guide that cannot bend, the model prefers
# posteriors that need not. So two things are compared at once, and `inference_gaps` tells them apart: a copy of the
# guide is fitted to one datum alone, which shows what its family loses (approximation) and what is lost because one
# network serves all data (amortization).

# %%
digits = datasets.fix_binarization(datasets.digits(), seed=0)
train, test = digits.train.x.flatten(1), digits.test.x.flatten(1)  # (1285, 64) grey, (256, 64) binary


def train_vae(family: str) -> tuple[LatentVariableModel, AutoAmortizedGuide]:
    """A VAE with two latents and a guide of the family."""
    pyro.set_rng_seed(2)
    vae = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 64, (100, 100), nn.Tanh)))
    encoder = nn.Sequential(MLP(64, 100, (100,), nn.Tanh), nn.Tanh())
    guide = amortize(vae, encoder, test[:8], family=family, family_options=FAMILIES[family])
    svi = SVI(vae, guide, functools.partial(torch.optim.Adam, lr=2e-3), ELBO())
    for _ in range(EPOCHS):
        for batch in datasets.binarize(train)[torch.randperm(len(train))].split(100):
            svi.step(batch)
    return vae, guide


chosen = test[torch.tensor([3, 40, 90, 200])]
pictures: dict[str, Tensor] = {}
for family in ("diagonal", "iaf"):
    vae, guide = train_vae(family)
    bound = evaluation.elbo_parts(vae, guide, test, num_particles=20).elbo
    gaps = evaluation.inference_gaps(vae, guide, chosen, num_steps=max(1, STEPS // 10), evidence_particles=1000)
    print(
        f"{family:<10} test bound {bound.mean():.2f}; on {len(chosen)} digits the gap of approximation "
        f"{gaps.approximation.mean:.2f}, of amortization {gaps.amortization.mean:.2f}"
    )
    for i, digit in enumerate(chosen):
        with torch.no_grad():
            joint = StandardNormal(2)().log_prob(lattice) + vae.likelihood(lattice).log_prob(digit)
            q = guide.conditionals()["z"](guide.encoder(digit.unsqueeze(0)))
            log_q = q.log_prob(lattice.unsqueeze(1)).squeeze(1).clamp(min=-50)
        pictures[f"digit {i + 1}: p, {family}"] = joint
        pictures[f"digit {i + 1}: q, {family}"] = log_q
plotting.save_figure(plotting.density_maps(pictures, EXTENT, columns=2 * len(chosen)), OUT / "digits.png")
print(f"pictures in {OUT}")
