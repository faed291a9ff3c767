"""Predictability minimisation: features of a code made independent by critics that guess each from the others."""

__all__ = ["LeaveOneOutPredictor", "Predictability"]

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from pyro_dgm.adversarial.arguments import check_number
from pyro_dgm.adversarial.contrasts import AdversarialTerm, Readings
from pyro_dgm.distributions.conditional import check_count, check_net
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.expectations import check_names
from pyro_dgm.infer.objective import check_kind
from pyro_dgm.infer.rows import read, stands_for
from pyro_dgm.infer.sources import DATA, Q, Source
from pyro_dgm.nn.inputs import check_features, check_size
from pyro_dgm.nn.modes import in_evaluation_mode

_LEAST_VARIANCE = 1e-12
_NUM_PROBES = 32


@final
class LeaveOneOutPredictor(nn.Module):
    """One small network for each feature of a code, which guesses it from the others and never sees itself.

    The networks have no parameter in common, and run side by side as one product of matrices per layer.

    Arguments:
        features: how many features the code has, at least 2.
        hidden_features: widths of the hidden layers, with tanh between them; none for linear regressions.

    Raises:
        ValueError: a number is no positive integer, or there is but one feature.

    Example:
        >>> LeaveOneOutPredictor(3, (8,))(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    others: Tensor

    def __init__(self, features: int, hidden_features: Sequence[int] = ()) -> None:
        super().__init__()
        self.features = check_count("features", features, 2, "One feature has no others to be guessed from.")
        sizes = [self.features - 1, *(check_size("hidden_features", size) for size in hidden_features), 1]
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(torch.empty(self.features, *pair) for pair in pairs)
        self.biases = nn.ParameterList(torch.empty(self.features, 1, size) for _, size in pairs)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        is_other = ~torch.eye(self.features, dtype=torch.bool)
        self.register_buffer("others", is_other.nonzero()[:, 1].view(self.features, -1), persistent=False)

    def forward(self, code: Tensor) -> Tensor:
        """Guesses every feature of codes (B, features) from the others: (B, features)."""
        check_features(code, self.features, "LeaveOneOutPredictor")
        hidden = code[:, self.others].movedim(1, 0)  # (features, B, features - 1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.tanh() if i else hidden, weight)
        return hidden.squeeze(-1).T


@final
class Predictability(AdversarialTerm):
    r"""Features of a code that cannot be told from each other: predictability minimisation.

    The critic predicts each feature from the others, in the mean square, and the program that draws the code minimises

    .. math:: - \sum_i E (\hat y_i(y_{-i}) - y_i)^2,

    minus the critic's own loss, times weight and number N of data. With the best predictor it is minus the sum of the
    conditional variances of the features given the others; features of given variances that have reached it have
    conditional means that do not depend on the others. That is independence for binary features and for a normal
    distribution, and less for others. A batch's error is that of a predictor which is never the best: too large on
    average.

    The errors of a code grow with it. ``standardized`` divides each feature by its standard deviation over the batch
    first, so that each error lies in [0, 1] for the best predictor, its share of variance that the others do not tell,
    and nothing is gained by growing (of a batch, biased by the order of 1 / B). The paper has features in [0, 1]
    instead, and beside this terms for what the code is to keep: add an ``NLL`` that reconstructs.

    References:
        Schmidhuber (1992), Learning Factorial Codes by Predictability Minimization, Neural Computation 4; Schmidhuber
        (2020), Generative Adversarial Networks are Special Cases of Artificial Curiosity (1990) and also Closely
        Related to Predictability Minimization (1991), arXiv:1906.04493.

    Arguments:
        site: the code, a vector for each datum; values of other shapes are flattened.
        source: who draws it.
        predictor: maps codes (B, D) to guesses (B, D), the i-th of which must not depend on feature i: a
            ``LeaveOneOutPredictor``, or a network of one's own, which is put to the test at the first step.
        weight: of the sum of errors in the loss of model and guide.
        standardized: whether the features are standardised over the batch.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the weight is negative, the source is the data; at the first step, when the site is missing or has
            one feature only, or the predictor gives another shape or looks at what it is to guess.
    """

    def __init__(
        self,
        site: str,
        source: Source = Q,
        *,
        predictor: nn.Module,
        weight: float = 1.0,
        standardized: bool = False,
    ) -> None:
        super().__init__()
        check_kind("the site of Predictability", site, str, "a name", "For instance Predictability('z', ...).")
        check_kind("the source of Predictability", source, Source, "P or Q", "Import them from pyro_dgm.infer.")
        if source == DATA:
            raise ValueError("a code is drawn by a program, which is trained; got DATA. Use Q, or P for the model's.")
        check_kind("standardized of Predictability", standardized, bool, "a bool", "False is the default.")
        self.sites = check_names(site, "Predictability")
        self.source = source
        self.predictor = check_net(predictor, "Predictability")
        self.weight = check_number(
            "the weight of Predictability", weight, "be at least 0", lambda value: value >= 0, "1 is the default."
        )
        self.standardized = standardized
        self._is_checked = False

    def readings(self, draws: Draws) -> Readings:
        """The codes, as num; there is nothing that they are compared with."""
        return Readings(read(draws, self.source, self.sites), ())

    def loss_of(self, draws: Draws) -> Tensor:
        """Minus the sum of the mean squared errors, times weight and number N of data."""
        self.check_frozen()
        return -stands_for(draws) * self.weight * self.critic_score(self.readings(draws))

    def critic_loss(self, readings: Readings) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the mean squared errors; ``predictability``, the share of the variance that is predicted."""
        code = self._code(readings)
        loss = self._error(code)
        variance = code.detach().var(dim=0, correction=0).sum()
        return loss, {"predictability": 1 - loss.detach() / variance.clamp(min=_LEAST_VARIANCE)}

    def critic_score(self, readings: Readings) -> Tensor:
        """The sum of the mean squared errors."""
        return self._error(self._code(readings))

    def critic_parts(self) -> Mapping[str, nn.Module]:
        """The predictor."""
        return {"critic": self.predictor}

    def _error(self, code: Tensor) -> Tensor:
        guesses = self.predictor(code)
        if not isinstance(guesses, Tensor) or guesses.shape != code.shape:
            found = tuple(guesses.shape) if isinstance(guesses, Tensor) else type(guesses).__name__
            raise ValueError(
                f"a predictor gives one guess for each feature, of the code's shape {tuple(code.shape)}; got {found}. "
                "Use LeaveOneOutPredictor(features)."
            )
        return (guesses - code).square().mean(dim=0).sum()

    def _code(self, readings: Readings) -> Tensor:
        """The features of each row, (B, D)."""
        (value,) = readings.num
        code = value.flatten(1) if value.dim() > 1 else value.unsqueeze(1)
        if code.shape[1] < 2:
            raise ValueError(
                f"a code needs two features, to be guessed from each other; got {self.sites[0]!r} of shape "
                f"{tuple(value.shape)}. Name a site of vectors."
            )
        if self.standardized:
            if len(code) < 2:
                raise ValueError("features are standardised over a batch; got one row. Use larger batches.")
            variance, mean = torch.var_mean(code, dim=0, correction=0)
            code = (code - mean) / variance.clamp(min=_LEAST_VARIANCE).sqrt()
        if not self._is_checked:
            self._check_blind(code.detach()[:_NUM_PROBES])
            self._is_checked = True
        return code

    @torch.no_grad()
    def _check_blind(self, code: Tensor) -> None:
        """Raises where a guess changes with the feature that it is about."""
        with in_evaluation_mode([self.predictor]):
            guesses = self.predictor(code)
            if not isinstance(guesses, Tensor) or guesses.shape != code.shape:
                return  # for another error to tell
            for i in range(code.shape[1]):
                other = code.clone()
                other[:, i] += 1
                if not torch.equal(self.predictor(other)[:, i], guesses[:, i]):
                    raise ValueError(
                        f"a predictor guesses a feature from the others alone; got guess {i} of "
                        f"{type(self.predictor).__name__} that changes with feature {i}. Use LeaveOneOutPredictor."
                    )
