"""Every test starts from the same state and must leave the process as it found it."""

import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import Distribution

torch.set_num_threads(1)  # the tests' tensors are tiny: more threads only wait for each other, many times as long


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Makes Ctrl-C arrive also where the suite was started in the background, which ignores it, children included."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def untouched_globals() -> Iterator[None]:
    """Seeds all generators, empties Pyro's parameter store, and fails the test that changes a global switch."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (code under test may draw from the global generator)
    torch.manual_seed(0)
    pyro.clear_param_store()
    before = global_switches()
    yield
    pyro.clear_param_store()
    after = global_switches()
    restore(before)  # so that one test fails, and not every test after it
    assert after == before, "the test changed a global switch"


def global_switches() -> dict[str, Any]:
    """What a library must not change behind its user's back."""
    return {
        "pyro.settings": pyro.settings.get(),
        "torch validation": Distribution._validate_args,
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
    }


def restore(switches: dict[str, Any]) -> None:
    """Puts the switches back."""
    pyro.settings.set(**switches["pyro.settings"])
    Distribution.set_default_validate_args(switches["torch validation"])
    torch.set_default_dtype(switches["default dtype"])
    torch.set_grad_enabled(switches["grad mode"])
