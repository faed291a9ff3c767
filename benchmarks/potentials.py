"""Flows against the four two-dimensional potentials of Rezende and Mohamed (2015): KL by length of the flow.

Fits a planar and an inverse autoregressive flow of each length to each density exp(-U(z)) / Z, with Z by quadrature,
and estimates KL(q || p) from fresh draws. Results go to ``benchmarks/results/potentials.json``, ``.md``, ``.png`` and
``potentials-maps.png``.

    python -m benchmarks.potentials
"""

__all__ = ["POTENTIALS", "log_normaliser", "main"]

import argparse
import copy
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import constraints
from tqdm import tqdm

from benchmarks.protocol import describe_machine, machine, markdown_table, once, write_results
from pyro_dgm import plotting
from pyro_dgm.distributions import Flow, LearnableNormal, transforms
from pyro_dgm.evaluation import Estimate
from pyro_dgm.infer import ELBO, SVI
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.nn import LocalModule
from pyro_dgm.plotting.figures import COLOURS, new_figure

RESULTS = Path(__file__).parent / "results"
NUM_DRAWS = 20_000  # for the KL
EXTENT, SIDE = 5.0, 120  # of the maps
BOX = 12.0  # half the width of the square over which densities are integrated
KINDS: dict[str, dict[str, Any]] = {"planar": {}, "iaf": {"hidden_features": (32,), "gated": False}}


def _waves(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first = z[..., 0]
    w1 = torch.sin(math.pi / 2 * first)
    w2 = 3 * torch.exp(-0.5 * ((first - 1) / 0.6).square())
    w3 = 3 * torch.sigmoid((first - 1) / 0.3)
    return w1, w2, w3


def _two_moons(z: Tensor) -> Tensor:
    first, second = (-0.5 * ((z[..., 0] + place) / 0.6).square() for place in (-2, 2))
    return 0.5 * ((z.norm(dim=-1) - 2) / 0.4).square() - torch.logaddexp(first, second)


def _wave(z: Tensor) -> Tensor:
    return 0.5 * ((z[..., 1] - _waves(z)[0]) / 0.4).square() + _walls(z)


def _split(z: Tensor) -> Tensor:
    w1, w2, _ = _waves(z)
    second = z[..., 1]
    one, other = (-0.5 * (place / 0.35).square() for place in (second - w1, second - w1 + w2))
    return -torch.logaddexp(one, other) + _walls(z)


def _fork(z: Tensor) -> Tensor:
    w1, _, w3 = _waves(z)
    second = z[..., 1]
    one, other = -0.5 * ((second - w1) / 0.4).square(), -0.5 * ((second - w1 + w3) / 0.35).square()
    return -torch.logaddexp(one, other) + _walls(z)


def _walls(z: Tensor) -> Tensor:
    """Soft ends at 4 to either side: the last three potentials have none, and no density without."""
    return 0.5 * ((z[..., 0].abs() - 4).relu() / 0.5).square()


POTENTIALS: dict[str, Callable[[Tensor], Tensor]] = {"1": _two_moons, "2": _wave, "3": _split, "4": _fork}
"""The potentials U(z) of the paper's table 1 by their numbers, (*batch, 2) to (*batch)."""


class _Guide(LocalModule):
    """A flow of a learned normal as the guide of the one latent."""

    def __init__(self, kind: str, length: int) -> None:
        super().__init__()
        self.flow = Flow(LearnableNormal(2), transforms.stack(kind, length, 2, **KINDS[kind]))

    def forward(self, temperature: Tensor) -> Tensor:
        return pyro.sample("z", self.flow())


def log_normaliser(potential: Callable[[Tensor], Tensor], side: int = 2400) -> float:
    """Log Z by the midpoint rule over a square outside of which there is nothing."""
    points = plotting.plane(BOX, side).double()
    return float((-potential(points)).logsumexp(0)) + 2 * math.log(2 * BOX / side)


def main(argv: list[str] | None = None) -> None:
    """Fits, measures and writes the results."""
    options = _options(argv)
    torch.set_num_threads(options.threads)
    cells = list(itertools.product(options.seeds, options.potentials, options.kinds, options.lengths))
    rows, maps = [], {}
    for seed, number, kind, length in tqdm(cells, desc="flows", unit="flow"):
        path = options.runs / f"{number}-{kind}-{length}-{seed}-{options.steps}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = once(path, functools.partial(_fit, number, kind, length, seed, options))
        if seed == options.seeds[0]:
            maps[f"{number}: {kind} {length}"] = torch.tensor(row["map"])
        rows.append({name: value for name, value in row.items() if name != "map"})
    content = {"machine": machine(), "rows": rows}
    write_results(options.results, options.name, content, _report(content, options))
    plotting.save_figure(_curves(rows), options.results / f"{options.name}.png")
    plotting.save_figure(_maps(maps, options), options.results / f"{options.name}-maps.png", dpi=100)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potentials", nargs="+", choices=POTENTIALS, default=list(POTENTIALS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[2, 8, 32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--particles", type=int, default=256, help="draws per step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/potentials"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="potentials", help="of the files that are written")
    return parser.parse_args(argv)


def _fit(number: str, kind: str, length: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fits one flow, tempered from a hundredth of the potential to all of it over half of the steps."""
    potential = POTENTIALS[number]

    def model(temperature: Tensor) -> None:
        z = pyro.sample("z", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        pyro.factor("potential", -temperature * potential(z))

    pyro.set_rng_seed(seed)
    guide = _Guide(kind, length)
    objective = ELBO(options.particles, max_plate_nesting=0)
    compiler = False if options.no_compile else Compiler(wait=True, quiet=True)
    optimizer = torch.optim.Adam(guide.parameters(), lr=2e-3)
    svi = SVI(model, guide, optimizer, objective, compile=compiler)
    for step in range(options.steps):
        svi.step(torch.tensor(min(1.0, 0.01 + 2 * step / options.steps)))
        if step == int(0.8 * options.steps):
            for group in optimizer.param_groups:
                group["lr"] = 4e-4
    with torch.no_grad():
        flow = guide.flow()
        z = flow.sample((NUM_DRAWS,))
        found = Estimate.of(flow.log_prob(z) + potential(z) + log_normaliser(potential))
        log_q = copy.deepcopy(guide).double().flow().log_prob(plotting.plane(EXTENT, SIDE).double())  # far away, too
    return {
        "potential": number,
        "kind": kind,
        "length": length,
        "seed": seed,
        "kl": found._asdict(),
        "map": [round(value, 3) for value in log_q.clamp(min=-30).tolist()],
    }


def _report(content: Mapping[str, Any], options: argparse.Namespace) -> str:
    lines = ["# Flows against potentials", ""]
    lines += [
        "KL(q || p) in nats, of flows of a learned diagonal normal fitted to the four densities exp(-U(z)) of Rezende "
        "and Mohamed (2015), table 1, arXiv:1505.05770: the median over seeds "
        f"{', '.join(map(str, options.seeds))}, and [least, largest]. {options.steps} steps of Adam with "
        f"{options.particles} draws, the potential tempered over the first half. Estimated from {NUM_DRAWS:,} fresh "
        "draws, the normaliser by quadrature; the last three potentials, which are without a normaliser in the paper, "
        "have soft walls at |z1| = 4. The IAF is the affine kind (no gates), with networks of 32 hidden units. A seed "
        "begins all potentials alike, so its luck is shared by a row of cells; the maps are the first seed's.",
        "",
    ]
    titles = ["potential", *(f"{kind}, {length}" for kind in options.kinds for length in options.lengths)]
    table = []
    for number in options.potentials:
        cells = []
        for kind, length in itertools.product(options.kinds, options.lengths):
            values = _values(content["rows"], number, kind, length)
            cells.append(f"{statistics.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]")
        table.append([number, *cells])
    lines += markdown_table(titles, table)
    worst = max(row["kl"]["standard_error"] for row in content["rows"])
    lines += ["", f"Largest standard error of a cell: {worst:.3f} nats.", ""]
    lines += [f"![KL by length]({options.name}.png)", "", f"![the densities]({options.name}-maps.png)", ""]
    return "\n".join([*lines, describe_machine(content["machine"])]) + "\n"


def _values(rows: Sequence[Mapping[str, Any]], number: str, kind: str, length: int) -> list[float]:
    return [
        row["kl"]["mean"] for row in rows if (row["potential"], row["kind"], row["length"]) == (number, kind, length)
    ]


def _curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """KL against length, a panel for each potential, a band from the least to the largest seed."""
    numbers = list(dict.fromkeys(row["potential"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    lengths = sorted({row["length"] for row in rows})
    with new_figure(2.3 * len(numbers) + 0.9, 2.5) as figure:
        figure.set_layout_engine("constrained")
        panels = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
        for axes, number in zip(panels, numbers, strict=True):
            for kind, colour in zip(kinds, COLOURS, strict=False):
                values = [_values(rows, number, kind, length) for length in lengths]
                middle = [statistics.median(own) for own in values]
                axes.plot(lengths, middle, "o-", color=colour, markersize=4, label=kind)
                axes.fill_between(lengths, [*map(min, values)], [*map(max, values)], color=colour, alpha=0.2, lw=0)
            axes.set(xscale="log", yscale="log", title=f"potential {number}", xlabel="transforms")
            axes.set_xticks(lengths, map(str, lengths))
            axes.minorticks_off()
        panels[0].set_ylabel("KL(q || p), nats")
        panels[-1].legend()
    return figure


def _maps(maps: Mapping[str, Tensor], options: argparse.Namespace) -> Figure:
    """A row for each potential: the density, then the flows of the first seed."""
    rows: dict[str, Tensor] = {}
    for number in options.potentials:
        rows[f"potential {number}"] = -POTENTIALS[number](plotting.plane(EXTENT, SIDE))
        rows |= {title: log_q for title, log_q in maps.items() if title.startswith(f"{number}:")}
    return plotting.density_maps(rows, EXTENT, columns=1 + len(options.kinds) * len(options.lengths))


if __name__ == "__main__":
    main()
