"""What a task is: a model, data, and what is known of the answer."""

__all__ = ["Facts", "Modes", "Posterior", "Problem", "Quality", "Task"]

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from torch import Tensor

LATENTS = ("continuous", "bits", "classes", "generator")


class Facts(NamedTuple):
    """What a reported number must say of its data.

    Arguments:
        data: name of the data.
        num_data: number of data that are evaluated on.
        data_sha256: digest of the data, where they are stored ones.
        binarisation: ``"none"``, or how.
        split: which part is evaluated on.
    """

    data: str
    num_data: int
    data_sha256: str | None = None
    binarisation: str = "none"
    split: str = "test"


class Posterior(NamedTuple):
    """The posterior of the latents of every datum, d numbers each.

    Arguments:
        sites: names of the model's sites whose values, flattened and side by side, are the d numbers.
        mean: (B, d).
        sd: standard deviations, (B, d).
        error: the largest standard error of a mean, in units of its sd; 0 where the posterior is exact.
        covariance: (B, d, d), only of a posterior that is exactly normal.
        draws: independent draws of the only datum's, (n, d), or None.
    """

    sites: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    error: float = 0.0
    covariance: Tensor | None = None
    draws: Tensor | None = None


class Modes(NamedTuple):
    """The modes of a mixture of equal round normals: means, (M, D), and their standard deviation."""

    means: Tensor
    sd: float


class Quality(NamedTuple):
    """What is good enough: a metric of the curve, the value to reach, and which way is good."""

    metric: str
    value: float
    better: str = "higher"


@final
@dataclass(frozen=True, kw_only=True)
class Problem:
    """One task as it is given to a method: programs to train, data, and the truth to compare with.

    Model and guide are Pyro programs that are called with a minibatch, or with ``test``; their latents stand in a plate
    named ``data``. A posterior of global latents is a problem with a single datum, the whole data set.

    Arguments:
        model: the model; with parameters, if it is to be learned.
        batches: begins the minibatches, which never end.
        test: the arguments to evaluate on, with one row per datum.
        facts: what is to be said of the data.
        latents: what they are: ``"continuous"``, ``"bits"``, ``"classes"``, or the noise of a ``"generator"`` without
            densities.
        make_guide: makes a guide with new parameters; None where there is none.
        learning_rate: of Adam, the same for all methods.
        num_data: number N of training data.
        is_whole: whether the whole data set is one datum.
        log_evidence: log p(x) of every test datum under the model as it is, (B,), or None.
        evidence_error: its standard error; 0 where it is exact.
        posterior: of the test data, or None.
        modes: of the data's distribution, or None.
        quality: what is good enough, or None.
        num_particles: number K of importance samples of log p(x).
        num_looked: how many test data are looked at on the way, at most; they are spread over all.
    """

    model: Any
    batches: Callable[[], Iterator[tuple[Tensor, ...]]]
    test: tuple[Tensor, ...]
    facts: Facts
    latents: str
    make_guide: Callable[[], Any] | None = None
    learning_rate: float = 1e-3
    num_data: int = 1
    is_whole: bool = False
    log_evidence: Callable[[], Tensor] | None = None
    evidence_error: float = 0.0
    posterior: Posterior | None = None
    modes: Modes | None = None
    quality: Quality | None = None
    num_particles: int = 1000
    num_looked: int = 600

    def __post_init__(self) -> None:
        if self.latents not in LATENTS:
            raise ValueError(
                f"the latents of a problem must be one of {LATENTS}; got {self.latents!r}. 'continuous' is what most "
                "models have."
            )
        if not isinstance(self.test, tuple) or not self.test or not all(isinstance(own, Tensor) for own in self.test):
            raise TypeError(
                f"test must be a tuple of tensors, the arguments of model and guide; got {type(self.test).__name__}. "
                "Write for instance (x,)."
            )

    @property
    def looked(self) -> slice:
        """The rows of the test data that are looked at on the way."""
        return slice(None, None, -(-len(self.test[0]) // self.num_looked))

    @property
    def is_learned(self) -> bool:
        """Whether the model has parameters to learn."""
        parameters = getattr(self.model, "parameters", None)
        return parameters is not None and any(own.requires_grad for own in parameters())


class Task(abc.ABC):
    """A problem by name. A task of one's own is a subclass in a file named by ``--user``, without arguments to make it.

    Attributes:
        name: on the command line and in the files: small letters, digits and single hyphens.
        title: what the tables show.
        family: ``"exact"``, if the truth is known, or ``"data"``.
        reference: name of the method that others' times are divided by.
    """

    name: str
    title: str
    family: str = "data"
    reference: str = "pyro-trace-elbo"

    @abc.abstractmethod
    def build(self, seed: int) -> Problem:
        """The problem, with fresh parameters from torch's generator.

        The data should be the same for every seed, which is that of their order and of dynamic binarisation.
        """
