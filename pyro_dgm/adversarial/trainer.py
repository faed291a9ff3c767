"""The trainer of implicit models: critics and players, each with an optimiser, in one step with one state."""

__all__ = ["AdversarialTrainer"]

import copy
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from pyro_dgm.adversarial.averaging import Averaged
from pyro_dgm.adversarial.checks import check_apart, check_averaged, check_covered, check_penalties
from pyro_dgm.adversarial.contrasts import AdversarialTerm, Readings
from pyro_dgm.adversarial.player import Optim, Player
from pyro_dgm.adversarial.steps import Steps
from pyro_dgm.adversarial.turns import Turn
from pyro_dgm.infer.annealing import annealings_of, check_met
from pyro_dgm.infer.compiling import Compiler, Payoff
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.processes import Processes
from pyro_dgm.infer.programs import Program, evaluation_mode, fork_rng, module_of, parameters_met
from pyro_dgm.infer.rows import stands_for
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.states import check_tensors
from pyro_dgm.infer.term import Sum, Term
from pyro_dgm.nn.modes import in_evaluation_mode

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


def _no_guide(*args: Any, **kwargs: Any) -> None:
    """The guide of a model that needs none."""


@final
class AdversarialTrainer:
    """Trains a model, and its guide if it has one, by terms some of which have critics.

    One ``step`` is so many updates of the critics and so many of model and guide, as the schedule says. For each update
    every source is drawn anew, once for all terms together: without gradients for the critics, whose own
    parameters stand still while model and guide move. The losses are means over the data, in nats per datum where they
    are divergences, and none of them is a bound.

    Arguments:
        model: a Pyro program; sites without a density are ``Implicit``.
        terms: what is minimised, one term or several: a ``Contrast``, a bound, an ``NLL``, an ``MMD`` and so on, their
            weighted sum, or a list, which is summed.
        optim: of model and guide (and what their terms learn): a torch optimiser, a callable from parameters to one, or
            a ``pyro.optim.PyroOptim``. None if the schedule gives them no steps.
        critic_optim: of all critics, likewise; the ratio of the two learning rates is the two time scales'. None if
            there is no critic.
        guide: a Pyro program with the model's arguments, or None.
        schedule: who moves how often.
        ema: decay of a running average of model and guide, under ``averaged``; None for none. 0.999 is usual.
        clip_norm: scales the gradient of model and guide down to this norm, all parameters together.
        critic_clip_norm: likewise for the critics.
        report_every: ``report`` compares fresh and seen batches at every so many steps.
        compile: make one function of each player's turn, programs, losses, gradients and update, with the same noise as
            the turn as written; see ``infer.SVI``, which compiles in the same way and is told the same by True,
            ``"auto"`` or a ``compiling.Compiler``. Compiled turns round otherwise, and from a state on turns are
            compiled anew: a run is resumed bit by bit with False only, the default. Turns whose Python state changes,
            as a lazy penalty's does, are taken as written, with a warning.
        group: of ``torch.distributed``: its processes train the same parameters, each on data and noise of its own;
            gradients and losses become their means before each update.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an option is out of range, the players share parameters, or somebody who is to move has no
            optimiser or nothing to train; at the first step, when a parameter with a gradient is nobody's.
        NonFiniteError: at a step; the update that would have spread it was not made.

    Example:
        >>> import functools, pyro
        >>> from pyro_dgm.adversarial import Contrast, Critic
        >>> from pyro_dgm.distributions import Implicit
        >>> from pyro_dgm.infer import DATA, P
        >>> from pyro_dgm.nn import MLP, LocalModule
        >>> class Model(LocalModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.generator = MLP(2, 2, (16,))
        ...     def forward(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
        ...             return pyro.sample("x", Implicit(self.generator(z), event_dim=1), obs=x)
        >>> adam = functools.partial(torch.optim.Adam, lr=1e-3)
        >>> gan = Contrast("x", DATA, P, Critic(MLP(2, 1, (16,))))
        >>> trainer = AdversarialTrainer(Model(), gan, adam, adam)
        >>> sorted(trainer.step(torch.randn(8, 2)))
        ['critic_loss', 'loss']
    """

    def __init__(
        self,
        model: Program,
        terms: Term | Sequence[Term],
        optim: Optim | None,
        critic_optim: Optim | None = None,
        guide: Program | None = None,
        *,
        schedule: Steps | None = None,
        ema: float | None = None,
        clip_norm: float | None = None,
        critic_clip_norm: float | None = None,
        report_every: int = 100,
        compile: bool | str | Compiler = False,
        group: ProcessGroup | None = None,
    ) -> None:
        if not (isinstance(compile, bool | Compiler) or compile == "auto"):
            raise ValueError(
                f"compile must be True, False, 'auto' or a Compiler; got {compile!r}. 'auto' decides by the time spent."
            )
        self.model, self.guide = model, _no_guide if guide is None else guide
        self._annealings = [] if guide is None else annealings_of(model, guide)
        self.terms = _summed(terms)
        self.schedule = Steps() if schedule is None else schedule
        if not isinstance(self.schedule, Steps):
            raise TypeError(f"the schedule must be Steps; got {schedule!r}. For instance Steps(critic=5).")
        if isinstance(report_every, bool) or not isinstance(report_every, int) or report_every < 1:
            raise ValueError(f"report_every must be a whole number from 1; got {report_every!r}. 100 is the default.")
        self.report_every = report_every
        self.terms.check_guide(self.guide)
        self._adversarial = [term for _, term in self.terms.terms if isinstance(term, AdversarialTerm)]
        self._learning = [term for term in self._adversarial if term.learns]
        self.player = Player("model and guide", self._programs(), optim, clip_norm)
        self.critic = Player("critics", self._critics(), critic_optim, critic_clip_norm)
        if self._learning and self.schedule.critic == 0:
            raise ValueError(
                "a critic must learn; got schedule=Steps(critic=0) with critics. Freeze trained critics by "
                "Contrast(..., learns=False)."
            )
        check_apart(self.player, self.critic)
        check_penalties(self._learning)
        programs = {name: own for name, own in self.player.modules.items() if name in ("model", "guide")}
        if ema is not None:
            check_averaged(programs)
        self._averaged = {} if ema is None else {name: Averaged(own, ema) for name, own in programs.items()}
        self._processes = None if group is None else Processes(group)
        is_apart = not self.schedule.simultaneous
        roots = self.model, self.guide, self.terms
        self._player_turn = Turn(self.player, self._player_work, roots, self._processes, is_apart)
        self._critic_turn = Turn(self.critic, self._critic_work, roots, self._processes, is_apart)
        self._compiler = compile if isinstance(compile, Compiler) else Compiler()
        self._payoff = Payoff(compile if isinstance(compile, bool | str) else True)
        for term in self._adversarial:
            term.has_trainer = True
        self._is_prepared = False
        self.num_steps = self.num_updates = self.num_critic_updates = 0
        self._names: list[str] = []  # of what there is to tell of the critics
        self._facts = torch.zeros(0)
        self._gap: float | None = None
        self._seen: list[Readings] = []

    @property
    def optimizer(self) -> Optimizer:
        """That of model and guide, for a learning-rate scheduler to hold."""
        return self.player.optimizer

    @property
    def critic_optimizer(self) -> Optimizer:
        """That of the critics."""
        return self.critic.optimizer

    @property
    def averaged(self) -> Mapping[str, nn.Module]:
        """Model and guide with averaged parameters, in evaluation mode, by these names; empty without ``ema``."""
        return {name: averaged.average for name, averaged in self._averaged.items()}

    def step(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Makes the updates of one step.

        Returns:
            ``loss``, the last one of model and guide, and ``critic_loss``, the last one of the critics, of those that
            moved; per datum.
        """
        self._prepare(args, kwargs)
        start, self._gap = time.perf_counter(), None
        batches = self.schedule.batches(args, kwargs) if self._learning else [(args, kwargs)]
        losses: dict[str, float] = {}
        if self.schedule.simultaneous and self._learning:
            for turn in (self._critic_turn, self._player_turn):
                turn.gradient(*batches[0])
            losses = {"critic_loss": self._critic_turn.move(), "loss": self._player_turn.move()}
            self._after_critic()
            self._after_player()
        else:
            losses = self._in_turn(batches)
        if self.num_steps == 0:
            check_met(self._annealings)
        self.num_steps += 1
        for schedule in self.schedules():
            schedule.step()
        self._payoff.note(time.perf_counter() - start)
        return losses

    def expect(self, num_steps: int) -> None:
        """Tells how many steps are to come, by which ``compile="auto"`` decides whether compiling pays."""
        self._payoff.expect(num_steps)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The losses of a batch, per datum, without a step, in evaluation mode and without annealing.

        Returns:
            ``loss``, and ``critic_loss`` if there is a critic.
        """
        self._meet(args, kwargs)
        critics = [part for term in self._adversarial for part in term.critic_parts().values()]
        with ExitStack() as stack:
            for annealing in self._annealings:
                stack.enter_context(annealing.suspended())
            stack.enter_context(in_evaluation_mode(critics))
            stack.enter_context(evaluation_mode(self.model, self.guide))
            draws = self._draws(args, kwargs)
            found = {"loss": float(self.terms.loss_of(draws)) / stands_for(draws)}
            scores = [float(term.critic_score(term.readings(draws))) for term in self._learning]
        return {**found, "critic_loss": sum(scores)} if scores else found

    def report(self, *, full: bool = False) -> dict[str, float]:
        """What there is to say of the last step beside its losses, names ending in a number if there are several terms.

        ``accuracy_num`` and ``accuracy_den``: how often the critic is right about either side (both 1: it has won; 0.5:
        it cannot tell). ``log_ratio_num`` and ``log_ratio_den``: mean log-ratios in nats, for an optimal critic
        KL(num || den) and -KL(den || num). ``penalty``, and the gradient norms ``grad_norm`` and ``critic_grad_norm``
        before clipping. ``gap``, at every ``report_every`` steps: the critics' loss on the batch before they saw it,
        less that on the batch before, by the same critics; above zero they have learned the data by heart.

        Arguments:
            full: not used: all of it is at hand.
        """
        facts = dict(zip(self._names, self._facts.tolist(), strict=True))
        for name, turn in (("critic_grad_norm", self._critic_turn), ("grad_norm", self._player_turn)):
            if math.isfinite(turn.norm):
                facts[name] = turn.norm
        return facts if self._gap is None else {**facts, "gap": self._gap}

    def schedules(self) -> Sequence[Schedule]:
        """The schedules of the terms, and of annealings around the programs, which advance with each step."""
        found = [*(annealing.schedule for annealing in self._annealings), *self.terms.schedules()]
        return list({id(schedule): schedule for schedule in found}.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything a step depends on but the data and torch's generator: tensors and plain values."""
        return {
            "player": self.player.state_dict(),
            "critic": self.critic.state_dict(),
            "averaged": {name: dict(own.average.state_dict()) for name, own in self._averaged.items()},
            "schedules": [schedule.state_dict() for schedule in self.schedules()],
            "num_steps": self.num_steps,
            "num_updates": self.num_updates,
            "num_critic_updates": self.num_critic_updates,
            "seen": [[list(readings.num), list(readings.den)] for readings in self._seen],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            ValueError: the state belongs to another trainer; nothing has been changed then.
        """
        missing = [name for name in self.state_dict() if name not in state]
        if missing:
            raise ValueError(f"a state must be whole; got one without {missing}. Save it by state_dict().")
        self.player.check(state["player"])
        self.critic.check(state["critic"])
        found, own = len(state["schedules"]), len(self.schedules())
        if set(state["averaged"]) != set(self._averaged) or found != own:
            raise ValueError(
                f"a state must come from a trainer with the same average and schedules; got {found} schedules for "
                f"{own}, and averages of {sorted(state['averaged'])} for {sorted(self._averaged)}. Build it as it was "
                "built when it was saved."
            )
        for name, averaged in self._averaged.items():
            check_tensors(f"the average of the {name}", averaged.average.state_dict(), state["averaged"][name])
        self.player.load_state_dict(state["player"])
        self.critic.load_state_dict(state["critic"])
        for name, averaged in self._averaged.items():
            averaged.average.load_state_dict(state["averaged"][name])
        for schedule, position in zip(self.schedules(), state["schedules"], strict=True):
            schedule.load_state_dict(position)
        self.num_steps, self.num_updates = state["num_steps"], state["num_updates"]
        self.num_critic_updates = state["num_critic_updates"]
        self._seen = [Readings(tuple(num), tuple(den)) for num, den in copy.deepcopy(state["seen"])]
        self._names, self._facts, self._gap = [], torch.zeros(0), None
        for turn in (self._critic_turn, self._player_turn):
            turn.reset()

    def _in_turn(self, batches: Sequence[tuple[Args, dict[str, Any]]]) -> dict[str, float]:
        """The critics' turns, then model and guide's."""
        losses = {}
        if self._learning and self._is_compared:
            self._compare(*batches[0])
        for args, kwargs in batches if self._learning else []:
            losses["critic_loss"] = self._critic_turn.take(args, kwargs)
            self._after_critic()
        for _ in range(self.schedule.player):
            losses["loss"] = self._player_turn.take(*batches[-1])
            self._after_player()
        return losses

    def _critic_work(self, *args: Any, **kwargs: Any) -> Tensor:
        """Leaves the gradients of the critics' losses, and takes note of what there is to tell of them."""
        readings = self._readings(args, kwargs)
        found = [term.critic_loss(own) for term, own in zip(self._learning, readings, strict=True)]
        total = torch.stack([loss for loss, _ in found]).sum()
        total.backward(inputs=_trainable(self.critic.optimized))
        several = len(found) > 1
        facts = {
            f"{name}_{i}" if several else name: value for i, (_, own) in enumerate(found) for name, value in own.items()
        }
        with torch.no_grad():
            values = (
                torch.stack([value.detach().to(total) for value in facts.values()]) if facts else total.new_zeros(0)
            )
            if list(facts) == self._names and values.dtype == self._facts.dtype:
                self._facts.copy_(values)  # in place, which a compiled turn can do
            else:
                self._names, self._facts = list(facts), values
        return total.detach()

    def _player_work(self, *args: Any, **kwargs: Any) -> Tensor:
        """Leaves the gradients of the loss per datum, in model and guide alone."""
        draws = self._draws(args, kwargs)
        loss = self.terms.loss_of(draws) / stands_for(draws)
        if loss.requires_grad and self.num_updates == 0:
            others = {parameter: parameter.grad for parameter in self.critic.parameters.values()}
            self.critic.zero_grad()
            loss.backward()
            check_covered(self.player, self.critic)
            for parameter, gradient in others.items():
                parameter.grad = gradient
        elif loss.requires_grad:
            loss.backward(inputs=_trainable(self.player.optimized))
        return loss.detach()

    def _readings(self, args: Args, kwargs: Kwargs) -> list[Readings]:
        """What the critics are shown of a batch, as numbers."""
        with torch.no_grad():
            draws = self._draws(args, kwargs)
            return [term.readings(draws).detached() for term in self._learning]

    def _after_critic(self) -> None:
        for term in self._learning:
            term.after_critic_step()
        self.num_critic_updates += 1

    def _after_player(self) -> None:
        for averaged in self._averaged.values():
            averaged.update(self.num_updates)
        self.num_updates += 1

    @property
    def _is_compared(self) -> bool:
        """Whether this step's data are compared with the last step's, or the next step's with these."""
        return self.num_steps % self.report_every == 0 or (self.num_steps + 1) % self.report_every == 0

    def _compare(self, args: Args, kwargs: Kwargs) -> None:
        """How much better the critics do on the batch they saw last than on this one, which they have not seen."""
        with fork_rng(), evaluation_mode(self.model, self.guide):
            readings = self._readings(args, kwargs)
            if self._seen and self.num_steps % self.report_every == 0:
                modules = [part for term in self._learning for part in term.critic_parts().values()]
                with in_evaluation_mode(modules), torch.no_grad():
                    fresh, seen = (
                        sum(float(term.critic_score(own)) for term, own in zip(self._learning, batch, strict=True))
                        for batch in (readings, self._seen)
                    )
                self._gap = fresh - seen
        self._seen = readings

    def _draws(self, args: Args, kwargs: Kwargs) -> Draws:
        return Draws(self.model, self.guide, args, kwargs, self.terms.sampler())

    def _prepare(self, args: Args, kwargs: Kwargs) -> None:
        """Meets the parameters of Pyro's store, and agrees with the other processes; before the first step."""
        if self._payoff.is_due:
            for turn in (self._critic_turn, self._player_turn):
                turn.compile(self._compiler)
        if self._is_prepared:
            return
        self._meet(args, kwargs)
        for player, moves in ((self.player, self.schedule.player), (self.critic, len(self._learning))):
            if moves:
                player.check_trainable()
        if self._processes is not None:
            self._processes.agree([*self.player.parameters.values(), *self.critic.parameters.values()])
            for averaged in self._averaged.values() if self.num_updates == 0 else ():
                averaged.begin()
        self._is_prepared = True

    def _meet(self, args: Args, kwargs: Kwargs) -> None:
        """Runs both programs once, to meet their parameters in Pyro's store."""
        if self._is_prepared:
            return
        with fork_rng(), evaluation_mode(self.model, self.guide), parameters_met() as met:
            draws = self._draws(args, kwargs)
            draws.encoded()
            draws.simulated()
        self.player.adopt(met)

    def _programs(self) -> dict[str, nn.Module]:
        pairs = {"model": module_of(self.model), "guide": module_of(self.guide), **self.terms.parts()}
        if pairs["guide"] is pairs["model"]:
            del pairs["guide"]
        return {name: module for name, module in pairs.items() if module is not None}

    def _critics(self) -> dict[str, nn.Module]:
        parts: dict[int, tuple[str, nn.Module]] = {}
        for i, term in enumerate(self._adversarial):
            for name, part in term.critic_parts().items():
                parts.setdefault(id(part), (f"{i}_{name}", part))
        return dict(parts.values())


def _trainable(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def _summed(terms: Term | Sequence[Term]) -> Sum:
    listed = [terms] if isinstance(terms, Term) else list(terms)
    if not listed:
        raise ValueError(
            "there must be something to minimise; got no term. For instance Contrast('x', DATA, P, critic)."
        )
    flat: list[tuple[float, Term]] = []
    for term in listed:
        flat += term.terms if isinstance(term, Sum) else [(1.0, term)]
    return Sum(flat)
