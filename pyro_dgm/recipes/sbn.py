"""Sigmoid belief nets and Helmholtz machines, by whichever estimator."""

__all__ = ["SBNRecipe"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from pyro_dgm.datasets import Batches, Dataset, Split, binarize, fix_binarization
from pyro_dgm.guides import SigmoidBeliefGuide
from pyro_dgm.infer import ELBO, IWAE, SVI, Baseline, Relaxation, ReweightedWakeSleep, Term, WakeSleep
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.models import SigmoidBeliefNet
from pyro_dgm.nn import MLP
from pyro_dgm.recipes.checks import check_choices, check_counts, check_positive
from pyro_dgm.recipes.data import moved
from pyro_dgm.recipes.recipe import System


@final
@dataclass(frozen=True)
class SBNRecipe:
    """A sigmoid belief net of any depth with its bottom-up guide.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        objective: ``"nvil"`` (ELBO with a network baseline), ``"vimco"`` (importance-weighted bound, leave-one-out),
            ``"rws"`` (reweighted wake-sleep, wake- and sleep-phi in equal parts), ``"rebar"``, ``"relax"``,
            ``"disarm"`` (ELBO) or ``"wake-sleep"``.
        num_particles: number K of latents per datum in training.
        layers: widths of the latent layers, from the data upwards.
        autoregressive: couple the bits within each layer (DARN).
        baseline_features: widths of the hidden layers of the baseline's and RELAX's networks.
        learning_rate: of Adam.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        patience: epochs without a better validation bound after which training stops; None to train to the end.
        compile: compile the step, and wait until that is done, so that runs repeat bit by bit.

    Raises:
        ValueError: the objective is unknown, or a number out of range.
    """

    summary: str
    source: str
    objective: str = "nvil"
    num_particles: int = 1
    layers: tuple[int, ...] = (200,)
    autoregressive: bool = False
    baseline_features: tuple[int, ...] = (100,)
    learning_rate: float = 1e-3
    batch_size: int = 100
    epochs: int = 20
    patience: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        check_choices(self, {"objective": tuple(_OBJECTIVES)})
        check_counts(self, "num_particles", "layers", "baseline_features", "batch_size", "epochs")
        check_positive(self, {"learning_rate": "Adam likes 1e-3."})
        if not self.layers:
            raise ValueError("a belief net has a layer; got layers=(). Use layers=(200,).")

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the networks.

        Arguments:
            dataset: grey (binarised anew every time they are seen) or binary data, in memory.
            seed: seed of the order of the data, and of their dynamic binarisation.
            device: where everything is put.

        Raises:
            ValueError: the data are not binary and cannot be made so; nothing has been built then.
        """
        if dataset.kind not in ("grey", "binary"):
            raise ValueError(
                f"a belief net models data of kind ('grey', 'binary'); got {dataset.name!r}, of kind "
                f"{dataset.kind!r}. Choose images, such as binarized_mnist."
            )
        is_dynamic = dataset.kind == "grey"
        image_shape = dataset.event_shape if len(dataset.event_shape) == 3 else None
        dataset = moved(fix_binarization(dataset) if is_dynamic else dataset, device, flat=True)
        features, mean = dataset.event_shape[0], dataset.train.x.mean(0)
        model = SigmoidBeliefNet(features, self.layers, self.autoregressive, mean).to(device)
        guide = SigmoidBeliefGuide(features, self.layers, self.autoregressive, mean).to(device)
        objective = _OBJECTIVES[self.objective](self, features)
        learned = [part.to(device) for part in objective.parts().values()]
        parameters = [p for module in (model, guide, *learned) for p in module.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)
        compiler = Compiler(wait=True) if self.compile else False

        def arguments(split: Split) -> tuple[Tensor, ...]:
            return (split.x,)

        return System(
            model=model,
            guide=guide,
            trainer=SVI(model, guide, optimizer, objective, compile=compiler),
            batches=Batches(
                dataset.train.x, batch_size=self.batch_size, seed=seed, transform=binarize if is_dynamic else None
            ),
            dataset=dataset,
            arguments=arguments,
            image_shape=image_shape,
            latent="z1",
            latent_features=self.layers[0],
            is_continuous=False,
            is_discrete=True,
        )


class _Surrogate(nn.Module):
    """RELAX's free network, of the latents and the datum."""

    def __init__(self, latents: int, features: int, hidden_features: tuple[int, ...]) -> None:
        super().__init__()
        self.net = MLP(latents + features, 1, hidden_features)

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        """One number per particle and datum, (K, B, 1)."""
        return self.net(torch.cat([latents, x.expand(*latents.shape[:-1], -1)], dim=-1))


def _nvil(recipe: SBNRecipe, features: int) -> Term:
    baseline = Baseline(MLP(features, 1, recipe.baseline_features), normalize=True)
    return ELBO(recipe.num_particles, gradient="nvil", baseline=baseline, max_plate_nesting=1)


def _relax(recipe: SBNRecipe, features: int) -> Term:
    relaxation = Relaxation(net=_Surrogate(sum(recipe.layers), features, recipe.baseline_features))
    return ELBO(recipe.num_particles, gradient="relax", relaxation=relaxation, max_plate_nesting=1)


def _elbo(gradient: str) -> Callable[[SBNRecipe, int], Term]:
    return lambda recipe, _: ELBO(recipe.num_particles, gradient=gradient, max_plate_nesting=1)


_OBJECTIVES: dict[str, Callable[[SBNRecipe, int], Term]] = {
    "nvil": _nvil,
    "vimco": lambda recipe, _: IWAE(recipe.num_particles, gradient="loo", max_plate_nesting=1),
    "rws": lambda recipe, _: ReweightedWakeSleep(
        recipe.num_particles, wake_phi=0.5, sleep_phi=0.5, max_plate_nesting=1
    ),
    "rebar": _elbo("rebar"),
    "relax": _relax,
    "disarm": _elbo("disarm"),
    "wake-sleep": lambda recipe, _: WakeSleep(recipe.num_particles, max_plate_nesting=1),
}
