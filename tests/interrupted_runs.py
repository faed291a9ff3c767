"""Runs whose machine fails, and whether two of them end in the same state."""

from typing import Any

import pytest
import torch

from pyro_dgm.recipes import Run


class Crash(Exception):
    """A machine that fails."""


def crash_after(run: Run, steps: int) -> None:
    """Trains a run until its machine fails."""
    step = run.trainer.step

    def failing(*args: Any) -> float:
        if run.trainer.num_steps == steps:
            raise Crash
        return step(*args)

    run.trainer.step = failing  # type: ignore[method-assign]
    with pytest.raises(Crash):
        run.train(resume=False, progress=False)


def assert_equal(a: Any, b: Any, where: str = "state") -> None:
    """Two nested states are equal, tensors bitwise; times may differ."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_equal(one, other, f"{where}.{i}")
    else:
        assert a == b, where
