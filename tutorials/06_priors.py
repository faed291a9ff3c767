# %% [markdown]
# # 6. Priors: fit the codes to the prior, or the prior to the codes
#
# The ELBO asks the codes of all data, taken together, to look like the prior. A standard normal makes them crowd into
# one ball, with holes between the classes from which no digit comes. A prior that learns goes where the codes are. This
# tutorial trains the same variational autoencoder under four priors and looks at codes, priors and samples. Then it
# leaves the plane: weights of broken sticks, and points on a sphere. The page takes two minutes.

# %%
import functools
import os
from pathlib import Path

import pyro
import torch
from torch import Tensor

from pyro_dgm import datasets, evaluation, plotting
from pyro_dgm.distributions import (
    Bernoulli,
    ConditionalDistribution,
    DiagonalNormal,
    FlowPrior,
    MixturePrior,
    PowerSpherical,
    SphericalUniform,
    StandardNormal,
    StickBreakingKumaraswamy,
    StickBreakingPrior,
    VampPrior,
)
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import ELBO, SVI
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP
from pyro_dgm.training import fit

EPOCHS = int(os.environ.get("EPOCHS", "250"))
OUT = Path(os.environ.get("OUT", "runs/tutorial-06"))
EXTENT = 5.0

digits = datasets.fix_binarization(datasets.digits(), seed=0)
train, test = digits.train.x.flatten(1), digits.test.x.flatten(1)  # (1285, 64) grey, (256, 64) binary


def network(num_inputs: int, num_outputs: int) -> MLP:
    """What decoder and encoder are made of."""
    return MLP(num_inputs, num_outputs, (100, 100))


def trained(
    prior: ConditionalDistribution, posterior: ConditionalDistribution, features: int
) -> tuple[LatentVariableModel, AmortizedGuide]:
    """A model and its guide, trained on digits binarised anew every time they are seen."""
    model = LatentVariableModel(prior, Bernoulli(network(features, 64)))
    guide = AmortizedGuide(z=posterior)
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=2e-3), ELBO(analytic_kl=True))
    batches = datasets.Batches(train, batch_size=100, transform=datasets.binarize, seed=0)
    fit(svi, batches, epochs=EPOCHS, progress=False)
    return model, guide


# %% [markdown]
# ## Four priors in the plane
#
# - `StandardNormal`: nothing to learn.
# - `MixturePrior`: ten normals, of which means, scales and weights are learned.
# - `VampPrior`: the guide itself at pseudo-inputs, here fifty, which begin at training digits and are learned. It
#   shares the guide's network: what the guide thinks of typical data is where the prior puts its mass. (With tanh in
#   the networks it collapses here: guide and prior agree to ignore the data.)
# - `FlowPrior`: a masked autoregressive flow, cheap to score and dear to draw from, which is right for a prior.
#
# All of them are conditional distributions without a context: one argument of the model. Where no KL has a closed
# form, `analytic_kl=True` estimates it from draws.


# %%
def vamp(posterior: ConditionalDistribution) -> VampPrior:
    """Fifty pseudo-inputs, drawn from the training digits."""
    rows = torch.randperm(len(train))[:50]
    return VampPrior(posterior, train[rows].clone(), bounds=(0.0, 1.0))


PRIORS = {
    "standard normal": lambda posterior: StandardNormal(2),
    "mixture of 10": lambda posterior: MixturePrior(2, 10),
    "VampPrior": vamp,
    "flow": lambda posterior: FlowPrior(2, num_transforms=4, hidden_features=(32,)),
}
lattice = plotting.plane(EXTENT, 100)
maps: dict[str, Tensor] = {}
codes: dict[str, Tensor] = {}
samples = []
for name, make in PRIORS.items():
    pyro.set_rng_seed(0)
    posterior = DiagonalNormal(network(64, DiagonalNormal.num_parameters(2)))
    model, guide = trained(make(posterior), posterior, 2)
    parts = evaluation.elbo_parts(model, guide, test, num_particles=20)
    print(f"{name:<16} test bound {parts.elbo.mean():7.2f}, of which KL {parts.kl['z'].mean():.2f} nats per datum")
    with torch.no_grad():
        maps[name] = model.prior().log_prob(lattice).clamp(min=-30)
    codes[name] = evaluation.encode(guide, test, sample=True)["z"]
    samples.append(evaluation.simulate(model, num=10, means=True)["x"])
    if isinstance(model.prior, VampPrior):
        pseudo_inputs = model.prior.pseudo_inputs.detach().clamp(0, 1)
plotting.save_figure(plotting.density_maps(maps, EXTENT, codes), OUT / "latents.png")

# %% [markdown]
# Blue is the prior, dots are codes of test digits. Under the standard normal the codes fill a ball whether they like it
# or not. The other priors have gone to meet them: clusters of codes, and mass where they are.
#
# What that is worth shows in samples, a row for each prior: codes that fall into a hole give digits that are none.

# %%
rows = torch.cat(samples).reshape(-1, 1, 8, 8)
plotting.save_figure(plotting.image_grid(rows, columns=10), OUT / "samples.png")
plotting.save_figure(plotting.image_grid(pseudo_inputs.reshape(-1, 1, 8, 8), columns=10), OUT / "pseudo_inputs.png")

# %% [markdown]
# The pseudo-inputs began as digits. Some still are, and some have become what the model finds typical: the prior can be
# looked at in data space.
#
# ## Latents that are not vectors of real numbers
#
# Weights of a stick broken again and again are a prior over how many components there are: most of the mass goes to a
# few. On a sphere there is no centre to crowd into, and its uniform distribution has no parameter to learn; the power
# spherical distribution is drawn without rejection. Both have their KL in closed form.

# %%
pyro.set_rng_seed(0)
sticks = StickBreakingKumaraswamy(network(64, StickBreakingKumaraswamy.num_parameters(10)))
model, guide = trained(StickBreakingPrior(10, concentration=5.0), sticks, 10)
weights = evaluation.encode(guide, test, sample=True)["z"].mean(0)
bound = evaluation.elbo_parts(model, guide, test, num_particles=20).elbo.mean()
print(f"stick-breaking   test bound {bound:7.2f}; mean weights {[round(float(w), 2) for w in weights]}")

pyro.set_rng_seed(0)
sphere = PowerSpherical(network(64, PowerSpherical.num_parameters(3)))
model, guide = trained(SphericalUniform(3), sphere, 3)
bound = evaluation.elbo_parts(model, guide, test, num_particles=20).elbo.mean()
lengths = evaluation.encode(guide, test, sample=True)["z"].norm(dim=-1)
print(f"sphere in 3-D    test bound {bound:7.2f}; every code has length {lengths.mean():.3f}")
print(f"pictures in {OUT}")
