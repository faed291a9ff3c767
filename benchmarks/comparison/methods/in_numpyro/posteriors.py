"""Posteriors of global latents as NumPyro programs: twins of the tasks' models."""

__all__ = ["TWINS", "no_twin"]

import functools
import math
from collections.abc import Callable
from typing import Any

from benchmarks.comparison.task import Problem
from benchmarks.comparison.tasks.in_the_plane import WIDE
from benchmarks.comparison.tasks.normal import Hierarchy
from benchmarks.comparison.tasks.stored import EightSchools, LogisticRegression

Model = Callable[[Any], None]


def no_twin(problem: Problem) -> str | None:
    """None, or the reason why a problem's model is not there in NumPyro."""
    return None if problem.facts.data in TWINS else "there is no such model in NumPyro here"


def _hierarchy() -> Model:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model(y: Any) -> None:
        with numpyro.plate("data", 1):
            mu = numpyro.sample("mu", dist.Normal(jnp.zeros(1), Hierarchy.common_sd))
            own = jnp.broadcast_to(mu[..., None], (*mu.shape, Hierarchy.groups))
            theta = numpyro.sample("theta", dist.Normal(own, Hierarchy.group_sd).to_event(1))
            each = jnp.broadcast_to(theta[..., None], (*theta.shape, Hierarchy.members))
            numpyro.sample("y", dist.Normal(each, Hierarchy.noise_sd).to_event(2), obs=y)

    return model


def _eight_schools() -> Model:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    scales = jnp.asarray(EightSchools.scales.numpy())

    def model(y: Any) -> None:
        with numpyro.plate("data", 1):
            mu = numpyro.sample("mu", dist.Normal(jnp.zeros(1), 5.0))
            tau = numpyro.sample("tau", dist.HalfCauchy(jnp.full(1, 5.0)))
            eta = numpyro.sample("eta", dist.Normal(jnp.zeros((1, 8)), 1.0).to_event(1))
            numpyro.sample("y", dist.Normal(mu[..., None] + tau[..., None] * eta, scales).to_event(1), obs=y)

    return model


def _logistic() -> Model:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    features = jnp.asarray(LogisticRegression().table()[0].numpy())

    def model(y: Any) -> None:
        with numpyro.plate("data", 1):
            w = numpyro.sample("w", dist.Normal(jnp.zeros((1, features.shape[1])), 1.0).to_event(1))
            numpyro.sample("y", dist.Bernoulli(logits=w @ features.T).to_event(1), obs=y)

    return model


def _potential(number: str) -> Model:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model(nothing: Any) -> None:
        with numpyro.plate("data", 1):
            wide = dist.Normal(jnp.zeros((1, 2)), WIDE).to_event(1)
            z = numpyro.sample("z", wide)
            numpyro.factor("potential", -_potential_of(number, z) - wide.log_prob(z))

    return model


def _potential_of(number: str, z: Any) -> Any:
    """``benchmarks.potentials.POTENTIALS``, (*batch, 2) to (*batch)."""
    import jax
    import jax.numpy as jnp

    first, second = z[..., 0], z[..., 1]
    w1 = jnp.sin(math.pi / 2 * first)
    w2 = 3 * jnp.exp(-0.5 * ((first - 1) / 0.6) ** 2)
    w3 = 3 * jax.nn.sigmoid((first - 1) / 0.3)
    walls = 0.5 * (jax.nn.relu(jnp.abs(first) - 4) / 0.5) ** 2
    if number == "1":
        left, right = (-0.5 * ((first + place) / 0.6) ** 2 for place in (-2, 2))
        return 0.5 * ((jnp.linalg.norm(z, axis=-1) - 2) / 0.4) ** 2 - jnp.logaddexp(left, right)
    if number == "2":
        return 0.5 * ((second - w1) / 0.4) ** 2 + walls
    other, width, other_width = (w1 - w2, 0.35, 0.35) if number == "3" else (w1 - w3, 0.4, 0.35)
    below, above = -0.5 * ((second - w1) / width) ** 2, -0.5 * ((second - other) / other_width) ** 2
    return -jnp.logaddexp(below, above) + walls


TWINS: dict[str, Callable[[], Model]] = {
    "hierarchy": _hierarchy,
    "eight-schools": _eight_schools,
    "logistic": _logistic,
    **{f"potential-{number}": functools.partial(_potential, number) for number in "1234"},
}
"""What makes the models, by the names of their data."""
