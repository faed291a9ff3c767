"""How good is it: log evidence, the ELBO's parts, reconstructions, generated samples, diagnostics, export."""

from pyro_dgm.evaluation._arviz_compat import read_netcdf, write_netcdf
from pyro_dgm.evaluation.audit import GradientAudit, ParameterAudit, gradient_audit
from pyro_dgm.evaluation.batching import Estimate
from pyro_dgm.evaluation.birthday import BirthdayParadox, birthday_paradox, birthday_probability, support_size
from pyro_dgm.evaluation.distances import (
    Extrapolation,
    frechet_distance,
    frechet_distance_at_infinity,
    frechet_distance_of_moments,
    kernel_distance,
)
from pyro_dgm.evaluation.evidence import LogEvidence, log_evidence
from pyro_dgm.evaluation.export import to_arviz
from pyro_dgm.evaluation.gaps import InferenceGaps, inference_gaps
from pyro_dgm.evaluation.modes import ModeCoverage, mode_coverage, perfect_coverage
from pyro_dgm.evaluation.parts import ELBOParts, elbo_parts
from pyro_dgm.evaluation.precision import PrecisionRecall, expected_coverage, precision_recall
from pyro_dgm.evaluation.prediction import decode, encode, interpolate, latent_arithmetic, reconstruct, simulate
from pyro_dgm.evaluation.psis import PSIS, pareto_k, psis
from pyro_dgm.evaluation.scores import ClassEntropies, InceptionScore, class_entropies, inception_score
from pyro_dgm.evaluation.two_sample import ClassifierTest, MMDTest, classifier_two_sample_test, mmd_test

__all__ = [
    "PSIS",
    "BirthdayParadox",
    "ClassEntropies",
    "ClassifierTest",
    "ELBOParts",
    "Estimate",
    "Extrapolation",
    "GradientAudit",
    "InceptionScore",
    "InferenceGaps",
    "LogEvidence",
    "MMDTest",
    "ModeCoverage",
    "ParameterAudit",
    "PrecisionRecall",
    "birthday_paradox",
    "birthday_probability",
    "class_entropies",
    "classifier_two_sample_test",
    "decode",
    "elbo_parts",
    "encode",
    "expected_coverage",
    "frechet_distance",
    "frechet_distance_at_infinity",
    "frechet_distance_of_moments",
    "gradient_audit",
    "inception_score",
    "inference_gaps",
    "interpolate",
    "kernel_distance",
    "latent_arithmetic",
    "log_evidence",
    "mmd_test",
    "mode_coverage",
    "pareto_k",
    "perfect_coverage",
    "precision_recall",
    "psis",
    "read_netcdf",
    "reconstruct",
    "simulate",
    "support_size",
    "to_arviz",
    "write_netcdf",
]
