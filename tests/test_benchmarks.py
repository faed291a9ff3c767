"""The benchmarks run, in a small setting, and take up where they stopped."""

import json

import pytest

from benchmarks import gradients, reference_vae


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


@pytest.mark.slow
def test_the_gradient_table_has_a_row_for_every_bound_and_estimator(tmp_path, capsys):
    gradients.main(["--num-steps", "2", "--num-reference-steps", "2", "--results", str(tmp_path)])
    table = (tmp_path / "gradients.md").read_text()
    assert table.count("| `loo` |") == 2 * len(gradients.BOUNDS)
    assert table.count("| `dreg` |") == len(gradients.BOUNDS)
    assert "| ELBO | `score` |" in capsys.readouterr().out
