"""What a trained run is worth: its numbers with their protocol, its pictures, and an ArviZ file."""

__all__ = ["Report", "evaluate", "sample"]

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from pyro_dgm import datasets, plotting
from pyro_dgm.datasets import Split
from pyro_dgm.evaluation import (
    ELBOParts,
    Estimate,
    LogEvidence,
    elbo_parts,
    log_evidence,
    to_arviz,
    write_netcdf,
)
from pyro_dgm.infer.programs import check_num_particles, fork_rng
from pyro_dgm.recipes.classifier import Classifier
from pyro_dgm.recipes.evidence import fitted_evidence
from pyro_dgm.recipes.features import classifier_features
from pyro_dgm.recipes.judging import judged
from pyro_dgm.recipes.pictures import draw_data, draw_pictures, draw_samples, draws_data
from pyro_dgm.recipes.recipe import Drawn
from pyro_dgm.recipes.runs import Run

EVALUATION_SEED = 0
ELBO_PARTICLES = 10
NUM_IN_ARVIZ = 100  # data in posterior.nc
MAX_PARETO_K = 0.7  # above it, importance sampling has failed for the datum
ROUNDING = 1e-5  # weights whose relative spread is below it are equal, and their tail is that of float32


class Report(NamedTuple):
    """What an evaluation found and wrote.

    Arguments:
        numbers: every number with its protocol, as in evaluation.json.
        pictures: paths of the pictures.
        arviz: path of the ArviZ file, or None where there are no densities to fill it with.
    """

    numbers: list[dict[str, Any]]
    pictures: list[Path]
    arviz: Path | None

    def __str__(self) -> str:
        lines = [_line(number) for number in self.numbers]
        lines += [f"{'picture':<34} {path}" for path in self.pictures]
        if self.arviz is not None:
            lines.append(f"{'ArviZ file':<34} {self.arviz}")
        return "\n".join(lines)


def evaluate(
    run: Run,
    split: Literal["valid", "test"] = "test",
    num_particles: int = 500,
    progress: bool = True,
    judge: Run | str | Path | None = None,
) -> Report:
    """Evaluates a trained run and writes evaluation.json, pictures and, given densities, posterior.nc into its folder.

    The draws come from a fixed seed, so that evaluating again gives the same numbers; torch's generator is put back.

    Arguments:
        run: a run with its trained parameters in place.
        split: which data; the test data are for the number that is reported.
        num_particles: number K of importance samples per datum for log p(x).
        progress: show a bar.
        judge: a trained run of the recipe ``classifier``, or its folder, whose features and classes judge images that
            the run draws; None for no such numbers.

    Raises:
        TypeError: ``num_particles`` is not an integer.
        ValueError: there is no such split, ``num_particles`` is below 1, the judge is a run of another recipe, or the
            run draws nothing that it could judge.
        CheckpointError: the judge is not trained yet.
    """
    if split not in ("valid", "test"):
        raise ValueError(f"split must be 'valid' or 'test'; got {split!r}. Report on 'test'.")
    check_num_particles(num_particles)
    classifier = None if judge is None else _judge(run, judge)
    data: Split = getattr(run.system.dataset, split)
    arguments = run.system.arguments(data)
    model, guide = run.system.model, run.system.guide
    rows = _shuffled_rows(len(data.x))
    with fork_rng():
        torch.manual_seed(EVALUATION_SEED)
        if run.system.numbers is not None:
            found = run.system.numbers(data)
        else:
            evidence = log_evidence(model, guide, *arguments, num_particles=num_particles, progress=progress)
            parts = elbo_parts(model, guide, *arguments, num_particles=ELBO_PARTICLES, progress=progress)
            found = _numbers(run, parts, evidence)
        if run.system.proposal is not None:
            batches = run.system.batches
            fitted = fitted_evidence(model, run.system.proposal, batches, arguments, num_particles, progress=progress)
            found.append(
                _evidence_number(
                    fitted, "importance sampling with a guide fitted to the trained model; a lower bound in expectation"
                )
            )
        if classifier is not None:
            found += _judged(run, classifier, split)
        numbers = [{**number, **_protocol(run, split)} for number in found]
        run.write_json("evaluation.json", numbers)
        figures = draw_pictures(run, data, rows)
        pictures = [plotting.save_figure(figure, run.folder / f"{name}.png") for name, figure in figures.items()]
        if not run.system.has_densities:
            return Report(numbers, pictures, None)
        few = rows[:NUM_IN_ARVIZ]
        facts = {**_protocol(run, split), "rows": few.tolist()}
        inference = to_arviz(model, guide, *(arg[few] for arg in arguments), attributes=facts)
    return Report(numbers, pictures, write_netcdf(inference, run.folder / "posterior.nc"))


def sample(run: Run, num: int, path: Path) -> Path:
    """Draws data from a trained run by a fixed seed and saves them as a picture."""
    with fork_rng():
        torch.manual_seed(EVALUATION_SEED)
        figure = draw_samples(run, num)
    return plotting.save_figure(figure, path)


def _numbers(run: Run, parts: ELBOParts, evidence: LogEvidence) -> list[dict[str, Any]]:
    k = parts.num_particles
    found = [_number("ELBO", Estimate.of(parts.elbo), k, "lower bound on log p(x), unbiased")]
    for name, values in parts.log_likelihood.items():
        found.append(_number(f"E_q log p({name} | z)", Estimate.of(values), k, "minus the reconstruction error"))
    for name, values in parts.kl.items():
        found.append(_number(f"KL(q({name} | x) || p({name}))", Estimate.of(values), k, "sampled"))
    if run.system.image_shape is not None and run.system.is_discrete:
        found.append(_number("bits per dimension", parts.bits_per_dim, k, "upper bound, from the ELBO", "bits"))
    return [*found, _evidence_number(evidence, "importance sampling; biased downwards")]


def _evidence_number(evidence: LogEvidence, meaning: str) -> dict[str, Any]:
    number = _number("log p(x)", evidence.estimate, evidence.num_particles, meaning)
    number["monte_carlo_error"] = evidence.monte_carlo_error
    is_exact = evidence.standard_error * evidence.num_particles**0.5 < ROUNDING
    number["num_pareto_k_over_0.7"] = int(((evidence.pareto_k > MAX_PARETO_K) & ~is_exact).sum())
    return number


def _judge(run: Run, judge: Run | str | Path) -> Classifier:
    """The classifier, if there is something to judge."""
    if run.system.image_shape is None or not draws_data(run):
        raise ValueError(
            f"a judge looks at images that a run draws; got a run of {run.config.recipe!r} on {run.config.data!r}, "
            "which draws none. Leave the judge out."
        )
    return classifier_features(judge)


def _judged(run: Run, classifier: Classifier, split: str) -> list[dict[str, Any]]:
    """The judge's numbers; data are compared as they were before a recipe has binarised them."""
    dataset, shape = datasets.load(run.config.data), run.system.image_shape
    assert shape is not None
    images, others = (
        part.x[_shuffled_rows(len(part.x))].to(run.config.device) for part in (getattr(dataset, split), dataset.train)
    )
    drawn = draw_data(run, len(images))
    drawn = Drawn(drawn.x.reshape(-1, *shape).clamp(0, 1), drawn.codes)
    return judged(classifier, images, drawn, run.system.knows_classes, others[: len(images)])


def _number(
    metric: str, estimate: Estimate, num_particles: int, meaning: str, unit: str = "nats per datum"
) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": estimate.mean,
        "standard_error": estimate.standard_error,
        "unit": unit,
        "num_particles": num_particles,
        "meaning": meaning,
    }


def _protocol(run: Run, split: str) -> dict[str, Any]:
    """What a number must say of how it came about."""
    dataset = run.system.dataset
    return {
        "recipe": run.config.recipe,
        "training_seed": run.config.seed,
        "training_steps": run.trainer.num_steps,
        "data": dataset.name,
        "data_sha256": dataset.digest,
        "data_protocol": dataset.protocol,
        "split": split,
        "num_data": len(getattr(dataset, split).x),
        "evaluation_seed": EVALUATION_SEED,
    }


def _line(number: dict[str, Any]) -> str:
    particles = f" (K = {number['num_particles']})" if "num_particles" in number else ""
    label = f"{number['split']} {number['metric']}{particles}"
    digits = 2 if number["value"] == 0 or abs(number["value"]) >= 1 else 4
    error = "" if number["standard_error"] is None else f" ± {number['standard_error']:.{digits}f}"
    line = f"{label:<34} {number['value']:9.{digits}f}{error} {number['unit']}"
    failed = number.get("num_pareto_k_over_0.7")
    return f"{line} (not to be trusted for {failed} data, whose Pareto k is above 0.7)" if failed else line


def _shuffled_rows(total: int) -> torch.Tensor:
    """All rows in an order of a fixed seed: data sets may be sorted, so the first rows are no sample."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(EVALUATION_SEED))
