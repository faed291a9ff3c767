# %% [markdown]
# # 2. One model, five bounds
#
# What a model and a guide are judged by is one choice, how its gradient is estimated another, and here they are made
# independently. This tutorial trains one VAE by five pairs of them, looks at the bounds themselves as functions of
# importance weights, and audits the gradients. The data are scikit-learn's digits; the page takes about a minute.

# %%
import functools
import os
from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure

from pyro_dgm import datasets, evaluation, plotting
from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, IWAE, SVI, Renyi, bounds, log_weights
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP
from pyro_dgm.training import fit

EPOCHS = int(os.environ.get("EPOCHS", "100"))
STEPS = int(os.environ.get("STEPS", "200"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-02"))

digits = datasets.fix_binarization(datasets.digits(), seed=0)
train, test = digits.train.x.flatten(1), digits.test.x.flatten(1)


def build() -> tuple[LatentVariableModel, AmortizedGuide]:
    """The same model and guide, with the same initial parameters, every time."""
    pyro.set_rng_seed(0)
    model = LatentVariableModel(StandardNormal(8), Bernoulli(MLP(8, 64, hidden_features=(100,))))
    return model, AmortizedGuide(z=DiagonalNormal(MLP(64, 2 * 8, hidden_features=(100,))))


# %% [markdown]
# ## Five ways to train
#
# - The **ELBO** averages log-weights: unbiased, and below log p(x) by the KL from the guide to the posterior.
# - With **several draws** it is less noisy and no tighter.
# - **IWAE** takes the logarithm of the mean weight: tighter the more draws there are. Its plain gradient tells the
#   guide less and less as K grows.
# - The **doubly reparameterised** gradient of the same bound mends that.
# - The **Renyi** bound with alpha between 0 (IWAE) and 1 (ELBO) lies in between.

# %%
objectives = {
    "ELBO, K = 1": ELBO(),
    "ELBO, K = 5": ELBO(5),
    "IWAE, K = 5": IWAE(5),
    "IWAE, K = 5, dreg": IWAE(5, gradient="dreg"),
    "Renyi 0.5, K = 5": Renyi(0.5, 5),
}
trained = {}
for name, objective in objectives.items():
    model, guide = build()
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=2e-3), objective)
    batches = datasets.Batches(train, batch_size=64, transform=datasets.binarize)
    fit(svi, batches, epochs=EPOCHS, progress=False)
    trained[name] = model, guide
    elbo = evaluation.Estimate.of(evaluation.elbo_parts(model, guide, test).elbo)
    evidence = evaluation.log_evidence(model, guide, test, num_particles=1000)
    print(f"{name:<18} test ELBO {elbo}   log p(x) {evidence.estimate}")

# %% [markdown]
# A tighter bound forgives a loose guide: with IWAE the ELBO of the trained pair is worse than with the ELBO itself, and
# log p(x) is not. These are numbers of one seed on a small data set, and each ± is the error of sampling the images,
# which all five share; how to compare methods honestly is the business of the benchmarks.
#
# ## Bounds are functions of weights
#
# All of these are pure functions of the same log-weights, of shape (K, B). So one set of draws shows them all, and what
# they do as K grows.

# %%
model, guide = trained["ELBO, K = 1"]
with torch.no_grad():
    log_w = log_weights(model, guide, test, num_particles=512).local  # (512, 256)
sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
curves = {
    "ELBO": bounds.elbo,
    "Renyi, alpha 0.5": functools.partial(bounds.renyi, alpha=0.5),
    "IWAE": bounds.iwae,
    "Renyi, alpha -1 (CUBO)": bounds.cubo,
}
figure = Figure(figsize=(6, 4), layout="constrained")
axes = figure.add_subplot()
for name, bound in curves.items():
    groups = [
        log_w.unflatten(0, (-1, K)).transpose(0, 1).flatten(1) for K in sizes
    ]  # every K draws a group of their own
    axes.semilogx(sizes, [bound(group).mean() for group in groups], marker="o", label=name, base=2)
axes.set(xlabel="number of draws K", ylabel="nats per image", title="Bounds on log p(x) from the same draws")
axes.legend(frameon=False)
print(plotting.save_figure(figure, OUT / "bounds.png"))

# %% [markdown]
# The ELBO does not move; IWAE climbs towards log p(x); the CUBO is an upper bound in the limit only, and with few draws
# lies below.
#
# ## What the gradient is worth
#
# The audit draws a gradient many times and compares its mean with a reference: the largest |z| is the largest bias in
# standard errors, the last column how much of the gradient is signal. `"stl"` is exact for the ELBO and biased for
# IWAE, and the audit says so; `"dreg"` is exact for both.

# %%
batch = datasets.binarize(train[:50], torch.Generator().manual_seed(0))
for objective in (IWAE(5), IWAE(5, gradient="stl"), IWAE(5, gradient="dreg")):
    print(f"\nIWAE, K = 5, {objective.gradient}")
    print(evaluation.gradient_audit(objective, model, guide, batch, num_steps=STEPS, num_reference_steps=5 * STEPS))
