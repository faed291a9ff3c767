"""Real and generated data with their canonical splits, checked by digest; nothing is downloaded on import."""

from pyro_dgm.datasets.batches import Batches
from pyro_dgm.datasets.binarization import binarize, fix_binarization
from pyro_dgm.datasets.dataset import Dataset, Split, content_digest
from pyro_dgm.datasets.files import DatasetError
from pyro_dgm.datasets.images import digits, fashion_mnist, mnist
from pyro_dgm.datasets.larochelle import binarized_mnist
from pyro_dgm.datasets.linear_gaussian import PPCAData, ppca
from pyro_dgm.datasets.music import jsb_chorales
from pyro_dgm.datasets.registry import NAMES, load
from pyro_dgm.datasets.text import decode, names, qm9_smiles, tiny_shakespeare
from pyro_dgm.datasets.toys import grid, moons, pinwheel, ring

__all__ = [
    "NAMES",
    "Batches",
    "Dataset",
    "DatasetError",
    "PPCAData",
    "Split",
    "binarize",
    "binarized_mnist",
    "content_digest",
    "decode",
    "digits",
    "fashion_mnist",
    "fix_binarization",
    "grid",
    "jsb_chorales",
    "load",
    "mnist",
    "moons",
    "names",
    "pinwheel",
    "ppca",
    "qm9_smiles",
    "ring",
    "tiny_shakespeare",
]
