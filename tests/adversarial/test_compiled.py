"""Compiled turns: the losses, metrics and parameters of turns as written, up to rounding, with the same noise."""

import functools
import math
import warnings

import pyro
import pytest
import torch

from adversarial_games import linear_gan
from contracts import refuses
from pyro_dgm.adversarial import (
    IPM,
    R1,
    AdversarialTrainer,
    Contrast,
    Critic,
    DonskerVaradhan,
    GradientPenalty,
    Hinge,
    LeastSquares,
    LeCam,
    Logistic,
    NonSaturating,
    ReverseKL,
    Steps,
    Wasserstein,
    spectrally_normalized,
)
from pyro_dgm.distributions import DiagonalNormal, Generated, Normal, StandardNormal
from pyro_dgm.guides import AmortizedGuide
from pyro_dgm.infer import DATA, NLL, NonFiniteError, P, Q
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.models import LatentVariableModel
from pyro_dgm.nn import MLP

GRAPH = Compiler("graph", wait=True, quiet=True)
STEPS = 14


def batches(num=STEPS):
    return [torch.randn(16, 2, generator=torch.Generator().manual_seed(i)) for i in range(num)]


def adam():
    return functools.partial(torch.optim.Adam, lr=1e-2)


def gan(contrast, compile, **options):
    torch.manual_seed(0)
    model = LatentVariableModel(StandardNormal(2), Generated(MLP(2, 2, (8,))))
    return AdversarialTrainer(model, contrast(), adam(), adam(), compile=compile, report_every=5, **options)


def train(trainer, num=STEPS):
    torch.manual_seed(1)
    rows = []
    for x in batches(num):
        losses = trainer.step(x)
        rows.append({**losses, **trainer.report()})
    return rows


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


def critic():
    return Critic(MLP(2, 1, (8,)))


CONTRASTS = {
    "non-saturating": lambda: Contrast("x", DATA, P, critic(), Logistic(), NonSaturating()),
    "least squares": lambda: Contrast("x", DATA, P, critic(), LeastSquares()),
    "R1 at every step": lambda: Contrast("x", DATA, P, critic(), penalties=[R1(1.0)]),
    "Wasserstein": lambda: Contrast(
        "x", DATA, P, critic(), Wasserstein(), IPM(), [GradientPenalty(1.0, one_sided=True)]
    ),
    "moving averages": lambda: Contrast("x", DATA, P, critic(), DonskerVaradhan(), ReverseKL(), [LeCam(0.1)]),
    "spectral norm": lambda: Contrast("x", DATA, P, Critic(spectrally_normalized(MLP(2, 1, (8,)))), Hinge(), IPM()),
    "clipped": lambda: Contrast("x", DATA, P, Critic(MLP(2, 1, (8,)), clip=0.05), Wasserstein(), IPM()),
}


@pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS)
def test_compiled_turns_are_those_as_written(contrast):
    plain, compiled = gan(contrast, False, ema=0.9), gan(contrast, GRAPH, ema=0.9)
    assert_same(train(compiled), train(plain))
    for turn in (compiled._critic_turn, compiled._player_turn):
        assert turn.compiled.refusals == []
        assert turn.compiled.num_compiled == 1
    pairs = zip(compiled.averaged["model"].parameters(), plain.averaged["model"].parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"schedule": Steps(3, 2)}, {"schedule": Steps(simultaneous=True)}, {"clip_norm": 0.01, "critic_clip_norm": 0.02}],
    ids=["several", "simultaneous", "clipped norms"],
)
def test_schedules_and_clipping_are_compiled(options):
    contrast = CONTRASTS["non-saturating"]
    compiled = gan(contrast, GRAPH, **options)
    assert_same(train(compiled), train(gan(contrast, False, **options)))
    assert compiled._critic_turn.compiled.num_compiled == 1


def test_batch_norm_in_the_generator():
    plain, compiled = linear_gan(penalties=[]), linear_gan(penalties=[], compile=GRAPH)
    assert_same(train(compiled), train(plain))
    for one, other in zip(compiled.model.buffers(), plain.model.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)  # what a bias before it drifts by
    assert compiled._player_turn.compiled.num_compiled == 1


def test_an_autoencoder_with_a_guide():
    def make(compile):
        torch.manual_seed(0)
        model = LatentVariableModel(StandardNormal(2), Normal(MLP(2, 2, (4,)), scale=0.5))
        guide = AmortizedGuide(z=DiagonalNormal(MLP(2, 4, (4,))))
        terms = [NLL("x", of="model", at=Q, through_draws=True), Contrast("z", P, Q, critic())]
        return AdversarialTrainer(model, terms, adam(), adam(), guide, compile=compile)

    compiled = make(GRAPH)
    assert_same(train(compiled), train(make(False)))
    assert compiled._player_turn.compiled.num_compiled == 1


def test_what_cannot_be_compiled_is_taken_as_written_and_says_why():
    lazy = functools.partial(linear_gan, penalties=[R1(1.0, every=2)])
    plain, compiled = lazy(), linear_gan(penalties=[R1(1.0, every=2)], compile=Compiler("graph", wait=True))
    expected = train(plain)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        assert_same(train(compiled), expected)
    assert len(said) == 1
    assert "read a tensor's values" in str(said[0].message)
    assert compiled._critic_turn.compiled.num_compiled == 0
    assert compiled._player_turn.compiled.num_compiled == 1


def test_nan_is_refused_by_a_compiled_turn_too():
    trainer = gan(CONTRASTS["non-saturating"], GRAPH)
    train(trainer)
    before = [p.detach().clone() for p in [*trainer.model.parameters(), *trainer.critic.parameters.values()]]
    x = batches(1)[0]
    x[2] = math.nan
    with pyro.validation_enabled(False), pytest.raises(NonFiniteError):
        trainer.step(x)
    after = [*trainer.model.parameters(), *trainer.critic.parameters.values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    trainer.step(batches(1)[0])


def test_a_state_that_is_loaded_is_gone_on_with():
    plain, compiled = (gan(CONTRASTS["non-saturating"], how) for how in (False, GRAPH))
    train(compiled)
    plain.load_state_dict(compiled.state_dict())
    other = gan(CONTRASTS["non-saturating"], GRAPH)
    train(other, 9)
    other.load_state_dict(plain.state_dict())
    assert_same(train(other), train(plain))


def test_compile_is_checked():
    with refuses(ValueError, "compile", "'always'"):
        gan(CONTRASTS["non-saturating"], "always")


def test_automatic_compiling_waits_until_it_pays():
    trainer = gan(CONTRASTS["non-saturating"], "auto")
    trainer.expect(20)
    train(trainer)
    assert trainer._critic_turn.compiled is None
