"""The pictures of a trained run."""

__all__ = ["draw_data", "draw_pictures", "draw_samples", "draws_data"]

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_dgm import plotting
from pyro_dgm.datasets import Split
from pyro_dgm.evaluation import decode, encode, interpolate, simulate
from pyro_dgm.recipes.recipe import Drawn
from pyro_dgm.recipes.runs import Run

NUM_CODES, NUM_SAMPLES, NUM_RECONSTRUCTIONS, NUM_PATHS, MANIFOLD_SIDE = 1000, 64, 16, 5, 20
MOST_COLUMNS = 16


def draw_pictures(run: Run, data: Split, rows: Tensor) -> dict[str, Figure]:
    """Draws what there is to see of a run, by name: curves and codes of any data, the rest of images only.

    Arguments:
        run: a run with its trained parameters in place.
        data: the data to look at.
        rows: their rows in the order in which they are picked.
    """
    history = run.history()
    figures = {"training": plotting.training_curves(history)} if history else {}
    system, arguments = run.system, run.system.arguments(data)
    chosen = rows[:NUM_CODES]
    if system.figures is not None:
        return {**figures, **system.figures(data.x[chosen])}
    if system.draws is not None and system.image_shape is None and data.x[0].numel() == 2:
        drawn = system.draws(NUM_CODES).x
        figures["samples"] = plotting.point_clouds({"samples": drawn}, data.x[chosen].flatten(1))
    is_drawn = not system.has_means
    codes = encode(system.guide, *(arg[chosen] for arg in arguments), sample=is_drawn)[system.latent].flatten(1)
    figures["latent_space"] = plotting.latent_space(codes, None if data.y is None else data.y[chosen])
    if system.image_shape is None:
        return figures
    figures["samples"] = draw_samples(run, NUM_SAMPLES)
    few = tuple(arg[rows[:NUM_RECONSTRUCTIONS]] for arg in arguments)
    is_drawn = is_drawn or not system.is_continuous  # the mean of discrete latents is none of their values
    latents = encode(system.guide, *few, sample=is_drawn)
    if not system.has_densities:
        latents = {system.latent: latents[system.latent]}  # and not what stands beside it
    rebuilt = _decoded(system.model, latents, *few)
    figures["reconstructions"] = plotting.reconstructions(_images(run, few[0]), _images(run, rebuilt))
    if system.is_continuous and system.has_means and len(few[0]) > 1:
        figures["interpolations"] = plotting.interpolations(_images(run, _paths(run, *few)))
    if system.is_continuous and system.latent_features == 2 and len(arguments) == 1:
        lattice = plotting.manifold_grid(MANIFOLD_SIDE).to(few[0])
        decoded = _decoded(system.model, {system.latent: lattice}, num=len(lattice))
        figures["manifold"] = plotting.manifold(_images(run, decoded))
    return figures


def draws_data(run: Run) -> bool:
    """Whether a run models data, rather than judging them."""
    return run.system.numbers is None or run.system.draws is not None


def draw_data(run: Run, num: int) -> Drawn:
    """Draws data from a run: images as their means, points in the plane; a conditional model's classes in turn.

    Raises:
        ValueError: the run judges data, and draws none.
    """
    if not draws_data(run):
        raise ValueError(
            f"samples come from a model of the data; got a run of {run.config.recipe!r}, which judges them. Sample a "
            "run of another recipe, such as vae."
        )
    if run.system.draws is not None:
        return run.system.draws(num)
    arguments, is_image = run.system.arguments(run.system.dataset.train), run.system.image_shape is not None
    if len(arguments) == 1:
        return Drawn(simulate(run.system.model, num=num, means=is_image)["x"])
    classes = arguments[1].shape[1]
    codes = torch.arange(num, device=arguments[1].device) % classes
    context = torch.eye(classes).to(arguments[1])[codes]
    return Drawn(simulate(run.system.model, None, context, means=is_image)["x"], codes)


def draw_samples(run: Run, num: int) -> Figure:
    """Draws data from a run and shows them: images, or points, in the plane over the data where these are.

    Raises:
        ValueError: the run judges data, and draws none.
    """
    drawn = draw_data(run, num)
    if run.system.image_shape is None:
        return plotting.latent_space(drawn.x.flatten(1), drawn.codes)
    columns = None if drawn.codes is None else 1 + int(drawn.codes.max())  # one column for each class or code
    return plotting.image_grid(_images(run, drawn.x), None if columns is None or columns > MOST_COLUMNS else columns)


def _decoded(model: nn.Module, latents: Mapping[str, Tensor], *args: Tensor, num: int | None = None) -> Tensor:
    """The mean of the data given latents, or a draw where the model knows no mean."""
    try:
        return decode(model, latents, *args, num=num)["x"]
    except ValueError:
        return decode(model, latents, *args, sample=True, num=num)["x"]


def _paths(run: Run, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Ways between pairs of data, each in the context of its start."""
    num = min(NUM_PATHS, len(x) // 2)
    start, end, context = x[:num], x[num : 2 * num], None if context is None else context[:num]
    return interpolate(run.system.model, run.system.guide, start, end, kind="spherical", context=context)["x"]


def _images(run: Run, x: Tensor) -> Tensor:
    assert run.system.image_shape is not None
    flat = x.flatten(-len(run.system.dataset.event_shape))
    return flat.unflatten(-1, run.system.image_shape).clamp(0, 1)
