"""What guides share whose latents come from conditional distributions: one for each, given the datum."""

__all__ = ["FactorizedGuide", "check_is_given"]

from collections.abc import Mapping, Sequence

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_dgm.distributions import ConditionalDistribution
from pyro_dgm.distributions.conditional import check_finite, hold
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import LocalModule


class FactorizedGuide(LocalModule):
    r"""One conditional distribution per latent, given the datum and earlier latents: :math:`\prod_i q(z_i | x, pa_i)`.

    Arguments:
        sites: a conditional distribution for each latent of the model, by name, in the order they are drawn.
        parents: names of the earlier latents that each is given; a latent without an entry has none.

    Raises:
        ValueError: there is no site, its name is taken by an attribute of modules, such as ``training``, or a parent
            does not come earlier.
        TypeError: a site is not a conditional distribution, or parents are no lists of names.
    """

    def __init__(self, sites: Mapping[str, ConditionalDistribution], parents: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        if not sites:
            raise ValueError("a guide needs a latent; got none. For instance AmortizedGuide(z=DiagonalNormal(net)).")
        self.sites = LocalModule()
        hold(self.sites, sites)
        self.names = tuple(sites)
        _check_parents(self.names, parents)
        self.parents = {name: tuple(parents.get(name, ())) for name in self.names}

    @property
    def scored_when_drawn(self) -> tuple[str, ...]:
        """Names of the latents whose density is known at their own last draws alone."""
        return tuple(name for name, conditional in self.sites.named_children() if not conditional.scores_any_point)

    @property
    def scores_any_point(self) -> bool:
        """Whether the density of every latent is known at any point, and not only at its last draw."""
        return not self.scored_when_drawn

    def forward(
        self,
        x: Tensor | None = None,
        c: Tensor | None = None,
        *,
        index: Tensor | None = None,
        num: int | None = None,
        data_size: int | None = None,
    ) -> dict[str, Tensor]:
        """Draws the latents of a batch.

        Arguments:
            x: data, (B, *event).
            c: the context, what everything is conditioned on, (B, features), for a conditional model.
            index: not used; here because a guide takes what its model takes.
            num: not used; here because a guide takes what its model takes.
            data_size: number N of data the minibatch stands for; B when None.

        Returns:
            One draw of each latent by name, each (B, *event of the latent).

        Raises:
            ValueError: there are no data, they have no batch dimension, or they are not finite.
        """
        x = check_is_given(x)
        rows = num_rows(x, c)
        if is_validation_enabled():
            for what, value in (("x", x), ("context", c)):
                if value is not None:
                    check_finite(value, what)
        self.sample_globals()
        draws: dict[str, Tensor] = {}
        batches: dict[str, torch.Size] = {}  # of the draws, with particles where there are any
        with data_plate(rows, data_size):
            for name in self.names:
                parents = self.parents[name]
                posterior = getattr(self.sites, name)(x, *(draws[own] for own in parents), *(() if c is None else (c,)))
                of_parents = torch.broadcast_shapes((rows,), *(batches[own] for own in parents))
                if posterior.batch_shape not in ((rows,), of_parents):
                    given = ", ".join(("x", *parents))
                    raise ValueError(
                        f"the first dimension of x counts the data; got shape {tuple(x.shape)}, for which "
                        f"q({name} | {given}) has batch shape {tuple(posterior.batch_shape)}. For a single datum, "
                        "add a batch dimension with x.unsqueeze(0)."
                    )
                draws[name] = value = pyro.sample(name, posterior)
                batches[name] = value.shape[: value.dim() - len(posterior.event_shape)]
        return draws


def check_is_given(x: Tensor | None) -> Tensor:
    """Returns the data if there are some."""
    if x is None:
        raise ValueError("a guide reads data; got none. To simulate, call the model without a guide.")
    return x


def _check_parents(names: Sequence[str], parents: Mapping[str, Sequence[str]]) -> None:
    if not isinstance(parents, Mapping):
        raise TypeError(
            f"parents are given by the name of their latent; got {type(parents).__name__}. Write for instance "
            "parents={'z': ['a']}."
        )
    unknown = [name for name in parents if name not in names]
    if unknown:
        raise ValueError(
            f"parents must be those of a latent; got {unknown}, the guide has {list(names)}. Name them alike."
        )
    for name, own in parents.items():
        if isinstance(own, str) or not isinstance(own, Sequence):
            raise TypeError(f"the parents of {name!r} must be a list of names; got {own!r}. Write for instance ['a'].")
        late = [parent for parent in own if parent not in names[: names.index(name)]]
        if late:
            raise ValueError(
                f"a latent's parents must be drawn before it; got {late} for {name!r}, in the order {list(names)}. "
                "Give the sites in another order, or leave the parent out."
            )
