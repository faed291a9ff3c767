"""What a trained classifier makes of the images that a system draws."""

__all__ = ["accuracy_of_codes", "judged"]

from typing import Any

import torch
from torch import Tensor

from pyro_dgm.evaluation import (
    class_entropies,
    expected_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from pyro_dgm.recipes.classifier import Classifier
from pyro_dgm.recipes.recipe import Drawn

NUM_NEIGHBOURS = 5
MOST_NEIGHBOURS = 5000  # images of either side whose neighbours are sought

_OF_FEATURES = "features of the judge; smaller is better, compare at equal numbers and by one judge only"


def judged(
    classifier: Classifier, data: Tensor, drawn: Drawn, knows_classes: bool, reference: Tensor
) -> list[dict[str, Any]]:
    """Numbers of images that a system has drawn, by the features and classes of a trained classifier.

    Arguments:
        classifier: the judge.
        data: as many images, of the data.
        drawn: images drawn, and what each was drawn for.
        knows_classes: whether these codes are the judge's classes, or are to be matched to them.
        reference: images of other data, which are judged in the place of the draws for comparison.

    Returns:
        Rows of ``evaluation.json``.

    Raises:
        ValueError: the images have another size than the judge's, but for a margin.
    """
    images, x, others = (_without_margin(values, classifier.net.image_shape) for values in (data, drawn.x, reference))
    real, fake = classifier.features(images), classifier.features(x)
    log_probs = classifier.log_probs(x)
    best = frechet_distance(real, classifier.features(others))
    kernel = kernel_distance(real, fake)
    near = precision_recall(real[:MOST_NEIGHBOURS], fake[:MOST_NEIGHBOURS], NUM_NEIGHBOURS)
    equal = expected_coverage(len(real[:MOST_NEIGHBOURS]), len(fake[:MOST_NEIGHBOURS]), NUM_NEIGHBOURS)
    own, of_data = class_entropies(log_probs), class_entropies(classifier.log_probs(images))
    found = [
        _row(
            "Fréchet distance",
            frechet_distance(real, fake),
            "squared feature units",
            f"{_OF_FEATURES}; biased up; {best:.3g} for {len(others)} training data in the place of the draws",
        ),
        _row("kernel distance", kernel.mean, "squared discrepancy", f"{_OF_FEATURES}; unbiased", kernel.standard_error),
        _row("precision", near.precision, "share", "draws near data; fidelity"),
        _row("recall", near.recall, "share", "data near draws; diversity"),
        _row("density", near.density, "ratio", "balls of data around a draw; 1 is perfect"),
        _row("coverage", near.coverage, "share", f"data with a draw near by; {equal:.2f} is perfect"),
        _row("class entropy of an image", own.intra, "nats", f"low is clear; {of_data.intra:.3f} for the data"),
        _row("entropy of the classes", own.inter, "nats", f"high is even; {of_data.inter:.3f} for the data"),
    ]
    if drawn.codes is not None:
        classes = log_probs.argmax(1)
        share = accuracy_of_codes(drawn.codes, classes, matched=not knows_classes)
        found.append(
            _row("right class", share, "share", "draws that the judge takes for the class they were drawn for")
            if knows_classes
            else _row("purity of the codes", share, "share", "draws of their code's class, one code per class at best")
        )
    return [{**row, "num_samples": len(x)} for row in found]


def accuracy_of_codes(codes: Tensor, classes: Tensor, matched: bool) -> float:
    """The share of data whose code is their class.

    Arguments:
        codes: whole numbers from 0, (n,).
        classes: whole numbers from 0, (n,).
        matched: rename the codes first, each to a class of its own, so that the share is the largest.

    Raises:
        ValueError: the shapes differ, or there are none.

    Example:
        >>> accuracy_of_codes(torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 0]), matched=True)
        0.75
    """
    if codes.shape != classes.shape or codes.dim() != 1 or not len(codes):
        raise ValueError(
            f"codes and classes must be vectors of one length, at least 1; got shapes {tuple(codes.shape)} and "
            f"{tuple(classes.shape)}. Pass one of each per datum."
        )
    if not matched:
        return float((codes == classes).double().mean())
    from scipy.optimize import linear_sum_assignment

    size = 1 + int(max(codes.max(), classes.max()))
    counts = torch.bincount(codes * size + classes, minlength=size * size).view(size, size).cpu().numpy()
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum()) / len(codes)


def _without_margin(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images without the margin by which they exceed the judge's."""
    if x.dim() != 4:
        return x
    margins = [(size - own) // 2 for size, own in zip(x.shape[2:], shape[1:], strict=True)]
    if min(margins) < 0:
        return x
    return x[..., margins[0] : margins[0] + shape[1], margins[1] : margins[1] + shape[2]]


def _row(metric: str, value: float, unit: str, meaning: str, standard_error: float | None = None) -> dict[str, Any]:
    return {"metric": metric, "value": value, "standard_error": standard_error, "unit": unit, "meaning": meaning}
