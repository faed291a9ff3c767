"""Programs run against each other, bounds on the log evidence, objectives, and the trainer for them."""

from pyro_dgm.infer import bounds, gradients
from pyro_dgm.infer.baselines import Baseline
from pyro_dgm.infer.log_weights import LogWeights, log_weights
from pyro_dgm.infer.objective import BoundObjective, Objective
from pyro_dgm.infer.objectives import CIWAE, ELBO, IWAE, MIWAE, Renyi
from pyro_dgm.infer.svi import SVI, NonFiniteError

__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "SVI",
    "Baseline",
    "BoundObjective",
    "LogWeights",
    "NonFiniteError",
    "Objective",
    "Renyi",
    "bounds",
    "gradients",
    "log_weights",
]
