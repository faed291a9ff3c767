"""Generative adversarial networks on mixtures whose modes are known: the ring of 8 Gaussians and the grid of 25.

Trains four games with equal networks and as many updates of the generator, several seeds each, and reports how many
modes are found, how evenly and how sharply, beside what a perfect generator scores by the same count; of the averaged
generator and of the live one. A run that was interrupted goes on where it was. Results go to
``benchmarks/results/modes.json``, ``.md`` and, for each mixture, ``modes-ring.png`` and ``modes-grid.png``.

    python -m benchmarks modes
    python -m benchmarks modes --updates 200 --seeds 0 --samples 1000
"""

__all__ = ["DATA_SETS", "METHODS", "Method", "Times", "main", "modes_of"]

import argparse
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.protocol import describe_machine, machine, markdown_table, once, write_results
from pyro_dgm import datasets, plotting
from pyro_dgm.adversarial import (
    IPM,
    R1,
    AdversarialTrainer,
    Contrast,
    Critic,
    CriticEstimator,
    GradientPenalty,
    Hinge,
    Logistic,
    NonSaturating,
    Penalty,
    PlayerObjective,
    Steps,
    Wasserstein,
    spectrally_normalized,
)
from pyro_dgm.datasets import Dataset
from pyro_dgm.distributions import Generated, StandardNormal
from pyro_dgm.evaluation import classifier_two_sample_test, mode_coverage, perfect_coverage
from pyro_dgm.infer import DATA, P
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

RESULTS = Path(__file__).parent / "results"
HIDDEN = (128, 128)
BATCH, EMA, BETAS = 256, 0.999, (0.5, 0.99)
EVALUATION_SEED = 1234
NUM_LOOKS = 10  # at the averaged generator on the way
NUM_PICTURED = 1000
WORTH_COMPILING = 2000  # updates
MEASURES = ("num_hit", "num_covered", "high_quality", "reverse_kl", "sd_ratio", "accuracy")


class Method(NamedTuple):
    """One game.

    Arguments:
        title: in the tables.
        estimator: what the critic learns.
        objective: what the generator minimises.
        penalties: of the critic, made anew for every run.
        critic_rate: learning rate of the critic.
        player_rate: learning rate of the generator.
        critic_steps: updates of the critic for each of the generator.
        pac: how many draws the critic scores at once.
        slope: what the critic's slope is kept below by dividing its weights by their spectral norms; None for no limit.
    """

    title: str
    estimator: Callable[[], CriticEstimator]
    objective: Callable[[], PlayerObjective]
    penalties: Callable[[], list[Penalty]] = list
    critic_rate: float = 2e-3
    player_rate: float = 1e-3
    critic_steps: int = 1
    pac: int = 1
    slope: float | None = None


class Times(nn.Module):
    """A fixed factor.

    Arguments:
        factor: the number.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, scores: Tensor) -> Tensor:
        """Multiplies by it."""
        return self.factor * scores


METHODS = {
    "ns-r1": Method("non-saturating, R1 (0.1)", Logistic, NonSaturating, lambda: [R1(0.1)]),
    "wgan-gp": Method(
        "Wasserstein, gradient penalty (0.1)", Wasserstein, IPM, lambda: [GradientPenalty(0.1)], critic_steps=3
    ),
    "hinge-sn": Method("hinge, spectral norm (slope 10)", Hinge, IPM, slope=10.0),
    "pacgan": Method("non-saturating, R1 (0.1), packs of 2", Logistic, NonSaturating, lambda: [R1(0.1)], pac=2),
}
DATA_SETS: dict[str, tuple[Callable[..., Dataset], int, float]] = {
    "ring": (datasets.ring, 8, 0.02),
    "grid": (datasets.grid, 25, 0.05),
}
"""Data, number of modes and standard deviation of each mode."""


def modes_of(data: str) -> Tensor:
    """The means of a mixture's modes, (M, 2): data without noise, one for each label."""
    make, num_modes, _ = DATA_SETS[data]
    exact = make(sd=0.0, num_train=100 * num_modes).train
    assert exact.y is not None
    return torch.stack([exact.x[exact.y == mode][0] for mode in range(num_modes)])


def main(argv: list[str] | None = None) -> None:
    """Trains, measures and writes the results."""
    options = _options(argv)
    torch.set_num_threads(options.threads)
    cells = list(itertools.product(options.data, options.seeds, options.methods))
    rows, clouds = [], {}
    for data, seed, method in tqdm(cells, desc="games", unit="game"):
        path = options.runs / f"{data}-{method}-{seed}-{options.updates}-{options.samples}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = once(path, functools.partial(_play, data, method, seed, options))
        clouds[data, method, seed] = torch.tensor(row.pop("draws"))
        rows.append(row)
    perfect = {data: _perfect(data, options.samples) for data in options.data}
    content = {"machine": machine(), "updates": options.updates, "perfect": perfect, "rows": rows}
    for data in options.data:
        _draw(data, clouds, options)
    write_results(options.results, options.name, content, _report(content, options))


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=20_000, help="of the generator")
    parser.add_argument("--samples", type=int, default=10_000, help="by which a generator is judged")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/modes"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="modes", help="of the files that are written")
    return parser.parse_args(argv)


def _play(data: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains one game and measures its generators."""
    make, _, sd = DATA_SETS[data]
    pyro.set_rng_seed(seed)
    held = make(num_test=options.samples)
    x, means = held.train.x, modes_of(data)
    trainer = _trainer(METHODS[name], Compiler(wait=True) if options.updates >= WORTH_COMPILING else False)
    looks = {round(options.updates * part / NUM_LOOKS) for part in range(1, NUM_LOOKS + 1)}
    history, seconds = [], 0.0
    for update in tqdm(range(1, options.updates + 1), desc=f"{data}, {name}, seed {seed}", leave=False, miniters=100):
        start = time.perf_counter()
        trainer.step(x[torch.randint(len(x), (BATCH,))])
        seconds += time.perf_counter() - start
        if update in looks:
            found = mode_coverage(_draws(trainer.averaged["model"], options.samples), means, sd)
            history.append({"update": update, "num_covered": found.num_covered, "high_quality": found.high_quality})
    generators = {"averaged": trainer.averaged["model"], "live": trainer.model}
    draws = {which: _draws(generator, options.samples) for which, generator in generators.items()}
    return {
        "data": data,
        "method": name,
        "seed": seed,
        "seconds": seconds,
        "history": history,
        **{which: _measured(own, held.test.x, means, sd) for which, own in draws.items()},
        "draws": [[round(value, 4) for value in point] for point in draws["averaged"][:NUM_PICTURED].tolist()],
    }


def _trainer(method: Method, compile: Compiler | bool) -> AdversarialTrainer:
    """The game, from torch's generator as it is."""
    generator = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, HIDDEN)))
    net: nn.Module = MLP(2 * method.pac, 1, HIDDEN)
    if method.slope is not None:
        net = nn.Sequential(spectrally_normalized(net), Times(method.slope))
    critic = Critic(net, pac=method.pac)
    game = Contrast("x", DATA, P, critic, method.estimator(), method.objective(), method.penalties())
    player, other = (
        functools.partial(torch.optim.Adam, lr=rate, betas=BETAS) for rate in (method.player_rate, method.critic_rate)
    )
    schedule = Steps(critic=method.critic_steps)
    return AdversarialTrainer(generator, game, player, other, schedule=schedule, ema=EMA, compile=compile)


def _draws(generator: Any, num: int) -> Tensor:
    """Draws of a generator by a seed of their own, which leave the training's noise as it is."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(EVALUATION_SEED)
        found: Tensor = generator(num=num)
        return found


def _measured(draws: Tensor, test: Tensor, means: Tensor, sd: float) -> dict[str, float | None]:
    """Coverage of the modes, and how often nearest neighbours tell the draws from test data."""
    found = mode_coverage(draws, means, sd)
    chance = torch.Generator().manual_seed(EVALUATION_SEED)
    told = classifier_two_sample_test(draws, test, generator=chance)
    values = {**{name: getattr(found, name) for name in MEASURES[:-1]}, "accuracy": told.statistic}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _perfect(data: str, num_samples: int) -> dict[str, float]:
    found = perfect_coverage(num_samples, DATA_SETS[data][1])
    return {**{name: getattr(found, name) for name in MEASURES[:-1]}, "accuracy": 0.5}


def _draw(data: str, clouds: Mapping[tuple[str, str, int], Tensor], options: argparse.Namespace) -> None:
    """A row of clouds for each seed, the averaged generators', over the data."""
    pairs = itertools.product(options.seeds, options.methods)
    own = {f"{method}, seed {seed}": clouds[data, method, seed] for seed, method in pairs}
    figure = plotting.point_clouds(own, DATA_SETS[data][0]().test.x, columns=len(options.methods))
    plotting.save_figure(figure, options.results / f"{options.name}-{data}.png", dpi=100)


def _report(content: Mapping[str, Any], options: argparse.Namespace) -> str:
    command = "python -m benchmarks modes"
    lines = [
        "# Modes found by adversarial games",
        "",
        f"`{command}`, with {options.updates:,} updates of the generator in batches of {BATCH}, seeds "
        f"{', '.join(map(str, options.seeds))}. Generators are networks 2-128-128-2, critics 2-128-128-1 (4 inputs for "
        f"packs of two), both ReLU; Adam with betas {BETAS}, no decay of the learning rates; training data are 10,000 "
        f"points, drawn with replacement. Each cell is the mean over the seeds, and [least, largest], of one generator "
        f"judged by {options.samples:,} draws: the running average of its parameters (decay {EMA}), and the live one "
        "as it was after the last update.",
        "",
        "A mode is *hit* by one draw of high quality, within three standard deviations of its mean, and *covered* by a "
        "tenth of the draws that are due there. *Reverse KL*, in nats, is that of the masses of the modes to equal "
        "ones; *sd* the standard deviation within the modes over the true one; *told apart* the accuracy of nearest "
        "neighbours between draws and as many fresh data, 0.5 being best. The first row of each table is a perfect "
        "generator's: more high quality than its 98.9 % is too sharp. A dash: in a run no mode has two draws.",
    ]
    for data in options.data:
        lines += ["", f"## {data.capitalize()}", "", *_table(data, content, options), ""]
        lines += [f"![Draws of the averaged generators over data]({options.name}-{data}.png)"]
    lines += ["", "Learning rates of critic and generator, and what a run costs, over both mixtures:", ""]
    return "\n".join([*lines, *_costs(content, options), "", describe_machine(content["machine"]), ""])


def _table(data: str, content: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    titles = ["game", "generator", "hit", "covered", "high quality, %", "reverse KL", "sd", "told apart"]
    table = [["perfect", "", *(_shown(name, [content["perfect"][data][name]]) for name in MEASURES)]]
    for method, which in itertools.product(options.methods, ("averaged", "live")):
        own = [row[which] for row in content["rows"] if (row["data"], row["method"]) == (data, method)]
        cells = [_shown(name, [found[name] for found in own]) for name in MEASURES]
        table.append([METHODS[method].title if which == "averaged" else "", which, *cells])
    return markdown_table(titles, table)


def _shown(name: str, found: Sequence[float | None]) -> str:
    """The mean, and the range of several seeds; a dash where there is nothing to measure."""
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return "-"
    scale, digits = (100, 1) if name == "high_quality" else (1, 1 if name.startswith("num") else 3)
    shown = [f"{scale * value:.{digits}f}" for value in (statistics.fmean(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _costs(content: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    table = []
    for name in options.methods:
        method = METHODS[name]
        seconds = [row["seconds"] for row in content["rows"] if row["method"] == name]
        rates = f"{method.critic_rate:g}, {method.player_rate:g}"
        each = f"{1000 * statistics.fmean(seconds) / options.updates:.1f}"
        table.append([method.title, rates, str(method.critic_steps), f"{statistics.fmean(seconds):.0f}", each])
    return markdown_table(["game", "rates", "critic steps", "seconds", "ms per update of the generator"], table)


if __name__ == "__main__":
    main()
