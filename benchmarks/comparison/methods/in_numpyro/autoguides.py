"""NumPyro's SVI with its AutoGuides."""

__all__ = ["AutoGuide"]

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.methods.in_numpyro.posteriors import TWINS, no_twin
from benchmarks.comparison.methods.in_numpyro.threads import as_many_as_torch
from benchmarks.comparison.task import Problem


@final
class AutoGuide(Method):
    """``numpyro.infer.SVI`` with Adam, its update jitted.

    Arguments:
        name: of the method.
        title: for the tables.
        guide: name of the AutoGuide.
        options: of the AutoGuide.
    """

    family = "numpyro"
    requires = ("numpyro", "jax")

    def __init__(self, name: str, title: str, guide: str, options: Mapping[str, Any] | None = None) -> None:
        self.name, self.title, self.guide, self.options = name, title, guide, options or {}

    def supports(self, problem: Problem) -> str | None:
        """Only what is written in NumPyro as well."""
        return no_twin(problem)

    def start(self, problem: Problem, seed: int) -> Learner:
        """A guide with its first parameters."""
        return _Update(problem, self, seed)


class _Update(Learner):
    def __init__(self, problem: Problem, method: AutoGuide, seed: int) -> None:
        as_many_as_torch()
        import jax
        import numpyro

        self._y = jax.numpy.asarray(problem.test[0].numpy())
        self._model = TWINS[problem.facts.data]()
        self._guide = getattr(numpyro.infer.autoguide, method.guide)(self._model, **method.options)
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
