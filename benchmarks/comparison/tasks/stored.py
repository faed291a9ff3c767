"""Tasks whose posterior is a stored one, of long chains, with its errors."""

__all__ = ["EightSchools", "LogisticRegression", "Stored", "read_reference", "reference_path"]

import json
from pathlib import Path
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.comparison.task import Facts, Posterior, Problem, Quality, Task
from benchmarks.comparison.tasks.minibatches import same
from benchmarks.comparison.tasks.networks import Constant
from benchmarks.comparison.tasks.normal import constant
from pyro_dgm import datasets
from pyro_dgm.guides import amortize

FOLDER = Path(__file__).parent.parent / "references"


def reference_path(name: str) -> Path:
    """Where the reference posterior of a task is kept."""
    return FOLDER / f"{name}.json"


def read_reference(name: str) -> dict[str, Any]:
    """The stored posterior of a task, as ``benchmarks.comparison.references`` has made it.

    Raises:
        ValueError: there is none, or its file is damaged.
    """
    path = reference_path(name)
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise ValueError(
            f"a reference posterior must be stored; got {path}: {err}. Make it by python -m "
            f"benchmarks.comparison.references --tasks {name}."
        ) from err
    return found


class Stored(Task):
    """A posterior of global latents by a reference: one datum, the whole data set.

    Attributes:
        sites: the latents, in the reference's order.
    """

    family = "exact"
    reference = "pyro-autonormal"
    sites: tuple[str, ...]

    def data(self) -> Tensor:
        """What is observed, with a first dimension of 1."""
        raise NotImplementedError

    def model(self, y: Tensor | None = None) -> None:
        """The model of it."""
        raise NotImplementedError

    def build(self, seed: int) -> Problem:
        """The guide is normal with a full covariance, taken to the latents' supports."""
        y, stored = self.data(), read_reference(self.name)
        return Problem(
            model=self.model,
            make_guide=lambda: amortize(self.model, Constant(), y, family="full"),
            batches=same(y),
            test=(y,),
            facts=Facts(self.name, 1, datasets.content_digest(y), split="all"),
            latents="continuous",
            learning_rate=1e-2,
            is_whole=True,
            log_evidence=constant(torch.tensor([stored["log_evidence"]["value"]]).double()),
            evidence_error=stored["log_evidence"]["standard_error"],
            posterior=Posterior(
                self.sites,
                torch.tensor([stored["mean"]]).double(),
                torch.tensor([stored["sd"]]).double(),
                error=max(error / sd for error, sd in zip(stored["mean_error"], stored["sd"], strict=True)),
                draws=torch.tensor(stored["draws"]).double(),
            ),
            quality=Quality("mean_error", 0.1, "lower"),
        )


@final
class EightSchools(Stored):
    """The effects of coaching in eight schools, not centred.

    References:
        Rubin (1981), Estimation in Parallel Randomized Experiments; Gelman et al. (2013), Bayesian Data Analysis,
        section 5.5.
    """

    name = "eight-schools"
    title = "eight schools, not centred"
    sites = ("mu", "tau", "eta")

    scales = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    """Standard errors of the effects."""

    def data(self) -> Tensor:
        """The effects, (1, 8)."""
        return torch.tensor([[28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]])

    def model(self, y: Tensor | None = None) -> None:
        """A school's effect is mu + tau eta."""
        with pyro.plate("data", 1):
            mu = pyro.sample("mu", dist.Normal(torch.zeros(1), 5.0))
            tau = pyro.sample("tau", dist.HalfCauchy(torch.full((1,), 5.0)))
            eta = pyro.sample("eta", dist.Normal(torch.zeros(1, 8), 1.0).to_event(1))
            effect = mu.unsqueeze(-1) + tau.unsqueeze(-1) * eta
            pyro.sample("y", dist.Normal(effect, self.scales).to_event(1), obs=y)


@final
class LogisticRegression(Stored):
    """Whether a tumour is benign, by ten standardised features and an intercept, with standard normal weights."""

    name = "logistic"
    title = "logistic regression, 11 weights"
    sites = ("w",)

    def __init__(self) -> None:
        self._table: tuple[Tensor, Tensor] | None = None

    def table(self) -> tuple[Tensor, Tensor]:
        """Features with a column of ones, (569, 11), and labels, (569,): scikit-learn's breast cancer, the means."""
        if self._table is None:
            from sklearn.datasets import load_breast_cancer

            bunch = load_breast_cancer()
            features = torch.as_tensor(bunch.data[:, :10], dtype=torch.float64)
            features = ((features - features.mean(0)) / features.std(0)).float()
            self._table = torch.cat([torch.ones(len(features), 1), features], 1), torch.as_tensor(bunch.target).float()
        return self._table

    def data(self) -> Tensor:
        """The labels, (1, 569)."""
        return self.table()[1].unsqueeze(0)

    def model(self, y: Tensor | None = None) -> None:
        """Weights w, and the labels given them."""
        features = self.table()[0]
        with pyro.plate("data", 1):
            w = pyro.sample("w", dist.Normal(torch.zeros(1, features.shape[1]), 1.0).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=w @ features.T).to_event(1), obs=y)
