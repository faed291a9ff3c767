"""The tasks that are there."""

from benchmarks.comparison.task import Task
from benchmarks.comparison.tasks.counts import GammaPoisson
from benchmarks.comparison.tasks.discrete import BeliefNet, Mixture
from benchmarks.comparison.tasks.images import Images
from benchmarks.comparison.tasks.in_the_plane import Potential
from benchmarks.comparison.tasks.modes import InThePlane
from benchmarks.comparison.tasks.music import Chorales
from benchmarks.comparison.tasks.normal import PPCA, Hierarchy, StateSpace
from benchmarks.comparison.tasks.stored import EightSchools, LogisticRegression

__all__ = ["TASKS"]

TASKS: tuple[Task, ...] = (
    PPCA(),
    Hierarchy(),
    GammaPoisson(),
    StateSpace(),
    EightSchools(),
    LogisticRegression(),
    BeliefNet(),
    Mixture(),
    *(Potential(number) for number in "1234"),
    *(InThePlane(name) for name in ("ring", "grid")),
    Images("digits", "digits", 16, -25.0),
    Images("mnist", "mnist", 50, -120.0),
    Images("mnist-fixed", "binarized_mnist", 50, -120.0),
    Images("fashion-mnist", "fashion_mnist", 50, -250.0),
    Chorales(),
)
