"""The evidence of a model whose own guide has no density: by a guide that is fitted to it afterwards."""

__all__ = ["fitted_evidence"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pyro_dgm.datasets import Batches
from pyro_dgm.evaluation import LogEvidence, log_evidence
from pyro_dgm.infer import ELBO, SVI
from pyro_dgm.nn.modes import in_evaluation_mode


def fitted_evidence(
    model: nn.Module,
    proposal: Callable[[], nn.Module],
    batches: Batches,
    arguments: Sequence[Any],
    num_particles: int,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    progress: bool = False,
) -> LogEvidence:
    """Estimates log p(x) by importance sampling with a guide that is fitted to the trained model, in nats per datum.

    The model stands still, in evaluation mode, while the guide is trained by the ELBO, and is as it was afterwards. The
    estimate is a lower bound in expectation, whatever the guide; a guide that fits badly makes it too low, and Pareto k
    tells.

    Arguments:
        model: a model with a density of the data given its latents.
        proposal: makes a guide with densities for all its latents.
        batches: of the training data, as the programs take them; they are gone through anew, by a fixed seed.
        arguments: of the programs, for the data that are evaluated.
        num_particles: number K of importance samples per datum.
        epochs: passes through the training data.
        learning_rate: of Adam.
        progress: show a bar for the importance sampling.

    Raises:
        ValueError: ``num_particles`` is below 1, or the programs do not fit together.
    """
    guide = proposal().to(batches.tensors[0])
    again = Batches(*batches.tensors, batch_size=batches.batch_size, transform=batches.transform)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        with in_evaluation_mode([model]):
            trainer = SVI(model, guide, torch.optim.Adam(guide.parameters(), lr=learning_rate), ELBO(), compile=False)
            for _ in range(epochs):
                for batch in again:
                    trainer.step(*(batch if isinstance(batch, tuple) else (batch,)))
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
    return log_evidence(model, guide, *arguments, num_particles=num_particles, progress=progress)
