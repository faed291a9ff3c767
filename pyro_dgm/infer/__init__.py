"""Programs run against each other, bounds on the log evidence, objectives, and the trainer for them."""

from pyro_dgm.infer import bounds
from pyro_dgm.infer.log_weights import LogWeights, log_weights
from pyro_dgm.infer.objectives import ELBO, IWAE, BoundObjective, Objective
from pyro_dgm.infer.svi import SVI, NonFiniteError

__all__ = [
    "ELBO",
    "IWAE",
    "SVI",
    "BoundObjective",
    "LogWeights",
    "NonFiniteError",
    "Objective",
    "bounds",
    "log_weights",
]
