"""One player's turn: the gradient of its loss and the move, as written or compiled."""

__all__ = ["Turn"]

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyro_dgm.adversarial.player import Player
from pyro_dgm.infer.compiling import CompiledStep, Compiler, Outcome
from pyro_dgm.infer.processes import Processes


@final
class Turn:
    """Takes a player's turns.

    Arguments:
        player: whose gradients and moves they are.
        work: called with a batch; leaves gradients in the player's parameters and returns its loss, a scalar.
        roots: the objects that the work starts from.
        processes: those who train together, or None.
        with_move: whether the move follows at once, and so may be part of what is compiled.
    """

    def __init__(
        self,
        player: Player,
        work: Callable[..., Tensor],
        roots: Sequence[Any],
        processes: Processes | None,
        with_move: bool,
    ) -> None:
        self.player, self._work, self._roots, self._processes = player, work, tuple(roots), processes
        self._with_move = with_move and processes is None
        self.compiled: CompiledStep | None = None
        self.norm = math.nan  # of the last gradient
        self._pending: tuple[float, Tensor] | None = None
        self._outcome: Outcome | None = None

    def compile(self, compiler: Compiler) -> None:
        """Compiles the turn from now on."""
        if self.compiled is None:
            roots, clip_norm = self._roots, self.player.clip_norm
            self.compiled = CompiledStep(
                self._work, roots, self._made_optimizer, clip_norm, compiler, with_update=self._with_move
            )

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any], as_written: bool = False) -> float:
        """Takes the gradient, moves, and returns the loss.

        Arguments:
            args: the batch.
            kwargs: the batch.
            as_written: do not take a compiled turn.
        """
        if self.gradient(args, kwargs, as_written) is not None:
            return self.move()
        assert self._outcome is not None
        return self._outcome.loss

    def gradient(self, args: tuple[Any, ...], kwargs: dict[str, Any], as_written: bool = False) -> float | None:
        """Takes the gradient and returns the loss; None if the move has been made along with it.

        Raises:
            ValueError: there is no gradient.
            NonFiniteError: loss or gradient is not finite; nothing has been moved.
        """
        self._pending = None
        self._outcome = None if as_written else self._run_compiled(args, kwargs)
        if self._outcome is not None and self._outcome.is_updated:
            self.norm = self._outcome.norm
            return None
        if self._outcome is None:
            self.player.zero_grad()
            with nullcontext() if self.compiled is None else self.compiled.observing(args, kwargs):
                loss = float(self._work(*args, **kwargs))
        else:
            loss = self._outcome.loss
        loss, norm = self.player.norm(loss, self._processes)
        self.norm, self._pending = float(norm), (loss, norm)
        return loss

    def move(self) -> float:
        """Moves by the gradient that was taken, and returns its loss."""
        assert self._pending is not None
        loss, norm = self._pending
        self.player.update(norm)
        self._pending = None
        return loss

    def reset(self) -> None:
        """Forgets what has been compiled, and the last gradient, as when a state was loaded."""
        self.norm = math.nan
        if self.compiled is not None:
            self.compiled.reset()

    def _run_compiled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome | None:
        """A compiled turn; None where there is none, or it went wrong: as written it will say why."""
        if self.compiled is None:
            return None
        generator_state = torch.get_rng_state()
        try:
            outcome = self.compiled.run(args, kwargs)
        except RuntimeError:  # of a draw that refuses NaN
            torch.set_rng_state(generator_state)
            return None
        if outcome is not None and not (math.isfinite(outcome.loss) and math.isfinite(outcome.norm)):
            torch.set_rng_state(generator_state)
            return None
        return outcome

    def _made_optimizer(self) -> Optimizer:
        return self.player.optimizer
