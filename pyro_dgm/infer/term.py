"""What is minimised: terms that add and scale, for stock SVI, for a torch optimiser, and for our trainers."""

__all__ = ["BoundObjective", "Sum", "Term"]

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, final

import pyro.infer
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.estimation import Sampler
from pyro_dgm.infer.programs import Program, module_of
from pyro_dgm.infer.schedules import Schedule


class BoundObjective(nn.Module):
    """An objective bound to its two programs: a module whose call gives the loss of a batch.

    Its parameters are the programs' own, also where a program is a bound method of a module, and the objective's.

    Arguments:
        objective: what is minimised.
        model: a Pyro program that is a module, or a method of one.
        guide: likewise.

    Raises:
        ValueError: neither program is, or belongs to, a module; at the call, when they have no parameter to train
            (an AutoGuide has its parameters after its first call, so call this once before making the optimiser).
    """

    def __init__(self, objective: "Term", model: Program, guide: Program) -> None:
        super().__init__()
        self.objective = objective
        self.model_module, self.guide_module = module_of(model), module_of(guide)
        self.parts = nn.ModuleDict(dict(objective.parts()))
        self._programs = (model, guide)
        if self.model_module is None and self.guide_module is None:
            self._refuse("no module")

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of a batch, a scalar: for a bound minus its sum over the data."""
        loss = self.objective.differentiable_loss(*self._programs, *args, **kwargs)
        programs = [module for module in (self.model_module, self.guide_module) if module is not None]
        if not any(True for module in programs for _ in module.parameters()):
            self._refuse("no parameter")
        return loss

    def _refuse(self, found: str) -> NoReturn:
        raise ValueError(
            f"objective(model, guide) needs a module with parameters; got {found} in either program. Write the "
            "programs as PyroModules, or pass them to SVI, which trains pyro.param and pyro.module parameters."
        )


class Term(pyro.infer.ELBO):
    """What a model and a guide are judged by, in each of the three ways Pyro users ask for it.

    - ``SVI(model, guide, optim, term)`` calls ``loss`` and ``loss_and_grads``;
    - ``term(model, guide)`` is a module whose call is ``differentiable_loss``;
    - ``term.differentiable_loss(model, guide, *args)`` is a scalar to call ``backward()`` on.

    Terms add and scale: ``ELBO() + 10 * MMD("z")``. The programs are then run once for all of them, where their draws
    can be shared.
    """

    def __call__(self, model: Program, guide: Program) -> BoundObjective:
        """Binds the term to two programs; the result is a module whose call gives the loss."""
        return BoundObjective(self, model, guide)

    def __add__(self, other: "Term") -> "Sum":
        """The sum of two terms."""
        if not isinstance(other, Term):
            return NotImplemented
        return Sum([*_weighted(self), *_weighted(other)])

    def __mul__(self, weight: float) -> "Sum":
        """The term times a number."""
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            return NotImplemented
        return Sum([(weight * own, term) for own, term in _weighted(self)])

    __rmul__ = __mul__

    needs_runs = True
    """Whether it runs model and guide against each other; terms that take what either has drawn come after those."""

    @abstractmethod
    def loss_of(self, draws: Draws) -> Tensor:
        """The loss, summed over the N data, a scalar, from the draws of a step."""

    def check_guide(self, guide: Program) -> None:
        """Raises where a guide says that it cannot do what this term asks of it, before anything is run."""

    def sampler(self) -> Sampler | None:
        """How this term draws from the guide, if it says so."""
        return None

    def parts(self) -> Mapping[str, nn.Module]:
        """What the term itself learns or remembers, such as baselines, by name."""
        return {}

    def schedules(self) -> Sequence[Schedule]:
        """The schedules it follows."""
        return ()

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, a scalar whose gradient is the estimators'."""
        self.check_guide(guide)
        return self.loss_of(Draws(model, guide, args, kwargs, self.sampler()))

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, a scalar without gradient."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, its gradient added to the parameters' ``grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.detach()

    def _get_trace(self, model: Program, guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Trace:
        return Draws(model, guide, args, kwargs, self.sampler()).shared().runs[0]


@final
class Sum(Term):
    """A weighted sum of terms, made by adding and multiplying them.

    Arguments:
        terms: weights and terms.

    Raises:
        TypeError: a term is none.
        ValueError: there is no term, or a weight is not finite.
    """

    def __init__(self, terms: Sequence[tuple[float, Term]]) -> None:
        for weight, term in terms:
            if not isinstance(term, Term):
                raise TypeError(
                    f"only terms of this library add and scale; got {type(term).__name__}. Try ELBO() + MMD('z')."
                )
            if not abs(weight) < float("inf"):
                raise ValueError(f"a term's weight must be a finite number; got {weight}. Use 1 for a plain sum.")
        if not terms:
            raise ValueError("a sum must have a term; got none. For instance ELBO() + 10 * MMD('z').")
        super().__init__(num_particles=max(term.num_particles for _, term in terms))
        self.terms = tuple(terms)

    def loss_of(self, draws: Draws) -> Tensor:
        """The weighted sum of the losses."""
        in_order = sorted(self.terms, key=lambda pair: (pair[1].sampler() is None, not pair[1].needs_runs))
        return torch.stack([weight * term.loss_of(draws) for weight, term in in_order]).sum()

    def check_guide(self, guide: Program) -> None:
        """Raises where a term does."""
        for _, term in self.terms:
            term.check_guide(guide)

    def sampler(self) -> Sampler | None:
        """That of the first term that has one."""
        return next((found for _, term in self.terms if (found := term.sampler()) is not None), None)

    def parts(self) -> Mapping[str, nn.Module]:
        """Those of all terms."""
        named = [(f"{i}_{name}", part) for i, (_, term) in enumerate(self.terms) for name, part in term.parts().items()]
        unique = {id(part): (name, part) for name, part in reversed(named)}
        return dict(reversed(list(unique.values())))

    def schedules(self) -> Sequence[Schedule]:
        """Those of all terms."""
        return [schedule for _, term in self.terms for schedule in term.schedules()]


def _weighted(term: Term) -> tuple[tuple[float, Term], ...]:
    return term.terms if isinstance(term, Sum) else ((1.0, term),)
