"""NumPyro's no-U-turn sampler."""

__all__ = ["Nuts"]

from typing import Any, final

import numpy
import torch
from torch import Tensor

from benchmarks.comparison.method import Learner, Method
from benchmarks.comparison.methods.chains import NUM_WARMUP, later_draws
from benchmarks.comparison.methods.in_numpyro.posteriors import TWINS, no_twin
from benchmarks.comparison.methods.in_numpyro.threads import as_many_as_torch
from benchmarks.comparison.task import Problem


@final
class Nuts(Method):
    """The no-U-turn sampler, its kernel jitted; a step is one draw, and the first 200 are those in which it adapts."""

    name, title, family = "numpyro-nuts", "NUTS (NumPyro)", "numpyro"
    requires = ("numpyro", "jax")

    def supports(self, problem: Problem) -> str | None:
        """Only what is written in NumPyro as well."""
        return no_twin(problem)

    def start(self, problem: Problem, seed: int) -> Learner:
        """A chain that has not begun."""
        return _Chain(problem, seed)


class _Chain(Learner):
    is_chain = True

    def __init__(self, problem: Problem, seed: int) -> None:
        as_many_as_torch()
        import jax
        from numpyro.infer import NUTS

        args = (jax.numpy.asarray(problem.test[0].numpy()),)
        kernel = NUTS(TWINS[problem.facts.data]())
        self._state = kernel.init(
            jax.random.PRNGKey(seed), NUM_WARMUP, init_params=None, model_args=args, model_kwargs={}
        )
        self._sample = jax.jit(lambda state: kernel.sample(state, args, {}))
        self._to_supports = jax.vmap(kernel.postprocess_fn(args, {}))
        self._draws: list[dict[str, Any]] = []

    def step(self) -> None:
        """Draws once, and waits for the draw."""
        self._state = self._sample(self._state)
        self._draws.append({name: numpy.asarray(value) for name, value in self._state.z.items()})

    def draws(self, num: int) -> dict[str, Tensor] | None:
        """The later half of the chain, as ``later_draws`` has it."""
        kept = later_draws(self._draws, num)
        if kept is None:
            return None
        own = self._to_supports({name: numpy.stack([draw[name] for draw in kept]) for name in kept[0]})
        return {name: torch.from_numpy(numpy.array(value)) for name, value in own.items()}
