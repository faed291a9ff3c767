"""The guide of the sigmoid belief net: binary layers drawn from the data upwards."""

__all__ = ["SigmoidBeliefGuide"]

from collections.abc import Sequence
from typing import final

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_dgm.distributions.autoregressive import binary_layer, check_data_mean, check_layers, check_vectors
from pyro_dgm.distributions.conditional import check_finite
from pyro_dgm.guides.factorized import check_is_given
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import MLP, LocalModule
from pyro_dgm.nn.inputs import check_dtype, check_size


@final
class SigmoidBeliefGuide(LocalModule):
    r"""Binary layers, each given the one below by an affine map and a sigmoid: half of a Helmholtz machine.

    .. math:: q(z_1 | x) \, q(z_2 | z_1) \cdots q(z_L | z_{L-1}).

    It is the recognition half, for ``SigmoidBeliefNet``. The latents stand in the plate ``data``, on dimension -1.
    Autoregressive, the bits of every layer also depend on the bits before them.

    References:
        Dayan, Hinton, Neal and Zemel (1995), The Helmholtz Machine; Mnih and Gregor (2014), Neural Variational
        Inference and Learning in Belief Networks, arXiv:1402.0030; Gregor et al. (2014), Deep AutoRegressive
        Networks, arXiv:1310.8499.

    Arguments:
        features: length D of a datum.
        layers: the widths of the latent layers, from the data upwards, as the model's.
        autoregressive: couples the bits within each layer. It need not be what the model's is.
        data_mean: mean of the training data, (features,), subtracted from x before the first map; 0 when None. It is
            kept as a buffer, part of the ``state_dict``.

    Raises:
        TypeError: data_mean is no floating-point tensor.
        ValueError: a size is not positive, there is no layer, or data_mean is not a mean of such data.

    Example:
        >>> guide = SigmoidBeliefGuide(784, (200, 100))
        >>> guide(torch.zeros(5, 784))["z2"].shape
        torch.Size([5, 100])
    """

    data_mean: Tensor

    def __init__(
        self,
        features: int,
        layers: Sequence[int],
        autoregressive: bool = False,
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.features = check_size("features", features)
        self.layers = check_layers(layers)
        data_mean = check_data_mean(data_mean, features)
        centre = torch.zeros(features)
        self.register_buffer("data_mean", centre if data_mean is None else centre.copy_(data_mean.detach()))
        self.names = tuple(f"z{i}" for i in range(1, len(self.layers) + 1))  # from the data up
        self.hidden = LocalModule()
        below = features
        for name, width in zip(self.names, self.layers, strict=True):
            setattr(self.hidden, name, binary_layer(MLP(below, width, ()), width, autoregressive))
            below = width

    @property
    def scores_any_point(self) -> bool:
        """Whether the density of every latent is known at any point, and not only at its last draw."""
        return True

    def forward(
        self, x: Tensor | None = None, *, num: int | None = None, data_size: int | None = None
    ) -> dict[str, Tensor]:
        """Draws the latents of a batch.

        Arguments:
            x: data, (B, D).
            num: not used; here because a guide takes what its model takes.
            data_size: number N of data the minibatch stands for; B when None.

        Returns:
            One draw of each layer by name, from ``z1`` up, each (B, width).

        Raises:
            TypeError: the data have another dtype than the parameters.
            ValueError: there are no data, they have another shape, or they are not finite.
        """
        x = check_is_given(x)
        rows = num_rows(x)
        check_vectors(x, self.features)
        check_dtype(x, self, "this SigmoidBeliefGuide")
        if is_validation_enabled():
            check_finite(x)
        self.sample_globals()
        draws = {}
        below = x - self.data_mean
        with data_plate(rows, data_size):
            for name in self.names:
                draws[name] = below = pyro.sample(name, getattr(self.hidden, name)(below))
        return draws
