"""The matrix: every bound with every gradient estimator on every kind of latent, against the exact gradient.

Discrete programs are enumerated: the expectation of a 2-particle bound is a sum over all pairs of states. The chain of
normal latents is compared with its bound written by hand, on noise of its own, whose error counts too. A cell is exact
(no parameter more than 5 standard errors off), biased (one is more), or raises at the first step. Seed 0; 200 steps of
500 copies of the data each, of the chain 100 of 2000.
"""

import math
from functools import cache, partial

import pytest
import torch

from contracts import refuses
from exact_programs import (
    Bits,
    Chain,
    Integers,
    OneHots,
    X,
    estimates,
    exact_bound,
    exact_gradient,
    relaxation,
    sampled_bound_of_chain,
)
from pyro_dgm.infer import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, TVO, Renyi, bounds
from pyro_dgm.infer.estimators import BIASED, CONTROL, ESTIMATORS, PATH

KINDS = {"bits": Bits, "one-hot": OneHots, "integers": Integers, "normal": Chain}
UNITS = {"bits": 3, "one-hot": 8}
PATH_OK, SCORE_OK = ("auto", "reparam", "dreg"), ("auto", "score", "loo", "nvil")
miwae = partial(bounds.miwae, num_groups=2)


def minus_cubo(log_weights):
    """What a guide maximises when it minimises the chi upper bound."""
    return -bounds.cubo(log_weights)


BOUNDS = {  # the objective, the bound that the model maximises, the bound that the guide maximises
    "elbo": (partial(ELBO, 2), bounds.elbo, bounds.elbo),
    "iwae": (partial(IWAE, 2), bounds.iwae, bounds.iwae),
    "miwae": (partial(MIWAE, 2, 2), miwae, miwae),
    "piwae": (partial(PIWAE, 2, 2), bounds.iwae, miwae),
    "ciwae": (partial(CIWAE, 2, 0.3), *[partial(bounds.ciwae, beta=0.3)] * 2),
    "renyi 0.5": (partial(Renyi, 0.5, 2), *[partial(bounds.renyi, alpha=0.5)] * 2),
    "renyi -1": (partial(Renyi, -1.0, 2), *[partial(bounds.renyi, alpha=-1.0)] * 2),
    "renyi 2": (partial(Renyi, 2.0, 2), *[partial(bounds.renyi, alpha=2.0)] * 2),
    "vr-max": (partial(Renyi, -math.inf, 2), bounds.vr_max, bounds.vr_max),
    "cubo": (partial(CUBO, 2), None, minus_cubo),
    "tvo": (partial(TVO, 2, (0.0, 0.2)), *[partial(bounds.tvo, betas=(0.0, 0.2))] * 2),
}
LINEAR = ("elbo", "miwae", "piwae")  # to the guide, with two groups of one particle


def label(kind, bound, estimator):
    """What a cell must be: exact, biased, or raises."""
    if kind == "normal":
        if estimator == "stl":
            return "exact" if bound in LINEAR else "biased"
        if estimator == "dreg" and bound == "vr-max":
            return "raises"  # the largest weight is not smooth: its score would leave a term at every tie
        return "exact" if estimator in PATH_OK + SCORE_OK else "raises"
    if estimator == "enumerate":
        return "exact" if bound == "elbo" else "raises"
    if estimator in SCORE_OK:
        return "exact"
    if estimator in PATH or kind == "integers" or (estimator == "disarm" and kind == "one-hot"):
        return "raises"
    return "biased" if estimator in BIASED else "exact"


CELLS = [(kind, bound, estimator) for kind in KINDS for bound in BOUNDS for estimator in ESTIMATORS]


@cache
def truth(kind, bound):
    """Mean and variance of the exact gradient of a cell: the variance is zero where it is enumerated."""
    program = KINDS[kind]()
    _, of_model, of_guide = BOUNDS[bound]
    guide = program.encoder.numel()

    def both(gradient_of):
        model = gradient_of(of_model) if of_model is not None else torch.zeros_like(gradient_of(of_guide))
        return torch.cat([model[:-guide], gradient_of(of_guide)[-guide:]])

    if kind != "normal":
        mean = both(lambda f: exact_gradient(exact_bound(program, f), program))
        return mean, torch.zeros_like(mean)
    torch.manual_seed(1)
    rows = torch.stack(
        [both(lambda f: exact_gradient(sampled_bound_of_chain(program, f, 2000), program)) for _ in range(100)]
    )
    return rows.mean(0), rows.var(0) / 100


@pytest.mark.parametrize(("kind", "bound", "estimator"), [cell for cell in CELLS if label(*cell) != "raises"])
def test_the_gradient_is_exact_or_biased_as_labelled(kind, bound, estimator):
    mean, variance = truth(kind, bound)
    torch.manual_seed(0)
    program = KINDS[kind]()
    objective = BOUNDS[bound][0](gradient=estimator, relaxation=relaxation(UNITS.get(kind, 1)))
    repeats, copies = (100, 2000) if kind == "normal" else (2, 1) if estimator == "enumerate" else (100, 500)
    found = estimates(program, objective, repeats, copies)
    error = (found.var(0) / repeats + variance).sqrt()
    z = (found.mean(0) - mean) / error.clamp(min=1e-9)
    assert (z.abs().max() > 5) == (label(kind, bound, estimator) == "biased"), z


@pytest.mark.parametrize(("kind", "bound", "estimator"), [cell for cell in CELLS if label(*cell) == "raises"])
def test_what_is_impossible_raises_with_the_cure(kind, bound, estimator):
    program = KINDS[kind]()
    with refuses(ValueError, repr(estimator)):
        objective = BOUNDS[bound][0](gradient=estimator, relaxation=relaxation(UNITS.get(kind, 1)))
        objective.loss_and_grads(program.model, program.guide, X)


def test_every_kind_of_cell_is_there():
    assert {label(*cell) for cell in CELLS} == {"exact", "biased", "raises"}
    assert set(CONTROL) <= {estimator for kind, _, estimator in CELLS if label(kind, "iwae", estimator) == "exact"}
