"""A deep Markov model, all of it in loops over time, in the manner of Pyro's example."""

__all__ = ["MarkovModel"]

from typing import final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.step_time.tasks.by_hand import dense, draw_normal, log_bernoulli, log_normal
from benchmarks.step_time.tasks.task import Batch, Task
from pyro_dgm.infer.programs import Program


@final
class MarkovModel(Task):
    """Gated transitions and binary data; the guide has a recurrent net from the end of the sequence to its beginning.

    After Krishnan, Shalit and Sontag (2017), Structured Inference Networks for Nonlinear State Space Models,
    arXiv:1609.09869; all sequences have the same length.
    """

    title = "deep Markov model, T = 64, 88 notes, 32 latents, batch 20"
    num_data, length, features, latents, hidden = 20, 64, 88, 32, 64

    def __init__(self) -> None:
        super().__init__()
        z, hidden = self.latents, self.hidden
        self.first, self.first_of_guide = nn.Parameter(torch.zeros(z)), nn.Parameter(torch.zeros(z))
        self.gate, self.proposal = dense(z, hidden, z), dense(z, hidden, z)
        self.loc, self.raw = dense(z, z), dense(z, z)
        self.emission = dense(z, hidden, hidden, self.features)
        self.rnn = nn.RNN(self.features, hidden, batch_first=True)
        self.combiner, self.loc_of_guide, self.raw_of_guide = dense(z, hidden), dense(hidden, z), dense(hidden, z)

    def batch(self) -> Batch:
        return (torch.full((self.num_data, self.length, self.features), 0.05).bernoulli(),)

    def programs(self) -> tuple[Program, Program]:
        return self.model, self.guide

    def model(self, x: Tensor) -> None:
        """p(z_t | z_t-1) p(x_t | z_t)."""
        pyro.module("net", self)
        z = self.first.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z_{t}", dist.Normal(*self.transition(z)).to_event(1))
                pyro.sample(f"x_{t}", dist.Bernoulli(logits=self.emission(z)).to_event(1), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        """q(z_t | z_t-1, x_t, ..., x_T)."""
        pyro.module("net", self)
        future = self.future(x)
        z = self.first_of_guide.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z_{t}", dist.Normal(*self.combined(z, future[:, t])).to_event(1))

    def transition(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of the next latents."""
        gate, proposal = self.gate(z).sigmoid(), self.proposal(z)
        return (1 - gate) * self.loc(z) + gate * proposal, softplus(self.raw(proposal.relu()))

    def future(self, x: Tensor) -> Tensor:
        """What the guide knows of the data from each time on, (B, T, hidden)."""
        found: Tensor = self.rnn(x.flip(1))[0].flip(1)
        return found

    def combined(self, z: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        """The guide's location and scale, from the last latents and the data to come."""
        hidden = (self.combiner(z).tanh() + future) / 2
        return self.loc_of_guide(hidden), softplus(self.raw_of_guide(hidden))

    def loss(self, x: Tensor) -> Tensor:
        future, total = self.future(x), x.new_zeros(())
        before, before_in_guide = (first.expand(len(x), -1) for first in (self.first, self.first_of_guide))
        for t in range(x.shape[1]):
            loc, scale = self.combined(before_in_guide, future[:, t])
            z = draw_normal(loc, scale)
            log_p = log_normal(z, *self.transition(before)).sum() + log_bernoulli(x[:, t], self.emission(z)).sum()
            total = total + log_normal(z, loc, scale).sum() - log_p
            before = before_in_guide = z
        return total
