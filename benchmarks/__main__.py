"""``python -m benchmarks list | run | report``, which compare methods, and the other commands by their names."""

import importlib
import sys

_NAMES = (
    "step_time",
    "gradients",
    "reference_vae",
    "published",
    "posteriors",
    "potentials",
    "modes",
    "game_step",
    "image_games",
)
_COMPARISON = {"list": "comparison.listing", "run": "comparison.command", "report": "comparison.report"}
COMMANDS = _COMPARISON | {name.replace("_", "-"): name for name in _NAMES}


def main(argv: list[str]) -> None:
    """Runs the command that comes first, with the rest as its options."""
    if not argv or argv[0] not in COMMANDS:
        raise SystemExit(f"usage: python -m benchmarks {{{','.join(COMMANDS)}}} [options]")
    importlib.import_module(f"benchmarks.{COMMANDS[argv[0]]}").main(argv[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
