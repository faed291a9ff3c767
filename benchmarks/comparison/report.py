"""The report of a comparison: a long CSV, Markdown tables, pictures, and an HTML page that needs nothing else.

Reads the cells of a folder and writes ``NAME.csv``, ``NAME.md``, ``NAME.html``, and where there is something to draw
``NAME-steps.png``, ``NAME-seconds.png`` and ``NAME-ranks.png``. A file that holds no cell of this version is named in
the report and on the terminal; nothing is left out silently.

    python -m benchmarks report --runs runs/comparison --results benchmarks/results
"""

__all__ = ["main", "write_report"]

import argparse
import re
import sys
from pathlib import Path

from benchmarks.comparison.bands import AXES, Band, Broken, bands, broken
from benchmarks.comparison.html_page import page_content, page_text
from benchmarks.comparison.pictures import curves_picture, ranks_picture
from benchmarks.comparison.ranks import Ranks, average_ranks
from benchmarks.comparison.reading import Reading, read_cells
from benchmarks.comparison.summaries import COSTS, DESCRIPTIVE, Table, summarise, units_of
from benchmarks.comparison.tables import csv_text, long_rows, markdown_text, titles_of
from pyro_dgm.files import replace_atomically
from pyro_dgm.plotting import save_figure

RUNS, RESULTS = Path("runs/comparison"), Path(__file__).parents[1] / "results"


def main(argv: list[str] | None = None) -> None:
    """Reads the cells, writes the report and says where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=RUNS, help="the folder of the cells")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the report is written")
    parser.add_argument("--name", default="comparison", help="of the files that are written")
    options = parser.parse_args(argv)
    try:
        reading = read_cells(options.runs)
        paths = write_report(reading, options.results, options.name)
    except ValueError as error:
        raise SystemExit(f"report: {error}") from error
    for unread in reading.unread:
        print(f"not read: {unread.file}: {unread.reason}", file=sys.stderr)
    print(*paths, sep="\n")


def write_report(reading: Reading, folder: Path, name: str = "comparison") -> list[Path]:
    """Writes the files of a report, each whole or not at all.

    Arguments:
        reading: cells, and files that hold none.
        folder: made if need be.
        name: of the files, without an ending.

    Returns:
        Their paths.

    Raises:
        ValueError: the name is no plain name of a file.
    """
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise ValueError(f"--name is letters, digits, '-', '_' and '.'; got {name!r}. Name the folder by --results.")
    tables = summarise(reading.cells)
    ranks = [found for found in map(average_ranks, tables) if found is not None]
    texts = {
        ".csv": csv_text(long_rows(reading.cells)),
        ".md": markdown_text(reading, tables, ranks, name),
        ".html": page_text(page_content(reading, tables, ranks)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        with replace_atomically(folder / f"{name}{suffix}") as draft:
            draft.write_text(text, encoding="utf-8", newline="")
    return [*(folder / f"{name}{suffix}" for suffix in texts), *_draw(reading, tables, ranks, folder, name)]


def _draw(reading: Reading, tables: list[Table], ranks: list[Ranks], folder: Path, name: str) -> list[Path]:
    """The curves of the quality that most tasks have, and the ranks over most tasks; costs are not ranked."""
    titles = titles_of(reading.cells)
    lines, ended, paths = bands(reading.cells), broken(reading.cells), []
    drawn: list[Band | Broken] = [*lines, *ended]
    qualities = dict.fromkeys([table.metric for table in tables] + [line.metric for line in drawn])
    for axis in AXES:
        tasks = {
            metric: len({line.task for line in drawn if (line.metric, line.axis) == (metric, axis)})
            for metric in qualities
            if metric not in DESCRIPTIVE
        }
        if not any(tasks.values()):
            continue
        metric = max(tasks, key=lambda name: tasks[name])
        word = {"step": "steps", "seconds": "seconds"}[axis]
        units = {task: unit for task, (unit, _) in units_of(metric, tables).items()}
        figure = curves_picture(lines, ended, titles, units, metric, axis)
        paths.append(save_figure(figure, folder / f"{name}-{word}.png"))
    ranked = [found for found in ranks if found.metric not in COSTS]
    if ranked:
        widest = max(ranked, key=lambda found: (len(found.tasks), len(found.methods)))
        paths.append(save_figure(ranks_picture(widest, titles), folder / f"{name}-ranks.png"))
    return paths
