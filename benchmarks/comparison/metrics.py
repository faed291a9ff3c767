"""What is measured of a learner on a problem: at looks on the way, and once at the end."""

__all__ = ["EVALUATION_SEED", "final_metrics", "look", "weights_of"]

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from benchmarks.comparison.cells import Metric
from benchmarks.comparison.method import Learner
from benchmarks.comparison.task import Posterior, Problem
from pyro_dgm.evaluation import (
    Estimate,
    classifier_two_sample_test,
    gradient_audit,
    log_evidence,
    mode_coverage,
    pareto_k,
    perfect_coverage,
)
from pyro_dgm.evaluation.distances import frechet_distance_of_moments
from pyro_dgm.infer import divergences
from pyro_dgm.infer.log_weights import weigh
from pyro_dgm.infer.programs import count_plates, evaluation_mode, run

EVALUATION_SEED = 1234
NUM_DRAWS, NUM_LOCAL_DRAWS = 4000, 500  # by which posteriors are judged, of one and of each of several data
LOOKED_LOCAL, LOOKED_BOUND = 100, 10  # draws of each datum at a look, where there are posteriors, and where not
NUM_SAMPLES = 2500  # of a generator
NUM_AUDITED = 200  # gradients
NUM_COMPARED = 1000  # draws of either kind whose kernel distance is taken
NUM_TESTED = 500  # draws of either kind in two-sample tests, which nobody is spared
LEAST_DRAWS = 10
MOST_K = 2.0  # of Pareto k, which may be infinite
ALL = slice(None)


@torch.no_grad()
def look(learner: Learner, problem: Problem, seed: int = 0) -> dict[str, float | None]:
    """What is seen on the way, by the names of metrics; it leaves torch's generator as it was.

    Arguments:
        learner: at work.
        problem: what it works on.
        seed: of the cell, which that of the evaluation follows.
    """
    with _own_noise(seed):
        if problem.modes is not None:
            return _coverage(learner, problem)
        num = NUM_DRAWS if problem.is_whole else LOOKED_LOCAL if problem.posterior is not None else LOOKED_BOUND
        weights, draws = _drawn(learner, problem, num, problem.looked)
        found: dict[str, float | None] = {}
        if weights is not None:
            found["bound"] = float(weights.mean())
        if draws is not None and problem.posterior is not None and len(draws) >= LEAST_DRAWS:
            found |= _moment_errors(draws, problem.posterior, problem.looked)
        return found


def final_metrics(learner: Learner, problem: Problem, seed: int = 0) -> dict[str, Metric]:
    """All that can be said of a learner at its end; it leaves torch's generator as it was.

    Arguments:
        learner: at its end.
        problem: what it has worked on.
        seed: of the cell, which that of the evaluation follows.
    """
    with _own_noise(seed):
        found = _generator_metrics(learner, problem)
        found |= _posterior_metrics(learner, problem)
        found |= _evidence_metrics(learner, problem)
        return found | _gradient_metrics(learner, problem)


def weights_of(learner: Learner, problem: Problem, num: int) -> Tensor | None:
    """Log p(x, z) - log q(z | x) of fresh draws in float64, (num, B), or None of who has no density of its draws."""
    return _drawn(learner, problem, num, ALL)[0]


def _drawn(learner: Learner, problem: Problem, num: int, rows: slice) -> tuple[Tensor | None, Tensor | None]:
    """Log-weights, (num, B), and flattened draws, (num, B, d), of these rows of the test data."""
    posterior = problem.posterior
    if learner.programs is None:
        own = learner.draws(num)
        flat = None if own is None or posterior is None else _flat(own, posterior, len(problem.test[0]))[:, rows]
        weights = learner.log_weights(num)
        return None if weights is None else weights.double()[:, rows], flat
    model, guide = learner.programs
    args = [values[rows] for values in problem.test]
    with evaluation_mode(model, guide), torch.no_grad():
        traces = run(model, guide, args, {}, num, count_plates(model, guide, args, {}))
        parts = weigh(traces)
    weights = parts.local.double()  # (num, B)
    if problem.is_whole:  # an AutoGuide's latents stand outside of the plate
        weights = weights + (parts.global_log_p - parts.global_log_q).double().unsqueeze(1)
    if posterior is None:
        return weights, None
    values = {name: traces.model.nodes[name]["value"] for name in posterior.sites}
    return weights, _flat(values, posterior, len(args[0]))


def _flat(values: Mapping[str, Tensor], posterior: Posterior, num_data: int) -> Tensor:
    """Draws by site side by side, (num, B, d)."""
    parts = [values[name].detach().double() for name in posterior.sites]
    return torch.cat([part.reshape(len(part), num_data, -1) for part in parts], -1)


def _moment_errors(draws: Tensor, posterior: Posterior, rows: slice) -> dict[str, float | None]:
    """Root mean square errors of means and standard deviations, over data and dimensions, in true sds."""
    mean, sd = posterior.mean[rows], posterior.sd[rows]
    of_mean = ((draws.mean(0) - mean) / sd).square().mean().sqrt()
    of_sd = (draws.std(0) / sd - 1).square().mean().sqrt()
    return {"mean_error": float(of_mean), "sd_error": float(of_sd)}


def _coverage(learner: Learner, problem: Problem) -> dict[str, float | None]:
    samples = learner.samples(NUM_SAMPLES)
    if samples is None or problem.modes is None:
        return {}
    found = mode_coverage(samples, *problem.modes)
    return {"num_covered": found.num_covered, "high_quality": found.high_quality}


def _generator_metrics(learner: Learner, problem: Problem) -> dict[str, Metric]:
    """Of who makes data without densities: modes, and how the data differ from real ones."""
    samples = learner.samples(NUM_SAMPLES)
    if samples is None or problem.modes is None:
        return {}
    found = mode_coverage(samples, *problem.modes)
    best = perfect_coverage(NUM_SAMPLES, len(problem.modes.means))
    num = min(NUM_COMPARED, len(problem.test[0]))
    squared = float(divergences.mmd(samples[:num], problem.test[0][:num]))
    of = f"of {NUM_SAMPLES} draws of the live generator"
    return {
        "num_covered": Metric(
            found.num_covered,
            "modes",
            "higher",
            f"modes with a tenth of the draws due there, {of}; a perfect generator has {best.num_covered:.1f}",
        ),
        "high_quality": Metric(
            found.high_quality,
            "share",
            "higher",
            f"share within 3 sd of a mode, {of}; a perfect generator has {best.high_quality:.3f}, more is too sharp",
        ),
        **_told_apart(samples, problem.test[0]),
        "mmd": Metric(
            squared, "squared kernel distance", "zero", f"maximum mean discrepancy, unbiased, {num} draws of each"
        ),
    }


def _told_apart(own: Tensor, true: Tensor) -> dict[str, Metric]:
    """The two-sample test, of equally many draws for all methods: who has fewer gets none."""
    if min(len(own), len(true)) < NUM_TESTED:
        return {}
    spread = own[:: len(own) // NUM_TESTED][:NUM_TESTED]  # of a chain, as far apart as can be
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    test = classifier_two_sample_test(spread.double(), true[:NUM_TESTED].double(), generator=generator)
    error = math.sqrt(test.statistic * (1 - test.statistic) / test.num_held_out)
    meaning = (
        f"accuracy of nearest neighbours that tell {NUM_TESTED} draws from as many true ones; 0.5 is best, and what is "
        "below counts as 0.5"
    )
    return {"c2st": Metric(max(0.5, test.statistic), "share", "lower", meaning, error)}


def _posterior_metrics(learner: Learner, problem: Problem) -> dict[str, Metric]:
    """Draws against the true posterior; a chain's effective sample size."""
    posterior = problem.posterior
    if posterior is None:
        return {}
    _, draws = _drawn(learner, problem, NUM_DRAWS if problem.is_whole else NUM_LOCAL_DRAWS, ALL)
    if draws is None or len(draws) < LEAST_DRAWS:
        missing = Metric(None, "true sd", "lower", "there are no draws yet")
        return {"mean_error": missing, "sd_error": missing}
    errors = _moment_errors(draws, posterior, ALL)
    of = (
        f"over dimensions and data, of {len(draws)} draws, as many independent exact ones having "
        f"{1 / math.sqrt(len(draws)):.3f} in the mean; the truth's own error is {posterior.error:.3f}"
    )
    found = {
        "mean_error": Metric(errors["mean_error"], "true sd", "lower", f"root mean square error of the mean, {of}"),
        "sd_error": Metric(errors["sd_error"], "true sd", "lower", f"root mean square error of the sd, {of}"),
    }
    if posterior.covariance is not None and len(draws) > 2 * draws.shape[2]:
        found["wasserstein"] = _wasserstein(draws, posterior)
    if posterior.draws is not None:
        scale = posterior.sd[0]
        found |= _told_apart(draws[:, 0] / scale, posterior.draws / scale)
    if learner.is_chain:
        ess = _chain_size(draws[:, 0])
        found["chain_ess"] = Metric(
            ess / len(draws),
            "share",
            "higher",
            f"effective sample size of a chain over its {len(draws)} draws, the least over dimensions, by "
            "autocorrelation; above 1 where draws alternate",
        )
    return found


def _chain_size(draws: Tensor) -> float:
    """The least effective sample size over the dimensions of one chain, (n, d)."""
    return float(effective_sample_size(draws.unsqueeze(0), chain_dim=0, sample_dim=1).min())


def _wasserstein(draws: Tensor, posterior: Posterior) -> Metric:
    """Of the first twenty data, in units of the true sds."""
    assert posterior.covariance is not None
    distances = []
    for row in range(min(20, draws.shape[1])):
        own, scale = draws[:, row] / posterior.sd[row], posterior.sd[row]
        truth = posterior.mean[row] / scale, posterior.covariance[row] / scale.outer(scale)
        squared = frechet_distance_of_moments(own.mean(0), torch.cov(own.T), *truth)
        distances.append(math.sqrt(squared))
    meaning = (
        f"Wasserstein-2 distance from a normal with the moments of {len(draws)} draws to the exact posterior, which is "
        f"normal; biased upwards by the draws' own noise; mean over {len(distances)} data"
    )
    return Metric(sum(distances) / len(distances), "true sd", "lower", meaning)


def _evidence_metrics(learner: Learner, problem: Problem) -> dict[str, Metric]:
    """Bound, log p(x), KL to the posterior, and what importance weights are worth."""
    num = problem.num_particles
    if learner.programs is not None and not problem.is_whole:
        looked = weights_of(learner, problem, LOOKED_LOCAL)
        by_sampling = log_evidence(*learner.programs, *problem.test, num_particles=num)
        per_datum, k = by_sampling.per_datum, by_sampling.pareto_k
        error, monte_carlo = by_sampling.estimate.standard_error, by_sampling.monte_carlo_error
        ess = 1 / (1 + by_sampling.standard_error.square() * (num - 1))
    else:
        looked = weights_of(learner, problem, num)
        if looked is None:
            return {}
        per_datum, k = looked.logsumexp(0) - math.log(num), pareto_k(looked)  # (1,)
        ess = 1 / (num * looked.softmax(0).square().sum(0))
        error = monte_carlo = float(((1 / ess[0] - 1) / (num - 1)).clamp(min=0).sqrt())
    assert looked is not None
    bound, nats = looked.mean(0), _nats(problem)
    of_bound = Estimate.of(looked[:, 0]) if problem.is_whole else Estimate.of(bound)
    found = {
        "bound": Metric(
            float(bound.mean()),
            nats,
            "higher",
            f"ELBO of model and guide, a lower bound on log p(x), unbiased; {len(looked)} draws",
            of_bound.standard_error,
        ),
        "ess": Metric(
            float(ess.mean()),
            "share",
            "higher",
            f"effective sample size of {num} importance weights, over their number",
        ),
        "pareto_k": Metric(
            float(k.clamp(0.0, MOST_K).mean()),
            "shape",
            "lower",
            f"Pareto k of {num} importance weights, between 0, bounded weights, and {MOST_K:g}, nothing known; mean "
            "over data; above 0.7 log p(x) by them is not to be trusted",
        ),
    }
    found["log_evidence"] = _log_evidence_metric(problem, per_datum, error, monte_carlo)
    if problem.log_evidence is not None:
        gap = problem.log_evidence() - bound
        own = of_bound.standard_error if problem.is_whole else _paired_error(looked)
        how = "exact" if not problem.evidence_error else "stored"
        meaning = f"KL(q || p) from guide to true posterior: {how} log p(x) less the ELBO"
        found["kl"] = Metric(float(gap.mean()), nats, "lower", meaning, math.hypot(own, problem.evidence_error))
    return found


def _log_evidence_metric(problem: Problem, per_datum: Tensor, error: float, monte_carlo: float) -> Metric:
    """Of a learned model its log p(x); of a given one how far the estimate is from the truth.

    Arguments:
        problem: what was trained.
        per_datum: estimates by importance sampling, (B,).
        error: of their mean, due to sampling the data.
        monte_carlo: of their mean, due to the draws.
    """
    by = f"importance sampling, K = {problem.num_particles}"
    nats = _nats(problem)
    if problem.log_evidence is not None and not problem.is_learned:
        off = float((per_datum - problem.log_evidence()).mean())
        error = math.hypot(monte_carlo, problem.evidence_error)
        return Metric(off, nats, "zero", f"log p(x) by {by}, less the true one", error)
    learned = "log p(x) of the learned model on test data, {how}; the error is that of sampling the data{more}"
    if problem.log_evidence is not None:
        exact = Estimate.of(problem.log_evidence())
        return Metric(exact.mean, nats, "higher", learned.format(how="exact", more=""), exact.standard_error)
    meaning = learned.format(how=f"{by}, a lower bound in expectation", more=f", the draws add {monte_carlo:.3f}")
    return Metric(float(per_datum.mean()), nats, "higher", meaning, error)


def _paired_error(looked: Tensor) -> float:
    """Of the mean over the data that is due to few draws of each, (num, B)."""
    return float((looked.var(0) / len(looked)).sum().sqrt()) / looked.shape[1]


def _nats(problem: Problem) -> str:
    return "nats" if problem.is_whole else "nats per datum"


def _gradient_metrics(learner: Learner, problem: Problem) -> dict[str, Metric]:
    """Noise of the guide's gradient at the parameters that were reached."""
    if learner.objective is None or learner.programs is None:
        return {}
    model, guide = learner.programs
    batch, objective = next(problem.batches()), copy.deepcopy(learner.objective)
    audit = gradient_audit(
        objective, model, guide, *batch, num_steps=NUM_AUDITED, reference=objective, num_reference_steps=2
    )
    rows = [row for row in audit.rows if not row.name.startswith("model.")]
    if not rows:
        return {}
    variance = sum(float(row.variance.sum()) for row in rows)
    squared = sum(float(row.mean.square().sum()) for row in rows)
    signal = max(0.0, squared - variance / NUM_AUDITED)  # the mean's own noise taken out
    of = f"of the guide's parameters at the method's end, {NUM_AUDITED} gradients of its own objective on one minibatch"
    unit = "nats²" if problem.is_whole else "nats² per datum²"
    noise = f"variance of the gradient, summed over the elements {of}"
    ratio = math.sqrt(signal / variance) if variance else math.inf
    meaning = f"norm of the mean gradient over the root of its summed variance, {of}"
    return {
        "gradient_variance": Metric(variance / len(batch[0]) ** 2, unit, "lower", noise),
        "snr": Metric(ratio, "ratio", "higher", meaning if variance else f"{meaning}; infinite, as there is no noise"),
    }


@contextmanager
def _own_noise(seed: int) -> Iterator[Any]:
    """A seed of its own for what is within, another for every cell's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(EVALUATION_SEED + seed)
        yield
