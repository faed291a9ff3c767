"""What adversarial recipes share: networks with an end, what is measured of draws, and how draws are shown."""

__all__ = [
    "Ended",
    "check_kind_of_data",
    "check_network",
    "compiled",
    "discrepancy",
    "drawn_in_parts",
    "game_numbers",
    "in_turn",
    "number",
    "optimizer_of",
    "pictured",
    "placed",
    "seeded",
    "validated",
    "whole_batches",
]

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_dgm import plotting
from pyro_dgm.adversarial import Contrast
from pyro_dgm.datasets import Batches, Dataset, Split
from pyro_dgm.evaluation import mode_coverage, perfect_coverage
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.infer.divergences import mmd
from pyro_dgm.infer.optimizers import OptimizerFactory
from pyro_dgm.infer.programs import fork_rng
from pyro_dgm.recipes.recipe import Drawn

WITH_MODES = ("ring", "grid")  # toys whose classes are round Gaussians of one size
VALIDATION_SEED = 0
MOST_COMPARED = 2000  # rows of either side in a discrepancy
AT_ONCE = 1000  # rows that are drawn together
NUM_PICTURED = 64

_OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}


class Ended(nn.Module):
    """A network of several inputs with one more module behind it.

    Arguments:
        net: takes the inputs.
        end: takes its output.
    """

    def __init__(self, net: nn.Module, end: nn.Module) -> None:
        super().__init__()
        self.net, self.end = net, end

    def forward(self, *inputs: Tensor) -> Tensor:
        """Runs the network, then the end."""
        return self.end(self.net(*inputs))


def check_kind_of_data(dataset: Dataset, kinds: Sequence[str], cure: str) -> None:
    """Raises a ``ValueError`` unless the data are of one of these kinds."""
    if dataset.kind not in kinds:
        raise ValueError(
            f"this recipe models data of kind {tuple(kinds)}; got {dataset.name!r}, of kind {dataset.kind!r}. {cure}"
        )


def check_network(network: str, dataset: Dataset) -> None:
    """Raises a ``ValueError`` where a convolutional network is to see what is no image."""
    if network != "mlp" and len(dataset.event_shape) != 3:
        raise ValueError(
            f"a convolutional network needs images (channels, height, width); got {dataset.name!r} with data of "
            f"shape {dataset.event_shape}. Use --set network=mlp."
        )


def compiled(is_compiled: bool) -> Compiler | bool:
    """What a trainer is told of compiling: to wait for it, or not to."""
    return Compiler(wait=True) if is_compiled else False


def optimizer_of(name: str, learning_rate: float, beta1: float = 0.5, beta2: float = 0.999) -> OptimizerFactory:
    """Adam with these betas, or RMSprop, as a callable from parameters."""
    if name == "adam":
        return functools.partial(torch.optim.Adam, lr=learning_rate, betas=(beta1, beta2))
    return functools.partial(_OPTIMIZERS[name], lr=learning_rate)


def whole_batches(*tensors: Tensor, batch_size: int, seed: int, **options: Any) -> Batches:
    """Minibatches of one size, what is left over of an epoch dropped; few data are one batch."""
    is_whole = len(tensors[0]) >= batch_size
    return Batches(*tensors, batch_size=batch_size, seed=seed, drop_last=is_whole, **options)


def placed(contrast: Contrast, like: Tensor) -> Contrast:
    """The contrast with all that its critic learns with where a tensor is, and of its dtype."""
    for part in contrast.critic_parts().values():
        part.to(like)
    return contrast


def in_turn(num: int, count: int, like: Tensor) -> Tensor:
    """The classes 0, 1, ..., count - 1 again and again, (num,)."""
    return torch.arange(num, device=like.device) % count


@torch.no_grad()
def drawn_in_parts(draw: Callable[[int, int], Tensor], num: int) -> Tensor:
    """Draws of a generator, some rows at a time, so that memory does not grow with their number but for the result.

    Arguments:
        draw: from the first row and the number of rows to draws.
        num: how many in all.
    """
    return torch.cat([draw(start, min(AT_ONCE, num - start)) for start in range(0, num, AT_ONCE)])


@contextmanager
def seeded(seed: int = VALIDATION_SEED) -> Iterator[None]:
    """Torch's generators at a fixed seed, and as they were afterwards."""
    with fork_rng():
        torch.manual_seed(seed)
        yield


def discrepancy(x: Tensor, drawn: Tensor) -> float:
    """The squared maximum mean discrepancy of data and draws, unbiased: it may be below 0."""
    first, second = (values[:MOST_COMPARED].flatten(1) for values in (x, drawn))
    return float(mmd(first, second)) if min(len(first), len(second)) > 1 else 0.0


def number(metric: str, value: float, unit: str, meaning: str, **more: Any) -> dict[str, Any]:
    """A row of ``evaluation.json`` without a standard error, unless it is among the rest."""
    return {"metric": metric, "value": value, "standard_error": None, "unit": unit, "meaning": meaning, **more}


def game_numbers(dataset: Dataset, split: Split, drawn: Tensor) -> list[dict[str, Any]]:
    """What draws of any generator can be asked: their discrepancy from the data, and the modes of a toy.

    Arguments:
        dataset: whose training data tell the modes.
        split: what is compared with.
        drawn: as many draws as the split has data.
    """
    value = discrepancy(split.x, drawn)
    rows = min(len(drawn), MOST_COMPARED)
    meaning = f"squared, of data and {rows} draws by inverse multiquadratics; unbiased, 0 is perfect"
    found = [number("MMD", value, "squared discrepancy", meaning, num_samples=rows)]
    return [*found, *_mode_numbers(dataset, drawn)] if dataset.name in WITH_MODES else found


def validated(dataset: Dataset, draws: Callable[[int], Drawn]) -> dict[str, float]:
    """The discrepancy of the validation data from as many draws by a fixed seed."""
    x = dataset.valid.x[:MOST_COMPARED]
    with seeded():
        return {"mmd": discrepancy(x, draws(len(x)).x)}


def pictured(drawn: Drawn, data: Tensor, image_shape: tuple[int, ...] | None) -> dict[str, Figure]:
    """Draws as images, a column for each class or code, or as points of the plane over the data."""
    if image_shape is not None:
        columns = None if drawn.codes is None else 1 + int(drawn.codes.max())
        images = drawn.x.reshape(-1, *image_shape).clamp(0, 1)
        return {"samples": plotting.image_grid(images, columns)}
    if data[0].numel() != 2:
        return {}
    clouds = {"samples": drawn.x.flatten(1)}
    if drawn.codes is not None:
        clouds = {f"class {code}": drawn.x[drawn.codes == code] for code in drawn.codes.unique().tolist()}
    return {"samples": plotting.point_clouds(clouds, data.flatten(1))}


def _mode_numbers(dataset: Dataset, drawn: Tensor) -> list[dict[str, Any]]:
    """Modes found, beside what draws of the data's own distribution find; the modes are those of the training data."""
    x, y = dataset.train.x.flatten(1), dataset.train.y
    assert y is not None
    means = torch.stack([x[y == mode].mean(0) for mode in y.unique()])
    sd = float((x - means[y]).square().mean().sqrt())
    found, best = mode_coverage(drawn, means, sd), perfect_coverage(len(drawn), len(means))
    of = (
        ("modes covered", found.num_covered, best.num_covered, "modes", "with a tenth of the draws due there"),
        ("high quality", found.high_quality, best.high_quality, "share", "within 3 standard deviations of a mode"),
        ("reverse KL of the modes", found.reverse_kl, best.reverse_kl, "nats", "of the draws' modes to the data's"),
    )
    return [
        number(metric, value, unit, f"{meaning}; {perfect:.4g} is perfect", num_samples=len(drawn))
        for metric, value, perfect, unit, meaning in of
    ]
