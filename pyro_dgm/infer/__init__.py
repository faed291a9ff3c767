"""Programs run against each other, bounds on the log evidence, objectives, and the trainer for them."""

from pyro_dgm.infer import bounds, divergences, gradients
from pyro_dgm.infer.annealing import KLAnnealing
from pyro_dgm.infer.baselines import Baseline
from pyro_dgm.infer.elbo import ELBO
from pyro_dgm.infer.expectation_maximization import ExactEM, VariationalEM
from pyro_dgm.infer.expectations import NLL
from pyro_dgm.infer.kullback_leibler import KL
from pyro_dgm.infer.log_weights import LogWeights, log_weights
from pyro_dgm.infer.matching import MMD, Energy, SlicedWasserstein
from pyro_dgm.infer.objective import Objective
from pyro_dgm.infer.objectives import CIWAE, CUBO, IWAE, MIWAE, PIWAE, TVO, Renyi
from pyro_dgm.infer.ratios import RatioLikelihood
from pyro_dgm.infer.relaxations import Relaxation
from pyro_dgm.infer.schedules import Constant, Cyclical, Exponential, Linear, Schedule, Sigmoid
from pyro_dgm.infer.sources import DATA, P, Q, Source
from pyro_dgm.infer.svi import SVI, NonFiniteError
from pyro_dgm.infer.term import BoundObjective, Sum, Term
from pyro_dgm.infer.wake_sleep import ForwardKL, ReweightedWakeSleep, TailAdaptive, WakeSleep

__all__ = [
    "CIWAE",
    "CUBO",
    "DATA",
    "ELBO",
    "IWAE",
    "KL",
    "MIWAE",
    "MMD",
    "NLL",
    "PIWAE",
    "SVI",
    "TVO",
    "Baseline",
    "BoundObjective",
    "Constant",
    "Cyclical",
    "Energy",
    "ExactEM",
    "Exponential",
    "ForwardKL",
    "KLAnnealing",
    "Linear",
    "LogWeights",
    "NonFiniteError",
    "Objective",
    "P",
    "Q",
    "RatioLikelihood",
    "Relaxation",
    "Renyi",
    "ReweightedWakeSleep",
    "Schedule",
    "Sigmoid",
    "SlicedWasserstein",
    "Source",
    "Sum",
    "TailAdaptive",
    "Term",
    "VariationalEM",
    "WakeSleep",
    "bounds",
    "divergences",
    "gradients",
    "log_weights",
]
