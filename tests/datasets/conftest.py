"""Fixtures of the data set tests."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def real_data() -> None:
    """Skips a test of real files where PYRO_DGM_DATA names no folder of them."""
    if not os.environ.get("PYRO_DGM_DATA"):
        pytest.skip("needs the real data files: set PYRO_DGM_DATA to the folder that holds them")


@pytest.fixture(autouse=True)
def _global_generator_is_left_alone() -> Iterator[None]:
    """No loader and no batch may draw from torch's global generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
