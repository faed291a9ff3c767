"""Every tutorial runs from top to bottom, in a small setting, as a reader would run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
# The small setting of each tutorial, and what it must have written; one without an entry fails the test below.
RUNS = {
    "01_vae.py": (
        {"EPOCHS": "2"},
        [
            "training.png",
            "samples.png",
            "reconstructions.png",
            "latent_space.png",
            "interpolations.png",
            "posterior.nc",
        ],
    ),
    "02_objectives.py": ({"EPOCHS": "1", "STEPS": "3"}, ["bounds.png"]),
    "03_discrete_latents.py": ({"STEPS": "3", "AUDITS": "3"}, ["audits.png", "learning.png", "causes.png"]),
    "04_wake_sleep.py": ({"EPOCHS": "1", "STEPS": "3"}, ["dreams.png", "directions.png"]),
    "05_flow_guides.py": ({"EPOCHS": "1", "STEPS": "3"}, ["horseshoes.png", "digits.png"]),
    "06_priors.py": ({"EPOCHS": "1"}, ["latents.png", "samples.png", "pseudo_inputs.png"]),
    "07_implicit_models.py": ({"STEPS": "10"}, ["games.png"]),
    "08_one_view.py": ({"STEPS": "5"}, ["draws.png"]),
    "09_likelihood_free.py": ({"STEPS": "10", "DRAWS": "10"}, ["g_and_k.png"]),
    "10_fast_svi.py": ({"EPOCHS": "2", "STEPS": "30", "BACKEND": "graph"}, ["seconds.png"]),
}


def test_every_tutorial_has_a_run():
    assert {path.name for path in TUTORIALS.glob("*.py")} == set(RUNS)


def test_every_tutorial_is_short_enough_to_read():
    for name in RUNS:
        assert len((TUTORIALS / name).read_text().splitlines()) < 200, name


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_tutorial_runs_and_writes_what_it_promises(name, tmp_path):
    settings, files = RUNS[name]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(TUTORIALS / name)],
        env={**os.environ, **settings, "OUT": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for file in files:
        assert (tmp_path / file).stat().st_size > 1000, file
