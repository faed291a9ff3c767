"""Facts about data of probabilistic principal component analysis."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_dgm.datasets import ppca


def within(sample, mean, sd, standard_errors=4.5):
    """Whether column means of a sample of shape (N, ...) are the stated ones."""
    return ((sample.mean(dim=0) - mean).abs() <= standard_errors * sd / math.sqrt(len(sample))).all()


def test_ppca_log_evidence_is_the_full_gaussian():
    data = ppca(features=7, latent_features=3, noise_sd=0.4, seed=5)
    x = data.dataset.test.x.double()
    weight, loc = data.weight.double(), data.loc.double()
    covariance = weight @ weight.T + 0.4**2 * torch.eye(7, dtype=torch.float64)
    assert torch.allclose(data.log_evidence(x), MultivariateNormal(loc, covariance).log_prob(x), rtol=1e-10)
    assert data.log_evidence(data.dataset.test.x).shape == (1_000,)


def test_ppca_data_have_the_stated_mean_covariance_and_entropy():
    data = ppca(features=4, latent_features=2, num_train=20_000, seed=1)
    x = data.dataset.train.x
    covariance = data.weight @ data.weight.T + 0.25 * torch.eye(4)
    variance = covariance.diagonal()
    assert within(x, data.loc, variance.sqrt())
    centred = x - data.loc
    products = centred.unsqueeze(1) * centred.unsqueeze(2)  # (N, D, D)
    assert within(products, covariance, (variance.outer(variance) + covariance**2).sqrt())
    # -log p(x) has mean H and variance D / 2 under the model
    entropy = MultivariateNormal(data.loc, covariance).entropy()
    assert within(-data.log_evidence(x), entropy, math.sqrt(4 / 2))


@pytest.mark.parametrize("options", [{"features": 0}, {"noise_sd": 0.0}, {"noise_sd": float("nan")}, {"num_test": 0}])
def test_ppca_without_noise_or_rows_is_refused(options):
    with pytest.raises(ValueError, match="must be at least 1 and noise_sd positive"):
        ppca(**options)
