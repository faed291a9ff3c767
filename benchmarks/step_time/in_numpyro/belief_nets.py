"""A layer of bits."""

__all__ = ["belief_net"]

from typing import Any

import numpyro
import numpyro.distributions as dist
from numpyro.infer import TraceGraph_ELBO

from benchmarks.step_time.in_numpyro.networks import dense, parameter
from benchmarks.step_time.in_numpyro.twin import Twin


def belief_net(task: Any) -> Twin:
    """By ``TraceGraph_ELBO``: NumPyro's ``Trace_ELBO`` has no score function."""

    def model(x: Any) -> None:
        top, decoder = parameter(task, "top"), dense(task, "decoder")
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Bernoulli(logits=top).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encoder = dense(task, "encoder")
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1))

    return Twin(model, guide, TraceGraph_ELBO())
