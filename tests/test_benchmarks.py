"""The benchmarks run, in a small setting, and take up where they stopped."""

import json
import math

import pytest
import torch

from benchmarks import game_step, gradients, image_games, modes, posteriors, potentials, published, reference_vae
from pyro_dgm.infer.estimators import ESTIMATORS


@pytest.mark.slow
def test_the_reference_vae_writes_a_row_per_seed_and_number_of_epochs_and_does_none_twice(tmp_path, capsys):
    def run(*epochs):
        arguments = ["--data", "digits", "--seeds", "0", "--num-particles", "5", "--epochs", *epochs]
        reference_vae.main([*arguments, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
        return json.loads((tmp_path / "reference_vae.json").read_text())["rows"]

    first = run("1")
    rows = run("1", "2")
    assert [row["epochs"] for row in rows] == [1, 2]
    assert rows[0] == first[0]  # its seconds, too: nothing was done again
    assert rows[1]["elbo"]["mean"] > rows[0]["elbo"]["mean"]
    assert rows[0]["log_evidence"]["5"]["standard_error"] > 0
    assert "| 2 | 0 |" in (tmp_path / "reference_vae.md").read_text()
    assert "Reference VAE" in capsys.readouterr().out


@pytest.fixture
def small_matrix(monkeypatch):
    """Two bounds of the eleven, two kinds of latents of the four."""
    for name, kept in (("BOUNDS", ("ELBO", "VR-max")), ("KINDS", ("Bits", "Normal latents"))):
        monkeypatch.setattr(gradients, name, {key: getattr(gradients, name)[key] for key in kept})


@pytest.mark.slow
def test_every_cell_of_the_gradient_table_is_exact_biased_or_refused(tmp_path, capsys, monkeypatch, small_matrix):
    monkeypatch.setattr(gradients, "LIMIT", float("inf"))  # two steps say nothing of a bias
    steps = ["--num-steps", "2", "--num-reference-steps", "2", "--num-tuning-steps", "2"]
    gradients.main([*steps, "--results", str(tmp_path)])
    rows = json.loads((tmp_path / "gradients.json").read_text())["rows"]
    assert len(rows) == 2 * 2 * len(ESTIMATORS)
    labels = {(row["kind"], row["bound"], row["estimator"]): row["is"] for row in rows}
    assert labels["Bits", "ELBO", "rebar"] == labels["Normal latents", "ELBO", "stl"] == "exact"
    assert labels["Bits", "ELBO", "gumbel"] == labels["Normal latents", "VR-max", "stl"] == "biased"
    assert labels["Bits", "ELBO", "reparam"] == labels["Normal latents", "VR-max", "dreg"] == "refused"
    refused = next(row for row in rows if row["is"] == "refused")
    assert "; got" in refused["why"]
    table = (tmp_path / "gradients.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("| VR-max |") == 2
    assert (tmp_path / "gradients.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_bias_that_nobody_knew_of_ends_the_command(tmp_path, monkeypatch, small_matrix):
    """``gumbel`` at 400 steps, not on the list of the biased; seed 0, 5 standard errors."""
    monkeypatch.setattr(gradients, "KNOWN_BIASED", set())
    monkeypatch.setattr(gradients, "ESTIMATORS", ("gumbel",))
    monkeypatch.setattr(gradients, "BOUNDS", {"ELBO": gradients.BOUNDS["ELBO"]})
    with pytest.raises(SystemExit, match="Bits, ELBO, gumbel"):
        gradients.main(["--num-steps", "400", "--num-tuning-steps", "2", "--results", str(tmp_path)])


@pytest.mark.slow
def test_published_results_are_compared_in_pairs_and_nothing_is_done_twice(tmp_path, capsys):
    def run():
        arguments = ["--systems", "sbn-vimco", "sbn-rws", "iwae-K1", "--data", "digits", "--epochs", "1"]
        arguments += ["--seeds", "0", "1", "--num-particles", "5", "--every", "20"]
        published.main([*arguments, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
        return json.loads((tmp_path / "published.json").read_text())

    found = run()
    assert run() == found  # the seconds, too
    assert [row["system"] for row in found["rows"]] == ["iwae-K1"] * 2 + ["sbn-vimco"] * 2 + ["sbn-rws"] * 2
    means = {(row["system"], row["seed"]): row["log_evidence"]["5"]["mean"] for row in found["rows"]}
    for pair in found["pairs"]:
        difference = means[pair["first"], pair["seed"]] - means[pair["second"], pair["seed"]]
        assert pair["mean"] == pytest.approx(difference, abs=1e-4)
    assert len(found["pairs"]) == 2  # within a group only
    text = (tmp_path / "published.md").read_text()
    assert "not compared" in text  # on other data than the published number's
    assert text in capsys.readouterr().out
    assert (tmp_path / "published.png").stat().st_size > 1000


@pytest.mark.slow
def test_posteriors_are_compared_image_by_image_and_nothing_is_done_twice(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(posteriors.SETTINGS, "compile", False)

    def run():
        arguments = ["--systems", "diagonal", "IAF (4)", "--data", "digits", "--epochs", "1", "--seeds", "0", "1"]
        arguments += ["--particles", "5", "--every", "20", "--gap-images", "1"]
        posteriors.main([*arguments, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
        return json.loads((tmp_path / "posteriors.json").read_text())

    found = run()
    assert run() == found  # the seconds, too
    assert [row["system"] for row in found["rows"]] == ["diagonal", "IAF (4)"] * 2
    for base, row in (found["rows"][:2], found["rows"][2:]):
        assert row["differences"]["elbo"]["mean"] == pytest.approx(row["elbo"]["mean"] - base["elbo"]["mean"], abs=1e-4)
        assert base["differences"]["elbo"] == {"mean": 0.0, "standard_error": 0.0}
    assert ["gaps" in row for row in found["rows"]] == [True, True, False, False]
    assert (tmp_path / "posteriors.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "posteriors.png").stat().st_size > 1000


def test_the_potentials_are_the_papers_and_have_a_normaliser():
    """U1 and U4 at points where they are easy; log Z of a normal in their place, by the same rule."""
    z = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    moons = potentials.POTENTIALS["1"](z)
    expected = [-math.log1p(math.exp(-0.5 * (4 / 0.6) ** 2)), 12.5 + 0.5 * (2 / 0.6) ** 2 - math.log(2)]
    assert moons.tolist() == pytest.approx(expected, abs=1e-5)
    fork = -math.log(1 + math.exp(-0.5 * (3 / (1 + math.exp(1 / 0.3)) / 0.35) ** 2))
    assert potentials.POTENTIALS["4"](z)[1].item() == pytest.approx(fork, abs=1e-5)
    assert potentials.log_normaliser(lambda z: 0.5 * z.square().sum(-1), 600) == pytest.approx(math.log(2 * math.pi))


@pytest.mark.slow
def test_flows_are_fitted_to_potentials_and_drawn(tmp_path, capsys):
    arguments = ["--potentials", "1", "2", "--lengths", "1", "2", "--seeds", "0", "1", "--steps", "5", "--no-compile"]
    potentials.main([*arguments, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
    found = json.loads((tmp_path / "potentials.json").read_text())
    assert len(found["rows"]) == 2 * 2 * 2 * 2
    assert all(row["kl"]["mean"] > -5 * row["kl"]["standard_error"] for row in found["rows"])
    assert (tmp_path / "potentials.md").read_text() in capsys.readouterr().out
    for name in ("potentials.png", "potentials-maps.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_means_of_the_mixtures_are_those_of_their_modes():
    corners = torch.tensor([[2.0, 0.0], [math.sqrt(2), math.sqrt(2)]])
    torch.testing.assert_close(modes.modes_of("ring")[:2], corners)
    assert modes.modes_of("grid").tolist() == [[x, y] for x in range(-4, 5, 2) for y in range(-4, 5, 2)]


@pytest.mark.slow
def test_games_are_judged_beside_a_perfect_generator_and_none_is_played_twice(tmp_path, capsys):
    def run():
        arguments = ["--seeds", "0", "1", "--updates", "4", "--samples", "100", "--runs", str(tmp_path / "runs")]
        modes.main([*arguments, "--results", str(tmp_path)])
        return json.loads((tmp_path / "modes.json").read_text())

    found = run()
    assert run() == found  # the seconds, too
    assert len(found["rows"]) == 2 * 2 * len(modes.METHODS)
    assert found["perfect"]["grid"]["num_hit"] == pytest.approx(25, abs=0.5)
    for row in found["rows"]:
        assert 0 <= row["averaged"]["high_quality"] <= 1
        assert row["live"]["accuracy"] > 0.5  # after four updates
    text = (tmp_path / "modes.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("| perfect |") == 2
    for name in ("modes-ring.png", "modes-grid.png"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_the_trainers_losses_are_those_of_the_game_by_hand(tmp_path):
    """On the same noise; the non-saturating loss has the constant of the data beside what is minimised."""
    options = ["--contestants", "torch", "own", "--rounds", "2", "--steps", "8", "--results", str(tmp_path)]
    game_step.main(options)
    rows = json.loads((tmp_path / "game_step-threads-1.json").read_text())["rows"]
    assert [row["game"] for row in rows] == list(game_step.GAMES)
    for row in rows:
        by_hand, own = (row["cells"][name]["first_losses"] for name in ("torch", "own"))
        tolerance = {"rel": 1e-3, "abs": 1e-4}
        if not row["game"].endswith("gp"):  # whose points between data and draws come of other random numbers
            assert [losses[0] for losses in own] == pytest.approx([losses[0] for losses in by_hand], **tolerance)
    assert "(1.00)" in (tmp_path / "game_step-threads-1.md").read_text()


@pytest.mark.slow
def test_games_of_images_are_judged_and_not_trained_twice(tmp_path):
    def run():
        options = ["--systems", "dcgan", "--data", "digits", "--epochs", "1", "--particles", "2"]
        image_games.main([*options, "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)])
        return json.loads((tmp_path / "image-games.json").read_text())["rows"]

    first = run()
    assert [row["system"] for row in first] == ["classifier", "dcgan"]
    metrics = {number["metric"] for number in first[1]["numbers"]}
    assert {"MMD", "Fréchet distance", "precision", "coverage"} <= metrics
    assert run() == first
    assert (tmp_path / "image-games-dcgan.png").stat().st_size > 1000
    assert "| dcgan | precision |" in (tmp_path / "image-games.md").read_text()
