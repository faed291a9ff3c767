"""Which twin a task has."""

__all__ = ["twin"]

from collections.abc import Callable
from typing import Any

from benchmarks.step_time.in_numpyro.autoencoders import autoencoder, flow_vae, hierarchical_vae
from benchmarks.step_time.in_numpyro.bayesian import logistic_regression, mixture
from benchmarks.step_time.in_numpyro.belief_nets import belief_net
from benchmarks.step_time.in_numpyro.sequences import markov_model
from benchmarks.step_time.in_numpyro.twin import Twin
from benchmarks.step_time.tasks import Task

TWINS: dict[str, Callable[[Any], Twin]] = {
    "logistic": logistic_regression,
    "mixture": mixture,
    "vae-small": autoencoder,
    "hvae": hierarchical_vae,
    "iaf": flow_vae,
    "sbn-score": belief_net,
    "vae": autoencoder,
    "conv": autoencoder,
    "iwae": autoencoder,
    "dmm": markov_model,
}


def twin(name: str, task: Task) -> Twin:
    """The task in NumPyro.

    Raises:
        NotImplementedError: NumPyro has no such objective.
    """
    if name not in TWINS:
        raise NotImplementedError("NumPyro has no leave-one-out score function, and no VIMCO")
    return TWINS[name](task)
