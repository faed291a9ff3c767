"""The sigmoid belief net: layers of binary latents above binary data."""

__all__ = ["SigmoidBeliefNet"]

from collections.abc import Sequence
from typing import final

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_dgm.distributions import AutoregressiveBernoulli, LearnableBernoulli
from pyro_dgm.distributions.autoregressive import binary_layer, check_data_mean, check_layers, check_vectors
from pyro_dgm.infer.data_plate import data_plate, num_rows
from pyro_dgm.nn import MLP, LocalModule
from pyro_dgm.nn.inputs import check_size

_CLIP = 1e-3  # of the mean of a pixel: one that never changes would start with an infinite bias


@final
class SigmoidBeliefNet(LocalModule):
    r"""Binary layers, each given the one above by an affine map and a sigmoid.

    .. math:: p(z_L) \, p(z_{L-1} | z_L) \cdots p(z_1 | z_2) \, p(x | z_1).

    Called with data it observes the site ``x``; called without, it simulates ``num`` data. The sites are ``z1``, the
    layer nearest the data, to ``zL``, the top one, and ``x``, all in the plate ``data``, on dimension -1. The prior
    of the top layer has a learned logit for every bit. Autoregressive, the bits of every layer, the top one and the
    data also depend on the bits before them in their layer: a deep autoregressive network (DARN).

    References:
        Neal (1992), Connectionist Learning of Belief Networks; Dayan, Hinton, Neal and Zemel (1995), The Helmholtz
        Machine; Mnih and Gregor (2014), Neural Variational Inference and Learning in Belief Networks,
        arXiv:1402.0030; Gregor et al. (2014), Deep AutoRegressive Networks, arXiv:1310.8499.

    Arguments:
        features: length D of a datum.
        layers: the widths of the latent layers, from the data upwards: (200,) is one layer, (200, 200, 200) three.
        autoregressive: couples the bits within each layer.
        data_mean: mean of the training data, (features,); the bias of the data starts at its logit, the mean being
            clipped to [0.001, 0.999]. None for the usual random start.

    Raises:
        TypeError: data_mean is no floating-point tensor.
        ValueError: a size is not positive, there is no layer, or data_mean is not a mean of such data.

    Example:
        >>> model = SigmoidBeliefNet(784, (200, 200))
        >>> model(num=3).shape
        torch.Size([3, 784])
    """

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
        depth, top = len(self.layers), self.layers[-1]
        self.names = tuple(f"z{i}" for i in range(depth, 0, -1))  # from the top down
        self.prior = AutoregressiveBernoulli(None, top) if autoregressive else LearnableBernoulli(top)
        self.hidden = LocalModule()
        for i in range(depth - 1, 0, -1):
            above, width = self.layers[i], self.layers[i - 1]
            setattr(self.hidden, f"z{i}", binary_layer(MLP(above, width, ()), width, autoregressive))
        visible = MLP(self.layers[0], features, ())
        if data_mean is not None:
            with torch.no_grad():
                visible.layers[-1].get_parameter("bias").copy_(data_mean.clamp(_CLIP, 1 - _CLIP).logit())
        self.likelihood = binary_layer(visible, features, autoregressive)

    def forward(self, x: Tensor | None = None, *, num: int | None = None, data_size: int | None = None) -> Tensor:
        """Observes x, or simulates ``num`` data.

        Arguments:
            x: data, zeros and ones, (B, D), or None to simulate.
            num: how many data to simulate, 1 when None.
            data_size: number N of data the minibatch stands for; B when None. The guide takes the same argument.

        Returns:
            The data, given or simulated, (B, D).

        Raises:
            TypeError: the data have another dtype than the parameters.
            ValueError: the data have another shape, or values other than 0 and 1.
        """
        if x is not None:
            num = num_rows(x)
            check_vectors(x, self.features)
            if is_validation_enabled():
                self.likelihood.check_data(x)
        self.sample_globals()
        with data_plate(1 if num is None else num, data_size):
            z = pyro.sample(self.names[0], self.prior())
            for name in self.names[1:]:
                z = pyro.sample(name, getattr(self.hidden, name)(z))
            return pyro.sample("x", self.likelihood(z), obs=x)
