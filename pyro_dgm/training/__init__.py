"""Training: `fit`, and checkpoints that survive a kill, notice damage and cannot run code."""

from pyro_dgm.training.checkpoint import (
    CheckpointError,
    check_state_matches,
    clone_state,
    load_checkpoint,
    save_checkpoint,
)
from pyro_dgm.training.fit import FitResult, fit
from pyro_dgm.training.protocols import (
    Callback,
    Expecting,
    Info,
    OnEpoch,
    OnStep,
    Position,
    Reporting,
    Scheduled,
    Stateful,
    StopTraining,
    TakesSteps,
    Trainer,
)

__all__ = [
    "Callback",
    "CheckpointError",
    "Expecting",
    "FitResult",
    "Info",
    "OnEpoch",
    "OnStep",
    "Position",
    "Reporting",
    "Scheduled",
    "Stateful",
    "StopTraining",
    "TakesSteps",
    "Trainer",
    "check_state_matches",
    "clone_state",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
]
