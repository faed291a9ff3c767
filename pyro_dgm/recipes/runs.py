"""A run: a recipe trained on a data set with a seed, and the folder that holds all of it."""

__all__ = ["Config", "Run", "open_run", "start_run"]

import importlib.metadata
import json
import math
import platform
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, final

import pyro
import torch

from pyro_dgm import datasets
from pyro_dgm.evaluation import elbo_parts
from pyro_dgm.files import replace_atomically
from pyro_dgm.infer.programs import fork_rng
from pyro_dgm.recipes.recipe import CountingTrainer, Recipe, System, change
from pyro_dgm.recipes.registry import get
from pyro_dgm.training import CheckpointError, FitResult, fit, load_checkpoint

CONFIG, METRICS, LAST, BEST = "config.json", "metrics.jsonl", "last.ckpt", "best.ckpt"
RESUMABLE = ("epochs", "patience")  # what may change when a run goes on; the rest is in its parameters and optimiser
MAX_SEED = 2**32 - 1  # NumPy's


@final
@dataclass(frozen=True)
class Config:
    """What a run was started with: enough to build it again.

    Arguments:
        recipe: name of the recipe.
        settings: all values of the recipe.
        data: name of the data set.
        data_digest: its sha256, checked whenever the run is opened.
        seed: of initialisation, order of the data and all noise.
        device: where it trains.
        versions: of Python and the packages, for the record.

    Raises:
        TypeError: a value is of another type.
    """

    recipe: str
    settings: dict[str, Any]
    data: str
    data_digest: str
    seed: int
    device: str
    versions: dict[str, str]

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(Config).items():
            kind = typing.get_origin(kind) or kind
            if type(getattr(self, name)) is not kind:
                raise TypeError(
                    f"{name} must be of type {kind.__name__}; got {getattr(self, name)!r}. Restore what was there."
                )


class Run(NamedTuple):
    """A run in memory: its folder, what it was started with, its system and its trainer."""

    folder: Path
    config: Config
    recipe: Recipe
    system: System
    trainer: CountingTrainer

    def train(self, resume: bool, progress: bool = True, tensorboard: bool = False) -> FitResult:
        """Trains to the recipe's number of epochs.

        Arguments:
            resume: go on from the last checkpoint, if there is one already.
            progress: show a bar.
            tensorboard: write event files, too.
        """
        return fit(
            self.trainer,
            self.system.batches,
            epochs=self.recipe.epochs,
            validate=self.validate,
            monitor="valid_loss" if self.system.validate is None else None,
            patience=self.recipe.patience,
            scheduler=self.system.scheduler,
            restore_best=self.recipe.patience is not None,
            checkpoint=self.folder,
            resume=resume and (self.folder / LAST).exists(),
            log=self.folder / METRICS,
            tensorboard=self.folder / "tensorboard" if tensorboard else None,
            progress=progress,
        )

    def validate(self) -> dict[str, float]:
        """Minus the ELBO on the validation data and, where there are latents, its two parts, in nats per datum.

        A system that has a way of its own to be validated is validated by that.
        """
        if self.system.validate is not None:
            return self.system.validate()
        arguments = self.system.arguments(self.system.dataset.valid)
        parts = elbo_parts(self.system.model, self.system.guide, *arguments, num_particles=1)
        if not parts.kl:
            return {"loss": -float(parts.elbo.mean())}
        log_likelihood = sum(float(values.mean()) for values in parts.log_likelihood.values())
        kl = sum(float(values.mean()) for values in parts.kl.values())
        return {"loss": -float(parts.elbo.mean()), "reconstruction": -log_likelihood, "kl": kl}

    def load_trained(self) -> None:
        """Puts the trained parameters in place: the best ones of a run with patience, else the last ones.

        Raises:
            CheckpointError: there is no checkpoint yet, or it cannot be used.
        """
        path = self.folder / (LAST if self.recipe.patience is None else BEST)
        if not path.exists():
            raise self._untrained()
        try:
            self.trainer.load_state_dict(load_checkpoint(path)["trainer"])
        except (KeyError, TypeError, ValueError) as err:
            raise CheckpointError(
                f"the checkpoint must be one of this run; got {path}, which does not fit ({err}). Use a copy of this "
                "run's own, or start anew."
            ) from err
        if not self.trainer.num_steps:
            raise self._untrained()

    def history(self) -> list[dict[str, float]]:
        """The metrics of every epoch up to the last checkpoint."""
        path = self.folder / LAST
        return load_checkpoint(path)["history"] if path.exists() else []

    def write_json(self, name: str, content: Any) -> Path:
        """Writes a JSON file into the folder, whole or not at all; what is not finite becomes null."""
        path = self.folder / name
        with replace_atomically(path) as temporary:
            temporary.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path

    def _untrained(self) -> CheckpointError:
        return CheckpointError(
            f"a run is evaluated once it is trained; got {self.folder}, which has no trained parameters yet. Train it: "
            f"python -m pyro_dgm fit --resume {self.folder}"
        )


def start_run(
    recipe: str,
    data: str,
    folder: str | Path,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Run:
    """Builds a new run and its folder.

    Arguments:
        recipe: name of the recipe.
        data: name of the data set.
        folder: where to put it; must not hold a run.
        seed: of initialisation, order of the data and all noise.
        settings: values of the recipe to change.
        device: where to train.

    Raises:
        ValueError: a name or setting is unknown, the recipe cannot model the data, there is no such device, or the
            folder holds a run or cannot be written to. Nothing has been written then.
    """
    folder = Path(folder)
    held = [name for name in (CONFIG, METRICS, LAST, BEST) if (folder / name).exists()]
    if held:
        raise ValueError(
            f"a new run needs a folder of its own; got {folder}, which holds a run ({', '.join(held)}). Go on with it "
            f"by --resume {folder}, or choose another --out."
        )
    chosen = change(get(recipe), settings or {})
    dataset = datasets.load(data)
    config = Config(recipe, asdict(chosen), data, dataset.digest, seed, device, _versions())
    run = _build(folder, config, chosen, dataset)
    with fork_rng():
        run.validate()  # what data and likelihood have against each other shows here, before there is a folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run.write_json(CONFIG, asdict(config))
    except OSError as err:
        raise ValueError(
            f"a run needs a folder it can write to; got {folder} ({err.strerror or err}). Choose another --out."
        ) from err
    return run


def open_run(folder: str | Path, *, settings: Mapping[str, Any] | None = None, device: str | None = None) -> Run:
    """Builds a run again from its folder, untrained: call ``train(resume=True)`` or ``load_trained()``.

    Arguments:
        folder: the folder of a run.
        settings: values of the recipe to change, ``epochs`` to train longer or ``patience``; kept in the folder.
        device: where to put it, if not where it was started.

    Raises:
        ValueError: the folder holds no run, the data have changed, or a setting is not one of the two.
    """
    folder, settings = Path(folder), settings or {}
    config = _read_config(folder)
    recipe = change(change(get(config.recipe), config.settings), settings)
    fixed = [name for name in settings if name not in RESUMABLE]
    if fixed:
        raise ValueError(
            f"a run goes on as it was started, but for {' and '.join(RESUMABLE)}; got {fixed}. Start a new run for "
            "other settings."
        )
    dataset = datasets.load(config.data)
    if dataset.digest != config.data_digest:
        raise ValueError(
            f"a run goes on with the data it was started on, of sha256 {config.data_digest[:12]}; got {config.data!r} "
            f"of sha256 {dataset.digest[:12]}. Put the old files back, or start a new run."
        )
    config = replace(config, settings=asdict(recipe), device=device or config.device)
    run = _build(folder, config, recipe, dataset)
    if settings:
        done = len(run.history())
        if recipe.epochs < done:
            raise ValueError(
                f"epochs counts from the run's beginning, at least the {done} done; got {recipe.epochs}. Pass more."
            )
        run.write_json(CONFIG, asdict(config))
    return run


def _read_config(folder: Path) -> Config:
    try:
        config = Config(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ValueError(
            f"a run folder holds {CONFIG}; got {folder}, which does not. Start a run with "
            "python -m pyro_dgm fit RECIPE --data NAME."
        ) from err
    except (ValueError, TypeError) as err:
        raise ValueError(
            f"{folder / CONFIG} must be as it was written; got a damaged file ({err}). Restore it from a copy."
        ) from err
    return config


def _build(folder: Path, config: Config, recipe: Recipe, dataset: datasets.Dataset) -> Run:
    if not 0 <= config.seed <= MAX_SEED:
        raise ValueError(f"seed must lie between 0 and 2^32 - 1; got {config.seed}. 0 is as good as any.")
    _check_device(config.device)
    pyro.set_rng_seed(config.seed)
    system = recipe.build(dataset, config.seed, config.device)
    return Run(folder, config, recipe, system, system.trainer)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        raise ValueError(
            f"device must be one that torch can use here; got {device!r} ({str(err).splitlines()[0]}). Use cpu."
        ) from err


def _finite(content: Any) -> Any:
    """The content with None for numbers that JSON does not have."""
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _versions() -> dict[str, str]:
    names = ("pyro_dgm", "pyro-ppl", "torch", "numpy", "arviz")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}
