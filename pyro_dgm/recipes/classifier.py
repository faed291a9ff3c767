"""A small convolutional classifier: the features and classes by which generated images are judged."""

__all__ = ["Classifier", "ClassifierRecipe"]

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_dgm import plotting
from pyro_dgm.datasets import Batches, Dataset, Split
from pyro_dgm.distributions import Categorical
from pyro_dgm.evaluation import Estimate
from pyro_dgm.guides import EmptyGuide
from pyro_dgm.infer import ELBO, SVI
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.infer.programs import evaluation_mode
from pyro_dgm.models import DensityModel
from pyro_dgm.nn import ConvEncoder
from pyro_dgm.nn.inputs import check_dtype
from pyro_dgm.recipes.checks import check_counts, check_positive
from pyro_dgm.recipes.data import moved, num_classes
from pyro_dgm.recipes.recipe import System

_NUM_PICTURED = 64
_AT_ONCE = 1000  # images that go through the network together


@final
@dataclass(frozen=True)
class ClassifierRecipe:
    """A convolutional network that gives the class of an image, p(y | image), fitted by maximum likelihood.

    There is no latent: the ELBO is log p(y | image). The label is the site ``x`` of a ``DensityModel``, its context the
    image. Grey levels are taken as they are. ``classifier_features`` opens a trained one as a judge of generated
    images.

    Arguments:
        summary: what it is, in a line.
        source: the paper.
        channels: channels of the convolutions, from the image inwards.
        num_features: width of the layer before the classes, whose values are the features.
        learning_rate: of Adam.
        batch_size: rows of a minibatch.
        epochs: passes through the data.
        patience: epochs without a better validation bound after which training stops; None to train to the end.
        compile: compile the step, and wait until that is done, so that runs repeat bit by bit.

    Raises:
        ValueError: a number is out of range.
    """

    summary: str
    source: str
    channels: tuple[int, ...] = (32, 64)
    num_features: int = 128
    learning_rate: float = 1e-3
    batch_size: int = 100
    epochs: int = 5
    patience: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "channels", "num_features", "batch_size", "epochs")
        check_positive(self, {"learning_rate": "Adam likes 1e-3."})

    def build(self, dataset: Dataset, seed: int = 0, device: str = "cpu") -> System:
        """Builds the system for a data set; torch's generator initialises the network.

        Arguments:
            dataset: images with class labels, in memory.
            seed: seed of the order of the data.
            device: where everything is put.

        Raises:
            ValueError: the data are no images, or have no labels of two classes; nothing has been built then.
        """
        classes = _checked_classes(dataset)
        dataset = moved(dataset, device, flat=False)
        net = ConvEncoder(dataset.event_shape, classes, self.channels, self.num_features)
        model, guide = DensityModel(Categorical(net)).to(dataset.train.x), EmptyGuide()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        classifier = Classifier(net)
        is_image = dataset.event_shape[0] in (1, 3)

        def numbers(split: Split) -> list[dict[str, Any]]:
            assert split.y is not None
            return _numbers(classifier.log_probs(split.x), split.y)

        def figures(images: Tensor) -> dict[str, Figure]:
            return _figures(classifier, images, is_image)

        return System(
            model=model,
            guide=guide,
            trainer=SVI(model, guide, optimizer, ELBO(), compile=Compiler(wait=True) if self.compile else False),
            batches=Batches(*_arguments(dataset.train), batch_size=self.batch_size, seed=seed),
            dataset=dataset,
            arguments=_arguments,
            image_shape=dataset.event_shape if is_image else None,
            latent="",
            latent_features=0,
            is_continuous=False,
            is_discrete=True,
            figures=figures,
            numbers=numbers,
        )


@final
class Classifier(nn.Module):
    """The features that a classifier makes of images, and the classes that it gives them.

    Both come without gradients and in evaluation mode, some images at a time, so that memory does not grow with their
    number but for the results.

    Arguments:
        net: a ``ConvEncoder`` whose outputs are the logits of the classes.

    Raises:
        TypeError: the network is another one.
    """

    def __init__(self, net: ConvEncoder) -> None:
        super().__init__()
        if not isinstance(net, ConvEncoder):
            raise TypeError(
                f"a Classifier reads the last layers of a ConvEncoder; got {type(net).__name__}. Open a run of the "
                "recipe classifier by classifier_features(folder)."
            )
        self.net = net

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.net.out_features

    def features(self, images: Tensor) -> Tensor:
        """The layer before the logits, rectified.

        Arguments:
            images: (n, C, H, W), or flat (n, C * H * W), with grey levels in [0, 1] as in training.

        Returns:
            Features of shape (n, D).

        Raises:
            TypeError: the images are no tensor, or of another dtype than the network.
            ValueError: there are none, they have another shape, or are not finite.
        """
        return self._mapped(images, self.net.head[:-1])

    def log_probs(self, images: Tensor) -> Tensor:
        """The logarithms of the class probabilities, in nats, (n, classes); takes what ``features`` takes."""
        return self._mapped(images, self.net.head).log_softmax(dim=1)

    def _mapped(self, images: Tensor, head: nn.Module) -> Tensor:
        shape = self.net.image_shape
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images must be a tensor; got {type(images).__name__}. Convert them with torch.as_tensor(images)."
            )
        if images.dim() not in (2, 4) or not len(images) or images[0].numel() != math.prod(shape):
            raise ValueError(
                f"images must have shape (n, {', '.join(map(str, shape))}), or be flat, n at least 1; got "
                f"{tuple(images.shape)}. Bring them to the size that the classifier was trained on."
            )
        if not bool(images.isfinite().all()):
            raise ValueError(
                f"images must be finite; got {int((~images.isfinite()).sum())} values that are not. Look at what "
                "made them."
            )
        check_dtype(images, self.net, "this classifier")
        with evaluation_mode(self.net):
            parts = images.reshape(-1, *shape).split(_AT_ONCE)
            return torch.cat([head(self.net.features(part)) for part in parts])


def _arguments(split: Split) -> tuple[Tensor, ...]:
    """The labels, which are the data, and the images, which are their context."""
    assert split.y is not None
    return split.y, split.x


def _checked_classes(dataset: Dataset) -> int:
    if len(dataset.event_shape) != 3:
        raise ValueError(
            f"a convolutional classifier needs images (channels, height, width); got {dataset.name!r} with data of "
            f"shape {dataset.event_shape}. Choose images, such as mnist."
        )
    classes = num_classes(dataset)
    if classes < 2:
        raise ValueError(
            f"a classifier needs labels of two classes or more; got {dataset.name!r}, which has {classes}. Choose "
            "labelled images, such as mnist."
        )
    return classes


def _numbers(log_probs: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """The log-likelihood of the labels and the accuracy, each with the standard error of sampling the data."""
    log_p = Estimate.of(log_probs.gather(1, y.unsqueeze(1)).squeeze(1))
    accuracy = Estimate.of(100 * (log_probs.argmax(1) == y).double())
    found = (
        ("log p(y | x)", log_p, "nats per datum", "exact; minus the cross-entropy"),
        ("accuracy", accuracy, "% of the data", "labels that are the most probable class"),
    )
    return [
        {
            "metric": metric,
            "value": value.mean,
            "standard_error": value.standard_error,
            "unit": unit,
            "meaning": meaning,
        }
        for metric, value, unit, meaning in found
    ]


def _figures(classifier: Classifier, images: Tensor, is_image: bool) -> dict[str, Figure]:
    """The features in the colours of the classes they are given, and the images it is least certain of."""
    log_probs = classifier.log_probs(images)
    drawn = {"features": plotting.latent_space(classifier.features(images), log_probs.argmax(1))}
    if is_image:
        doubtful = log_probs.amax(1).argsort()[:_NUM_PICTURED]
        drawn["least_certain"] = plotting.image_grid(images[doubtful].clamp(0, 1), title="least certain")
    return drawn
