"""What objectives are given and cannot use: each says its rule, what it got and the cure, when it is made."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from contracts import refuses
from pyro_dgm.infer import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    MMD,
    NLL,
    PIWAE,
    TVO,
    Baseline,
    ForwardKL,
    Relaxation,
    Renyi,
    SlicedWasserstein,
    WakeSleep,
)
from pyro_dgm.infer.estimators import choose
from pyro_dgm.infer.sources import P, Q

PARTICLE_TERMS = [
    ELBO,
    IWAE,
    functools.partial(MIWAE, num_groups=1),
    functools.partial(Renyi, 0.5),
    ForwardKL,
    WakeSleep,
]


@pytest.mark.parametrize("make", PARTICLE_TERMS)
@pytest.mark.parametrize(
    ("error", "option", "parts"),
    [
        (TypeError, {"baseline": 3}, ("baseline", "got 3")),
        (TypeError, {"baseline": nn.Linear(2, 1)}, ("baseline", "Linear", "Baseline(net)")),
        (TypeError, {"relaxation": 0.5}, ("relaxation", "got 0.5", "Relaxation(0.5)")),
        (TypeError, {"vectorize_particles": "no"}, ("vectorize_particles", "'no'")),
        (TypeError, {"max_plate_nesting": 1.0}, ("max_plate_nesting", "got 1.0")),
        (TypeError, {"max_plate_nesting": math.inf}, ("max_plate_nesting", "got inf")),
        (TypeError, {"max_plate_nesting": True}, ("max_plate_nesting", "got True")),
        (ValueError, {"max_plate_nesting": -1}, ("max_plate_nesting", "got -1")),
    ],
)
def test_options_that_can_never_be_right_are_refused_by_name(make, error, option, parts):
    with refuses(error, f" of {getattr(make, 'func', make).__name__} must", *parts):
        make(num_particles=2, **option)


BAD = [
    (ValueError, lambda: ELBO(gradient="reparm"), ("gradient of ELBO", "'reparm'")),
    (ValueError, lambda: IWAE(2, moves="x"), ("moves of IWAE", "'x'")),
    (TypeError, lambda: IWAE("3"), ("num_particles", "'3'")),
    (TypeError, lambda: MIWAE(4, 2.0), ("num_groups of MIWAE", "got 2.0")),
    (TypeError, lambda: PIWAE(4, 2.0), ("num_groups of PIWAE", "got 2.0")),
    (ValueError, lambda: MIWAE(4, 3), ("num_groups", "got 3")),
    (TypeError, lambda: CIWAE(3, "x"), ("beta of CIWAE", "'x'")),
    (ValueError, lambda: CIWAE(3, 2.0), ("beta", "got 2.0")),
    (TypeError, lambda: Renyi("x"), ("alpha of Renyi", "'x'")),
    (TypeError, lambda: Renyi(None, 3), ("alpha of Renyi", "None")),
    (ValueError, lambda: Renyi(math.nan), ("alpha", "nan")),
    (TypeError, lambda: CUBO(3, "x"), ("order of CUBO", "'x'")),
    (ValueError, lambda: CUBO(3, moves="both"), ("CUBO", "moves='both'")),
    (ValueError, lambda: PIWAE(4, 2, moves="guide"), ("PIWAE", "moves='guide'")),
    (TypeError, lambda: TVO(3, 0.5), ("betas of TVO", "got 0.5")),
    (TypeError, lambda: TVO(3, [0, None]), ("betas of TVO", "None")),
    (ValueError, lambda: TVO(3, ()), ("betas", "[]")),
    (TypeError, lambda: MMD([3]), ("sites of MMD", "[3]")),
    (TypeError, lambda: MMD("z", bandwidth="1"), ("bandwidth of MMD", "'1'")),
    (ValueError, lambda: MMD("z", kernel=["imq"]), ("kernel", "['imq']")),
    (TypeError, lambda: SlicedWasserstein(None), ("sites of SlicedWasserstein", "None")),
    (TypeError, lambda: SlicedWasserstein("z", 2.5), ("num_projections of SlicedWasserstein", "2.5")),
    (ValueError, lambda: NLL([], of="model", at=Q), ("sites of NLL", "[]")),
    (TypeError, lambda: NLL(3, of="model", at=Q), ("sites of NLL", "got 3")),
    (TypeError, lambda: NLL(["x", 3], of="model", at=Q), ("sites of NLL", "3")),
    (TypeError, lambda: NLL(of="model", at=Q, through_draws="no"), ("through_draws of NLL", "'no'")),
]


@pytest.mark.parametrize(("error", "make", "parts"), BAD)
def test_arguments_out_of_range_or_of_another_kind_are_refused(error, make, parts):
    with refuses(error, *parts):
        make()


def test_good_arguments_are_kept():
    baseline, relaxation = Baseline(), Relaxation()
    objective = ELBO(baseline=baseline, relaxation=relaxation, max_plate_nesting=2, vectorize_particles=False)
    assert objective.baseline is baseline
    assert objective.relaxation is relaxation
    assert (objective.max_plate_nesting, objective.vectorize_particles) == (2, False)
    assert TVO(3, torch.tensor([0.0, 0.5])).betas == (0.0, 0.5)
    assert NLL(["x", "z"], of="model", at=Q).sites == ("x", "z")


def test_programs_without_a_plate_have_a_nesting_of_zero():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    assert ELBO(3, max_plate_nesting=0).loss(model, guide).isfinite()


def test_a_program_without_sites_has_nothing_to_score():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x)

    with refuses(ValueError, "NLL", "guide", "none"):
        NLL(of="guide", at=P).loss(model, lambda x: None, torch.ones(3))


# A latent's own estimator


def latent(infer):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), infer=infer)

    return model, guide


@pytest.mark.parametrize("own", ["score", {"gradeint": "score"}, {"gradient": "score", "baseline": None}])
def test_an_unknown_key_at_a_latent_is_refused(own):
    with refuses(ValueError, "'z'", "'gradient'", str(own)):
        ELBO().loss_and_grads(*latent({"pyro_dgm": own}), torch.ones(3))


@pytest.mark.parametrize("own", ["score", None, ["gradient"]])
def test_what_a_latent_says_is_a_mapping(own):
    site = {"infer": {"pyro_dgm": own}, "fn": dist.Normal(0.0, 1.0)}
    with refuses(ValueError, "'z'", "'gradient'", f"got {own!r}"):
        choose("z", site, "auto", 1, None)


@pytest.mark.parametrize("name", ["reparm", "", 3])
def test_an_unknown_estimator_at_a_latent_is_refused(name):
    with refuses(ValueError, "'z'", f"got {name!r}"):
        ELBO().loss_and_grads(*latent({"pyro_dgm": {"gradient": name}}), torch.ones(3))


def test_a_latent_that_names_no_estimator_takes_the_objectives():
    for own in ({}, {"gradient": None}):
        site = {"infer": {"pyro_dgm": own}, "fn": dist.Normal(0.0, 1.0)}
        assert choose("z", site, "score", 1, None) == "score"
