"""Imports point down the layers of DESIGN.md, and importing the package stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyro_dgm

ROOT = Path(pyro_dgm.__file__).parent

# From the bottom up; what stands on one line never imports each other.
LAYERS = (
    {"files"},  # writing a file whole or not at all: a module beside the packages, which imports none of them
    {"nn", "datasets"},
    {"distributions"},
    {"infer"},
    {"models", "guides", "adversarial"},
    {"evaluation"},
    {"training", "plotting"},
    {"recipes"},
    {"__main__"},
)

# Where Pyro's effect handlers are used: in infer, which runs programs, and in one file below it.
POUTINE = {
    "infer": "running programs against each other is its whole purpose",
    "nn/local.py": "a module announces its own parameters to whatever handler listens, below any program",
}

HEAVY = {"arviz", "lightning_fabric", "matplotlib", "sklearn", "tensorboard"}
LIGHT_PACKAGES = (
    "nn",
    "distributions",
    "infer",
    "models",
    "guides",
    "adversarial",
    "datasets",
    "evaluation",
    "training",
)


def imports_of(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, at any depth, relative imports resolved."""
    package = [root.name, *path.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def part_of(path: Path, root: Path) -> str:
    """The package, or the module at the root, that a file belongs to."""
    relative = path.relative_to(root)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def level_of(part: str) -> int | None:
    return next((level for level, parts in enumerate(LAYERS) if part in parts), None)


def violations(root: Path) -> list[str]:
    """Every import under ``root`` that does not point down."""
    found = []
    for path in sorted(root.rglob("*.py")):
        part, where = part_of(path, root), path.relative_to(root)
        for line, name in imports_of(path, root):
            if name.split(".")[0] != root.name:
                continue
            target = [*name.split("."), ""][1]
            if part == "__init__":
                found.append(f"{where}:{line} imports {name}, but the root imports nothing")
            elif target != part and not _points_down(part, target):
                found.append(f"{where}:{line} imports {name}, which is not below {part}")
    return found


def _points_down(part: str, target: str) -> bool:
    if target == "__version__":
        return True
    above, below = level_of(part), level_of(target)
    return above is not None and below is not None and below < above


def uses_of_poutine(root: Path) -> set[str]:
    """The files that import ``pyro.poutine`` or reach it through ``pyro``."""
    files = set()
    for path in root.rglob("*.py"):
        imported = any(f"{name}.".startswith("pyro.poutine.") for _, name in imports_of(path, root))
        reached = any(
            isinstance(node, ast.Attribute)
            and node.attr == "poutine"
            and isinstance(node.value, ast.Name)
            and node.value.id == "pyro"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
        if imported or reached:
            files.add(path.relative_to(root).as_posix())
    return files


def test_every_part_has_its_place_in_the_order():
    parts = {part_of(path, ROOT) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert {part for part in parts if level_of(part) is None} == set()


def test_imports_point_down():
    assert violations(ROOT) == []


def test_poutine_is_in_one_place():
    files = uses_of_poutine(ROOT)
    assert {file for file in files if file not in POUTINE and file.split("/")[0] not in POUTINE} == set()


@pytest.mark.parametrize(
    ("file", "code", "names"),
    [
        ("nn/a.py", "from pyro_dgm.infer import ELBO", "pyro_dgm.infer.ELBO"),
        ("nn/a.py", "def f():\n    import pyro_dgm.datasets.toys", "pyro_dgm.datasets.toys"),
        ("nn/a.py", "from ..datasets import toys", "pyro_dgm.datasets.toys"),
        ("nn/deep/a.py", "from ... import datasets", "pyro_dgm.datasets"),
        ("models/a.py", "from pyro_dgm import guides", "pyro_dgm.guides"),
        ("guides/a.py", "if True:\n    from pyro_dgm.models import M", "pyro_dgm.models.M"),
        ("training/a.py", "import pyro_dgm.plotting", "pyro_dgm.plotting"),
        ("infer/a.py", "import os, pyro_dgm.recipes", "pyro_dgm.recipes"),
        ("infer/a.py", "import pyro_dgm.unheard_of", "pyro_dgm.unheard_of"),
        ("unheard_of/a.py", "import pyro_dgm.nn", "pyro_dgm.nn"),
        ("__init__.py", "from pyro_dgm import nn", "pyro_dgm.nn"),
    ],
)
def test_the_checker_catches_an_import_that_does_not_point_down(tmp_path, file, code, names):
    root = write(tmp_path, file, code)
    (found,) = violations(root)
    assert found.startswith(file)
    assert f"imports {names}" in found


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("models/a.py", "from pyro_dgm.infer import ELBO\nfrom pyro_dgm import nn, __version__"),
        ("models/a.py", "from pyro_dgm.models import b\nfrom . import b\nfrom .b import c"),
        ("__main__.py", "import pyro_dgm.recipes, pyro_dgm.nn, pyro"),
    ],
)
def test_the_checker_lets_an_import_that_points_down_pass(tmp_path, file, code):
    assert violations(write(tmp_path, file, code)) == []


@pytest.mark.parametrize(
    "code",
    ["from pyro import poutine", "import pyro.poutine as p", "from pyro.poutine.util import x", "pyro.poutine"],
)
def test_the_checker_catches_poutine(tmp_path, code):
    assert uses_of_poutine(write(tmp_path, "models/a.py", f"import pyro\n{code}")) == {"models/a.py"}
    assert uses_of_poutine(write(tmp_path, "models/a.py", "from pyro import plate, poutines")) == set()


def write(folder: Path, file: str, code: str) -> Path:
    path = folder / "pyro_dgm" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    return folder / "pyro_dgm"


def test_importing_loads_nothing_heavy():
    code = "import sys\nimport pyro_dgm\n"
    code += "".join(f"import pyro_dgm.{package}\n" for package in LIGHT_PACKAGES)
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "torch" in loaded
    assert loaded & HEAVY == set()
