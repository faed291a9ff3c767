"""The time of an adversarial step, one update of the critic and one of the generator, taken in turns in one process.

``AdversarialTrainer`` as written and compiled, beside the same game by hand in torch, eager and with each player's loss
through ``torch.compile``, on the same networks, batches and noise, with Adam. Medians over rounds in which everyone
takes a block. Results go to ``benchmarks/results/game_step-threads-1.json`` and ``.md``, by the number of threads.

    python -m benchmarks game-step --threads 1
"""

__all__ = ["CONTESTANTS", "GAMES", "Game", "main"]

import argparse
import copy
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.protocol import describe_machine, machine, markdown_table, write_results
from pyro_dgm.adversarial import IPM, R1, AdversarialTrainer, Contrast, Critic, GradientPenalty, Wasserstein
from pyro_dgm.distributions import Generated, StandardNormal
from pyro_dgm.infer import DATA, P
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP, ConvDecoder, ConvEncoder

RESULTS = Path(__file__).parent / "results"
RATE = 1e-4
Step = Callable[[Tensor], tuple[float, float]]


class Game(NamedTuple):
    """Networks and losses of one game.

    Arguments:
        title: in the table.
        networks: makes generator and critic.
        latent_features: length of the generator's input.
        event_shape: of a datum.
        rows: of a batch.
        penalty: "none", "r1" (0.1) or "gp" (10), the latter with Wasserstein losses.
    """

    title: str
    networks: Callable[[], tuple[nn.Module, nn.Module]]
    latent_features: int
    event_shape: tuple[int, ...]
    rows: int
    penalty: str = "none"


def _points() -> tuple[nn.Module, nn.Module]:
    return MLP(2, 2, (128, 128)), MLP(2, 1, (128, 128))


def _images() -> tuple[nn.Module, nn.Module]:
    return ConvDecoder(64, (1, 28, 28)), ConvEncoder((1, 28, 28), 1)


GAMES = {
    "points": Game("2-128-128-2 against 2-128-128-1, non-saturating", _points, 2, (2,), 256),
    "points-r1": Game("the same with R1 at every step", _points, 2, (2,), 256, "r1"),
    "points-gp": Game("the same, Wasserstein with gradient penalty", _points, 2, (2,), 256, "gp"),
    "images": Game("convolutional, 28 x 28, non-saturating", _images, 64, (1, 28, 28), 64),
    "images-r1": Game("the same with R1 at every step", _images, 64, (1, 28, 28), 64, "r1"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Times the contestants and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="of a block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    rows = [_row(game, options) for game in tqdm(options.games, desc="games", disable=None)]
    content = {"machine": machine(), "rounds": options.rounds, "steps": options.steps, "rows": rows}
    write_results(options.results, f"game_step-threads-{options.threads}", content, _report(content, options))


def _row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The median milliseconds of a step, by contestant."""
    game = GAMES[name]
    torch.manual_seed(0)
    networks = game.networks()
    batches = [torch.rand(game.rows, *game.event_shape) for _ in range(options.steps)]
    cells: dict[str, dict[str, Any]] = {}
    running: dict[str, Step] = {}
    for contestant in options.contestants:
        torch.manual_seed(1)
        start = time.perf_counter()
        try:
            running[contestant] = CONTESTANTS[contestant][1](game, *copy.deepcopy(networks))
            first = [running[contestant](x) for x in batches[:8]]
        except Exception as error:  # whatever a contestant fails with is its result
            running.pop(contestant, None)
            cells[contestant] = {"none": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        cells[contestant] = {"first_seconds": time.perf_counter() - start, "first_losses": first, "rounds": []}
    for _ in tqdm(range(options.rounds), desc=name, leave=False, disable=None):
        for contestant, step in running.items():
            start = time.perf_counter()
            for x in batches:
                step(x)
            cells[contestant]["rounds"].append(1000 * (time.perf_counter() - start) / len(batches))
    for contestant in running:
        cells[contestant]["ms"] = statistics.median(cells[contestant]["rounds"])
    return {"game": name, "title": game.title, "cells": cells}


def _own(compile: bool | Compiler, game: Game, generator: nn.Module, critic: nn.Module) -> Step:
    """This library's trainer."""
    prior = StandardNormal(game.latent_features)
    model = LatentVariableModel(prior, Generated(generator, event_dim=len(game.event_shape)))
    own = Critic(critic)
    if game.penalty == "gp":
        contrast = Contrast("x", DATA, P, own, Wasserstein(), IPM(), [GradientPenalty(10.0)])
    else:
        contrast = Contrast("x", DATA, P, own, penalties=[R1(0.1)] if game.penalty == "r1" else [])
    adam = functools.partial(torch.optim.Adam, lr=RATE)
    trainer = AdversarialTrainer(model, contrast, adam, adam, compile=compile, report_every=10**9)

    def step(x: Tensor) -> tuple[float, float]:
        losses = trainer.step(x)
        return losses["critic_loss"], losses["loss"]

    return step


def _by_hand(is_compiled: bool, game: Game, generator: nn.Module, critic: nn.Module) -> Step:
    """A training loop as one writes it."""
    optimizers = [torch.optim.Adam(net.parameters(), lr=RATE) for net in (critic, generator)]

    def scores(x: Tensor) -> Tensor:
        return critic(x).squeeze(-1)

    def critic_loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            made = generator(torch.randn(len(x), game.latent_features))
        if game.penalty == "gp":
            share = torch.rand(len(x), *(1,) * len(game.event_shape))
            between = (share * x + (1 - share) * made).requires_grad_()
            (slope,) = torch.autograd.grad(scores(between).sum(), between, create_graph=True)
            return scores(made).mean() - scores(x).mean() + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
        loss = F.softplus(-scores(x)).mean() + F.softplus(scores(made)).mean()
        if game.penalty == "r1":
            real = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(scores(real).sum(), real, create_graph=True)
            loss = loss + 0.05 * slope.flatten(1).square().sum(1).mean()
        return loss

    def generator_loss(x: Tensor) -> Tensor:
        made = scores(generator(torch.randn(len(x), game.latent_features)))
        return -made.mean() if game.penalty == "gp" else F.softplus(-made).mean()

    first, second = critic_loss, generator_loss
    if is_compiled:
        torch._dynamo.reset()
        first, second = torch.compile(critic_loss), torch.compile(generator_loss)

    def step(x: Tensor) -> tuple[float, float]:
        losses = []
        for loss_of, optimizer, other in ((first, optimizers[0], generator), (second, optimizers[1], critic)):
            other.requires_grad_(False)
            optimizer.zero_grad()
            loss = loss_of(x)
            loss.backward()
            optimizer.step()
            other.requires_grad_(True)
            losses.append(loss.item())
        return losses[0], losses[1]

    return step


CONTESTANTS: dict[str, tuple[str, Callable[[Game, nn.Module, nn.Module], Step]]] = {
    "torch": ("torch by hand", functools.partial(_by_hand, False)),
    "torch-compile": ("by hand, `torch.compile`", functools.partial(_by_hand, True)),
    "own": ("pyro_dgm", functools.partial(_own, False)),
    "compiled": ("pyro_dgm, compiled", functools.partial(_own, Compiler(wait=True, quiet=True))),
}


def _report(content: dict[str, Any], options: argparse.Namespace) -> str:
    """The table: milliseconds, and the ratio to torch by hand."""
    titles = [CONTESTANTS[name][0] for name in options.contestants]
    lines = [
        "# The time of an adversarial step",
        "",
        "Milliseconds a step, and how many times torch by hand; medians.",
        "",
    ]
    rows = []
    for row in content["rows"]:
        reference = row["cells"].get("torch", {}).get("ms")
        rows.append([row["title"], *(_cell(row["cells"][name], reference) for name in options.contestants)])
    lines += markdown_table(["game", *titles], rows)
    notes = [
        f"- {row['title']}, {CONTESTANTS[name][0]}: {cell['none']}"
        for row in content["rows"]
        for name, cell in row["cells"].items()
        if "none" in cell
    ]
    lines += ["", *notes] if notes else []
    return "\n".join([*lines, "", describe_machine(content["machine"]), ""])


def _cell(cell: dict[str, Any], reference: float | None) -> str:
    if "ms" not in cell:
        return "-"
    ratio = "" if not reference else f" ({cell['ms'] / reference:.2f})"
    return f"{cell['ms']:.2f}{ratio}"


if __name__ == "__main__":
    main()
