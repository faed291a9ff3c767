"""The guide without amortization: a posterior of its own for every datum of a data set."""

__all__ = ["PerDatumGuide"]

from typing import final

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_dgm.distributions import DiagonalNormal, FullNormal
from pyro_dgm.distributions.conditional import check_count, hold
from pyro_dgm.guides.factorized import check_is_given
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import LocalModule

FAMILIES = {"diagonal": DiagonalNormal, "full": FullNormal}


@final
class PerDatumGuide(LocalModule):
    r"""A normal for every latent of every datum, with parameters of its own: :math:`\prod_n \prod_i q_n(z_i)`.

    Classical variational inference: no network reads the data, so that nothing is lost by amortization, and nothing
    carries over to data that are not among the N. The latents stand in the plate ``data``, on dimension -1, and are
    independent of each other. The parameters are tables, one row per datum, that start as N(0, I); which rows a
    minibatch has is told by ``index``.

    A minibatch gives its own rows a gradient. Optimisers with a momentum, such as Adam, go on moving the other rows
    with what they remember of them; ``torch.optim.SGD`` does not.

    Since it does not read the data, it cannot learn by dreaming (the sleep phase of wake-sleep), and after training it
    has nothing to say about new data: train a new one on them with the model frozen, or use
    ``evaluation.inference_gaps``.

    References:
        Blei, Kucukelbir and McAuliffe (2017), Variational Inference: A Review for Statisticians, section 2.3,
        arXiv:1601.00670; Hoffman, Blei, Wang and Paisley (2013), Stochastic Variational Inference, arXiv:1206.7055.

    Arguments:
        size: number N of data.
        family: ``"diagonal"`` or ``"full"``, the covariance of each normal.
        latents: the length of each latent of the model, by name.

    Raises:
        ValueError: a size is not positive, the family is unknown, there is no latent, or its name is taken by an
            attribute of modules, such as ``training``.

    Example:
        >>> guide = PerDatumGuide(1000, z=20)
        >>> guide(torch.zeros(3, 784), index=torch.tensor([7, 500, 999]))["z"].shape
        torch.Size([3, 20])
    """

    def __init__(self, size: int, family: str = "diagonal", /, **latents: int) -> None:
        super().__init__()
        self.size = check_count("size", size, 1, "Pass the number of data of the whole set.")
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {tuple(FAMILIES)}; got {family!r}. 'diagonal' is the usual one.")
        if not latents:
            raise ValueError("a guide needs a latent; got none. For instance PerDatumGuide(1000, z=20).")
        kind = FAMILIES[family]
        tables = {}
        for name, length in latents.items():
            width = kind.num_parameters(check_count(f"the length of latent {name!r}", length, 1, "20 is usual."))
            tables[name] = nn.Embedding.from_pretrained(torch.zeros(size, width), freeze=False)
        self.sites = LocalModule()
        hold(self.sites, {name: kind(table) for name, table in tables.items()})
        self.names = tuple(latents)

    @property
    def scores_any_point(self) -> bool:
        """Whether the density of every latent is known at any point, and not only at its last draw."""
        return True

    @property
    def reads_data(self) -> bool:
        """Whether the posterior is a function of the data, which those of a table of parameters are not."""
        return False

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
            x: data, (B, *event), which are only counted.
            c: not used; here because a guide takes what its model takes.
            index: which of the N data they are, integers from 0 to N - 1, (B,); with None they are all N, in order.
            num: not used; here because a guide takes what its model takes.
            data_size: number N of data the minibatch stands for; B when None.

        Returns:
            One draw of each latent by name, each (B, length of the latent).

        Raises:
            TypeError: the index is no tensor of integers.
            ValueError: there are no data, the index has not one row for each, or is out of range; there is no index,
                and the data are not N.
        """
        rows = num_rows(check_is_given(x), c)
        index = self._index(index, rows)
        with data_plate(rows, data_size):
            return {name: pyro.sample(name, getattr(self.sites, name)(index)) for name in self.names}

    def _index(self, index: Tensor | None, rows: int) -> Tensor:
        if index is None:
            if rows != self.size:
                raise ValueError(
                    "a guide with parameters for every datum must be told which data it is given, unless it is all of "
                    f"them; got {rows} data of {self.size} and no index. Pass index=, their rows in the data set, to "
                    "model and guide."
                )
            return torch.arange(rows, device=next(self.parameters()).device)
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
            what = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"index must be a tensor of integers; got {what}. Pass for instance torch.arange(len(x)).")
        if tuple(index.shape) != (rows,):
            raise ValueError(
                f"index must have one row per datum, ({rows},); got shape {tuple(index.shape)}. Cut it as the data are."
            )
        if is_validation_enabled() and bool(((index < 0) | (index >= self.size)).any()):
            raise ValueError(
                f"index must be rows of the data set, 0 to {self.size - 1}; got {int(index.min())} to "
                f"{int(index.max())}. Size the guide for the whole data set."
            )
        return index.long()
