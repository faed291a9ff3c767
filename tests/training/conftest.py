"""A small trainer whose steps depend on its weights, its optimizer and the random numbers, and data for it."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_dgm.training import fit

FEATURES, ROWS, BATCH = 3, 20, 4  # five batches an epoch


class Regression:
    """Linear regression with dropout, under Adam; `crash_at` raises before that step, as a failing machine would."""

    def __init__(self, features: int = FEATURES, crash_at: int | None = None):
        self.model = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(features, 1))
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(0.1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.crash_at = crash_at
        self.steps = 0  # of this object, not of the run
        self.seen: list[Any] = []

    def step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        self.steps += 1
        if self.steps == self.crash_at:
            raise ConnectionError("the machine is gone")
        self.seen.append(x[:, 0].tolist())
        x = x + 0.01 * random.random() + 0.01 * np.random.rand()  # noqa: NPY002
        loss = (self.model(x).squeeze(-1) - y).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    @property
    def weights(self) -> list[float]:
        return [value for parameter in self.model.parameters() for value in parameter.flatten().tolist()]


class OwnOrder:
    """Stateful data, shuffled by a generator of its own."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.x, self.y = x, y
        self.generator = torch.Generator().manual_seed(0)
        self.order: list[int] = []
        self.within = self.loaded = False

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if not self.loaded:
            self.order = torch.randperm(ROWS, generator=self.generator).tolist()
        self.within, self.loaded = True, False
        while self.order:
            rows, self.order = self.order[:BATCH], self.order[BATCH:]
            yield self.x[rows], self.y[rows]
        self.within = False

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "within": self.within, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.loaded = list(state["order"]), state["within"]
        self.generator.set_state(state["generator"])


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, ROWS * FEATURES).reshape(ROWS, FEATURES).sin()
    return x, x.sum(-1)


def as_list() -> Any:
    x, y = rows()
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def as_loader() -> Any:
    return DataLoader(TensorDataset(*rows()), batch_size=BATCH, shuffle=True)


def as_loader_with_generator() -> Any:
    generator = torch.Generator().manual_seed(7)
    return DataLoader(TensorDataset(*rows()), batch_size=BATCH, shuffle=True, generator=generator)


def as_own_order() -> Any:
    return OwnOrder(*rows())


DATA = {"list": as_list, "loader": as_loader, "generator": as_loader_with_generator, "own": as_own_order}


def scramble() -> None:
    """Leave the random generators where a new process might have them."""
    torch.manual_seed(random.SystemRandom().randrange(2**31))
    random.seed()
    np.random.seed()  # noqa: NPY002


def seeded() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


def nothing(trainer: Regression) -> dict[str, Any]:
    return {}


@pytest.fixture(autouse=True)
def reseed() -> Callable[[], None]:
    """Every test begins with the seeds that `straight` begins with."""
    seeded()
    return seeded


@pytest.fixture
def regression() -> type[Regression]:
    return Regression


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return as_list()


@pytest.fixture(params=list(DATA))
def make_data(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return DATA[request.param]


@pytest.fixture
def make_loader() -> Callable[[], Any]:
    return as_loader


@pytest.fixture
def interrupted(tmp_path: Any) -> Callable[..., tuple[Any, Any]]:
    """A run that crashes before a step and is resumed by new objects: returns trainer and result."""

    def run(
        make: Callable[[], Any], crash_at: int, build: Callable[..., dict[str, Any]] = nothing, **options: Any
    ) -> Any:
        folder = tmp_path / "interrupted"
        seeded()
        crashing = Regression(crash_at=crash_at)
        with pytest.raises(ConnectionError):
            fit(crashing, make(), checkpoint=folder, progress=False, **options, **build(crashing))
        scramble()
        trainer = Regression()
        result = fit(trainer, make(), checkpoint=folder, resume=True, progress=False, **options, **build(trainer))
        return trainer, result

    return run


@pytest.fixture
def straight() -> Callable[..., tuple[Any, Any]]:
    """The same run without a crash."""

    def run(make: Callable[[], Any], build: Callable[..., dict[str, Any]] = nothing, **options: Any) -> Any:
        options.pop("checkpoint_every", None)
        seeded()
        trainer = Regression()
        return trainer, fit(trainer, make(), progress=False, **options, **build(trainer))

    return run


@pytest.fixture
def own_order() -> OwnOrder:
    return as_own_order()
