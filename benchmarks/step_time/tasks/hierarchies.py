"""Several layers of normal latents."""

__all__ = ["HierarchicalVAE"]

from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from benchmarks.step_time.tasks.by_hand import dense, draw_normal, log_bernoulli, log_normal
from benchmarks.step_time.tasks.task import Batch, Task
from pyro_dgm.infer.programs import Program


@final
class HierarchicalVAE(Task):
    """Five layers of normal latents; the guide goes up, the model down."""

    title = "VAE of 5 layers of latents, small, batch 32"
    num_data, features, latents, layers = 32, 20, 4, 5

    def __init__(self) -> None:
        super().__init__()
        two = 2 * self.latents
        self.ups = nn.ModuleList(
            [dense(self.features if i == 0 else self.latents, 32, two) for i in range(self.layers)]
        )
        self.downs = nn.ModuleList(
            [dense(self.latents, 32, self.features if i == 0 else two) for i in range(self.layers)]
        )

    def batch(self) -> Batch:
        return (torch.full((self.num_data, self.features), 0.3).bernoulli(),)

    def programs(self) -> tuple[Program, Program]:
        return self.model, self.guide

    def model(self, x: Tensor) -> None:
        """p(z4) p(z3 | z4) ... p(x | z0)."""
        pyro.module("downs", self.downs)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{self.layers - 1}", dist.Normal(torch.zeros(self.latents), 1.0).to_event(1))
            for i in reversed(range(1, self.layers)):
                loc, log_scale = self.downs[i](z).chunk(2, -1)
                z = pyro.sample(f"z{i - 1}", dist.Normal(loc, log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.downs[0](z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z0 | x) q(z1 | z0) ..."""
        pyro.module("ups", self.ups)
        with pyro.plate("data", len(x)):
            below = x
            for i, up in enumerate(self.ups):
                loc, log_scale = up(below).chunk(2, -1)
                below = pyro.sample(f"z{i}", dist.Normal(loc, log_scale.exp()).to_event(1))

    def loss(self, x: Tensor) -> Tensor:
        log_q, draws = x.new_zeros(()), [x]
        for up in self.ups:
            loc, log_scale = up(draws[-1]).chunk(2, -1)
            draws.append(draw_normal(loc, log_scale.exp()))
            log_q = log_q + log_normal(draws[-1], loc, log_scale.exp()).sum()
        log_p = log_normal(draws[-1]).sum() + log_bernoulli(x, self.downs[0](draws[1])).sum()
        for i in range(1, self.layers):
            loc, log_scale = self.downs[i](draws[i + 1]).chunk(2, -1)
            log_p = log_p + log_normal(draws[i], loc, log_scale.exp()).sum()
        return log_q - log_p
