"""What the package shows to the outside: everything is named and explained, and importing it changes nothing."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyro_dgm

ROOT = Path(pyro_dgm.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if path.stat().st_size)
MODULES = [path for path in FILES if path not in (ROOT / "__init__.py", ROOT / "__main__.py")]
PACKAGES = sorted(info.name for info in pkgutil.iter_modules(pyro_dgm.__path__, "pyro_dgm.") if info.ispkg)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public_definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public classes and functions of a module, and the public methods of those classes."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}{child.name}.")


def declared_names(tree: ast.Module) -> list[str] | None:
    """The value of ``__all__``, or None."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_modules_and_public_definitions_have_docstrings(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree)
    assert [name for name, node in public_definitions(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_modules_declare_what_is_theirs(path):
    names = declared_names(tree_of(path))
    assert names is not None, "no __all__"
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists_and_has_a_docstring(package):
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert not name.startswith("_")
        assert getattr(module, name).__doc__, f"{package}.{name} has no docstring"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_only_re_exports(package):
    body = tree_of(ROOT / package.split(".")[1] / "__init__.py").body
    assert {type(node) for node in body} <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign}


def test_importing_sets_no_seed_and_changes_no_global_flag():
    code = f"""
import importlib, random, signal, warnings
import numpy, pyro, torch

def state():
    return (
        torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist(),
        pyro.settings.get(), torch.distributions.Distribution._validate_args, list(pyro.get_param_store()),
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.backends.cudnn.benchmark, torch.multiprocessing.get_sharing_strategy(),
        numpy.geterr(), list(warnings.filters), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM),
    )

before = state()
for package in ["pyro_dgm", *{PACKAGES!r}]:
    importlib.import_module(package)
    assert state() == before, package
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
