"""Evaluation in bounded memory: data in pieces, with a bar."""

__all__ = ["MAX_ROWS", "Estimate", "Piece", "check_one_row_per_datum", "pieces"]

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from pyro_dgm.infer.programs import Traces, is_deterministic, is_local, sample_sites

MAX_ROWS = 10_000  # particles times data that are in memory at once


class Estimate(NamedTuple):
    """A mean over data and its standard error, both in nats per datum unless it says otherwise."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        """The mean of one value per datum, of shape (N,), with the standard error of sampling the data."""
        values = values.double()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(values.mean().item(), error)

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f}"


class Piece(NamedTuple):
    """Some of the data: their number, and the programs' arguments cut to them."""

    num_rows: int
    args: list[Any]
    kwargs: dict[str, Any]


def pieces(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    num_particles: int,
    max_rows: int,
    label: str,
    progress: bool,
) -> Iterator[Piece]:
    """Cuts every tensor that has one row per datum, so that ``num_particles`` times a piece is at most ``max_rows``.

    The number of data is the first dimension of the first tensor that has dimensions.

    Raises:
        ValueError: there are no data, or ``max_rows`` is below 1.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1; got {max_rows}. The default is {MAX_ROWS}.")
    total = _count_rows([*args, *kwargs.values()])
    size = max(1, max_rows // num_particles)

    def cut(value: Any, rows: slice) -> Any:
        return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == total else value

    with tqdm(total=total, desc=label, unit="datum", disable=None if progress else True, leave=False) as bar:
        for start in range(0, total, size):
            rows = slice(start, min(start + size, total))
            num_rows = rows.stop - rows.start
            yield Piece(num_rows, [cut(v, rows) for v in args], {name: cut(v, rows) for name, v in kwargs.items()})
            bar.update(num_rows)


def check_one_row_per_datum(traces: Traces, num_rows: int) -> None:
    """Raises a ``ValueError`` unless each row of the arguments is one datum and every site belongs to one."""
    if traces.num_data != num_rows:
        raise ValueError(
            f"each row of the first tensor must be a datum of the programs; got {num_rows} rows and {traces.num_data} "
            "elements of the data plate. Open pyro.plate('data', len(x)) around the sites of a datum, without "
            "subsampling, and pass the data first."
        )
    sites = sample_sites(traces.guide) | sample_sites(traces.model)
    outer = [name for name, site in sites.items() if not is_local(site, traces) and not is_deterministic(site)]
    if outer:
        raise ValueError(
            f"the evidence of one datum needs sites that belong to it; got sites outside the data plate: {outer}. Fix "
            "them in both programs, with poutine.block(poutine.condition(program, data=values), hide=list(values))."
        )


def _count_rows(values: Sequence[Any]) -> int:
    rows = [len(value) for value in values if isinstance(value, Tensor) and value.dim()]
    if not rows or not rows[0]:
        raise ValueError(
            f"evaluation needs data; got {'an empty tensor' if rows else 'no tensor'}. Pass them as the programs take "
            "them, (N, *event)."
        )
    return rows[0]
