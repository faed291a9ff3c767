"""Autoencoders of bits as NumPyro programs, from the same first parameters as everyone's."""

__all__ = ["Autoencoder", "VAEInNumPyro"]

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy
import torch
from torch import Tensor, nn

from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.methods.by_hand import why_no_vae
from benchmarks.comparison.methods.in_numpyro.threads import as_many_as_torch
from benchmarks.comparison.task import Problem
from pyro_dgm.nn import MLP

ACTIVATIONS = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.SiLU: "silu"}
"""Their names in ``jax.nn``."""

Network = Callable[..., Any]


@final
class VAEInNumPyro(Method):
    """``numpyro.infer.SVI`` with Adam on one of NumPyro's objectives, its update jitted.

    Arguments:
        name: of the method.
        title: for the tables.
        objective: its name in ``numpyro.infer``.
        options: of the objective.
    """

    family = "numpyro"
    requires = ("numpyro", "jax")

    def __init__(self, name: str, title: str, objective: str, options: Mapping[str, Any] | None = None) -> None:
        self.name, self.title, self.objective, self.options = name, title, objective, options or {}

    def supports(self, problem: Problem) -> str | None:
        """Only a VAE of bits, of multilayer perceptrons."""
        refusal = why_no_vae(problem)
        if refusal is not None or problem.make_guide is None:
            return refusal
        model, guide = problem.model, problem.make_guide()
        nets = model.likelihood.net, guide.sites.z.net
        is_known = all(isinstance(net, MLP) and _is_known(net) for net in nets) and model.likelihood.event_dim == 1
        return None if is_known else "what is written in NumPyro here has networks of its own, MLPs of vectors"

    def start(self, problem: Problem, seed: int) -> Learner:
        """The programs with the problem's first parameters."""
        as_many_as_torch()
        import numpyro

        return Autoencoder(problem, getattr(numpyro.infer, self.objective)(**self.options), seed)


@final
class Autoencoder(Learner):
    """NumPyro's programs at work, and torch's, which get the parameters when they are asked for.

    Arguments:
        problem: whose networks are taken over.
        objective: one of NumPyro's.
        seed: of JAX's noise.
    """

    def __init__(self, problem: Problem, objective: Any, seed: int) -> None:
        import jax
        import numpyro

        assert problem.make_guide is not None
        self._programs = problem.model, problem.make_guide()
        self._nets = {"decoder": self._programs[0].likelihood.net, "encoder": self._programs[1].sites.z.net}
        model, guide = _programs(self._nets["decoder"], self._nets["encoder"], problem.model.prior.loc.shape[0])
        self.svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(problem.learning_rate), objective)
        self.state = self.svi.init(jax.random.PRNGKey(seed), *_arrays(problem.test))
        self._update = jax.jit(self.svi.update)
        self._batches = problem.batches()

    def step(self) -> None:
        """Takes one update and waits for its loss, as a loop that looks at it would."""
        self.state, loss = self._update(self.state, *_arrays(next(self._batches)))
        float(loss)

    @property
    def programs(self) -> tuple[nn.Module, nn.Module]:
        """Torch's, with the parameters as they are now."""
        learned = self.svi.get_params(self.state)
        with torch.no_grad():
            for prefix, net in self._nets.items():
                for name, parameter in net.named_parameters():
                    parameter.copy_(torch.from_numpy(numpy.array(learned[f"{prefix}.{name}"])))
        return self._programs


def _programs(decoder: MLP, encoder: MLP, latents: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Model and guide; the loss is a sum over the minibatch, as everyone's."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    decode, encode = _network("decoder", decoder), _network("encoder", encoder)

    def model(x: Any, *context: Any) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latents), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z, *context)).to_event(1), obs=x)

    def guide(x: Any, *context: Any) -> None:
        loc, log_scale = jnp.split(encode(x, *context), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide


def _network(prefix: str, net: MLP) -> Network:
    """The net's twin, called where a program runs; its parameters begin with the net's and are NumPyro's then."""
    import jax
    import jax.numpy as jnp
    import numpyro

    starts = {name: jnp.asarray(own.detach().numpy().copy()) for name, own in net.named_parameters()}

    def parameter(name: str) -> Any:
        return numpyro.param(f"{prefix}.{name}", starts[name])

    def network(*inputs: Any) -> Any:
        x = jnp.concatenate(inputs, -1)
        for name, layer in net.layers.named_children():
            if isinstance(layer, nn.Linear):
                x = x @ parameter(f"layers.{name}.weight").T + parameter(f"layers.{name}.bias")
            else:
                x = getattr(jax.nn, ACTIVATIONS[type(layer)])(x)
        return x

    return network


def _is_known(net: MLP) -> bool:
    return all(isinstance(layer, nn.Linear) or type(layer) in ACTIVATIONS for layer in net.layers)


def _arrays(tensors: tuple[Tensor, ...]) -> list[Any]:
    return [own.numpy() for own in tensors]
