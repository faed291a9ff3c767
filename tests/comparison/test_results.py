"""The table of the README is that of the committed results."""

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_every_number_of_the_readmes_table_is_in_the_committed_tables():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Methods compared")[2].partition("\n## ")[0]
    numbers = [
        number
        for line in section.splitlines()
        if line.startswith("|")
        for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-\d+)? ± \d[\d.e-]*", line)
    ]
    committed = (RESULTS / "comparison.md").read_text(encoding="utf-8")
    assert len(numbers) > 20
    assert [number for number in numbers if number not in committed] == []


def test_every_committed_cell_is_done_or_says_why_not():
    with (RESULTS / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(row["status"] == "done" or row["reason"] for row in rows)
    assert all(row["protocol_torch"] and row["protocol_threads"] for row in rows)
