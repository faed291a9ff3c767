"""KL annealing as an effect handler: the latents of two programs, weighted by a schedule."""

__all__ = ["KLAnnealing", "annealing_of", "annealings_of", "check_met", "counts_alike"]

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast, final

import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dgm.infer.programs import Program, Site, is_deterministic
from pyro_dgm.infer.schedules import Schedule

_TINY = 1e-30  # in place of a weight of zero, which could not be divided out again; normal in float32
_KEY = "annealing"
_HISTORY = "annealing_history"  # the scale before, the schedules it was multiplied by, and the scale after


@final
class KLAnnealing(Messenger):
    r"""Multiplies the log-probability of latents by the current value of a schedule, in model and guide alike.

    Around both programs it makes of the ELBO :math:`E_q[\log p(x | z)] - \beta_t KL(q(z | x) || p(z))`, with gradients
    that are right for discrete latents too: how a latent was drawn is not weighted. While :math:`\beta_t` is below 1
    that is no bound on the log evidence to compare with others; ``SVI`` therefore also reports the unweighted ELBO, and
    evaluates without the weights. Of the importance-weighted bounds it weighs the latents' part of the log-weights.

    It must be outside of any ``poutine.condition``, and may be inside or outside of other handlers. Applied twice it
    acts once; two different ones multiply. Latents that ``TraceEnum_ELBO`` sums out of the model cannot be weighed;
    Pyro refuses them, and takes the guide's own. ``pyro_dgm.infer.SVI`` advances the schedule after each step;
    with ``pyro.infer.SVI`` call ``step()`` yourself, and suspend it to evaluate.

    References:
        Bowman et al. (2016), Generating Sentences from a Continuous Space, section 3.1, arXiv:1511.06349; Sønderby et
        al. (2016), Ladder Variational Autoencoders, section 2.3, arXiv:1602.02282.

    Arguments:
        schedule: the weight :math:`\beta_t`, at least 0; below 1e-30 it is taken for 1e-30.
        sites: names of the latents to weigh, auxiliary sites of the guide included; all when None.

    Raises:
        TypeError: ``schedule`` is none, or ``sites`` is a single string.
        ValueError: the schedule begins or ends below 0; when the programs run, if it is below 0 in between.

    Example:
        >>> import functools
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_dgm.infer import ELBO, SVI
        >>> from pyro_dgm.infer.schedules import Linear
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     slope = pyro.param("slope", torch.tensor(0.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(slope * x, 1.0))
        >>> annealing = KLAnnealing(Linear(0.0, 1.0, over=4))
        >>> svi = SVI(annealing(model), annealing(guide), functools.partial(torch.optim.Adam, lr=0.1), ELBO())
        >>> weights = []
        >>> for _ in range(6):
        ...     loss = svi.step(torch.randn(10))
        ...     weights.append(svi.report()["kl_weight"])
        >>> weights
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
        >>> pyro.clear_param_store()
    """

    def __init__(self, schedule: Schedule, sites: Collection[str] | None = None) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"schedule must be one of pyro_dgm.infer.schedules; got {schedule!r}. Use Constant(value) for a number."
            )
        if isinstance(sites, str):
            raise TypeError(f"sites must be a collection of names; got {sites!r}. Pass [{sites!r}].")
        self.schedule = schedule
        self.sites = None if sites is None else frozenset(sites)
        for num_steps in (0, schedule.num_steps_needed):
            _check_weight(schedule.value_at(num_steps), schedule)
        self._met: set[str] = set()
        self._depth = self._num_suspensions = 0

    def __enter__(self) -> "KLAnnealing":
        if self._depth == 0:
            super().__enter__()
        self._depth += 1
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            super().__exit__(exc_type, exc_value, traceback)

    @property
    def value(self) -> float:
        """The weight now."""
        return self.schedule.value

    @property
    def unmet(self) -> list[str]:
        """The names in ``sites`` that no program has sampled so far."""
        return sorted((self.sites or frozenset()) - self._met)

    def step(self) -> None:
        """Advances the schedule by one optimiser step."""
        self.schedule.step()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Lets the programs run as if this were not there."""
        self._num_suspensions += 1
        try:
            yield
        finally:
            self._num_suspensions -= 1

    def _pyro_sample(self, msg: Message) -> None:
        name = msg["name"]
        if site_is_subsample(msg) or (self.sites is not None and name not in self.sites):
            return
        self._met.add(cast(str, name))
        if self._num_suspensions or msg["is_observed"] or is_deterministic(msg):
            return
        factor = self.value
        if isinstance(factor, Tensor):  # in a compiled step
            factor = factor.clamp(min=_TINY)
        else:
            factor = max(_check_weight(factor, self.schedule), _TINY)
        plain, msg["scale"] = msg["scale"], msg["scale"] * factor
        site = cast(dict[str, Any], msg)  # beside "infer" and not in it: replay gives the model the guide's
        site[_KEY] = site.get(_KEY, 1.0) * factor
        plain, schedules, _ = site.get(_HISTORY) or (plain, (), None)
        site[_HISTORY] = plain, (*schedules, self.schedule), msg["scale"]


def annealing_of(site: Site) -> Any:
    """The factor that annealing has put into a site's scale: 1 if none has; a scalar tensor in a compiled step."""
    return site.get(_KEY, 1.0)


def counts_alike(site: Site, other: Site) -> bool:
    """Whether two sites have the same scale: the same number, or the same before and by the same annealing."""
    one, two = site.get(_HISTORY), other.get(_HISTORY)
    if one is not None and two is not None and one[2] is site["scale"] and two[2] is other["scale"]:
        return one[1] == two[1] and _is_equal(one[0], two[0])
    return _is_equal(site["scale"], other["scale"])


def _is_equal(scale: float | Tensor, other: float | Tensor) -> bool:
    if isinstance(scale, Tensor) or isinstance(other, Tensor):
        return scale is other or torch.equal(torch.as_tensor(scale), torch.as_tensor(other))
    return scale == other


def annealings_of(model: Program, guide: Program) -> list[KLAnnealing]:
    """The annealings around two programs, each once.

    Raises:
        ValueError: they are not the same around both, or one of them is inside of ``poutine.condition``.
    """
    of_model, of_guide = _around(model), _around(guide)
    if sorted(map(_identity, of_model)) != sorted(map(_identity, of_guide)):
        raise ValueError(
            "the same annealing must be around model and guide, since a divergence has a part in each; got "
            f"{len(of_model)} around the model and {len(of_guide)} around the guide, which differ. Write "
            "SVI(annealing(model), annealing(guide), ...)."
        )
    return list({id(one): one for one in [*of_model, *of_guide]}.values())


def check_met(annealings: Iterable[KLAnnealing]) -> None:
    """Raises a ``ValueError`` where a site to be annealed was in neither program, once they have run."""
    unmet = [name for annealing in annealings for name in annealing.unmet]
    if unmet:
        raise ValueError(
            f"every site to be annealed must be in the programs; got {unmet}, which neither of them samples. "
            "Correct the names, or leave out sites= to anneal all latents."
        )


def _around(program: Program) -> list[KLAnnealing]:
    """The annealings around one program, from the outside in, each once."""
    found: dict[int, KLAnnealing] = {}
    is_conditioned = False
    while isinstance(program, functools.partial):
        handled = len(program.args) > 1 and isinstance(program.args[0], Messenger)
        handler = program.args[0] if handled else None
        is_conditioned = is_conditioned or isinstance(handler, ConditionMessenger)
        if isinstance(handler, KLAnnealing):
            if is_conditioned:
                raise ValueError(
                    "annealing must be outside of poutine.condition, to see which sites are observed; got it inside. "
                    "Write annealing(poutine.condition(program, data=...))."
                )
            found[id(handler)] = handler
        program = program.args[1] if handled else program.func
    return list(found.values())


def _identity(annealing: KLAnnealing) -> tuple[int, Sequence[str]]:
    return id(annealing.schedule), ["*"] if annealing.sites is None else sorted(annealing.sites)


def _check_weight(weight: float, schedule: Schedule) -> float:
    if not 0 <= weight < math.inf:
        raise ValueError(
            f"the weight of a divergence must be a number of at least 0; got {weight} from {schedule!r}. "
            "Choose a schedule that stays in range."
        )
    return weight
