"""The command line: what it prints, what it writes, and how it says no."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_dgm import datasets
from pyro_dgm.__main__ import main
from pyro_dgm.infer import SVI, NonFiniteError
from pyro_dgm.recipes import RECIPES, open_run
from pyro_dgm.training import load_checkpoint

QUICK = ["--set", "latent_features=2", "--set", "hidden_features=(8,)", "--epochs", "1", "--quiet"]
QUICKEST = [*QUICK, "--no-evaluation"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]):
    """Runs a command that must fail, and checks its status and that its one line of complaint has some parts."""

    def check(status: int, words: list[str], *parts: str) -> None:
        try:
            found = main(words)
        except SystemExit as stop:  # argparse
            found = stop.code
        streams = capsys.readouterr()
        assert found == status, streams.err
        complaint = streams.err.strip().splitlines()[-1]
        for part in parts:
            assert part in complaint, f"{part!r} is not in: {complaint}"
        assert "Traceback" not in streams.err
        assert "Trace Shapes" not in streams.err

    return check


def test_list_names_recipes_and_data(capsys):
    assert main(["list"]) == 0
    words = capsys.readouterr().out.split()
    assert set(RECIPES) <= set(words)
    assert set(datasets.NAMES) <= set(words)


def test_a_run_from_fit_to_sample(capsys):
    """fit, resume, evaluate and sample, each printing what it found and nothing else."""
    assert main(["fit", "vae", "--seed", "3", "--num-particles", "30", *QUICK]) == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    lines = streams.out.splitlines()
    folder = Path("runs/vae-digits-seed3")
    assert lines[0].startswith("vae on Dataset('digits'")
    assert lines[1] == str(folder)
    assert lines[2].startswith("test ELBO (K = 10)")
    assert lines[6].startswith("test log p(x) (K = 30)")
    assert all(Path(line.split()[-1]).exists() for line in lines[7:])
    assert json.loads((folder / "config.json").read_text())["settings"]["hidden_features"] == [8]

    assert main(["evaluate", str(folder), "--num-particles", "30", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[2:]

    assert main(["evaluate", str(folder), "--split", "valid", "--num-particles", "5", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("valid ELBO")

    assert main(["fit", "--resume", str(folder), "--epochs", "2", "--no-evaluation", "--quiet"]) == 0
    assert [row["epoch"] for row in open_run(folder).history()] == [1, 2]
    capsys.readouterr()

    assert main(["sample", str(folder), "--num", "5"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "samples.png")
    assert main(["sample", str(folder), "--out", "mine.png", "--device", "cpu"]) == 0
    assert Path("mine.png").stat().st_size > 1000


def test_progress_goes_to_the_other_stream(capsys):
    words = [word for word in QUICKEST if word != "--quiet"]
    assert main(["fit", "vae", "--out", "run", *words]) == 0
    streams = capsys.readouterr()
    assert "epoch 1" in streams.err
    assert len(streams.out.splitlines()) == 2


def test_tensorboard_files_are_written_when_asked_for():
    pytest.importorskip("tensorboard")
    assert main(["fit", "vae", "--out", "run", "--tensorboard", *QUICKEST]) == 0
    assert any(Path("run/tensorboard").iterdir())


def test_the_module_is_a_program(tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyro_dgm", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    fitted = run("fit", "vae", "--out", "run", *QUICKEST)
    assert (fitted.returncode, fitted.stderr) == (0, "")
    assert "run" in fitted.stdout
    refused = run("fit", "vae", "--out", "run", *QUICKEST)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: a new run needs a folder of its own")
    assert len(refused.stderr.splitlines()) == 1


# What is refused


def test_commands_and_choices_that_are_mistyped_name_the_nearest(says):
    says(2, [], "COMMAND")
    says(2, ["fti"], "'fti'", "Did you mean fit?")
    says(2, ["evalute", "run"], "Did you mean evaluate?")
    says(2, ["frobnicate"], "'frobnicate'", "sample")
    says(2, ["evaluate", "run", "--split", "tset"], "Did you mean test?")
    says(2, ["fit", "vae", "--epoches", "3"], "--epoches")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["vea"], ("'vea'", "Did you mean vae")),
        (["vae", "--data", "digts"], ("'digts'", "Did you mean digits")),
        (["vae", "--set", "latent_feature=3"], ("'latent_feature'", "Did you mean latent_features")),
        (["vae", "--set", "latent_features"], ("key=value", "'latent_features'")),
        (["vae", "--set", "learning_rate=-0.1"], ("learning_rate must be positive", "-0.1")),
        (["vae", "--set", "learning_rate=nan"], ("'learning_rate'", "'nan'")),
        (["vae", "--set", "learning_rate=1e999"], ("learning_rate must be positive", "inf")),
        (["vae", "--set", "num_particles=0"], ("num_particles must be at least 1", "0")),
        (["vae", "--set", "num_particles=2.5"], ("'num_particles'", "2.5")),
        (["vae", "--set", "patience=soon"], ("'patience'", "soon")),
        (["vae", "--epochs", "0"], ("epochs must be at least 1",)),
        (["vae", "--epochs", "two"], ("--epochs", "'two'")),
        (["vae", "--num-particles", "0"], ("--num-particles", "'0'")),
        (["vae", "--num-particles", "2.5"], ("--num-particles", "'2.5'")),
        (["vae", "--num-particles", "-3"], ("--num-particles", "'-3'")),
        (["vae", "--seed", "-1"], ("seed must lie", "-1")),
        (["vae", "--seed", "99999999999"], ("seed must lie", "99999999999")),
        (["vae", "--device", "gpu"], ("device must be", "'gpu'")),
        (["vae", "--data", "moons"], ("'moons'", "--set likelihood=normal")),
        (["cvae", "--data", "ppca", "--set", "likelihood=normal"], ("class labels", "'ppca'")),
        (["vae-conv", "--data", "ppca", "--set", "likelihood=normal"], ("--set network=mlp",)),
        (["vae-conv", "--set", "hidden_features=()"], ("hidden_features=()",)),
        (["vae", "--set", "likelihood=discretized-logistic"], ("256 levels",)),
        (["mixture-em"], ("'digits'", "--data ring")),
        (["vae-annealed", "--epochs", "5"], ("got 10 with epochs=5", "--set kl_warmup=5")),
        (["categorical-vae-gumbel", "--epochs", "5"], ("got 20 with epochs=5", "--set temperature_epochs=5")),
        ([], ("fit needs a recipe", "vae-conv")),
    ],
)
def test_bad_input_to_fit_is_refused_before_anything_is_written(words, parts, says):
    says(2, ["fit", "--out", "run", *words], *parts)
    assert not Path("run").exists()


def test_resuming_what_is_not_there_or_does_not_fit_is_refused(says):
    assert main(["fit", "vae", "--out", "run", *QUICKEST]) == 0
    config = Path("run/config.json").read_bytes()
    says(2, ["fit", "--resume", "none"], "config.json", "none")
    says(2, ["fit", "vae", "--resume", "run"], "recipe as well")
    says(2, ["fit", "--resume", "run", "--data", "mnist", "--seed", "1", "--out", "b"], "data and seed and out as well")
    says(2, ["fit", "--resume", "run", "--set", "latent_features=3"], "['latent_features']")
    says(2, ["fit", "--resume", "run", "--set", "lr=1"], "'lr'")
    says(2, ["fit", "--resume", "run", "--epochs", "0"], "epochs must be at least 1")
    assert Path("run/config.json").read_bytes() == config
    Path("run/last.ckpt").write_bytes(b"not a checkpoint")
    says(2, ["fit", "--resume", "run"], "last.ckpt", "foreign")


def test_evaluating_what_is_not_there_is_refused(says):
    Path("empty").mkdir()
    for words in (["evaluate", "none"], ["evaluate", "empty"], ["sample", "none"]):
        says(2, words, "config.json")
    says(2, ["evaluate", "empty", "--num-particles", "0"], "'0'")
    says(2, ["sample", "empty", "--num", "0"], "--num", "'0'")
    says(2, ["sample", "empty", "--num", "a few"], "--num", "'a few'")


def test_evaluating_before_training_is_refused_with_the_command_to_train(says):
    assert main(["fit", "vae", "--out", "run", *QUICKEST]) == 0
    Path("run/last.ckpt").unlink()
    for command in ("evaluate", "sample"):
        says(2, [command, "run"], "no trained parameters", "fit --resume run")


def test_pictures_go_only_where_they_can(says):
    assert main(["fit", "vae", "--out", "run", *QUICKEST]) == 0
    says(2, ["sample", "run", "--out", "samples.jpg"], ".png")
    Path("file").write_text("")
    says(2, ["sample", "run", "--out", "file/samples.png"], "file")


def test_a_folder_that_cannot_be_made_is_refused(says):
    Path("file").write_text("")
    says(2, ["fit", "vae", "--out", "file", *QUICKEST], "folder", "file")
    says(2, ["fit", "vae", "--out", "file/run", *QUICKEST], "folder", "file/run")


def test_a_full_disk_is_reported_and_the_run_can_go_on(says, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    step = SVI.step
    with monkeypatch.context() as patch:

        def filling(self: SVI, *args: object) -> float:
            patch.setattr(os, "fsync", full)
            return step(self, *args)

        patch.setattr(SVI, "step", filling)
        says(2, ["fit", "vae", "--out", "run", *QUICKEST], "No space left", "untouched")
    assert main(["fit", "--resume", "run", "--no-evaluation", "--quiet"]) == 0


def test_training_that_fails_has_a_status_of_its_own(says, monkeypatch):
    def diverging(self: SVI, *args: object) -> float:
        raise NonFiniteError("loss and gradient must be finite; got nan at step 1. Lower the learning rate.")

    monkeypatch.setattr(SVI, "step", diverging)
    says(1, ["fit", "vae", "--out", "run", *QUICKEST], "error: loss and gradient must be finite; got nan at step 1")


# Ctrl-C


def test_ctrl_c_in_training_says_how_to_go_on(says, monkeypatch):
    step = SVI.step

    def pressed(self: SVI, *args: object) -> float:
        if self.num_steps == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SVI, "step", pressed)
        says(130, ["fit", "vae", "--out", "run", *QUICK], "go on with: python -m pyro_dgm fit --resume run")
    assert load_checkpoint("run/last.ckpt")["step"] == 5
    assert main(["evaluate", "run", "--num-particles", "2", "--quiet"]) == 0
    assert not Path("run/training.png").exists()  # no epoch is complete
    assert main(["fit", "--resume", "run", "--no-evaluation", "--quiet"]) == 0
    assert main(["fit", "vae", "--out", "straight", *QUICKEST]) == 0
    ends = [load_checkpoint(f"{name}/last.ckpt")["trainer"]["modules"]["guide"] for name in ("run", "straight")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


def test_ctrl_c_elsewhere_ends_quietly(monkeypatch):
    def pressed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    assert main(["fit", "vae", "--out", "run", *QUICKEST]) == 0
    monkeypatch.setattr("pyro_dgm.__main__.evaluate", pressed)
    assert main(["evaluate", "run"]) == 130
