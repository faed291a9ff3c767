"""The adversarial recipes by name."""

__all__ = ["ADVERSARIAL"]

from pyro_dgm.recipes.adversarial_vae import AdversarialVAERecipe
from pyro_dgm.recipes.coded_gan import CodedGANRecipe
from pyro_dgm.recipes.gan import GANRecipe
from pyro_dgm.recipes.recipe import Recipe
from pyro_dgm.recipes.translation import TranslationRecipe

ADVERSARIAL: dict[str, Recipe] = {
    "gan": GANRecipe(
        summary="generative adversarial network, fully connected, non-saturating",
        source="Goodfellow et al. (2014), arXiv:1406.2661",
    ),
    "gan-minimax": GANRecipe(
        summary="generative adversarial network by the zero-sum game",
        source="Goodfellow et al. (2014), equation 1, arXiv:1406.2661",
        objective="minimax",
    ),
    "gan-r1": GANRecipe(
        summary="generative adversarial network with R1 penalty and averaged generator",
        source="Mescheder, Geiger and Nowozin (2018), arXiv:1801.04406",
        penalty="r1",
        gamma=0.1,
        ema=0.999,
        critic_learning_rate=1e-3,
    ),
    "lsgan": GANRecipe(
        summary="least-squares GAN",
        source="Mao et al. (2017), arXiv:1611.04076",
        estimator="least-squares",
    ),
    "wgan": GANRecipe(
        summary="Wasserstein GAN, the critic's weights clipped at 0.01, by RMSprop",
        source="Arjovsky, Chintala and Bottou (2017), arXiv:1701.07875",
        estimator="wasserstein",
        objective="ipm",
        clip=0.01,
        critic_steps=5,
        optimizer="rmsprop",
        learning_rate=5e-5,
        critic_learning_rate=5e-5,
    ),
    "wgan-gp": GANRecipe(
        summary="Wasserstein GAN with gradient penalty, lambda = 10",
        source="Gulrajani et al. (2017), arXiv:1704.00028",
        estimator="wasserstein",
        objective="ipm",
        penalty="gp",
        gamma=10.0,
        critic_steps=5,
        learning_rate=1e-4,
        critic_learning_rate=1e-4,
        beta1=0.0,
        beta2=0.9,
    ),
    "hinge-gan": GANRecipe(
        summary="hinge GAN with a spectrally normalised critic",
        source="Lim and Ye (2017), arXiv:1705.02894; Miyato, Kataoka, Koyama and Yoshida (2018), arXiv:1802.05957",
        estimator="hinge",
        objective="ipm",
        normalization="spectral",
    ),
    "f-gan": GANRecipe(
        summary="f-GAN of the squared Hellinger distance; other f by estimator=",
        source="Nowozin, Cseke and Tomioka (2016), arXiv:1606.00709",
        estimator="squared-hellinger",
    ),
    "ebgan": GANRecipe(
        summary="energy-based GAN, whose critic is an autoencoder",
        source="Zhao, Mathieu and LeCun (2017), arXiv:1609.03126",
        estimator="energy-margin",
        objective="ipm",
    ),
    "began": GANRecipe(
        summary="boundary-equilibrium GAN, gamma = 0.5",
        source="Berthelot, Schumm and Metz (2017), arXiv:1703.10717",
        estimator="boundary-equilibrium",
        objective="ipm",
        learning_rate=1e-4,
        critic_learning_rate=1e-4,
    ),
    "relativistic-gan": GANRecipe(
        summary="relativistic average GAN with gradient penalty",
        source="Jolicoeur-Martineau (2019), arXiv:1807.00734",
        estimator="relativistic",
        penalty="gp",
        gamma=10.0,
    ),
    "pac-gan": GANRecipe(
        summary="PacGAN, whose critic sees four draws at once",
        source="Lin, Khetan, Fanti and Oh (2018), arXiv:1712.04086",
        pac=4,
    ),
    "dcgan": GANRecipe(
        summary="deep convolutional GAN",
        source="Radford, Metz and Chintala (2016), arXiv:1511.06434",
        network="dcgan",
        normalization="batch",
        latent_features=64,
        epochs=10,
    ),
    "conditional-gan": GANRecipe(
        summary="GAN given the class label",
        source="Mirza and Osindero (2014), arXiv:1411.1784",
        conditional=True,
    ),
    "gmmn": GANRecipe(
        summary="generative moment matching network: no critic, the maximum mean discrepancy",
        source="Li, Swersky and Zemel (2015), arXiv:1502.02761; Dziugaite, Roy and Ghahramani (2015), arXiv:1505.03906",
        estimator="mmd",
        learning_rate=1e-3,
        batch_size=500,
    ),
    "adversarial-autoencoder": AdversarialVAERecipe(
        summary="adversarial autoencoder, whose encoder is deterministic",
        source="Makhzani, Shlens, Jaitly, Goodfellow and Frey (2016), arXiv:1511.05644",
        weight=20.0,
    ),
    "wae-gan": AdversarialVAERecipe(
        summary="Wasserstein autoencoder by a critic of the latents, lambda = 10",
        source="Tolstikhin, Bousquet, Gelly and Schoelkopf (2018), arXiv:1711.01558",
        likelihood="normal",
        scale=0.5**0.5,
        weight=10.0,
    ),
    "avb": AdversarialVAERecipe(
        summary="adversarial variational Bayes: an encoder without a density",
        source="Mescheder, Nowozin and Geiger (2017), arXiv:1701.04722",
        method="avb",
        posterior="implicit",
    ),
    "avb-ac": AdversarialVAERecipe(
        summary="adversarial variational Bayes with adaptive contrast",
        source="Mescheder, Nowozin and Geiger (2017), section 3.3, arXiv:1701.04722",
        method="avb-ac",
        posterior="implicit",
    ),
    "factor-vae": AdversarialVAERecipe(
        summary="FactorVAE: the total correlation of the latents by a critic, gamma = 10",
        source="Kim and Mnih (2018), arXiv:1802.05983",
        method="factor-vae",
        posterior="diagonal",
        weight=10.0,
    ),
    "vae-gan": AdversarialVAERecipe(
        summary="autoencoder whose reconstruction error is that of a critic's features",
        source="Larsen, Sønderby, Larochelle and Winther (2016), arXiv:1512.09300",
        method="vae-gan",
        posterior="diagonal",
        likelihood="implicit",
    ),
    "ali": AdversarialVAERecipe(
        summary="adversarially learned inference (BiGAN)",
        source="Dumoulin et al. (2017), arXiv:1606.00704; Donahue, Krähenbühl and Darrell (2017), arXiv:1605.09782",
        method="ali",
        posterior="diagonal",
        likelihood="implicit",
        learning_rate=2e-4,
        critic_learning_rate=2e-4,
    ),
    "infogan": CodedGANRecipe(
        summary="InfoGAN: a code of 10 values and two continuous ones, found without labels",
        source="Chen et al. (2016), arXiv:1606.03657",
        network="dcgan",
        normalization="batch",
    ),
    "ac-gan": CodedGANRecipe(
        summary="auxiliary classifier GAN",
        source="Odena, Olah and Shlens (2017), arXiv:1610.09585",
        method="ac-gan",
        network="dcgan",
        normalization="batch",
        learning_rate=2e-4,
    ),
    "pix2pix": TranslationRecipe(
        summary="translation by pairs and a critic: the lower half of an image from its upper half",
        source="Isola, Zhu, Zhou and Efros (2017), arXiv:1611.07004",
    ),
    "cyclegan": TranslationRecipe(
        summary="translation without pairs, there and back: data and rotated data",
        source="Zhu, Park, Isola and Efros (2017), arXiv:1703.10593",
        method="unpaired",
        change="rotated",
        weight=10.0,
    ),
}
"""Every recipe without a density, or with a critic, by the name that the command line knows."""
