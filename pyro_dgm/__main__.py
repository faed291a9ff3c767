"""The command line: ``python -m pyro_dgm list | fit | evaluate | sample``."""

__all__ = ["main"]

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyro_dgm import datasets
from pyro_dgm.recipes import RECIPES, Run, evaluate, open_run, sample, start_run
from pyro_dgm.training import CheckpointError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Arguments:
        argv: the words after ``python -m pyro_dgm``; those of the process when None.

    Returns:
        The exit status: 0, 1 when training failed, 2 for bad input, 130 after Ctrl-C.
    """
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
    except (ValueError, TypeError, OSError, ImportError, CheckpointError) as err:
        return _complain(err, BAD_INPUT)
    except ArithmeticError as err:
        return _complain(err, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _complain(err: Exception, status: int) -> int:
    """Says what is wrong in a line: Pyro's errors go on with tables of shapes and values."""
    print(f"error: {(str(err).splitlines() or [type(err).__name__])[0]}", file=sys.stderr)
    return status


def _list(arguments: argparse.Namespace) -> None:
    print("recipes")
    for name, recipe in RECIPES.items():
        print(f"  {name:<22} {recipe.summary}  [{recipe.source}]")
    print("data\n  " + "  ".join(datasets.NAMES))


def _fit(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    run = _new_run(arguments, settings) if arguments.resume is None else _old_run(arguments, settings)
    print(f"{run.config.recipe} on {run.system.dataset!r}\n{run.folder}", flush=True)
    try:
        run.train(resume=arguments.resume is not None, progress=not arguments.quiet, tensorboard=arguments.tensorboard)
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: python -m pyro_dgm fit --resume {run.folder}", file=sys.stderr)
        raise
    if not arguments.no_evaluation:
        print(evaluate(run, num_particles=arguments.num_particles, progress=not arguments.quiet))


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value; got {text!r}. For instance --set latent_features=2.")
        settings[name.strip()] = value.strip()
    if arguments.epochs is not None:
        settings["epochs"] = arguments.epochs
    return settings


def _new_run(arguments: argparse.Namespace, settings: dict[str, Any]) -> Run:
    if arguments.recipe is None:
        raise ValueError(f"fit needs a recipe or --resume DIR; got neither. Recipes are {', '.join(RECIPES)}.")
    data, seed = arguments.data or "digits", arguments.seed or 0
    folder = arguments.out or Path("runs") / f"{arguments.recipe}-{data}-seed{seed}"
    return start_run(arguments.recipe, data, folder, seed=seed, settings=settings, device=arguments.device or "cpu")


def _old_run(arguments: argparse.Namespace, settings: dict[str, Any]) -> Run:
    given = [name for name in ("recipe", "data", "seed", "out") if getattr(arguments, name) is not None]
    if given:
        raise ValueError(
            f"--resume goes on with its folder's recipe, data and seed; got {' and '.join(given)} as well. Leave "
            "one of them out."
        )
    return open_run(arguments.resume, settings=settings, device=arguments.device)


def _evaluate(arguments: argparse.Namespace) -> None:
    run = open_run(arguments.folder, device=arguments.device)
    run.load_trained()
    print(evaluate(run, arguments.split, arguments.num_particles, not arguments.quiet, arguments.judge))


def _sample(arguments: argparse.Namespace) -> None:
    run = open_run(arguments.folder, device=arguments.device)
    run.load_trained()
    print(sample(run, arguments.num, arguments.out or run.folder / "samples.png"))


class _Parser(argparse.ArgumentParser):
    """Names the nearest of the choices when one is mistyped."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if found:
            near = difflib.get_close_matches(found[1], re.findall(r"[\w-]+", found[2]))
            message += f". Did you mean {' or '.join(near)}?" if near else ""
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m pyro_dgm", description="Deep generative models as Pyro programs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    lister = commands.add_parser("list", help="name the recipes and the data")
    lister.set_defaults(command=_list)

    fitter = commands.add_parser("fit", help="train a recipe, then evaluate it")
    fitter.add_argument("recipe", nargs="?", help="a recipe, as list names them")
    fitter.add_argument("--data", help="a data set, as list names them (default: digits)")
    fitter.add_argument("--epochs", type=int, help="passes through the data (default: the recipe's)")
    fitter.add_argument("--seed", type=int, help="of initialisation, order and noise (default: 0)")
    fitter.add_argument("--out", type=Path, help="the run's folder (default: runs/RECIPE-DATA-seedSEED)")
    fitter.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    fitter.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in this folder")
    fitter.add_argument("--tensorboard", action="store_true", help="write event files, too")
    fitter.add_argument("--no-evaluation", action="store_true", help="train only")
    _add_evaluation(fitter)
    _add_device(fitter)
    fitter.set_defaults(command=_fit)

    evaluator = commands.add_parser("evaluate", help="evaluate a trained run")
    evaluator.add_argument("folder", type=Path, help="the run's folder")
    evaluator.add_argument("--split", choices=("valid", "test"), default="test", help="which data (default: test)")
    evaluator.add_argument(
        "--judge", type=Path, metavar="DIR", help="a trained run of the recipe classifier that judges drawn images"
    )
    _add_evaluation(evaluator)
    _add_device(evaluator)
    evaluator.set_defaults(command=_evaluate)

    sampler = commands.add_parser("sample", help="draw data from a trained run")
    sampler.add_argument("folder", type=Path, help="the run's folder")
    sampler.add_argument("--num", type=_positive, default=64, help="how many (default: 64)")
    sampler.add_argument("--out", type=Path, help="the picture (default: samples.png in the run's folder)")
    _add_device(sampler)
    sampler.set_defaults(command=_sample)
    return parser


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-particles", type=_positive, default=500, help="K of the estimate of log p(x) (default: 500)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="where to compute (default: cpu for a new run, else where it was trained)")


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; got {text!r}. The default is a good one.")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
