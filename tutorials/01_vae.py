# %% [markdown]
# # 1. A variational autoencoder, twice
#
# A VAE is a model p(z) p(x | z) and a guide q(z | x), trained together. This tutorial writes one in plain Pyro, as
# Pyro's own tutorial does, then with pyro_dgm, and ends with numbers that can be trusted and pictures. The data are
# scikit-learn's 8 x 8 digits, so nothing is downloaded; the whole page takes a minute.

# %%
import functools
import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import torch
from torch import nn

from pyro_dgm import datasets, evaluation, plotting
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, SVI
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP
from pyro_dgm.training import fit

EPOCHS = int(os.environ.get("EPOCHS", "200"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-01"))
LATENT, HIDDEN, PIXELS = 8, 200, 64
pyro.set_rng_seed(0)

# %% [markdown]
# ## The data
#
# Grey levels are not binary, and a Bernoulli likelihood wants zeros and ones. So every time an image is seen its
# pixels are drawn anew, a pixel of grey level 0.7 being white with probability 0.7; the images that we report on are
# drawn once, by a stated seed, so that numbers can be compared.

# %%
digits = datasets.fix_binarization(datasets.digits(), seed=0)
train, test = digits.train.x.flatten(1), digits.test.x.flatten(1)  # (1285, 64) grey, (256, 64) binary
batches = datasets.Batches(train, batch_size=64, transform=datasets.binarize)
print(digits)

# %% [markdown]
# ## In plain Pyro
#
# The decoder and encoder are ordinary networks. `pyro.module` tells Pyro about their parameters; the plate says that
# images are independent given the parameters; `to_event(1)` says that one image is one event of 64 pixels.


# %%
class PlainVAE(nn.Module):
    """The VAE of Pyro's tutorial, for binary images."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))

    def model(self, x: torch.Tensor) -> None:
        """The joint density p(z) p(x | z)."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        """The approximate posterior q(z | x)."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


plain = PlainVAE()
stock = pyro.infer.SVI(plain.model, plain.guide, pyro.optim.Adam({"lr": 2e-3}), pyro.infer.TraceMeanField_ELBO())
for _ in range(EPOCHS):
    loss = sum(stock.step(x) for x in batches) / batches.num_rows
print(f"plain Pyro, last epoch's loss: {loss:.2f} nats per image")

# %% [markdown]
# ## With pyro_dgm
#
# The same system, put together from parts. A *conditional distribution* is a network with a distribution on top:
# called with what it depends on, it returns a Pyro distribution. A model is a prior and a likelihood; a guide has one
# conditional distribution per latent, here for the site `z`.

# %%
pyro.set_rng_seed(0)
prior = StandardNormal(LATENT)
likelihood = Bernoulli(MLP(LATENT, PIXELS, hidden_features=(HIDDEN,)))
posterior = DiagonalNormal(MLP(PIXELS, DiagonalNormal.num_parameters(LATENT), hidden_features=(HIDDEN,)))

model = LatentVariableModel(prior, likelihood)
guide = AmortizedGuide(z=posterior)

# %% [markdown]
# Both are Pyro programs, so everything of Pyro's works on them; for instance the very same stock SVI.

# %%
stock = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), pyro.infer.TraceMeanField_ELBO())
print(f"one stock step: {stock.step(next(iter(batches))):.1f} nats per batch")

# %% [markdown]
# `pyro_dgm.infer.SVI` has the same `step`, with one torch optimiser for all parameters. It refuses to step on a NaN.
# `fit` drives anything that has a `step`: it shows progress, validates, and with `checkpoint="some/folder"` it can be
# killed at any time and resumed with `resume=True`, bitwise as if nothing had happened.

# %%
svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=2e-3), ELBO(analytic_kl=True))
valid = digits.valid.x.flatten(1)


def validate() -> float:
    """Minus the ELBO of the validation images, in nats per image."""
    return -evaluation.elbo_parts(model, guide, valid, num_particles=1).elbo.mean().item()


result = fit(svi, batches, epochs=EPOCHS, validate=validate)
print(f"pyro_dgm, last epoch's loss: {result.history[-1]['loss']:.2f} nats per image")

# %% [markdown]
# ## Numbers
#
# The ELBO is a lower bound on log p(x). Its parts say how it comes about: what the likelihood gains, and what the
# latents cost. Importance sampling with many draws from the guide gets closer to log p(x) itself; Pareto k says for
# which images it can be trusted (below 0.7).

# %%
parts = evaluation.elbo_parts(model, guide, test)
print("ELBO          ", evaluation.Estimate.of(parts.elbo))
print("E log p(x | z)", evaluation.Estimate.of(parts.log_likelihood["x"]))
print("KL            ", evaluation.Estimate.of(parts.kl["z"]))
evidence = evaluation.log_evidence(model, guide, test, num_particles=500)
print(f"log p(x)       {evidence.estimate}, k > 0.7 for {int((evidence.pareto_k > 0.7).sum())} of {len(test)} images")

# %% [markdown]
# The bound can be tightened by using several draws in training, too. An objective is one argument.

# %%
tighter = SVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-3), IWAE(num_particles=5))
fit(tighter, batches, epochs=max(1, EPOCHS // 10), progress=False)
print("log p(x) after some IWAE", evaluation.log_evidence(model, guide, test, num_particles=500).estimate)

# %% [markdown]
# ## Pictures
#
# Samples from the prior, test images and their reconstructions, the latent space coloured by digit, and a walk from
# one image to another.

# %%
shape = (1, 8, 8)
codes = evaluation.encode(guide, test)["z"]
walks = evaluation.interpolate(model, guide, test[:5], test[5:10], kind="spherical")["x"]
figures = {
    "training": plotting.training_curves(result.history),
    "samples": plotting.image_grid(evaluation.simulate(model, num=64, means=True)["x"], image_shape=shape),
    "reconstructions": plotting.reconstructions(
        test[:10], evaluation.reconstruct(model, guide, test[:10])["x"], image_shape=shape
    ),
    "latent_space": plotting.latent_space(codes, digits.test.y),
    "interpolations": plotting.interpolations(walks.unflatten(-1, shape)),
}
for name, figure in figures.items():
    print(plotting.save_figure(figure, OUT / f"{name}.png"))

# %% [markdown]
# ArviZ reads the posterior draws, the log-likelihoods and the importance weights.

# %%
draws = evaluation.to_arviz(model, guide, test[:50], num_samples=100)
print(evaluation.write_netcdf(draws, OUT / "posterior.nc"))
