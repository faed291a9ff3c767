"""Probabilistic principal component analysis: data whose evidence is known in closed form."""

__all__ = ["PPCAData", "ppca"]

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from pyro_dgm.datasets.dataset import Dataset, Split, content_digest


@final
@dataclass(frozen=True, eq=False)
class PPCAData:
    r"""Data of :math:`x = W z + \mu + \sigma \epsilon`, with the parameters that generated them.

    Arguments:
        dataset: The data, of kind 'real' and event shape (D,).
        loc: The mean mu, of shape (D,).
        weight: The matrix W, of shape (D, L).
        noise_sd: The standard deviation sigma of the noise.
    """

    dataset: Dataset
    loc: Tensor
    weight: Tensor
    noise_sd: float

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""Exact :math:`\log p(x) = \log N(x; \mu, W W^T + \sigma^2 I)` under the true parameters, in nats.

        Arguments:
            x: Data of shape (B, D); the result has its dtype and device.

        Returns:
            One value per datum, of shape (B,).
        """
        loc, weight = self.loc.to(x), self.weight.to(x)
        return LowRankMultivariateNormal(loc, weight, torch.full_like(loc, self.noise_sd**2)).log_prob(x)


def ppca(
    features: int = 10,
    latent_features: int = 2,
    noise_sd: float = 0.5,
    *,
    num_train: int = 1_000,
    num_valid: int = 1_000,
    num_test: int = 1_000,
    seed: int = 0,
) -> PPCAData:
    r"""Draws of a linear-Gaussian latent-variable model, the one deep models are checked against.

    .. math:: z \sim N(0, I_L), \quad x \mid z \sim N(W z + \mu, \sigma^2 I_D)

    with standard normal entries of W and mu, drawn first from the same seed.

    References:
        Tipping and Bishop (1999), Probabilistic Principal Component Analysis.

    Arguments:
        features: D, the data's dimension.
        latent_features: L, the latent dimension.
        noise_sd: sigma.
        num_train: Rows of the training part.
        num_valid: Rows of the validation part.
        num_test: Rows of the test part.
        seed: Seed of the generator of the parameters and all draws.

    Returns:
        The data and the true parameters.

    Raises:
        ValueError: If a size is less than 1 or noise_sd is not positive.
    """
    sizes = (num_train, num_valid, num_test)
    if min(features, latent_features, *sizes) < 1 or not noise_sd > 0:
        raise ValueError(
            "features, latent_features and the numbers of rows must be at least 1 and noise_sd positive; got "
            f"{features}, {latent_features}, {sizes} and {noise_sd}. Without noise the evidence is not defined."
        )
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(features, latent_features, generator=generator)
    loc = torch.randn(features, generator=generator)
    z = torch.randn(sum(sizes), latent_features, generator=generator)
    x = z @ weight.T + loc + noise_sd * torch.randn(sum(sizes), features, generator=generator)
    train, valid, test = map(Split, x.split(sizes))
    dataset = Dataset(
        name="ppca",
        train=train,
        valid=valid,
        test=test,
        digest=content_digest(x),
        protocol=(
            f"pPCA with {latent_features} latent and {features} observed features, noise sd {noise_sd}; "
            f"{num_train:,} / {num_valid:,} / {num_test:,} draws, seed {seed}"
        ),
        event_shape=(features,),
        kind="real",
    )
    return PPCAData(dataset, loc, weight, noise_sd)
