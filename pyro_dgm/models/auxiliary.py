"""A model extended by auxiliary variables, which leave p(x) as it is and set the guide free."""

__all__ = ["AuxiliaryModel"]

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import pyro
import torch
from torch import Tensor, nn

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.distributions.conditional import hold
from pyro_dgm.infer.programs import Program, Site, module_of
from pyro_dgm.infer.recording import Recording, record
from pyro_dgm.nn import LocalModule


@final
class AuxiliaryModel(nn.Module):
    r"""A model of one's own, extended by auxiliary variables of each datum: :math:`p(x, z) \, p(a | x, z)`.

    Whatever :math:`p(a | x, z)` is, :math:`p(x)` and :math:`p(z | x)` stay what they were. But a guide
    :math:`q(a | x) \, q(z | x, a)` has a marginal :math:`q(z | x)` that is a mixture over a, of any shape, and whose
    density is never needed:

    .. math::
        \log p(x) \geq E_q \left[ \log \frac{p(x, z) \, p(a | x, z)}{q(a | x) \, q(z | x, a)} \right].

    The bound is below the ELBO of that marginal by :math:`E_q \mathrm{KL}(q(a | x, z) \| p(a | x, z))`, and equal to it
    where :math:`p(a | x, z)` is the guide's exact reverse.

    The model is run as it is, with the arguments of this one. Then the auxiliary sites are drawn in the plate of its
    data, under the plate's name, dimension and size, each from its conditional distribution called with (x, the values
    of the latents ``given``): x is the model's first argument (by position, or named ``x``), or, without one, what the
    model returned; where the site that observes it is simulated (``poutine.uncondition``), x is what was drawn. This is
    a plain module, so that the model's sites and parameters keep their names.

    Since the guide draws a before z and the model after it, divergences in closed form (``TraceMeanField_ELBO``,
    ``analytic_kl``) do not apply. A mask or scale inside of the model does not reach the auxiliary sites: put it around
    this one.

    References:
        Maaløe, Sønderby, Sønderby and Winther (2016), Auxiliary Deep Generative Models, equations 2 to 4,
        arXiv:1602.05473; Ranganath, Tran and Blei (2016), Hierarchical Variational Models, arXiv:1511.02386; Agakov and
        Barber (2004), An Auxiliary Variational Method.

    Arguments:
        model: a Pyro program, whose data are its first argument.
        auxiliary: a conditional distribution for each auxiliary site, by name.
        given: names of the latents, or other sites of the datum, that each of them is given after the data.

    Raises:
        TypeError: the model cannot be called, an auxiliary is no conditional distribution, or, at the call, x is no
            tensor.
        ValueError: there is no auxiliary, nothing given, or a name is taken by an attribute of modules; at the call,
            when the model has no site of a name given, or has one of an auxiliary's name, a latent given does not stand
            in the plate of the data alone, there are neither data nor anything returned, or a conditional distribution
            has another batch shape than the latents.

    Example:
        >>> from pyro_dgm.distributions import Bernoulli, DiagonalNormal, StandardNormal
        >>> from pyro_dgm.models import LatentVariableModel
        >>> from pyro_dgm.nn import MLP
        >>> model = LatentVariableModel(StandardNormal(2), Bernoulli(MLP(2, 784)))
        >>> extended = AuxiliaryModel(model, {"a": DiagonalNormal(MLP(784 + 2, 2 * 5))})
        >>> extended(num=3).shape
        torch.Size([3, 784])
    """

    def __init__(
        self, model: Program, auxiliary: Mapping[str, ConditionalDistribution], given: str | Sequence[str] = ("z",)
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"the model must be a Pyro program; got {type(model).__name__}. Pass a function or module.")
        if not auxiliary:
            raise ValueError(
                "an AuxiliaryModel needs an auxiliary variable; got none. Pass for instance {'a': DiagonalNormal(net)}."
            )
        self.given = (given,) if isinstance(given, str) else tuple(given)
        if not self.given:
            raise ValueError("auxiliaries must be given a latent; got none. given=('z',) is the usual.")
        self.model = module_of(model)  # as a part, whatever the program is wrapped in
        self.auxiliary = _Auxiliaries(auxiliary)
        self._run_model = functools.partial(model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model, then draws the auxiliary variables.

        Arguments:
            args: positional arguments of the model, its data first.
            kwargs: its keyword arguments.

        Returns:
            What the model returned.
        """
        run = record(self._run_model, args, kwargs)
        self._check_names(run)
        plate = run.data_plate_around(self.given)
        x = _data(run, args[0] if args else kwargs.get("x"))
        self.auxiliary(x, [run.sites[name] for name in self.given], plate)
        return run.returned

    def _check_names(self, run: Recording) -> None:
        sites = list(run.sites)
        missing = [name for name in self.given if name not in sites]
        if missing:
            raise ValueError(
                f"the latents given to an auxiliary must be sites of the model; got {missing}, the model has {sites}. "
                "Name them in given= as in the model."
            )
        taken = [name for name in self.auxiliary.names if name in sites]
        if taken:
            raise ValueError(
                f"an auxiliary must have a name of its own; got {taken}, the model has {sites}. Rename it here and in "
                "the guide."
            )


@final
class _Auxiliaries(LocalModule):
    """The conditional distributions of the auxiliary sites."""

    def __init__(self, auxiliary: Mapping[str, ConditionalDistribution]) -> None:
        super().__init__()
        self.sites = LocalModule()
        hold(self.sites, auxiliary, "auxiliary")
        self.names = tuple(auxiliary)

    def forward(self, x: Tensor, given: Sequence[Site], plate: AbstractContextManager[Any]) -> None:
        """Draws every site in the plate of the data, given the data and the values of other sites."""
        self.sample_globals()
        batches = [site["value"].shape[: site["value"].dim() - site["fn"].event_dim] for site in given]
        batch = torch.broadcast_shapes(*batches)
        with plate:
            for name in self.names:
                conditional = getattr(self.sites, name)(x, *(site["value"] for site in given))
                own = conditional.batch_shape
                if len(own) > len(batch) or torch.broadcast_shapes(own, batch) != batch:
                    raise ValueError(
                        f"an auxiliary must have one distribution per datum; got batch shape {tuple(own)} of "
                        f"{name!r}, x being of shape {tuple(x.shape)}, where the latents have {tuple(batch)}. Give "
                        "every datum its own row, in the model and in the auxiliary's network."
                    )
                pyro.sample(name, conditional)


def _data(run: Recording, argument: Any) -> Tensor:
    """What the auxiliaries are to take for the data."""
    x = run.returned if argument is None else argument
    if x is None:
        raise ValueError(
            "auxiliaries are drawn given the data; got a model called without, which returned none. Pass the data "
            "first, or let the model return what it has drawn."
        )
    if not isinstance(x, Tensor):
        raise TypeError(
            f"the data that auxiliaries are given must be a tensor; got {type(x).__name__}. Pass the data first and "
            "alone, or let the model return them."
        )
    return x if argument is None else run.seen_by(x)
