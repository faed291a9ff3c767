"""Contrasts that a critic learns, and the trainer of implicit models."""

from pyro_dgm.adversarial.averaging import Averaged
from pyro_dgm.adversarial.contrasts import AdversarialTerm, Contrast, Readings
from pyro_dgm.adversarial.critics import Critic, EnergyCritic, StandardizedCritic, spectrally_normalized
from pyro_dgm.adversarial.estimators import (
    BoundaryEquilibrium,
    CriticEstimator,
    EnergyMargin,
    Hinge,
    LeastSquares,
    Logistic,
    Relativistic,
    Wasserstein,
)
from pyro_dgm.adversarial.f_divergences import NWJ, DonskerVaradhan, FDivergence
from pyro_dgm.adversarial.langevin import SGHMC
from pyro_dgm.adversarial.objectives import (
    IPM,
    FeatureMatching,
    ForwardKL,
    Minimax,
    NonSaturating,
    PlayerObjective,
    ReverseKL,
)
from pyro_dgm.adversarial.penalties import DRAGAN, R1, R2, Consistency, GradientPenalty, LeCam, Penalty
from pyro_dgm.adversarial.predictability import LeaveOneOutPredictor, Predictability
from pyro_dgm.adversarial.steps import Steps
from pyro_dgm.adversarial.trainer import AdversarialTrainer

__all__ = [
    "DRAGAN",
    "IPM",
    "NWJ",
    "R1",
    "R2",
    "SGHMC",
    "AdversarialTerm",
    "AdversarialTrainer",
    "Averaged",
    "BoundaryEquilibrium",
    "Consistency",
    "Contrast",
    "Critic",
    "CriticEstimator",
    "DonskerVaradhan",
    "EnergyCritic",
    "EnergyMargin",
    "FDivergence",
    "FeatureMatching",
    "ForwardKL",
    "GradientPenalty",
    "Hinge",
    "LeCam",
    "LeastSquares",
    "LeaveOneOutPredictor",
    "Logistic",
    "Minimax",
    "NonSaturating",
    "Penalty",
    "PlayerObjective",
    "Predictability",
    "Readings",
    "Relativistic",
    "ReverseKL",
    "StandardizedCritic",
    "Steps",
    "Wasserstein",
    "spectrally_normalized",
]
