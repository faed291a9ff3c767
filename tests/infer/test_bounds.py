import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from pyro_dgm.infer import bounds

BOUNDS = [
    bounds.elbo,
    bounds.iwae,
    partial(bounds.miwae, num_groups=1),
    partial(bounds.miwae, num_groups=5),
    partial(bounds.ciwae, beta=0.3),
    *(partial(bounds.renyi, alpha=alpha) for alpha in (-math.inf, -2.0, 0.0, 0.5, 1.0, 3.0)),
    bounds.vr_max,
    bounds.cubo,
    partial(bounds.tvo, betas=[0.0, 0.1, 0.5]),
]


def test_iwae_of_one_particle_is_the_elbo():
    log_w = torch.randn(1, 6)
    torch.testing.assert_close(bounds.iwae(log_w), bounds.elbo(log_w))


def test_iwae_is_the_log_of_the_mean_weight():
    log_w = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(bounds.iwae(log_w), log_w.exp().mean(0).log())


def test_iwae_is_at_least_the_elbo():
    log_w = 10 * torch.randn(8, 100)
    assert (bounds.iwae(log_w) >= bounds.elbo(log_w) - 1e-5).all()


def test_iwae_does_not_fall_in_expectation_as_particles_are_added():
    """Exactly, by averaging over all subsets of the same weights (Burda et al., theorem 1)."""
    log_w = 3 * torch.randn(6, 10, dtype=torch.float64)
    means = []
    for size in range(1, 7):
        subsets = torch.combinations(torch.arange(6), size)
        means.append(torch.stack([bounds.iwae(log_w[rows]) for rows in subsets]).mean(0))
    steps = torch.stack(means).diff(dim=0)
    assert (steps >= -1e-12).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_constant_in_the_weights_moves_the_bound_by_itself(bound):
    log_w = torch.randn(5, 6, dtype=torch.float64)
    shift = torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(bound(log_w + shift), bound(log_w) + shift)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("offset", [-1e5, 1e5])
def test_huge_log_weights_neither_overflow_nor_vanish(bound, offset):
    log_w = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(bound(log_w + offset) - offset, bound(log_w), atol=1e-9, rtol=0.0)


def test_a_weight_of_zero_does_not_spoil_the_others():
    log_w = torch.tensor([[0.0], [-torch.inf]], requires_grad=True)
    bound = bounds.iwae(log_w)
    bound.sum().backward()
    torch.testing.assert_close(bound, torch.tensor([0.5]).log())
    torch.testing.assert_close(log_w.grad, torch.tensor([[1.0], [0.0]]))


def test_the_gradient_of_iwae_is_the_normalised_weights():
    log_w = torch.randn(5, 6, requires_grad=True)
    bounds.iwae(log_w).sum().backward()
    torch.testing.assert_close(log_w.grad, log_w.detach().softmax(dim=0))


def enumerated():
    """A latent of five values: prior joint, guide, the log evidence, and log-weights listed as the guide would draw."""
    log_joint = torch.randn(5, dtype=torch.float64)
    guide = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3], dtype=torch.float64)
    draws = torch.arange(5).repeat_interleave((guide * 20).round().long())  # K = 20 in the guide's own proportions
    return log_joint, guide, log_joint.logsumexp(0), (log_joint - guide.log())[draws].unsqueeze(1)


@pytest.mark.parametrize("alpha", [-2.0, -0.5, 0.3, 0.7, 2.0, 5.0])
def test_renyi_is_the_log_evidence_less_the_renyi_divergence_from_guide_to_posterior(alpha):
    log_joint, guide, log_evidence, log_w = enumerated()
    posterior = (log_joint - log_evidence).exp()
    divergence = (guide**alpha * posterior ** (1 - alpha)).sum().log() / (alpha - 1)
    torch.testing.assert_close(bounds.renyi(log_w, alpha)[0], log_evidence - divergence)


def test_renyi_at_zero_and_one_and_minus_infinity_is_iwae_and_elbo_and_the_largest_weight():
    log_w = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(bounds.renyi(log_w, 0.0), bounds.iwae(log_w))
    torch.testing.assert_close(bounds.renyi(log_w, 1.0), bounds.elbo(log_w))
    torch.testing.assert_close(bounds.renyi(log_w, -math.inf), log_w.max(dim=0).values)
    torch.testing.assert_close(bounds.renyi(log_w, -1e4), bounds.vr_max(log_w), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("gap", [1e-3, -1e-3, 2e-6, -2e-6])
def test_renyi_is_continuous_at_one(gap):
    log_w = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(bounds.renyi(log_w, 1 + gap), bounds.elbo(log_w), atol=10 * abs(gap), rtol=0.0)


def test_renyi_falls_as_alpha_grows():
    log_w = torch.randn(5, 6, dtype=torch.float64)
    values = torch.stack([bounds.renyi(log_w, alpha) for alpha in (-math.inf, -3.0, 0.0, 0.9, 1.0, 1.1, 4.0)])
    assert (values.diff(dim=0) < 0).all()


def test_cubo_is_the_renyi_bound_of_one_minus_its_order_and_above_the_log_evidence():
    _, _, log_evidence, log_w = enumerated()
    torch.testing.assert_close(bounds.cubo(log_w, 2.0), bounds.renyi(log_w, -1.0))
    assert bounds.cubo(log_w)[0] > log_evidence


def test_miwae_goes_from_iwae_to_elbo_as_groups_are_added():
    log_w = torch.randn(6, 10, dtype=torch.float64)
    torch.testing.assert_close(bounds.miwae(log_w, 1), bounds.iwae(log_w))
    torch.testing.assert_close(bounds.miwae(log_w, 6), bounds.elbo(log_w))
    by_hand = (bounds.iwae(log_w[:3]) + bounds.iwae(log_w[3:])) / 2
    torch.testing.assert_close(bounds.miwae(log_w, 2), by_hand)


def test_ciwae_goes_from_iwae_to_elbo_with_beta():
    log_w = torch.randn(6, 10)
    torch.testing.assert_close(bounds.ciwae(log_w, 0.0), bounds.iwae(log_w))
    torch.testing.assert_close(bounds.ciwae(log_w, 1.0), bounds.elbo(log_w))


def test_tvo_goes_from_the_elbo_to_the_log_evidence_as_the_path_is_refined():
    _, _, log_evidence, log_w = enumerated()
    torch.testing.assert_close(bounds.tvo(log_w, [0.0]), bounds.elbo(log_w))
    sums = [bounds.tvo(log_w, torch.linspace(0, 1, n + 1)[:-1].tolist())[0] for n in (1, 2, 4, 8, 1000)]
    assert all(left < right < log_evidence for left, right in pairwise(sums))
    torch.testing.assert_close(sums[-1], log_evidence, atol=2e-3, rtol=0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: bounds.miwae(w, 4), "num_groups must divide the 6 particles; got 4. Choose"),
        (lambda w: bounds.miwae(w, 0), "num_groups must divide the 6 particles; got 0. Choose"),
        (lambda w: bounds.ciwae(w, 1.5), r"beta must lie in \[0, 1\]; got 1.5. 0 is"),
        (lambda w: bounds.renyi(w, math.nan), "alpha must be a real number or minus infinity; got nan. 0 is"),
        (lambda w: bounds.cubo(w, 0.5), "order must be a number of at least 1; got 0.5. 2 gives"),
        (lambda w: bounds.tvo(w, [0.1]), r"betas must increase from 0 and stay below 1; got \[0.1\]. \[0.0\] is"),
        (lambda w: bounds.tvo(w, [0.0, 1.0]), "betas must increase from 0 and stay below 1; got"),
        (lambda w: bounds.tvo(w, []), "betas must increase from 0 and stay below 1; got"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(6, 1))
