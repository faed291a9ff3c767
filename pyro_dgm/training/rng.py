"""The state of the global random number generators, as tensors and plain values."""

__all__ = ["capture_rng", "restore_rng"]

import random
from typing import Any

import numpy as np
import torch


def capture_rng() -> dict[str, Any]:
    """Return the state of torch (CPU, and each CUDA device in use), of `random` and of NumPy's global generator.

    Only what is global is here: a `torch.Generator` of your own belongs to the state of whoever holds it.

    >>> state = capture_rng()
    >>> first = torch.rand(3)
    >>> restore_rng(state)
    >>> torch.equal(torch.rand(3), first)
    True
    """
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # Asking a CUDA that nobody uses would start it, which takes seconds and memory.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": (version, torch.tensor(words), gauss),
        "numpy": _numpy_to_plain(np.random.get_state(legacy=False)),  # noqa: NPY002
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Put back what `capture_rng` returned; CUDA devices that are not here are left out."""
    torch.set_rng_state(state["torch"])
    for device, words in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(words, device)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(_plain_to_numpy(state["numpy"]))  # noqa: NPY002


def _numpy_to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numpy_to_plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(np.int64))
    return value


def _plain_to_numpy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain_to_numpy(part) for name, part in value.items()}
    if isinstance(value, torch.Tensor):
        return value.numpy().astype(np.uint64)
    return value
