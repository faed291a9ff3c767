"""The exact posterior of a mixture as a guide."""

import copy

import pytest
import torch

from contracts import refuses
from pyro_dgm.evaluation import elbo_parts, log_evidence
from pyro_dgm.guides import MixturePosterior
from pyro_dgm.models.mixture import GaussianMixture
from pyro_dgm.nn import MLP


def mixture() -> GaussianMixture:
    torch.manual_seed(0)
    model = GaussianMixture(3, 2, "full")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("num_particles", [1, 7])
def test_the_evidence_and_every_elbo_are_exact(num_particles):
    model, x = mixture(), 2 * torch.randn(20, 2)
    guide = MixturePosterior(model)
    exact = model.log_evidence(x).detach()
    parts = elbo_parts(model, guide, x, num_particles=num_particles)
    torch.testing.assert_close(parts.elbo, exact, atol=1e-4, rtol=0.0)
    estimate = log_evidence(model, guide, x, num_particles=num_particles).per_datum
    torch.testing.assert_close(estimate.float(), exact, atol=1e-4, rtol=0.0)


def test_it_follows_the_model_and_has_no_parameters_of_its_own():
    model, x = mixture(), torch.zeros(4, 2)
    guide = MixturePosterior(model)
    assert not list(guide.parameters())
    with torch.no_grad():
        model.logits.copy_(torch.tensor([-100.0, 100.0, -100.0]))
    assert guide(x)["z"].tolist() == [1, 1, 1, 1]
    assert copy.deepcopy(guide)(x)["z"].tolist() == [1, 1, 1, 1]


def test_what_it_cannot_read_is_refused():
    with refuses(TypeError, "responsibilities; got MLP", "GaussianMixture"):
        MixturePosterior(MLP(2, 3))
    guide = MixturePosterior(mixture())
    with refuses(ValueError, "a guide reads data"):
        guide()
    with refuses(ValueError, "(B, 2)", "(4, 3)"):
        guide(torch.zeros(4, 3))
    with refuses(ValueError, "1 NaN"):
        guide(torch.tensor([[0.0, torch.nan]]))
