"""The benchmarks run, in a small setting, and take up where they stopped."""

import json

import pytest

from benchmarks import gradients, published, reference_vae
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
