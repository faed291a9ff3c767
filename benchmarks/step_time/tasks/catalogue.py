"""The tasks by name, and how one is made."""

__all__ = ["TASKS", "make"]

import torch

from benchmarks.step_time.tasks.autoencoders import ConvolutionalVAE, FlowVAE, ImageVAE, ImportanceWeighted, SmallVAE
from benchmarks.step_time.tasks.bayesian import LogisticRegression, Mixture
from benchmarks.step_time.tasks.belief_nets import ByScore, ByVIMCO
from benchmarks.step_time.tasks.hierarchies import HierarchicalVAE
from benchmarks.step_time.tasks.sequences import MarkovModel
from benchmarks.step_time.tasks.task import Batch, Task

TASKS: dict[str, type[Task]] = {
    "logistic": LogisticRegression,
    "mixture": Mixture,
    "vae-small": SmallVAE,
    "hvae": HierarchicalVAE,
    "iaf": FlowVAE,
    "sbn-score": ByScore,
    "sbn-vimco": ByVIMCO,
    "vae": ImageVAE,
    "conv": ConvolutionalVAE,
    "iwae": ImportanceWeighted,
    "dmm": MarkovModel,
}


def make(name: str, num_batches: int) -> tuple[Task, list[Batch]]:
    """A task and its data, the same whenever it is made; torch's generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task = TASKS[name]()
        num_drawn = 1 if task.is_full_batch else num_batches
        batches = [task.batch() for _ in range(num_drawn)]
        return task, batches * (num_batches // num_drawn)
