"""What holds for every picture: files are whole, and Matplotlib's global state is left alone."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import matplotlib.image
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from pyro_dgm.plotting import (
    image_grid,
    interpolations,
    latent_space,
    manifold,
    reconstructions,
    save_figure,
    training_curves,
)

PICTURES: dict[str, Callable[[], Figure]] = {
    "image_grid": lambda: image_grid(torch.rand(3, 4, 4), title="samples"),
    "interpolations": lambda: interpolations(torch.rand(2, 3, 1, 4, 4)),
    "latent_space": lambda: latent_space(torch.randn(30, 3), torch.arange(30) % 3),
    "manifold": lambda: manifold(torch.rand(9, 4, 4)),
    "reconstructions": lambda: reconstructions(torch.rand(3, 4, 4), torch.rand(3, 4, 4)),
    "training_curves": lambda: training_curves([{"epoch": n, "loss": 1.0, "valid_loss": 2.0} for n in range(3)]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_can_be_saved_with_all_its_text_inside(name: str, tmp_path: Path) -> None:
    figure = PICTURES[name]()
    path = save_figure(figure, tmp_path / f"{name}.png", dpi=50)
    height, width = matplotlib.image.imread(path).shape[:2]
    assert (width, height) == tuple(int(inches * 50) for inches in figure.get_size_inches())
    box = figure.get_tightbbox()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 < figure.get_size_inches()[0] + 0.02
    assert box.y1 < figure.get_size_inches()[1] + 0.02


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_leaves_the_global_style_alone_and_is_unknown_to_pyplot(name: str) -> None:
    before = dict(matplotlib.rcParams)
    PICTURES[name]()
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_plotting_imports_neither_pyplot_nor_arviz_nor_scikit_learn() -> None:
    code = (
        "import sys, pyro_dgm.plotting; "
        "sys.exit(bool({'matplotlib.pyplot', 'arviz', 'sklearn', 'pyro_dgm.training'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "samples.png"
    save_figure(image_grid(torch.rand(3, 4, 4)), path)
    old = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_figure(image_grid(torch.rand(4, 4, 4)), path)
    assert path.read_bytes() == old
    save_figure(image_grid(torch.rand(4, 4, 4)), path)
    assert path.read_bytes() != old
    assert [file.name for file in tmp_path.iterdir()] == ["samples.png"]


def test_only_png_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png; got .*samples\.pdf.*Use .*samples\.png"):
        save_figure(image_grid(torch.rand(3, 4, 4)), tmp_path / "samples.pdf")
