"""Named, ready-made systems: model, guide, objective, optimiser and data."""

from pyro_dgm.recipes.classifier import Classifier, ClassifierRecipe
from pyro_dgm.recipes.density import DensityRecipe
from pyro_dgm.recipes.features import classifier_features
from pyro_dgm.recipes.mixture import MixtureRecipe
from pyro_dgm.recipes.recipe import Recipe, System, change
from pyro_dgm.recipes.registry import RECIPES, get
from pyro_dgm.recipes.report import Report, evaluate, sample
from pyro_dgm.recipes.runs import Config, Run, open_run, start_run
from pyro_dgm.recipes.sbn import SBNRecipe
from pyro_dgm.recipes.vae import VAERecipe

__all__ = [
    "RECIPES",
    "Classifier",
    "ClassifierRecipe",
    "Config",
    "DensityRecipe",
    "MixtureRecipe",
    "Recipe",
    "Report",
    "Run",
    "SBNRecipe",
    "System",
    "VAERecipe",
    "change",
    "classifier_features",
    "evaluate",
    "get",
    "open_run",
    "sample",
    "start_run",
]
