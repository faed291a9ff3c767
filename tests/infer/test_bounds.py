import pytest
import torch

from pyro_dgm.infer import bounds

BOUNDS = [bounds.elbo, bounds.iwae]


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
