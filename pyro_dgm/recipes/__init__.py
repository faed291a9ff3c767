"""Named, ready-made systems: model, guide, objective, optimiser and data."""

from pyro_dgm.recipes.adversarial_vae import AdversarialVAERecipe
from pyro_dgm.recipes.classifier import Classifier, ClassifierRecipe
from pyro_dgm.recipes.coded_gan import CodedGANRecipe
from pyro_dgm.recipes.density import DensityRecipe
from pyro_dgm.recipes.evidence import fitted_evidence
from pyro_dgm.recipes.features import classifier_features
from pyro_dgm.recipes.gan import GANRecipe
from pyro_dgm.recipes.mixture import MixtureRecipe
from pyro_dgm.recipes.recipe import Drawn, Recipe, System, change
from pyro_dgm.recipes.registry import RECIPES, get
from pyro_dgm.recipes.report import Report, evaluate, sample
from pyro_dgm.recipes.runs import Config, Run, open_run, start_run
from pyro_dgm.recipes.sbn import SBNRecipe
from pyro_dgm.recipes.translation import TranslationRecipe
from pyro_dgm.recipes.vae import VAERecipe

__all__ = [
    "RECIPES",
    "AdversarialVAERecipe",
    "Classifier",
    "ClassifierRecipe",
    "CodedGANRecipe",
    "Config",
    "DensityRecipe",
    "Drawn",
    "GANRecipe",
    "MixtureRecipe",
    "Recipe",
    "Report",
    "Run",
    "SBNRecipe",
    "System",
    "TranslationRecipe",
    "VAERecipe",
    "change",
    "classifier_features",
    "evaluate",
    "fitted_evidence",
    "get",
    "open_run",
    "sample",
    "start_run",
]
