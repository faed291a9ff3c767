"""The log evidence log p(x) by importance sampling, with its errors."""

__all__ = ["LogEvidence", "WeightSums", "log_evidence", "weights_in_parts"]

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dgm.evaluation.batching import MAX_ROWS, Estimate, Piece, check_one_row_per_datum, pieces
from pyro_dgm.evaluation.psis import pareto_k_from_tail, tail_size
from pyro_dgm.infer.checks import check_traces
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import Program, check_num_particles, count_plates, evaluation_mode, run

PARTICLES_AT_ONCE = 100


class LogEvidence(NamedTuple):
    """Importance-sampling estimates of log p(x), in nats.

    Arguments:
        per_datum: one estimate per datum, (N,). In expectation a lower bound that tightens as K grows.
        standard_error: Monte Carlo standard error of each, (N,), by the delta method; NaN for K = 1.
        pareto_k: shape of the tail of each datum's weights, (N,). Above 0.7 an estimate and its error are not to be
            trusted.
        num_particles: K.
    """

    per_datum: Tensor
    standard_error: Tensor
    pareto_k: Tensor
    num_particles: int

    @property
    def estimate(self) -> Estimate:
        """The mean over the data, with the standard error of sampling the data."""
        return Estimate.of(self.per_datum)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the mean that is due to K being finite, the data held fixed."""
        return self.standard_error.square().sum().sqrt().item() / len(self.standard_error)


def log_evidence(
    model: Program,
    guide: Program,
    *args: Any,
    num_particles: int = 5000,
    max_rows: int = MAX_ROWS,
    progress: bool = False,
    **kwargs: Any,
) -> LogEvidence:
    r"""Estimates :math:`\log p(x) \approx \log \frac{1}{K} \sum_k p(x, z_k) / q(z_k | x)` for every datum.

    Biased downwards, by about half the relative variance of the weights over K; consistent as K grows. The memory
    does not depend on the number of data, and hardly on K. Modules are put in evaluation mode meanwhile; the draws
    come from torch's generator.

    References:
        Rezende, Mohamed and Wierstra (2014), Stochastic Backpropagation, appendix E, arXiv:1401.4082; Burda, Grosse
        and Salakhutdinov (2016), arXiv:1509.00519, section 5.

    Arguments:
        model: a Pyro program with observed sites.
        guide: a Pyro program with a site for every latent of the model.
        args: data, (N, *event), and whatever else both programs take; tensors with N rows are cut into pieces.
        num_particles: number K of importance samples per datum.
        max_rows: how many particles times data are in memory at once.
        progress: show a bar.
        kwargs: keyword arguments of both programs, cut like ``args``. Those named ``num_particles``, ``max_rows`` or
            ``progress`` are this function's: bind the programs' own with ``functools.partial``.

    Raises:
        TypeError: ``num_particles`` is not an integer.
        ValueError: the data are empty, a weight is NaN or infinite, the programs do not fit together, or have sites
            outside the data plate.
    """
    check_num_particles(num_particles)
    label = f"log p(x), K = {num_particles}"
    at_once = min(num_particles, PARTICLES_AT_ONCE)
    cut = pieces(args, kwargs, num_particles=at_once, max_rows=max_rows, label=label, progress=progress)
    with evaluation_mode(model, guide):
        sums = [_sums(weights_in_parts(model, guide, piece, num_particles, max_rows), num_particles) for piece in cut]
    return LogEvidence(
        per_datum=torch.cat([part.log_mean() for part in sums]),
        standard_error=torch.cat([part.standard_error() for part in sums]),
        pareto_k=torch.cat([part.pareto_k() for part in sums]),
        num_particles=num_particles,
    )


class WeightSums(NamedTuple):
    """What is kept of the weights of B data: sums on the log scale, and the largest weights for Pareto k.

    Arguments:
        log_sum: log of the sum of w, (B,).
        log_sum_squares: log of the sum of w^2, (B,).
        tail: the largest log-weights, (at most M + 1, B), of a ``psis.tail_size`` M.
        num_summed: number of weights that were summed.
        num_particles: K, the number there are going to be.
    """

    log_sum: Tensor
    log_sum_squares: Tensor
    tail: Tensor
    num_summed: int
    num_particles: int

    @classmethod
    def of(cls, log_w: Tensor, num_particles: int) -> "WeightSums":
        """The sums of some of K log-weights, of shape (count, B)."""
        tail = _largest(log_w, num_particles)
        return cls(log_w.logsumexp(dim=0), (2 * log_w).logsumexp(dim=0), tail, len(log_w), num_particles)

    def plus(self, other: "WeightSums") -> "WeightSums":
        """The sums of both, of the same data."""
        return WeightSums(
            torch.logaddexp(self.log_sum, other.log_sum),
            torch.logaddexp(self.log_sum_squares, other.log_sum_squares),
            _largest(torch.cat([self.tail, other.tail]), self.num_particles),
            self.num_summed + other.num_summed,
            self.num_particles,
        )

    def log_mean(self) -> Tensor:
        """The estimate of log p(x), (B,)."""
        return self.log_sum - math.log(self.num_summed)

    def standard_error(self) -> Tensor:
        """The relative standard error of the mean weight, which is the standard error of its logarithm, (B,)."""
        if self.num_summed == 1:
            return torch.full_like(self.log_sum, math.nan)
        second_moment = (self.log_sum_squares - 2 * self.log_sum).exp() * self.num_summed  # of w / mean(w), at least 1
        return ((second_moment - 1).clamp(min=0) / (self.num_summed - 1)).sqrt()

    def pareto_k(self) -> Tensor:
        """Pareto k of the weights, (B,)."""
        return pareto_k_from_tail(self.tail, self.num_particles)


def weights_in_parts(
    model: Program, guide: Program, piece: Piece, num_particles: int, max_rows: int = MAX_ROWS
) -> Iterator[Tensor]:
    """Draws K log-weights per datum, (count, B) in float64 as many at once as fit, and checks that they are finite.

    Raises:
        ValueError: a weight is NaN or infinite, the programs do not fit together, or have sites outside the data plate.
    """
    nesting = count_plates(model, guide, piece.args, piece.kwargs)
    at_once = max(1, max_rows // piece.num_rows)
    for start in range(0, num_particles, at_once):
        count = min(at_once, num_particles - start)
        traces = run(model, guide, piece.args, piece.kwargs, count, nesting)
        check_traces(traces)
        check_one_row_per_datum(traces, piece.num_rows)
        log_w = weigh(traces).local.double()  # (count, B)
        bad = int((log_w.isnan() | log_w.isposinf()).any(dim=0).sum())
        if bad:
            raise ValueError(
                f"importance weights must be finite; got NaN or infinite ones for {bad} of {piece.num_rows} data. "
                "Check the data for NaN, and the networks for overflow."
            )
        yield log_w


def _sums(parts: Iterator[Tensor], num_particles: int) -> WeightSums:
    return functools.reduce(WeightSums.plus, (WeightSums.of(log_w, num_particles) for log_w in parts))


def _largest(log_w: Tensor, num_particles: int) -> Tensor:
    return log_w.topk(min(tail_size(num_particles) + 1, len(log_w)), dim=0).values
