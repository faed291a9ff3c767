"""How good is it: log evidence, the ELBO's parts, reconstructions and samples, diagnostics, export."""

from pyro_dgm.evaluation._arviz_compat import read_netcdf, write_netcdf
from pyro_dgm.evaluation.audit import GradientAudit, ParameterAudit, gradient_audit
from pyro_dgm.evaluation.batching import Estimate
from pyro_dgm.evaluation.evidence import LogEvidence, log_evidence
from pyro_dgm.evaluation.export import to_arviz
from pyro_dgm.evaluation.gaps import InferenceGaps, inference_gaps
from pyro_dgm.evaluation.parts import ELBOParts, elbo_parts
from pyro_dgm.evaluation.prediction import decode, encode, interpolate, reconstruct, simulate
from pyro_dgm.evaluation.psis import PSIS, pareto_k, psis

__all__ = [
    "PSIS",
    "ELBOParts",
    "Estimate",
    "GradientAudit",
    "InferenceGaps",
    "LogEvidence",
    "ParameterAudit",
    "decode",
    "elbo_parts",
    "encode",
    "gradient_audit",
    "inference_gaps",
    "interpolate",
    "log_evidence",
    "pareto_k",
    "psis",
    "read_netcdf",
    "reconstruct",
    "simulate",
    "to_arviz",
    "write_netcdf",
]
