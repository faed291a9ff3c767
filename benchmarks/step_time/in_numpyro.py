"""The tasks as NumPyro programs, from the same parameters; imported only where NumPyro is installed."""

__all__ = ["Twin", "twin"]

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_value

from benchmarks.step_time.tasks import SCALE, Autoencoder, Mixture, Task

Network = Callable[[Any], Any]


class Twin(NamedTuple):
    """A task for NumPyro's SVI."""

    model: Callable[..., None]
    guide: Callable[..., Any]
    objective: Any


def twin(name: str, task: Task) -> Twin:
    """The task in NumPyro.

    Raises:
        NotImplementedError: NumPyro has no such objective.
    """
    if name == "sbn":
        raise NotImplementedError("NumPyro has no leave-one-out score function, and no VIMCO")
    made: Twin = {"logistic": _logistic_regression, "mixture": _mixture, "hvae": _hierarchical_vae}.get(
        name, _autoencoder
    )(task)
    return made


def _logistic_regression(task: Any) -> Twin:
    def model(x: Any, y: Any) -> None:
        w = numpyro.sample("w", dist.Normal(jnp.zeros(task.features), 1.0).to_event(1))
        b = numpyro.sample("b", dist.Normal(0.0, 10.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)

    start = {"w": jnp.zeros(task.features), "b": jnp.array(0.0)}
    return Twin(model, AutoNormal(model, init_loc_fn=init_to_value(values=start), init_scale=SCALE), Trace_ELBO())


def _autoencoder(task: Any) -> Twin:
    assert isinstance(task, Autoencoder)
    encoder, decoder = (
        _convolutions(task) if len(task.shape) > 1 else (_dense(task, "encoder"), _dense(task, "decoder"))
    )

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(task.latents), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(len(task.shape)), obs=x)

    def guide(x: Any) -> None:
        loc, log_scale = jnp.split(encoder(x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    particles = getattr(task, "particles", 1)
    return Twin(model, guide, RenyiELBO(0.0, particles) if particles > 1 else Trace_ELBO())


def _hierarchical_vae(task: Any) -> Twin:
    ups = [_dense(task, f"ups.{i}") for i in range(task.layers)]
    downs = [_dense(task, f"downs.{i}") for i in range(task.layers)]

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample(f"z{task.layers - 1}", dist.Normal(jnp.zeros(task.latents), 1.0).to_event(1))
            for i in reversed(range(1, task.layers)):
                loc, log_scale = jnp.split(downs[i](z), 2, -1)
                z = numpyro.sample(f"z{i - 1}", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=downs[0](z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            below = x
            for i, up in enumerate(ups):
                loc, log_scale = jnp.split(up(below), 2, -1)
                below = numpyro.sample(f"z{i}", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return Twin(model, guide, Trace_ELBO())


def _mixture(task: Any) -> Twin:
    from numpyro.contrib.funsor import config_enumerate

    assert isinstance(task, Mixture)

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


def _dense(task: Task, prefix: str) -> Network:
    """``tasks.dense`` of one hidden layer."""
    weight, bias = _parameter(task, prefix, "weight"), _parameter(task, prefix, "bias")

    def network(x: Any) -> Any:
        return jnp.tanh(x @ weight(0).T + bias(0)) @ weight(2).T + bias(2)

    return network


def _convolutions(task: Task) -> tuple[Network, Network]:
    """Encoder and decoder with channels last, as JAX's compiler for processors likes them."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    down, up = (_parameter(task, prefix, "weight", (2, 3, 1, 0)) for prefix in ("encoder", "decoder"))
    in_weight, in_bias = (_parameter(task, "encoder", kind) for kind in ("weight", "bias"))
    out_weight, out_bias = (_parameter(task, "decoder", kind) for kind in ("weight", "bias"))

    def convolve(x: Any, layer: int) -> Any:
        found = jax.lax.conv_general_dilated(x, down(layer), (2, 2), ((1, 1), (1, 1)), dimension_numbers=dimensions)
        return found + in_bias(layer)

    def transposed(x: Any, layer: int) -> Any:
        found = jax.lax.conv_transpose(
            x, up(layer), (2, 2), ((2, 2), (2, 2)), dimension_numbers=dimensions, transpose_kernel=True
        )
        return found + out_bias(layer)

    def encoder(x: Any) -> Any:
        hidden = jnp.moveaxis(x, 1, -1)
        for layer in (0, 2):
            hidden = jax.nn.relu(convolve(hidden, layer))
        flat = jnp.moveaxis(hidden, -1, 1).reshape(len(x), -1)
        return flat @ in_weight(5).T + in_bias(5)

    def decoder(z: Any) -> Any:
        hidden = jax.nn.relu(z @ out_weight(0).T + out_bias(0)).reshape(-1, 32, 7, 7)
        hidden = jax.nn.relu(transposed(jnp.moveaxis(hidden, 1, -1), 3))
        return jnp.moveaxis(transposed(hidden, 5), -1, 1)

    return encoder, decoder


def _parameter(task: Task, prefix: str, kind: str, order: tuple[int, ...] | None = None) -> Callable[[int], Any]:
    """A network's weight or bias by the number of the layer, with the axes in another order."""

    def parameter(layer: int) -> Any:
        name = f"{prefix}.{layer}.{kind}"
        value = task.get_parameter(name).detach()
        return numpyro.param(name, jnp.asarray((value if order is None else value.permute(order)).numpy().copy()))

    return parameter
