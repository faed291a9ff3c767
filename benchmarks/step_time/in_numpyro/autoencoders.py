"""Autoencoders of normal latents."""

__all__ = ["autoencoder", "flow_vae", "hierarchical_vae"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.flows import InverseAutoregressiveTransform
from numpyro.infer import RenyiELBO, Trace_ELBO

from benchmarks.step_time.in_numpyro.networks import Network, dense, parameter
from benchmarks.step_time.in_numpyro.twin import Twin

Program = Callable[[Any], None]
LAYOUT = ("NHWC", "HWIO", "NHWC")


def autoencoder(task: Any) -> Twin:
    """One layer of latents."""

    def guide(x: Any) -> None:
        loc, log_scale = jnp.split(_encoder(task)(x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    particles = getattr(task, "particles", 1)
    return Twin(_decoding(task), guide, RenyiELBO(0.0, particles) if particles > 1 else Trace_ELBO())


def flow_vae(task: Any) -> Twin:
    """One layer of latents, whose guide is NumPyro's inverse autoregressive flow on Pyro's masked nets."""

    def guide(x: Any) -> None:
        loc, log_scale = jnp.split(_encoder(task)(x), 2, -1)
        steps = [InverseAutoregressiveTransform(_masked(task, f"flow.{i}.arn")) for i in range(len(task.flow))]
        with numpyro.plate("data", len(x)):
            first = dist.Normal(loc, jnp.exp(log_scale)).to_event(1)
            numpyro.sample("z", dist.TransformedDistribution(first, steps))

    return Twin(_decoding(task), guide, Trace_ELBO())


def hierarchical_vae(task: Any) -> Twin:
    """Layers of latents; the guide goes up, the model down."""

    def model(x: Any) -> None:
        downs = [dense(task, f"downs.{i}") for i in range(task.layers)]
        with numpyro.plate("data", len(x)):
            z = numpyro.sample(f"z{task.layers - 1}", dist.Normal(jnp.zeros(task.latents), 1.0).to_event(1))
            for i in reversed(range(1, task.layers)):
                loc, log_scale = jnp.split(downs[i](z), 2, -1)
                z = numpyro.sample(f"z{i - 1}", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=downs[0](z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        ups = [dense(task, f"ups.{i}") for i in range(task.layers)]
        with numpyro.plate("data", len(x)):
            below = x
            for i, up in enumerate(ups):
                loc, log_scale = jnp.split(up(below), 2, -1)
                below = numpyro.sample(f"z{i}", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return Twin(model, guide, Trace_ELBO())


def _decoding(task: Any) -> Program:
    """p(z) p(x | z)."""

    def model(x: Any) -> None:
        decoder = dense(task, "decoder") if len(task.shape) == 1 else _transposed_convolutions(task)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(task.latents), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(len(task.shape)), obs=x)

    return model


def _encoder(task: Any) -> Network:
    return dense(task, "encoder") if len(task.shape) == 1 else _convolutions(task)


def _masked(task: Any, prefix: str) -> Network:
    """A masked net of one hidden layer, which gives shift and log-scale."""
    layers = task.get_submodule(f"{prefix}.layers")
    masks = [jnp.asarray(layer.mask.numpy()) for layer in layers]
    weights = [parameter(task, f"{prefix}.layers.{i}.weight") for i in range(len(layers))]
    biases = [parameter(task, f"{prefix}.layers.{i}.bias") for i in range(len(layers))]

    def network(z: Any) -> Any:
        hidden = jax.nn.relu(z @ (weights[0] * masks[0]).T + biases[0])
        return jnp.split(hidden @ (weights[1] * masks[1]).T + biases[1], 2, -1)

    return network


def _convolutions(task: Any) -> Network:
    """The encoder with channels last, as JAX's compiler for processors likes them."""
    layers = {i: _weight_and_bias(task, f"encoder.{i}", (2, 3, 1, 0) if i < 5 else (1, 0)) for i in (0, 2, 5)}

    def network(x: Any) -> Any:
        hidden = jnp.moveaxis(x, 1, -1)
        for weight, bias in (layers[0], layers[2]):
            found = jax.lax.conv_general_dilated(hidden, weight, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)
            hidden = jax.nn.relu(found + bias)
        flat = jnp.moveaxis(hidden, -1, 1).reshape(len(x), -1)
        weight, bias = layers[5]
        return flat @ weight + bias

    return network


def _transposed_convolutions(task: Any) -> Network:
    """The decoder, likewise."""
    layers = {i: _weight_and_bias(task, f"decoder.{i}", (2, 3, 1, 0) if i else (1, 0)) for i in (0, 3, 5)}

    def transposed(x: Any, layer: int) -> Any:
        weight, bias = layers[layer]
        padding = ((2, 2), (2, 2))
        found = jax.lax.conv_transpose(x, weight, (2, 2), padding, dimension_numbers=LAYOUT, transpose_kernel=True)
        return found + bias

    def network(z: Any) -> Any:
        weight, bias = layers[0]
        hidden = jax.nn.relu(z @ weight + bias).reshape(-1, 32, 7, 7)
        hidden = jax.nn.relu(transposed(jnp.moveaxis(hidden, 1, -1), 3))
        return jnp.moveaxis(transposed(hidden, 5), -1, 1)

    return network


def _weight_and_bias(task: Any, prefix: str, order: tuple[int, ...]) -> tuple[Any, Any]:
    return parameter(task, f"{prefix}.weight", order), parameter(task, f"{prefix}.bias")
