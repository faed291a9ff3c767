"""A run's folder: begun once, gone on with bitwise, refused when it does not fit."""

import errno
import itertools
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from contracts import refuses
from interrupted_runs import assert_equal, crash_after
from pyro_dgm import datasets
from pyro_dgm.datasets import Dataset
from pyro_dgm.recipes import RECIPES, Run, evaluate, open_run, start_run
from pyro_dgm.training import CheckpointError, fit, load_checkpoint


def test_a_folder_tells_all_that_is_needed_to_build_the_run_again(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    assert config == json.loads(json.dumps(asdict(trained.config)))
    assert config["settings"]["latent_features"] == 2
    assert config["data_digest"] == datasets.digits().digest
    assert {"python", "torch", "pyro-ppl", "pyro_dgm"} <= config["versions"].keys()
    again = open_run(trained.folder)
    assert again.config == trained.config
    assert again.recipe == trained.recipe


def test_trained_parameters_are_loaded(trained):
    again = open_run(trained.folder)
    again.load_trained()
    assert_equal(dict(again.trainer.state_dict()), dict(trained.trainer.state_dict()))
    assert [row["epoch"] for row in again.history()] == [1, 2]
    assert len((trained.folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_validation_gives_the_parts_of_the_loss(trained):
    metrics = trained.validate()
    assert metrics["loss"] == pytest.approx(metrics["reconstruction"] + metrics["kl"])


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        *itertools.product(["vae", "cvae"], [13, 40, 60]),
        ("vae-annealed", 60),
        ("categorical-vae-gumbel", 60),
        ("sbn-relax", 60),
    ],
)
def test_a_run_that_was_interrupted_ends_bitwise_where_it_would_have(recipe, steps, small_of, tmp_path):
    """41 steps an epoch, two epochs, a crash in the first, at its last step and in the second; another seed between."""
    settings = small_of(recipe, epochs=2, batch_size=32)
    straight = start_run(recipe, "digits", tmp_path / "straight", seed=3, settings=settings)
    straight.train(resume=False, progress=False)
    crashing = start_run(recipe, "digits", tmp_path / "crashed", seed=3, settings=settings)
    crash_after(crashing, steps)
    torch.manual_seed(999)
    resumed = open_run(tmp_path / "crashed")
    resumed.train(resume=True, progress=False)
    states = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("straight", "crashed"))
    assert_equal(*states)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["vae", "sbn-vimco"])
def test_a_compiled_run_that_was_interrupted_does_too(recipe, small_of, tmp_path):
    """One that has compiled its step, and seen the smaller last batch of an epoch twice."""
    settings = small_of(recipe, epochs=3, batch_size=50, compile=True)
    straight = start_run(recipe, "digits", tmp_path / "straight", settings=settings)
    straight.train(resume=False, progress=False)
    crashing = start_run(recipe, "digits", tmp_path / "crashed", settings=settings)
    crash_after(crashing, 60)
    resumed = open_run(tmp_path / "crashed")
    resumed.train(resume=True, progress=False)
    assert resumed.trainer.compiled.num_compiled == 1
    states = (load_checkpoint(tmp_path / name / "last.ckpt") for name in ("straight", "crashed"))
    assert_equal(*states)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_trained_evaluated_and_gone_on_with(name, small_of, folder):
    data = "ring" if name in ("mixture-em", "realnvp", "neural-spline-flow") else "digits"
    run = start_run(name, data, folder, settings=small_of(name, epochs=2))
    assert run.train(resume=False, progress=False).epochs == 2
    report = evaluate(run, num_particles=3, progress=False)
    assert all(math.isfinite(number["value"]) for number in report.numbers)
    again = open_run(folder)
    again.load_trained()
    assert_equal(dict(again.trainer.state_dict()), dict(run.trainer.state_dict()))
    assert open_run(folder, settings={"epochs": 3}).train(resume=True, progress=False).epochs == 3


def test_a_run_that_cools_down_ends_at_a_tenth_and_resumes_bit_by_bit(small_of, tmp_path):
    settings = small_of("vae", epochs=4, cooldown=2)
    straight = start_run("vae", "digits", tmp_path / "straight", settings=settings)
    rows = straight.train(resume=False, progress=False).history
    assert [row["lr"] for row in rows] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])  # in the epoch, not after it
    crashing = start_run("vae", "digits", tmp_path / "crashed", settings=settings)
    crash_after(crashing, 30)
    open_run(tmp_path / "crashed").train(resume=True, progress=False)
    assert_equal(*(load_checkpoint(tmp_path / name / "last.ckpt") for name in ("straight", "crashed")))
    with refuses(ValueError, "cooldown", "got 5 with epochs=4"):
        start_run("vae", "digits", tmp_path / "long", settings=small_of("vae", epochs=4, cooldown=5))


def test_an_annealed_run_tells_its_weight_and_its_plain_elbo(small_of, folder):
    """The weight is averaged over each epoch's 13 steps; what is validated is never weighted."""
    run = start_run("vae-annealed", "digits", folder, settings=small_of("vae-annealed", epochs=3, kl_warmup=2))
    rows = run.train(resume=False, progress=False).history
    assert [row["kl_weight"] for row in rows] == pytest.approx([12 / 52, 38 / 52, 1.0])
    for row in rows:
        assert row["valid_loss"] == pytest.approx(row["valid_reconstruction"] + row["valid_kl"])
        assert row["elbo"] < -20


def test_training_is_not_cut_short_before_a_schedule_has_ended(small_of, folder):
    settings = small_of("vae-annealed", epochs=3, kl_warmup=3)
    with refuses(ValueError, "kl_warmup", "got 3 with epochs=2", "Train for longer"):
        start_run("vae-annealed", "digits", folder, settings={**settings, "epochs": 2})
    assert not folder.exists()
    run = start_run("vae-annealed", "digits", folder, settings=settings)
    crash_after(run, 15)
    with refuses(ValueError, "kl_warmup", "got 3 with epochs=2"):
        open_run(folder, settings={"epochs": 2})
    assert open_run(folder).train(resume=True, progress=False).epochs == 3
    short = open_run(folder)
    with refuses(ValueError, "until every schedule has reached its end"):
        fit(short.trainer, short.system.batches, epochs=2, progress=False)


def test_seeds_make_runs_equal_and_different(small, tmp_path):
    def parameters(name: str, seed: int) -> torch.Tensor:
        run = start_run("vae", "digits", tmp_path / name, seed=seed, settings=small)
        run.train(resume=False, progress=False)
        return next(run.system.guide.parameters())

    assert torch.equal(parameters("a", 0), parameters("b", 0))
    assert not torch.equal(parameters("c", 1), parameters("d", 2))


def test_a_run_can_be_made_longer(small, folder):
    start_run("vae", "digits", folder, settings=small).train(resume=False, progress=False)
    longer = open_run(folder, settings={"epochs": 3, "patience": "2"})
    assert longer.train(resume=True, progress=False).epochs == 3
    assert open_run(folder).recipe.epochs == 3
    with refuses(ValueError, "at least the 3 done; got 2"):
        open_run(folder, settings={"epochs": 2})
    assert open_run(folder).recipe.epochs == 3


def test_a_run_with_patience_is_evaluated_at_its_best(small, folder):
    run = start_run("vae", "digits", folder, settings={**small, "epochs": 3, "patience": 1})
    run.train(resume=False, progress=False)
    again = open_run(folder)
    again.load_trained()
    assert_equal(again.trainer.state_dict()["modules"], load_checkpoint(folder / "best.ckpt")["trainer"]["modules"])
    assert_equal(again.trainer.state_dict()["modules"], run.trainer.state_dict()["modules"])


def test_a_run_that_never_took_a_step_can_be_resumed_from_the_beginning(small, folder):
    start_run("vae", "digits", folder, settings=small)
    run = open_run(folder)
    assert run.history() == []
    assert run.train(resume=True, progress=False).epochs == 1


def test_starting_a_run_does_not_move_the_noise(small, tmp_path):
    """What is tried before the folder is made leaves the generator as the seed and the building have it."""
    start_run("vae", "digits", tmp_path / "new", settings=small)
    new = torch.get_rng_state()
    open_run(tmp_path / "new")
    assert torch.equal(torch.get_rng_state(), new)


# Refused


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "last.ckpt", "best.ckpt"])
def test_a_folder_that_holds_a_run_or_a_part_of_one_is_refused(name, small, folder):
    folder.mkdir()
    (folder / name).write_text("something")
    with refuses(ValueError, str(folder), name, "--resume"):
        start_run("vae", "digits", folder, settings=small)
    assert (folder / name).read_text() == "something"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "vea"}, "got 'vea'"),
        ({"data": "digts"}, "Did you mean digits"),
        ({"data": "moons"}, "likelihood=normal"),
        ({"seed": -1}, "got -1"),
        ({"seed": 2**32}, "got 4294967296"),
        ({"device": "gpu"}, "got 'gpu'"),
        ({"device": "meta"}, "got 'meta'"),
        ({"settings": {"latent_feature": 2}}, "latent_features"),
        ({"settings": {"likelihood": "discretized-logistic"}}, "256 levels"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(options, message, small, folder):
    arguments = {"recipe": "vae", "data": "digits", "settings": small, **options}
    with pytest.raises(ValueError, match=message):
        start_run(folder=folder, **arguments)
    assert not folder.exists()


def test_a_place_that_cannot_be_written_to_is_refused(small, tmp_path):
    (tmp_path / "file").write_text("")
    with refuses(ValueError, "got", str(tmp_path / "file" / "run"), "--out"):
        start_run("vae", "digits", tmp_path / "file" / "run", settings=small)


def test_a_disk_that_is_full_is_refused_at_the_start_and_at_a_checkpoint(small, folder, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with refuses(ValueError, "No space left"):
            start_run("vae", "digits", folder, settings=small)
    run = start_run("vae", "digits", folder, settings=small)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left"):
            run.train(resume=False, progress=False)
    assert run.trainer.num_steps == 0
    assert open_run(folder).train(resume=True, progress=False).epochs == 1  # once there is space again


def test_settings_that_are_built_in_cannot_change(trained):
    before = (trained.folder / "config.json").read_bytes()
    with refuses(ValueError, "['latent_features', 'learning_rate']"):
        open_run(trained.folder, settings={"latent_features": 3, "learning_rate": 0.1, "epochs": 9})
    assert (trained.folder / "config.json").read_bytes() == before


def edited(trained: Run, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A folder with the run's config, changed."""
    folder.mkdir()
    config = json.loads((trained.folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(config)))
    return folder


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda config: {**config, "data_digest": "0" * 64}, ("000000000000", "65e5b4619795")),
        (lambda config: {**config, "recipe": "vea"}, ("got 'vea'",)),
        (lambda config: {**config, "data": "digts"}, ("got 'digts'",)),
        (lambda config: {**config, "extra": 1}, ("damaged", "extra")),
        (lambda config: {"recipe": "vae"}, ("damaged", "missing")),
        (lambda config: [1, 2], ("damaged",)),
        (lambda config: "vae", ("damaged",)),
        (lambda config: {**config, "settings": {"latents": 3}}, ("got 'latents'",)),
        (lambda config: {**config, "settings": {"epochs": "a"}}, ("'epochs'",)),
        (lambda config: {**config, "settings": None}, ("damaged", "settings")),
        (lambda config: {**config, "recipe": 3}, ("damaged", "recipe")),
        (lambda config: {**config, "seed": "0"}, ("damaged", "seed")),
    ],
)
def test_a_config_that_is_not_as_it_was_written_is_refused(change, parts, trained, folder):
    with refuses(ValueError, *parts):
        open_run(edited(trained, folder, change))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b'{"recipe": "vae"'])
def test_a_config_that_is_no_json_is_refused(content, folder):
    folder.mkdir()
    (folder / "config.json").write_bytes(content)
    with refuses(ValueError, "damaged file", str(folder)):
        open_run(folder)


def test_folders_without_a_run_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with refuses(ValueError, "config.json", str(place)):
            open_run(place)


def test_data_that_have_changed_are_refused(trained, monkeypatch):
    original = datasets.load("digits")
    changed = Dataset(**{**vars(original), "digest": "f" * 64})
    monkeypatch.setattr(datasets, "load", lambda name: changed)
    with refuses(ValueError, "ffffffffffff", "Put the old files back"):
        open_run(trained.folder)


def test_a_run_is_evaluated_once_it_is_trained(small, folder):
    start_run("vae", "digits", folder, settings=small)
    with pytest.raises(CheckpointError, match=f"no trained parameters yet. Train it: .* --resume {folder}"):
        open_run(folder).load_trained()
    crash_after(open_run(folder), 0)
    assert (folder / "last.ckpt").exists()
    with pytest.raises(CheckpointError, match="no trained parameters yet"):
        open_run(folder).load_trained()


def test_the_checkpoint_of_another_architecture_is_refused(trained, small, folder):
    other = start_run("vae", "digits", folder, settings={**small, "latent_features": 3})
    (folder / "last.ckpt").write_bytes((trained.folder / "last.ckpt").read_bytes())
    before = [parameter.clone() for parameter in other.system.model.parameters()]
    for use in (other.load_trained, lambda: other.train(resume=True, progress=False)):
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            use()
    assert all(torch.equal(*pair) for pair in zip(before, other.system.model.parameters(), strict=True))


def test_a_damaged_checkpoint_is_refused(trained, small, folder):
    run = start_run("vae", "digits", folder, settings=small)
    content = bytearray((trained.folder / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "last.ckpt").write_bytes(bytes(content))
    for use in (run.load_trained, run.history, lambda: run.train(resume=True, progress=False)):
        with pytest.raises(CheckpointError, match="damaged"):
            use()
