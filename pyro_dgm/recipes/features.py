"""Trained classifiers, opened as judges of generated images."""

__all__ = ["classifier_features"]

from pathlib import Path

from pyro_dgm.nn import ConvEncoder
from pyro_dgm.recipes.classifier import Classifier, ClassifierRecipe
from pyro_dgm.recipes.runs import Run, open_run


def classifier_features(run: Run | str | Path) -> Classifier:
    """The trained network of a run of the recipe ``classifier``, to judge images by.

    Its features are what ``frechet_distance``, ``kernel_distance``, ``precision_recall`` and ``birthday_paradox``
    compare, its log-probabilities what ``inception_score`` and ``class_entropies`` read. All of these depend on the
    network: compare numbers only between the same one, and name its run beside them. They are not the published ones,
    which come from another network, trained on photographs.

    Arguments:
        run: a run with its trained parameters in place, or the folder of a trained one.

    Raises:
        ValueError: it is no run, or one of another recipe.
        CheckpointError: the folder's run is not trained yet.

    Example:
        >>> classifier = classifier_features("runs/classifier-mnist-seed0")  # doctest: +SKIP
        >>> frechet_distance(classifier.features(x), classifier.features(generated))  # doctest: +SKIP
    """
    opened = run if isinstance(run, Run) else open_run(run)
    if not isinstance(opened.recipe, ClassifierRecipe):
        raise ValueError(
            f"features come from a run of the recipe classifier; got one of {opened.config.recipe!r}, in "
            f"{opened.folder}. Train one: python -m pyro_dgm fit classifier --data {opened.config.data}"
        )
    if opened is not run:
        opened.load_trained()
    (net,) = (part for part in opened.system.model.modules() if isinstance(part, ConvEncoder))
    return Classifier(net)
