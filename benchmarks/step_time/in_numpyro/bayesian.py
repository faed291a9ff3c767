"""Posteriors over the parameters of small models, by NumPyro's automatic guides."""

__all__ = ["logistic_regression", "mixture"]

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_value

from benchmarks.step_time.in_numpyro.twin import Twin
from benchmarks.step_time.tasks.bayesian import SCALE


def logistic_regression(task: Any) -> Twin:
    """All data at once."""

    def model(x: Any, y: Any) -> None:
        w = numpyro.sample("w", dist.Normal(jnp.zeros(task.features), 1.0).to_event(1))
        b = numpyro.sample("b", dist.Normal(0.0, 10.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)

    start = {"w": jnp.zeros(task.features), "b": jnp.array(0.0)}
    return Twin(model, AutoNormal(model, init_loc_fn=init_to_value(values=start), init_scale=SCALE), Trace_ELBO())


def mixture(task: Any) -> Twin:
    """Assignments are summed over by funsor."""
    from numpyro.contrib.funsor import config_enumerate

    @config_enumerate
    def model(x: Any) -> None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(task.components)))
        means = numpyro.sample("means", dist.Normal(jnp.zeros((task.components, 2)), 10.0).to_event(2))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(means[z], scale).to_event(1), obs=x)

    start = {name: jnp.asarray(value.numpy()) for name, value in task.start().items()}
    continuous = handlers.block(handlers.seed(model, 0), hide=["z"])
    guide = AutoNormal(continuous, init_loc_fn=init_to_value(values=start), init_scale=SCALE)
    return Twin(model, guide, TraceEnum_ELBO(max_plate_nesting=1))
