"""Objectives that are bounds of log-weights: what one trains by."""

__all__ = ["CIWAE", "CUBO", "IWAE", "MIWAE", "PIWAE", "TVO", "Renyi"]

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from pyro_dgm.infer import bounds
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.estimation import Sampler
from pyro_dgm.infer.objective import Objective, check_kind
from pyro_dgm.infer.schedules import Schedule
from pyro_dgm.infer.term import Term


@final
class IWAE(Objective):
    r"""The importance-weighted bound, :math:`E_q[\log \frac{1}{K} \sum_k w_k]`, with weights per datum.

    A lower bound on the log evidence that tightens as K grows; with K = 1 it is the ELBO. The signal-to-noise ratio of
    its reparameterised gradient for the guide falls as K grows; that of ``gradient="dreg"`` rises. ``"stl"`` is biased
    for it. With discrete latents ``"loo"`` is VIMCO.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, equations 8 and 13,
        arXiv:1509.00519; Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better,
        arXiv:1802.04537; Tucker et al. (2019), arXiv:1810.04152; Mnih and Rezende (2016), arXiv:1602.06725.

    Arguments:
        num_particles: number K of latents drawn per datum.
        options: ``gradient``, ``moves`` and the others of ``Objective``.

    Raises:
        ValueError: at the first step, when a site belongs to no datum, or a plate inside the datum is subsampled.
    """

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.iwae``."""
        return bounds.iwae(log_weights)


@final
class MIWAE(Objective):
    r"""The mean over M groups of the importance-weighted bound of K / M particles each; see ``bounds.miwae``.

    References:
        Rainforth et al. (2018), section 4.1, arXiv:1802.04537.

    Arguments:
        num_particles: number K of latents drawn per datum, in all groups together.
        num_groups: number M of groups, a divisor of K.
        options: ``gradient``, ``moves`` and the others of ``Objective``.

    Raises:
        TypeError: M is no integer.
        ValueError: K is not a multiple of M; at the first step, as for ``IWAE``.
    """

    def __init__(self, num_particles: int, num_groups: int, **options: Any) -> None:
        super().__init__(num_particles, **options)
        check_kind("num_groups of MIWAE", num_groups, int, "a whole number", "1 is IWAE.")
        self.num_groups = num_groups
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.miwae``."""
        return bounds.miwae(log_weights, self.num_groups)


@final
class CIWAE(Objective):
    r"""A mixture of ELBO and importance-weighted bound, :math:`\beta` times the one and the rest of the other.

    References:
        Rainforth et al. (2018), section 4.2, arXiv:1802.04537.

    Arguments:
        num_particles: number K of latents drawn per datum.
        beta: weight of the ELBO, in [0, 1].
        options: ``gradient``, ``moves`` and the others of ``Objective``.

    Raises:
        TypeError: beta is no number.
        ValueError: beta is outside [0, 1]; at the first step, as for ``IWAE``.
    """

    def __init__(self, num_particles: int, beta: float, **options: Any) -> None:
        super().__init__(num_particles, **options)
        check_kind("beta of CIWAE", beta, int | float, "a number", "0 is IWAE, 1 the ELBO.")
        self.beta = beta
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.ciwae``."""
        return bounds.ciwae(log_weights, self.beta)


@final
class Renyi(Objective):
    r"""The variational Renyi bound of any real alpha, with weights per datum; minus infinity is VR-max.

    Pyro's ``RenyiELBO`` has the plate's N / B inside the logarithm and no gradient for discrete latents; this one is
    right under minibatches and takes any estimator.

    References:
        Li and Turner (2016), Renyi Divergence Variational Inference, equation 13, arXiv:1602.02311.

    Arguments:
        alpha: any real number, or minus infinity; see ``bounds.renyi`` for what it bounds and from which side.
        num_particles: number K of latents drawn per datum.
        options: ``gradient``, ``moves`` and the others of ``Objective``.

    Raises:
        TypeError: alpha is no number.
        ValueError: alpha is NaN or plus infinity; at the first step, as for ``IWAE``, and for VR-max with ``"dreg"``,
            which would be biased.
    """

    def __init__(self, alpha: float, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        check_kind("alpha of Renyi", alpha, int | float, "a number", "0 is IWAE, 1 the ELBO.")
        self.alpha = alpha
        self.is_smooth = alpha > -math.inf or num_particles == 1
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.renyi``."""
        return bounds.renyi(log_weights, self.alpha)


@final
class CUBO(Objective):
    r"""The chi upper bound, :math:`\frac{1}{n} \log E_q[w^n]`, which a guide *minimises*; the loss is the bound itself.

    As K grows an upper bound on the log evidence, with few draws biased downwards; see ``bounds.cubo``. A guide that
    makes it small covers the posterior. It moves the guide only: a model that made it small would make the data
    improbable.

    References:
        Dieng, Tran, Ranganath, Paisley and Blei (2017), Variational Inference via Chi Upper Bound Minimization,
        equation 3, arXiv:1611.00328.

    Arguments:
        num_particles: number K of latents drawn per datum.
        order: n, at least 1; 2 is the chi-square divergence.
        options: ``gradient`` and the others of ``Objective`` but ``moves``.

    Raises:
        TypeError: the order is no number.
        ValueError: the order is below 1, or ``moves`` is given; at the first step, as for ``IWAE``.
    """

    def __init__(self, num_particles: int, order: float = 2.0, **options: Any) -> None:
        _check_no_moves("CUBO", options, "it moves the guide alone. Train the model by another bound, such as IWAE")
        super().__init__(num_particles, moves="guide", **options)
        check_kind("order of CUBO", order, int | float, "a number", "2 gives the chi-square divergence.")
        self.order = order
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """Minus ``bounds.cubo``, since objectives are maximised."""
        return -bounds.cubo(log_weights, self.order)


@final
class TVO(Objective):
    r"""The thermodynamic variational objective, a left Riemann sum from ELBO to log evidence; see ``bounds.tvo``.

    A lower bound as K grows; its expectations along the path are self-normalised, so it is biased for finite K.

    References:
        Masrani, Le and Wood (2019), The Thermodynamic Variational Objective, equations 8 and 10, arXiv:1907.00031.

    Arguments:
        num_particles: number K of latents drawn per datum.
        betas: left ends of the intervals, increasing from 0 and below 1.
        options: ``gradient``, ``moves`` and the others of ``Objective``.

    Raises:
        TypeError: the betas are no numbers.
        ValueError: the betas do not increase from 0; at the first step, as for ``IWAE``.
    """

    def __init__(self, num_particles: int, betas: Sequence[float] = (0.0, 0.05, 0.3), **options: Any) -> None:
        super().__init__(num_particles, **options)
        try:
            self.betas = tuple(float(beta) for beta in betas)
        except (TypeError, ValueError) as err:
            raise TypeError(f"the betas of TVO must be numbers; got {betas!r}. [0.0] is the ELBO.") from err
        self.bound_of(torch.zeros(num_particles, 1))

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """``bounds.tvo``."""
        return bounds.tvo(log_weights, self.betas)


@final
class PIWAE(Term):
    r"""Partially importance-weighted: the model is trained by ``IWAE``, the guide by ``MIWAE``, on the same draws.

    The loss reported is that of the two together: half of minus each.

    References:
        Rainforth et al. (2018), section 4.3, arXiv:1802.04537.

    Arguments:
        num_particles: number K of latents drawn per datum.
        num_groups: number M of groups of the guide's bound, a divisor of K.
        options: ``gradient`` and the others of ``Objective`` but ``moves``.

    Raises:
        TypeError: M is no integer.
        ValueError: K is not a multiple of M; at the first step, as for ``IWAE``.
    """

    def __init__(self, num_particles: int, num_groups: int, **options: Any) -> None:
        _check_no_moves("PIWAE", options, "it moves each program by a bound of its own. Use IWAE or MIWAE to move one")
        check_kind("num_groups of PIWAE", num_groups, int, "a whole number", "1 is IWAE.")
        super().__init__(num_particles=num_particles)
        self._guide = MIWAE(num_particles, num_groups, moves="guide", **options)
        self._model = IWAE(num_particles, moves="model", **options)

    def loss_of(self, draws: Draws) -> Tensor:
        """The mean of the two losses in value, their sum in gradient."""
        of_guide, of_model = self._guide.loss_of(draws), self._model.loss_of(draws)
        return of_guide + of_model - (0.5 * (of_guide + of_model)).detach()

    def sampler(self) -> Sampler:
        """The guide's."""
        return self._guide

    def parts(self) -> Mapping[str, nn.Module]:
        """The guide's baseline and relaxation."""
        return self._guide.parts()

    def schedules(self) -> Sequence[Schedule]:
        """The guide's."""
        return self._guide.schedules()


def _check_no_moves(name: str, options: Mapping[str, Any], reason: str) -> None:
    if "moves" in options:
        raise ValueError(f"{name} takes no option moves; got moves={options['moves']!r}. Leave it out: {reason}.")
