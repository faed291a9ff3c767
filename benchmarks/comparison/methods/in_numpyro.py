"""NumPyro's SVI with its AutoGuides, where it is installed, on the posteriors that are written in it here."""

__all__ = ["IN_NUMPYRO", "TWINS"]

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.task import Problem
from benchmarks.comparison.tasks.normal import Hierarchy
from benchmarks.comparison.tasks.stored import EightSchools, LogisticRegression


def _hierarchy() -> Callable[[Any], None]:
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


def _eight_schools() -> Callable[[Any], None]:
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


def _logistic() -> Callable[[Any], None]:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    features = jnp.asarray(LogisticRegression().table()[0].numpy())

    def model(y: Any) -> None:
        with numpyro.plate("data", 1):
            w = numpyro.sample("w", dist.Normal(jnp.zeros((1, features.shape[1])), 1.0).to_event(1))
            numpyro.sample("y", dist.Bernoulli(logits=w @ features.T).to_event(1), obs=y)

    return model


TWINS: dict[str, Callable[[], Callable[[Any], None]]] = {
    "hierarchy": _hierarchy,
    "eight-schools": _eight_schools,
    "logistic": _logistic,
}
"""The models, by the names of their data."""


@final
class NumPyro(Method):
    """``numpyro.infer.SVI`` with Adam, its update jitted.

    Arguments:
        name: of the method.
        title: for the tables.
        guide: name of the AutoGuide.
    """

    family = "numpyro"
    requires = ("numpyro", "jax")

    def __init__(self, name: str, title: str, guide: str) -> None:
        self.name, self.title, self.guide = name, title, guide

    def supports(self, problem: Problem) -> str | None:
        """Only what is written in NumPyro as well."""
        return None if problem.facts.data in TWINS else "there is no such model in NumPyro here"

    def start(self, problem: Problem, seed: int) -> Learner:
        """A guide with its first parameters."""
        return _Update(problem, self.guide, seed)


class _Update(Learner):
    def __init__(self, problem: Problem, guide: str, seed: int) -> None:
        import jax
        import numpyro

        self._y = jax.numpy.asarray(problem.test[0].numpy())
        self._model = TWINS[problem.facts.data]()
        self._guide = getattr(numpyro.infer.autoguide, guide)(self._model)
        adam = numpyro.optim.Adam(problem.learning_rate)
        self._svi = numpyro.infer.SVI(self._model, self._guide, adam, numpyro.infer.Trace_ELBO())
        self._state = self._svi.init(jax.random.PRNGKey(seed), self._y)
        self._update = jax.jit(self._svi.update)
        self._weigh: Any = None

    def step(self) -> None:
        """Takes one update and waits for its loss, as a loop that looks at it would."""
        self._state, loss = self._update(self._state, self._y)
        float(loss)

    def draws(self, num: int) -> dict[str, Tensor] | None:
        """Draws of the guide by site, in the latents' own supports."""
        import jax

        own = self._guide.sample_posterior(self._key(), self._svi.get_params(self._state), sample_shape=(num,))
        return {name: torch.tensor(jax.device_get(value).tolist()) for name, value in own.items()}

    def log_weights(self, num: int) -> Tensor | None:
        """Model against guide, (num, 1)."""
        import jax
        from numpyro.handlers import replay, seed
        from numpyro.infer.util import log_density

        def weigh(key: Any, params: Any) -> Any:
            log_q, trace = log_density(seed(self._guide, key), (self._y,), {}, params)
            log_p, _ = log_density(replay(seed(self._model, key), trace), (self._y,), {}, {})
            return log_p - log_q

        self._weigh = self._weigh or jax.jit(jax.vmap(weigh, in_axes=(0, None)))
        found = self._weigh(jax.random.split(self._key(), num), self._svi.get_params(self._state))
        return torch.tensor(jax.device_get(found).tolist()).unsqueeze(1)

    def _key(self) -> Any:
        """A key by torch's generator, so that looks repeat."""
        import jax

        return jax.random.PRNGKey(int(torch.randint(2**31 - 1, ())))


IN_NUMPYRO: tuple[Method, ...] = (
    NumPyro("numpyro-autonormal", "AutoNormal (NumPyro)", "AutoNormal"),
    NumPyro("numpyro-automvn", "AutoMultivariateNormal (NumPyro)", "AutoMultivariateNormal"),
)
