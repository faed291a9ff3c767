"""What a trained model makes: codes, reconstructions, samples, paths between data."""

__all__ = ["decode", "encode", "interpolate", "latent_arithmetic", "reconstruct", "simulate"]

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.infer import forward
from pyro_dgm.infer.programs import Program, evaluation_mode


def encode(guide: Program, *args: Any, sample: bool = False, **kwargs: Any) -> dict[str, Tensor]:
    """The latents of data by name: their posterior means, or one draw.

    The mean of a latent that depends on earlier ones is the mean given the earlier ones' means.

    Arguments:
        guide: a Pyro program.
        args: data, (B, *event), and whatever else it takes.
        sample: one draw instead of means.
        kwargs: keyword arguments of the guide.

    Returns:
        Tensors of shape (B, *event of the latent).

    Raises:
        ValueError: a latent's distribution has no mean in closed form.
    """
    with evaluation_mode(guide):
        return forward.encode(guide, args, kwargs, sample)


def decode(
    model: Program, latents: Mapping[str, Tensor], *args: Any, sample: bool = False, **kwargs: Any
) -> dict[str, Tensor]:
    """What a model makes of latents: the mean of each site that is not given, or one draw.

    Arguments:
        model: a Pyro program.
        latents: values by name, (B, *event of the latent).
        args: whatever the model takes; data among it are only looked at for their shape.
        sample: one draw instead of means. Classes give their most probable one as a mean.
        kwargs: keyword arguments of the model; those here take ``num=B``.

    Returns:
        Tensors of shape (B, *event) by name.

    Raises:
        ValueError: a latent is no site of the model, or a site's distribution has no mean in closed form.
    """
    with evaluation_mode(model):
        trace = forward.simulate(model, args, kwargs, latents)
        sites = forward.free_sites(trace, latents)
        return {name: site["value"] if sample else forward.point(site["fn"], name) for name, site in sites.items()}


def reconstruct(model: Program, guide: Program, *args: Any, sample: bool = False, **kwargs: Any) -> dict[str, Tensor]:
    """Data through the guide and back: the mean of x given the posterior mean of its latents.

    Arguments:
        model: a Pyro program.
        guide: a Pyro program with a site for every latent of the model.
        args: data, (B, *event), and whatever else both take.
        sample: draw the latents from the guide instead of taking their means; x is a mean either way.
        kwargs: keyword arguments of both.

    Returns:
        Tensors of shape (B, *event) by name of the observed site.
    """
    return decode(model, encode(guide, *args, sample=sample, **kwargs), *args, **kwargs)


def simulate(model: Program, *args: Any, means: bool = False, **kwargs: Any) -> dict[str, Tensor]:
    """Draws latents and data from a model: ``simulate(model, num=64)["x"]``.

    Arguments:
        model: a Pyro program.
        args: whatever the model takes; data among it are only looked at for their shape.
        means: give the mean of the last site, given the draws of those before it, instead of a draw, as pictures of
            binary pixels often show it.
        kwargs: keyword arguments of the model; those here take ``num=``. A context goes second among ``args``, after
            data or None.

    Returns:
        Every site by name, (B, *event).
    """
    with evaluation_mode(model):
        trace = forward.simulate(model, args, kwargs)
        sites = forward.free_sites(trace, {})
        values = {name: site["value"] for name, site in sites.items()}
        if means and sites:
            last = next(reversed(sites))
            values[last] = forward.point(sites[last]["fn"], last)
        return values


def interpolate(
    model: Program,
    guide: Program,
    start: Tensor,
    end: Tensor,
    num_steps: int = 10,
    kind: str = "linear",
    context: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Walks from the latents of one datum to those of another and decodes the way.

    ``"linear"`` goes straight. ``"spherical"`` turns through the angle :math:`\omega` between the two at constant
    speed, and so stays at the radius where a normal prior in many dimensions has its mass:

    .. math:: z(t) = \frac{\sin((1 - t) \omega)}{\sin \omega} z_0 + \frac{\sin(t \omega)}{\sin \omega} z_1.

    References:
        White (2016), Sampling Generative Networks, arXiv:1609.04468 (spherical).

    Arguments:
        model: a Pyro program that takes data, followed by the context if there is one; the data are only looked at for
            their shape.
        guide: its guide.
        start: data, (P, *event).
        end: data, (P, *event).
        num_steps: number S of points, both ends included.
        kind: ``"linear"`` or ``"spherical"``.
        context: context of each pair, (P, features), for a conditional model.

    Returns:
        Means of shape (P, S, *event) by name of the observed site.

    Raises:
        ValueError: the two sets differ in shape, the kind is unknown, there are fewer than two steps, or a latent is
            discrete.
    """
    if start.shape != end.shape:
        raise ValueError(
            f"start and end must have one shape; got {tuple(start.shape)} and {tuple(end.shape)}. Pass pairs of data."
        )
    if kind not in {"linear", "spherical"}:
        raise ValueError(f"kind must be 'linear' or 'spherical'; got {kind!r}. 'linear' is the usual one.")
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, the two ends; got {num_steps}. Ten make a good picture.")
    along = _slerp if kind == "spherical" else torch.lerp
    given = () if context is None else (context,)
    z0, z1 = encode(guide, start, *given), encode(guide, end, *given)
    _check_continuous(z0, "interpolation walks through")
    steps = torch.linspace(0, 1, num_steps).tolist()
    path = {name: torch.stack([along(z0[name], z1[name], t) for t in steps], dim=1) for name in z0}  # (P, S, *event)
    flat = {name: z.flatten(0, 1) for name, z in path.items()}
    decoded = decode(model, flat, *(arg.repeat_interleave(num_steps, dim=0) for arg in (start, *given)))
    return {name: x.unflatten(0, (len(start), num_steps)) for name, x in decoded.items()}


def latent_arithmetic(
    model: Program, guide: Program, a: Tensor, b: Tensor, c: Tensor, context: Tensor | None = None
) -> dict[str, Tensor]:
    r"""Decodes :math:`z(a) - z(b) + z(c)`: what a has and b lacks, given to c.

    The sum of three codes lies further out than they do: from three draws of a standard normal prior, by the root of 3.
    One datum each makes a noisy direction; the mean of z(a) - z(b) over several pairs makes a better one, by `encode`
    and `decode`.

    References:
        Radford, Metz and Chintala (2016), Unsupervised Representation Learning with Deep Convolutional GANs, section
        6.3.2, arXiv:1511.06434.

    Arguments:
        model: a Pyro program that takes data, followed by the context if there is one; the data are only looked at for
            their shape.
        guide: its guide.
        a: data, (B, *event).
        b: data, (B, *event).
        c: data, (B, *event).
        context: context of each row, (B, features), for a conditional model.

    Returns:
        Means of shape (B, *event) by name of the observed site.

    Raises:
        ValueError: the three sets differ in shape, or a latent is discrete.
    """
    if not a.shape == b.shape == c.shape:
        raise ValueError(
            f"a, b and c must have one shape; got {tuple(a.shape)}, {tuple(b.shape)} and {tuple(c.shape)}. Pass one "
            "row of each per sum."
        )
    given = () if context is None else (context,)
    z_a, z_b, z_c = (encode(guide, x, *given) for x in (a, b, c))
    _check_continuous(z_a, "arithmetic is done with")
    return decode(model, {name: z_a[name] - z_b[name] + z_c[name] for name in z_a}, c, *given)


def _check_continuous(latents: Mapping[str, Tensor], what: str) -> None:
    discrete = [name for name, z in latents.items() if not z.is_floating_point()]
    if discrete:
        raise ValueError(
            f"{what} continuous latents; got discrete ones: {discrete}. Decode their values in turn instead."
        )


def _slerp(z0: Tensor, z1: Tensor, t: float) -> Tensor:
    """Spherical interpolation of each datum's latent as one vector; straight where two latents span no plane."""
    u, v = (torch.nn.functional.normalize(z.reshape(len(z), -1), dim=1) for z in (z0, z1))
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))  # accurate at all angles, which acos is not
    angle = angle * (u.any(dim=1) & v.any(dim=1))
    angle = angle.reshape(-1, *(1 for _ in z0.shape[1:]))
    turned = (((1 - t) * angle).sin() * z0 + (t * angle).sin() * z1) / angle.sin()
    return torch.where(angle.sin() > math.sqrt(torch.finfo(z0.dtype).eps), turned, torch.lerp(z0, z1, t))
