"""Pictures of data, samples, latent spaces and training runs, as Matplotlib figures.

Tensors or arrays in, a `matplotlib.figure.Figure` out: nothing is shown, and no global state of Matplotlib is touched.
"""

__all__ = [
    "density_maps",
    "gradient_audits",
    "image_grid",
    "interpolations",
    "latent_space",
    "manifold",
    "manifold_grid",
    "mixture_components",
    "plane",
    "point_clouds",
    "reconstructions",
    "save_figure",
    "training_curves",
    "vector_arithmetic",
]

from pyro_dgm.plotting.curves import training_curves
from pyro_dgm.plotting.densities import density_maps, plane
from pyro_dgm.plotting.figures import save_figure
from pyro_dgm.plotting.gradients import gradient_audits
from pyro_dgm.plotting.images import (
    image_grid,
    interpolations,
    manifold,
    manifold_grid,
    reconstructions,
    vector_arithmetic,
)
from pyro_dgm.plotting.latents import latent_space
from pyro_dgm.plotting.mixtures import mixture_components
from pyro_dgm.plotting.points import point_clouds
