"""Stochastic-gradient Hamiltonian Monte Carlo as an optimiser: steps that draw from a posterior over parameters."""

__all__ = ["SGHMC"]

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from pyro_dgm.adversarial.arguments import check_number
from pyro_dgm.distributions.conditional import check_count


@final
class SGHMC(Optimizer):
    r"""Momentum with the noise that friction takes out put back: draws from the posterior of what it "optimises".

    With L the loss per datum (its gradient is what ``backward`` left), N the number of data and :math:`\sigma` the
    prior's standard deviation, :math:`\pi(\theta) \propto \exp(- N L(\theta) - |\theta|^2 / 2 \sigma^2)` is drawn from:

    .. math::
        v &\leftarrow (1 - \alpha) v - \eta (\nabla L + \theta / N \sigma^2) + \sqrt{2 \alpha \eta / N} \, \xi \\
        \theta &\leftarrow \theta + v, \qquad \xi \sim N(0, I).

    Without noise it is SGD with momentum :math:`1 - \alpha`, to the letter. Successive draws are correlated over about
    :math:`\alpha / (\eta k)` steps where L has curvature k (:math:`1 / \alpha` at least), and they are draws from
    :math:`\pi` in the limit of small steps: of a normal distribution the variance is too large by the factor
    :math:`1 / (1 - \eta k / (4 - 2 \alpha))`. The noise of minibatches comes on top of it (the paper's
    :math:`\hat B = 0`) and makes the draws wider still, the less the smaller the step.

    In a Bayesian GAN both players have such an optimiser. What is drawn from is then the pair of conditionals, each
    player's given the other's last draw; nothing says that these belong to a joint distribution.

    References:
        Chen, Fox and Guestrin (2014), Stochastic Gradient Hamiltonian Monte Carlo, equation 15, arXiv:1402.4102 (with
        their learning rate :math:`\eta N` per gradient of the sum); Saatchi and Wilson (2017), Bayesian GAN, algorithm
        1, arXiv:1705.09558.

    Arguments:
        params: tensors, or groups of them, as for any torch optimiser.
        lr: :math:`\eta`, in the units of a learning rate of SGD, for the gradient of a mean over the data.
        friction: :math:`\alpha`, in (0, 1]; at 1 there is no momentum, which is Langevin dynamics.
        num_data: N, of the whole data set, not of a minibatch.
        prior_sd: of a normal prior over every parameter; None for a flat one.
        noise: False to optimise, with the same momentum.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.

    Example:
        >>> theta = torch.zeros(2, requires_grad=True)
        >>> sampler = SGHMC([theta], lr=1e-2, num_data=100, prior_sd=1.0)
        >>> theta.square().sum().backward()
        >>> sampler.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        friction: float = 0.1,
        *,
        num_data: int,
        prior_sd: float | None = None,
        noise: bool = True,
    ) -> None:
        check_number("lr", lr, "be positive", lambda value: value > 0, "1e-3 is a good start.")
        check_number("friction", friction, "lie in (0, 1]", lambda value: 0 < value <= 1, "0.1 is usual.")
        check_count("num_data", num_data, 1, "Pass the size of the training set.")
        if prior_sd is not None:
            check_number("prior_sd", prior_sd, "be positive", lambda value: value > 0, "None is a flat prior.")
        if not isinstance(noise, bool):
            raise TypeError(f"noise must be a bool; got {noise!r}. False optimises instead of drawing.")
        defaults = {"lr": lr, "friction": friction, "num_data": num_data, "prior_sd": prior_sd, "noise": noise}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Makes one step of every parameter that has a gradient.

        Arguments:
            closure: computes loss and gradients anew; not needed.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, num_data, prior_sd = group["lr"], group["num_data"], group["prior_sd"]
            decay = 0.0 if prior_sd is None else 1 / (num_data * prior_sd**2)
            noise_sd = math.sqrt(2 * group["friction"] * lr / num_data) if group["noise"] else 0.0
            for parameter in group["params"]:
                if parameter.grad is not None:
                    velocity = self._velocity(parameter).mul_(1 - group["friction"])
                    velocity.sub_(parameter.grad.add(parameter, alpha=decay), alpha=lr)
                    if noise_sd:
                        velocity.add_(torch.randn_like(parameter), alpha=noise_sd)
                    parameter.add_(velocity)
        return loss

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["velocity"] = torch.zeros_like(parameter)
        return state["velocity"]
