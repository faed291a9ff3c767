"""As many threads for JAX as for torch."""

__all__ = ["as_many_as_torch"]

import os

import torch


def as_many_as_torch() -> None:
    """Has to come before JAX starts, which reads the size of its pool then."""
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))
