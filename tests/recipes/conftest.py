"""A small run, trained once for all tests, and small settings for others."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_dgm.datasets import Dataset, Split
from pyro_dgm.infer.programs import fork_rng
from pyro_dgm.recipes import RECIPES, Run, open_run, start_run

SCHEDULES = ("kl_warmup", "temperature_epochs")
SMALL: dict[str, Any] = {"latent_features": 2, "hidden_features": (16,), "channels": (4, 8), "epochs": 1}


@pytest.fixture
def small_of() -> Callable[..., dict[str, Any]]:
    """Gives the settings of a recipe by name that make it quick; what has a schedule is over with it in an epoch."""

    def settings(name: str, **others: Any) -> dict[str, Any]:
        recipe = RECIPES[name]
        known = {field.name for field in dataclasses.fields(recipe)}
        quick = {**SMALL, "layers": (16, 8), "baseline_features": (8,), "components": 3}
        quick |= {"num_transforms": 2, "flow_features": (16,), "num_pseudo_inputs": 20, "auxiliary_features": 3}
        quick |= {"noise_features": 3, "num_mixing": 3, "num_bins": 4}
        quick |= {"critic_features": (16,), "code_features": 4, "num_basis": 2}
        quick.update({name: 1 for name in SCHEDULES if getattr(recipe, name, 0)})
        return {name: value for name, value in quick.items() if name in known} | others

    return settings


@pytest.fixture
def small() -> dict[str, Any]:
    """Settings that make a variational autoencoder quick."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A VAE of the digits after two epochs; not to be trained further."""
    with fork_rng():
        run = start_run("vae", "digits", tmp_path_factory.mktemp("runs") / "vae", settings={**SMALL, "epochs": 2})
        run.train(resume=False, progress=False)
    return run


@pytest.fixture
def copied(trained: Run, folder: Path) -> Run:
    """A copy of the trained run, to be evaluated otherwise."""
    shutil.copytree(trained.folder, folder)
    run = open_run(folder)
    run.load_trained()
    return run


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    """Makes small data of any shape and kind."""

    def make(shape: tuple[int, ...], kind: str = "binary", num: int = 30, labelled: bool = True) -> Dataset:
        def split() -> Split:
            x = torch.rand(num, *shape)
            return Split(x.round() if kind == "binary" else x, torch.arange(num) % 3 if labelled else None)

        return Dataset("stub", split(), split(), split(), "0" * 64, "made up", shape, kind)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a run may go."""
    return tmp_path / "run"
