"""Critics: networks that give each draw a score, high where it looks like one of ``num``."""

__all__ = ["Critic", "CriticModule", "EnergyCritic", "StandardizedCritic", "spectrally_normalized"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from pyro_dgm.adversarial.arguments import check_number
from pyro_dgm.distributions.conditional import check_count, check_net

_NORMALIZED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class CriticModule(nn.Module, ABC):
    """A module that scores the values of one or several sites, row by row.

    Attributes:
        pac: how many rows make up one score.
        has_features: whether ``features`` gives what feature matching compares.
    """

    pac: int = 1
    has_features: bool = False

    @abstractmethod
    def forward(self, *values: Tensor) -> Tensor:
        """Scores the rows of the sites' values, (B, *event) each, with one number each, (B,)."""

    def features(self, *values: Tensor) -> Tensor:
        """The features behind the scores, (B, *features).

        Raises:
            ValueError: the critic has none.
        """
        raise ValueError(
            f"features are what a critic computes before its score; got {type(self).__name__} without a network for "
            "them. Write Critic(net, features=network)."
        )

    def after_step(self) -> None:
        """What is to be done after every step of the critic's optimiser."""


@final
class Critic(CriticModule):
    """A network that scores.

    The values of several sites are passed to the network as several inputs: ``MLP`` joins vectors, ``ConvEncoder``
    takes an image and vectors. A site of scalars, (B,), is passed as (B, 1).

    Packed, it scores ``pac`` rows at once, so that it sees variety: consecutive rows are joined, vectors (and
    sequences) along the last dimension, images along the channels, so the network is ``pac`` times as wide at its
    entry; rows left over are dropped. The log-ratio of a pack is that of ``pac`` draws together.

    References:
        Lin, Khetan, Fanti and Oh (2018), PacGAN, arXiv:1712.04086; Arjovsky, Chintala and Bottou (2017), Wasserstein
        GAN, algorithm 1 (clipping), arXiv:1701.07875.

    Arguments:
        net: maps values, or features if there is a network for them, to one number per row, (B, 1) or (B,).
        features: maps values to features, which feature matching compares; the score is then ``net`` of them.
        pac: how many rows make up one score.
        clip: largest size of any parameter, kept by ``after_step``; None to leave them alone.

    Raises:
        TypeError: a network is no module, or an argument no number; at the call, when a value is no tensor, or holds
            integers, one a row.
        ValueError: ``pac`` or ``clip`` is not positive; at the call, when the rows differ in number or are fewer than
            ``pac``, or the network does not give one number per row.

    Example:
        >>> from pyro_dgm.nn import MLP
        >>> critic = Critic(MLP(4 * (2 + 1), 1), pac=4)
        >>> critic(torch.zeros(9, 2), torch.zeros(9)).shape
        torch.Size([2])
    """

    def __init__(
        self, net: nn.Module, features: nn.Module | None = None, pac: int = 1, clip: float | None = None
    ) -> None:
        super().__init__()
        self.net = check_net(net, "Critic")
        self.feature_net = None if features is None else check_net(features, "features of Critic")
        self.has_features = features is not None
        self.pac = check_count("pac", pac, 1, "1 scores every row alone.")
        cure = "0.01 is WGAN's; None clips nothing."
        self.clip = clip if clip is None else check_number("clip", clip, "be positive", lambda value: value > 0, cure)

    def forward(self, *values: Tensor) -> Tensor:
        """Scores values of shapes (B, *event): (B,), or (B // pac,) when packed."""
        inputs = self._packed(values)
        scores = self.net(*inputs) if self.feature_net is None else self.net(self.feature_net(*inputs))
        num_rows = len(inputs[0])
        if not isinstance(scores, Tensor) or scores.shape not in {(num_rows,), (num_rows, 1)}:
            found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"the network of a critic must give one number per row, ({num_rows}, 1) or ({num_rows},); got {found}. "
                "Let its last layer have one output."
            )
        return scores.reshape(num_rows)

    def features(self, *values: Tensor) -> Tensor:
        """The features of values of shapes (B, *event): (B, *features), or (B // pac, *features) when packed."""
        if self.feature_net is None:
            return super().features(*values)
        return self.feature_net(*self._packed(values))

    def after_step(self) -> None:
        """Clips every parameter to [-clip, clip]."""
        if self.clip is not None:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.clamp_(-self.clip, self.clip)

    def extra_repr(self) -> str:
        """Shows packing and clipping."""
        return f"pac={self.pac}, clip={self.clip}"

    def _packed(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The network's inputs."""
        num_packs = _num_rows(values) // self.pac
        if not num_packs:
            raise ValueError(
                f"a critic that packs {self.pac} rows needs as many; got {_num_rows(values)}. Use a larger batch, or a "
                "smaller pac."
            )
        return [_pack(value.unsqueeze(-1) if value.dim() == 1 else value, num_packs, self.pac) for value in values]


@final
class EnergyCritic(CriticModule):
    r"""Scores by minus an energy: how badly an autoencoder gives a row back.

    The energy is the mean over the elements of a row of :math:`|x - \hat x|^{order}`.

    References:
        Zhao, Mathieu and LeCun (2017), Energy-based Generative Adversarial Network, section 2.3, arXiv:1609.03126;
        Berthelot, Schumm and Metz (2017), BEGAN, section 3.1 (both orders), arXiv:1703.10717.

    Arguments:
        autoencoder: maps the values to a reconstruction of the first of them, of its shape.
        order: 2 for squares, 1 for absolute values.

    Raises:
        TypeError: the autoencoder is no module; at the call, when a value is no tensor.
        ValueError: the order is neither; at the call, when the reconstruction has another shape.
    """

    def __init__(self, autoencoder: nn.Module, order: int = 2) -> None:
        super().__init__()
        if isinstance(order, bool) or order not in (1, 2):
            raise ValueError(f"order of EnergyCritic must be 1 or 2; got {order!r}. 2 is the mean squared error.")
        self.autoencoder = check_net(autoencoder, "EnergyCritic")
        self.order = order

    def forward(self, *values: Tensor) -> Tensor:
        """Scores values of shapes (B, *event), the first of which is given back: (B,)."""
        num_rows = _num_rows(values)
        x = values[0].unsqueeze(-1) if values[0].dim() == 1 else values[0]
        found = self.autoencoder(x, *values[1:])
        if found.shape != x.shape:
            raise ValueError(
                f"an autoencoder must give back what it was given, of shape {tuple(x.shape)}; got shape "
                f"{tuple(found.shape)}. Let its output have the shape of its first input."
            )
        error = (found - x).reshape(num_rows, -1)
        return -(error.abs() if self.order == 1 else error.square()).mean(dim=1)

    def extra_repr(self) -> str:
        """Shows the order."""
        return f"order={self.order}"


@final
class StandardizedCritic(CriticModule):
    r"""Scores latents relative to a normal distribution that is close to them: :math:`T(x, (z - loc) / scale)`.

    For adaptive contrast: where the moments of q(z | x) are known (or estimated), a critic between its draws and those
    of the normal with these moments has little left to learn. It is called with the sites (x..., z, loc, scale), any
    number of them before z. Gradients flow to all of them: detach loc and scale to hold them fixed.

    References:
        Mescheder, Nowozin and Geiger (2017), Adversarial Variational Bayes, section 3.3, arXiv:1701.04722.

    Arguments:
        net: scores (x..., standardised z), a ``Critic`` or what one is made of.

    Raises:
        TypeError: net is no module; at the call, when a value is no tensor.
        ValueError: at the call, when z, loc and scale are not all there, or differ in shape.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        net = check_net(net, "StandardizedCritic")
        self.critic: CriticModule = net if isinstance(net, CriticModule) else Critic(net)
        self.pac = self.critic.pac
        self.has_features = self.critic.has_features

    def forward(self, *values: Tensor) -> Tensor:
        """Scores (x..., z, loc, scale), (B, *event) each: (B,)."""
        return self.critic(*self._standardized(values))

    def features(self, *values: Tensor) -> Tensor:
        """The inner critic's features of (x..., z, loc, scale), (B, *features)."""
        return self.critic.features(*self._standardized(values))

    def after_step(self) -> None:
        """What the inner critic does."""
        self.critic.after_step()

    def _standardized(self, values: Sequence[Tensor]) -> list[Tensor]:
        _num_rows(values)
        if len({value.shape for value in values[-3:]}) != 1 or len(values) < 3:
            raise ValueError(
                "a StandardizedCritic reads (x..., z, loc, scale), the last three of one shape; got shapes "
                f"{[tuple(value.shape) for value in values]}. Name location and scale among the sites, after z."
            )
        *before, z, loc, scale = values
        return [*before, (z - loc) / scale]


def spectrally_normalized(net: nn.Module) -> nn.Module:
    """Divides the weight of every linear and convolutional layer by its largest singular value, in place.

    The singular value is tracked by one step of power iteration per call in training mode, so that it lags behind; of a
    convolution it is that of the kernel as a matrix. Layers that stretch lengths no more make a critic of slope at most
    1, if its other layers do not either.

    References:
        Miyato, Kataoka, Koyama and Yoshida (2018), Spectral Normalization for Generative Adversarial Networks,
        algorithm 1, arXiv:1802.05957.

    Arguments:
        net: a network.

    Returns:
        The same network.

    Raises:
        TypeError: it is no module.
        ValueError: it has no such layer, or one whose weight is parametrised already.
    """
    layers = [layer for layer in check_net(net, "spectrally_normalized").modules() if isinstance(layer, _NORMALIZED)]
    if not layers:
        raise ValueError(
            f"spectral normalisation needs linear or convolutional layers; got {type(net).__name__} with none. Pass "
            "the network that has them, before or after it is put into a Critic."
        )
    done = [type(layer).__name__ for layer in layers if parametrize.is_parametrized(layer, "weight")]
    if done:
        raise ValueError(
            f"a weight can be normalised once; got layers parametrised already: {done}. Pass a fresh network."
        )
    for layer in layers:
        parametrizations.spectral_norm(layer)
    return net


def _num_rows(values: Sequence[Tensor]) -> int:
    """The common number of rows of the values of the sites, at least 1."""
    if not values:
        raise ValueError("a critic scores the values of at least one site; got none. Call it as critic(x).")
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"a critic scores tensors; got {type(value).__name__}. Unpack the sites: critic(*values).")
        if value.dim() == 1 and not value.is_floating_point():
            raise TypeError(
                f"a critic reads vectors of floating point; got one label of {value.dtype} per row. Encode labels "
                "one-hot: torch.nn.functional.one_hot(y, num_classes).float()."
            )
    shapes = [tuple(value.shape) for value in values]
    if len({shape[:1] for shape in shapes}) != 1 or not shapes[0] or not shapes[0][0]:
        raise ValueError(
            f"the sites a critic scores must have as many rows, at least one; got shapes {shapes}. Give every site one "
            "row per draw."
        )
    return shapes[0][0]


def _pack(value: Tensor, num_packs: int, pac: int) -> Tensor:
    """Joins consecutive rows: (B, *event) to (B // pac, *joined)."""
    if pac == 1:
        return value
    groups = value[: num_packs * pac].unflatten(0, (num_packs, pac))
    return torch.cat(groups.unbind(1), dim=1 if value.dim() >= 4 else -1)
