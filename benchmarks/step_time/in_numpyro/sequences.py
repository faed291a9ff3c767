"""A deep Markov model, scanned over time."""

__all__ = ["markov_model"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import Trace_ELBO

from benchmarks.step_time.in_numpyro.networks import dense, parameter
from benchmarks.step_time.in_numpyro.twin import Twin


def markov_model(task: Any) -> Twin:
    """Its programs are NumPyro's ``scan`` of a step, with time in front."""

    def model(x: Any) -> None:
        gate, proposal, loc, raw, emission = (
            dense(task, name) for name in ("gate", "proposal", "loc", "raw", "emission")
        )

        def step(z: Any, x: Any) -> tuple[Any, None]:
            share, proposed = jax.nn.sigmoid(gate(z)), proposal(z)
            mean, scale = (1 - share) * loc(z) + share * proposed, jax.nn.softplus(raw(jax.nn.relu(proposed)))
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", dist.Normal(mean, scale).to_event(1))
                numpyro.sample("x", dist.Bernoulli(logits=emission(z)).to_event(1), obs=x)
            return z, None

        scan(step, _first(task, "first", x), jnp.swapaxes(x, 0, 1))

    def guide(x: Any) -> None:
        combiner, loc, raw = (dense(task, name) for name in ("combiner", "loc_of_guide", "raw_of_guide"))

        def step(z: Any, future: Any) -> tuple[Any, None]:
            hidden = (jnp.tanh(combiner(z)) + future) / 2
            with numpyro.plate("data", len(x)):
                z = numpyro.sample("z", dist.Normal(loc(hidden), jax.nn.softplus(raw(hidden))).to_event(1))
            return z, None

        scan(step, _first(task, "first_of_guide", x), _future(task)(jnp.swapaxes(x, 0, 1)))

    return Twin(model, guide, Trace_ELBO())


def _first(task: Any, name: str, x: Any) -> Any:
    return jnp.broadcast_to(parameter(task, name), (len(x), task.latents))


def _future(task: Any) -> Callable[[Any], Any]:
    """The recurrent net from the end to the beginning, of data with time in front."""
    kinds = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")
    of_input, input_bias, of_state, state_bias = (parameter(task, f"rnn.{kind}") for kind in kinds)

    def future(x: Any) -> Any:
        def step(state: Any, entry: Any) -> tuple[Any, Any]:
            state = jnp.tanh(entry + state @ of_state.T + state_bias)
            return state, state

        start = jnp.zeros((x.shape[1], task.hidden))
        return jax.lax.scan(step, start, x @ of_input.T + input_bias, reverse=True)[1]

    return future
