"""The methods in NumPyro that are there."""

__all__ = ["IN_NUMPYRO"]

from benchmarks.comparison.method import Method
from benchmarks.comparison.methods.in_numpyro.autoencoders import VAEInNumPyro
from benchmarks.comparison.methods.in_numpyro.autoguides import AutoGuide
from benchmarks.comparison.methods.in_numpyro.nuts import Nuts

IN_NUMPYRO: tuple[Method, ...] = (
    VAEInNumPyro("numpyro-trace-elbo", "Trace_ELBO (NumPyro)", "Trace_ELBO"),
    VAEInNumPyro("numpyro-meanfield", "TraceMeanField_ELBO (NumPyro)", "TraceMeanField_ELBO"),
    VAEInNumPyro(
        "numpyro-renyi", "RenyiELBO, alpha = 0, K = 5 (NumPyro)", "RenyiELBO", {"alpha": 0.0, "num_particles": 5}
    ),
    AutoGuide("numpyro-autonormal", "AutoNormal (NumPyro)", "AutoNormal"),
    AutoGuide("numpyro-automvn", "AutoMultivariateNormal (NumPyro)", "AutoMultivariateNormal"),
    AutoGuide(
        "numpyro-autoiaf",
        "AutoIAFNormal, 2 transforms (NumPyro)",
        "AutoIAFNormal",
        {"hidden_dims": [32], "num_flows": 2},
    ),
    Nuts(),
)
