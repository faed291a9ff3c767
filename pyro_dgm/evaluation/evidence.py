"""The log evidence log p(x) by importance sampling, with its errors."""

__all__ = ["LogEvidence", "log_evidence"]

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_dgm.evaluation.batching import Estimate, count_rows, pieces
from pyro_dgm.evaluation.psis import pareto_k_from_tail, tail_size
from pyro_dgm.infer.log_weights import log_weights
from pyro_dgm.infer.programs import Program, check_num_particles, count_plates, evaluation_mode

MAX_ROWS = 10_000  # particles times data that are in memory at once


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

    Biased downwards, by about half the relative variance of the weights over K; consistent as K grows. Memory does
    not grow with K or with the number of data. Modules are put in evaluation mode meanwhile; the draws come from
    torch's generator.

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
        kwargs: keyword arguments of both programs.

    Raises:
        ValueError: the data are empty, the weights are NaN, or the programs have latents outside the data plate.
    """
    check_num_particles(num_particles)
    if max_rows < 1:
        raise ValueError(f"max_rows must be at least 1; got {max_rows}. The default is {MAX_ROWS}.")
    size = max(1, min(count_rows(args), max_rows // min(num_particles, 100)))
    parts = []
    nesting = None
    with evaluation_mode(model, guide):
        for rows, piece in pieces(args, size, f"log p(x), K = {num_particles}", progress):
            nesting = count_plates(model, guide, piece, kwargs) if nesting is None else nesting
            running = _RunningMean(num_particles)
            while running.count < num_particles:
                count = min(num_particles - running.count, max(1, max_rows // (rows.stop - rows.start)))
                running.add(_weights(model, guide, piece, kwargs, count, nesting))
            parts.append(running)
    return LogEvidence(
        per_datum=torch.cat([part.log_mean() for part in parts]),
        standard_error=torch.cat([part.standard_error() for part in parts]),
        pareto_k=torch.cat([part.pareto_k() for part in parts]),
        num_particles=num_particles,
    )


def _weights(
    model: Program, guide: Program, args: list[Any], kwargs: dict[str, Any], count: int, nesting: int
) -> Tensor:
    weights = log_weights(model, guide, *args, num_particles=count, max_plate_nesting=nesting, **kwargs)
    if bool(weights.global_log_p.any()) or bool(weights.global_log_q.any()):
        raise ValueError(
            "log p(x) of one datum needs latents that belong to it; got latents outside the data plate. Condition the "
            "model on values of its globals first (poutine.condition)."
        )
    log_w = weights.local.double()
    bad = torch.isnan(log_w).any(dim=0)
    if bool(bad.any()):
        raise ValueError(
            f"importance weights must be numbers; got NaN for {int(bad.sum())} data of a piece of {len(bad)}. "
            "Check the data for NaN, and the networks for overflow."
        )
    return log_w  # (count, B)


class _RunningMean:
    """The mean of weights seen so far, per datum, on the log scale: sums of w and w^2, and the largest weights."""

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles
        self.count = 0
        self.log_sum: Tensor | None = None
        self.log_sum_squares: Tensor | None = None
        self.tail: Tensor | None = None

    def add(self, log_w: Tensor) -> None:
        log_sum, log_sum_squares = log_w.logsumexp(dim=0), (2 * log_w).logsumexp(dim=0)
        if self.log_sum is not None and self.log_sum_squares is not None and self.tail is not None:
            log_sum = torch.logaddexp(self.log_sum, log_sum)
            log_sum_squares = torch.logaddexp(self.log_sum_squares, log_sum_squares)
            log_w_and_tail = torch.cat([self.tail, log_w])
        else:
            log_w_and_tail = log_w
        self.count += len(log_w)
        self.log_sum, self.log_sum_squares = log_sum, log_sum_squares
        kept = min(tail_size(self.num_particles) + 1, len(log_w_and_tail))
        self.tail = log_w_and_tail.topk(kept, dim=0).values

    def log_mean(self) -> Tensor:
        assert self.log_sum is not None
        return self.log_sum - math.log(self.count)

    def standard_error(self) -> Tensor:
        """The relative standard error of the mean, which is the standard error of its logarithm."""
        assert self.log_sum is not None
        assert self.log_sum_squares is not None
        second_moment = (self.log_sum_squares - 2 * self.log_sum).exp() * self.count  # of w / mean(w), about 1
        variance = (second_moment - 1).clamp(min=0) * self.count / (self.count - 1) if self.count > 1 else math.nan
        return (torch.as_tensor(variance).expand_as(self.log_sum) / self.count).sqrt()

    def pareto_k(self) -> Tensor:
        assert self.tail is not None
        return pareto_k_from_tail(self.tail, self.num_particles)
