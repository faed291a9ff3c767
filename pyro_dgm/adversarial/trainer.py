"""The trainer of implicit models: critics and players, each with an optimiser, in one step with one state."""

__all__ = ["AdversarialTrainer"]

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from pyro_dgm.adversarial.averaging import Averaged
from pyro_dgm.adversarial.contrasts import AdversarialTerm, Readings
from pyro_dgm.adversarial.player import Optim, Player
from pyro_dgm.adversarial.steps import Steps
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.processes import Processes
from pyro_dgm.infer.programs import Program, evaluation_mode, fork_rng, module_of, parameters_met
from pyro_dgm.infer.rows import stands_for
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.term import Sum, Term
from pyro_dgm.nn.modes import in_evaluation_mode

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


class _Gradient(NamedTuple):
    """A loss whose gradient has been taken."""

    loss: float
    norm: Tensor


def _no_guide(*args: Any, **kwargs: Any) -> None:
    """The guide of a model that needs none."""


@final
class AdversarialTrainer:
    """Trains a model, and its guide if it has one, by terms some of which have critics.

    One ``step`` is so many updates of the critics and so many of model and guide, as the schedule says. For each update
    all programs are run anew, each at most once, for all terms together: without gradients for the critics, whose own
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
        group: ProcessGroup | None = None,
    ) -> None:
        self.model, self.guide = model, _no_guide if guide is None else guide
        self.terms = _summed(terms)
        self.schedule = Steps() if schedule is None else schedule
        if not isinstance(self.schedule, Steps):
            raise TypeError(f"the schedule must be Steps; got {schedule!r}. For instance Steps(critic=5).")
        if isinstance(report_every, bool) or not isinstance(report_every, int) or report_every < 1:
            raise ValueError(f"report_every must be a whole number from 1; got {report_every!r}. 100 is the default.")
        self.report_every = report_every
        self.terms.check_guide(self.guide)
        adversarial = [term for _, term in self.terms.terms if isinstance(term, AdversarialTerm)]
        self._learning = [term for term in adversarial if getattr(term, "learns", True)]
        self._adversarial = adversarial
        self.player = Player("model and guide", self._programs(), optim, clip_norm)
        self.critic = Player("critics", self._critics(), critic_optim, critic_clip_norm)
        self._check_players()
        self._averaged = (
            {}
            if ema is None
            else {
                name: Averaged(module, ema)
                for name, module in self.player.modules.items()
                if name in ("model", "guide")
            }
        )
        self._processes = None if group is None else Processes(group)
        self._is_prepared = False
        self.num_steps = self.num_updates = self.num_critic_updates = 0
        self._facts: dict[str, float] = {}
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
        """Model and guide with averaged parameters, by these names; empty without ``ema``."""
        return {name: averaged.average for name, averaged in self._averaged.items()}

    def step(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Makes the updates of one step.

        Returns:
            ``loss``, the last one of model and guide, and ``critic_loss``, the last one of the critics, of those that
            moved; per datum.
        """
        self._prepare(args, kwargs)
        self._facts = {}
        batches = self.schedule.batches(args, kwargs)
        losses: dict[str, float] = {}
        if self.schedule.simultaneous and self._learning:
            own, other = self._critic_gradient(*batches[0], is_first=True), self._player_gradient(*batches[0])
            losses = {"critic_loss": self._move_critic(own), "loss": self._move_player(other)}
        else:
            for number, batch in enumerate(batches if self._learning and self.schedule.critic else []):
                losses["critic_loss"] = self._move_critic(self._critic_gradient(*batch, is_first=number == 0))
            for _ in range(self.schedule.player):
                losses["loss"] = self._move_player(self._player_gradient(*batches[-1]))
        self.num_steps += 1
        for schedule in self.schedules():
            schedule.step()
        return losses

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The losses of a batch, without a step and in evaluation mode: ``loss`` and ``critic_loss``, per datum."""
        critics = [part for term in self._adversarial for part in term.critic_parts().values()]
        with in_evaluation_mode(critics), evaluation_mode(self.model, self.guide):
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
        return dict(self._facts)

    def schedules(self) -> Sequence[Schedule]:
        """The schedules of the terms, which advance with each step."""
        return list({id(schedule): schedule for schedule in self.terms.schedules()}.values())

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
        self.player.check(state["player"])
        self.critic.check(state["critic"])
        found, own = len(state["schedules"]), len(self.schedules())
        if set(state["averaged"]) != set(self._averaged) or found != own:
            raise ValueError(
                f"a state must come from a trainer with the same average and schedules; got {found} schedules for "
                f"{own}, and averages of {sorted(state['averaged'])} for {sorted(self._averaged)}. Build it as it was "
                "built when it was saved."
            )
        self.player.load_state_dict(state["player"])
        self.critic.load_state_dict(state["critic"])
        for name, averaged in self._averaged.items():
            averaged.average.load_state_dict(state["averaged"][name])
        for schedule, position in zip(self.schedules(), state["schedules"], strict=True):
            schedule.load_state_dict(position)
        self.num_steps, self.num_updates = state["num_steps"], state["num_updates"]
        self.num_critic_updates = state["num_critic_updates"]
        self._seen = [Readings(tuple(num), tuple(den)) for num, den in copy.deepcopy(state["seen"])]

    def _critic_gradient(self, args: Args, kwargs: Kwargs, is_first: bool) -> _Gradient:
        with torch.no_grad():
            draws = self._draws(args, kwargs)
            readings = [term.readings(draws).detached() for term in self._learning]
        if is_first:
            self._compare(readings)
        self.critic.zero_grad()
        losses = []
        for i, (term, own) in enumerate(zip(self._learning, readings, strict=True)):
            loss, facts = term.critic_loss(own)
            losses.append(loss)
            suffix = f"_{i}" if len(self._learning) > 1 else ""
            self._facts.update({f"{name}{suffix}": float(value) for name, value in facts.items()})
        total = torch.stack(losses).sum()
        total.backward()
        found = _Gradient(*self.critic.norm(float(total.detach()), self._processes))
        self._facts["critic_grad_norm"] = float(found.norm)
        return found

    def _player_gradient(self, args: Args, kwargs: Kwargs) -> _Gradient:
        with self._critics_still():
            draws = self._draws(args, kwargs)
            loss = self.terms.loss_of(draws) / stands_for(draws)
            self.player.zero_grad()
            if loss.requires_grad:
                loss.backward()
        found = _Gradient(*self.player.norm(float(loss.detach()), self._processes))
        if self.num_updates == 0:
            self._check_covered()
        self._facts["grad_norm"] = float(found.norm)
        return found

    def _move_critic(self, found: _Gradient) -> float:
        self.critic.update(found.norm)
        for term in self._learning:
            term.after_critic_step()
        self.num_critic_updates += 1
        return found.loss

    def _move_player(self, found: _Gradient) -> float:
        self.player.update(found.norm)
        for averaged in self._averaged.values():
            averaged.update(self.num_updates)
        self.num_updates += 1
        return found.loss

    def _compare(self, readings: Sequence[Readings]) -> None:
        """How much better the critics do on the batch they saw last than on this one, which they have not seen."""
        if self._seen and self.num_steps % self.report_every == 0:
            modules = [part for term in self._learning for part in term.critic_parts().values()]
            with in_evaluation_mode(modules), torch.no_grad():
                fresh, seen = (
                    sum(float(term.critic_score(own)) for term, own in zip(self._learning, batch, strict=True))
                    for batch in (readings, self._seen)
                )
            self._facts["gap"] = fresh - seen
        self._seen = list(readings)

    @contextmanager
    def _critics_still(self) -> Iterator[None]:
        """Critics without gradients, and what they remember left as it is."""
        parts = [part for term in self._adversarial for part in term.critic_parts().values()]
        moving = [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
        critics = {id(module) for term in self._adversarial for module in (term.critic_parts().get("critic"),)}
        for parameter in moving:
            parameter.requires_grad_(False)
        try:
            with in_evaluation_mode(part for part in parts if id(part) not in critics):
                yield
        finally:
            for parameter in moving:
                parameter.requires_grad_(True)

    def _draws(self, args: Args, kwargs: Kwargs) -> Draws:
        return Draws(self.model, self.guide, args, kwargs, self.terms.sampler())

    def _prepare(self, args: Args, kwargs: Kwargs) -> None:
        """Meets the parameters of Pyro's store, and agrees with the other processes; before the first step."""
        if self._is_prepared:
            return
        with fork_rng(), evaluation_mode(self.model, self.guide), parameters_met() as met:
            draws = self._draws(args, kwargs)
            draws.encoded()
            draws.simulated()
        self.player.adopt(met)
        for player, count in ((self.player, self.schedule.player), (self.critic, len(self._learning))):
            if count:
                assert player.optimizer is not None  # or an error that says what is missing
        if self._processes is not None:
            self._processes.agree([*self.player.parameters.values(), *self.critic.parameters.values()])
            for averaged in self._averaged.values() if self.num_updates == 0 else ():
                averaged.begin()
        self._is_prepared = True

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

    def _check_players(self) -> None:
        if self._learning and self.schedule.critic == 0:
            raise ValueError(
                "a critic must learn; got schedule=Steps(critic=0) with critics. Freeze trained critics by "
                "Contrast(..., learns=False)."
            )
        own = {id(p): name for name, p in self.player.parameters.items()}
        own.update({id(p): own.get(id(p), "a parameter of optim") for p in self.player.optimized})
        others = [*self.critic.parameters.values(), *self.critic.optimized]
        shared = sorted({own[id(p)] for p in others if id(p) in own})
        if shared:
            raise ValueError(
                f"model and guide on one side and critics on the other must have parameters of their own; got "
                f"{shared[:3]} in both. Give the critic a network, and its optimiser parameters, of its own."
            )

    def _check_covered(self) -> None:
        """Raises where a parameter has a gradient and no optimiser, before the first update of model and guide."""
        held = {id(parameter) for player in (self.player, self.critic) for parameter in player.optimized}
        named = {**self.player.parameters, **self.critic.parameters}
        stray = [name for name, p in named.items() if p.grad is not None and id(p) not in held]
        if stray:
            raise ValueError(
                f"every parameter with a gradient must be one player's; got {stray[:3]} in no optimiser. Pass a "
                "callable such as functools.partial(torch.optim.Adam, lr=1e-4), which is given all of them."
            )


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
