"""MMD and sliced Wasserstein against closed forms, and as terms of an objective."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI

from contracts import refuses
from pyro_dgm.infer import ELBO, IWAE, MMD, SVI, SlicedWasserstein, Sum, divergences


def gaussian_mmd(mean, d, length):
    """Squared MMD of N(0, I) and N(mean, I) with the kernel exp(-r^2 / 2 l^2)."""
    shrink = (length**2 / (length**2 + 2)) ** (d / 2)
    return 2 * shrink * (1 - math.exp(-(mean**2) / (2 * (length**2 + 2))))


@pytest.mark.parametrize(("mean", "d", "length"), [(1.0, 1, 1.0), (0.0, 1, 1.0), (0.7, 3, 1.5)])
def test_mmd_is_unbiased_for_its_closed_form(mean, d, length, assert_mean):
    """2000 pairs of samples of 20 and 30 draws, seed 0; d = 1, mean 1, l = 1 gives 0.177268."""
    shift = torch.zeros(d, dtype=torch.float64)
    shift[0] = mean
    found = [
        divergences.mmd(
            torch.randn(20, d, dtype=torch.float64), torch.randn(30, d, dtype=torch.float64) + shift, "gaussian", length
        )
        for _ in range(2000)
    ]
    assert_mean(torch.stack(found).unsqueeze(1), gaussian_mmd(mean, d, length))
    assert gaussian_mmd(1.0, 1, 1.0) == pytest.approx(0.177268, abs=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "imq"])
def test_mmd_is_the_double_loop(kernel):
    x, y = torch.randn(4, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)

    def k(a, b):
        squared = float((a - b).square().sum())
        if kernel == "gaussian":
            return math.exp(-squared / (2 * 2))
        return sum(4 * s / (4 * s + squared) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))

    def mean(first, second, with_itself):
        values = [k(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if with_itself or i != j]
        return sum(values) / len(values)

    expected = mean(x, x, False) + mean(y, y, False) - 2 * mean(x, y, True)
    assert float(divergences.mmd(x, y, kernel)) == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_of_shifted_samples_is_exact(assert_mean):
    """Y = x + m: along a direction u the distance is (u m)^2, whose mean over the sphere is |m|^2 / D."""
    x, shift = torch.randn(50, 3, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = [divergences.sliced_wasserstein(x, x + shift, num_projections=5) for _ in range(500)]
    assert_mean(torch.stack(found).unsqueeze(1), float(shift.square().sum()) / 3)
    assert float(divergences.sliced_wasserstein(x, x[torch.randperm(50)])) == pytest.approx(0, abs=1e-12)


def test_in_one_dimension_it_is_the_distance_of_sorted_draws():
    x, y = torch.randn(20, 1, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    expected = (x.sort(0).values - y.sort(0).values).square().mean()
    torch.testing.assert_close(divergences.sliced_wasserstein(x, y), expected)


def model(x, data_size=None):
    with pyro.plate("data", len(x) if data_size is None else data_size, subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def guide(x, data_size=None):
    loc, scale = pyro.param("loc", torch.tensor([2.0, -1.0])), pyro.param("scale", torch.tensor(0.3))
    with pyro.plate("data", len(x) if data_size is None else data_size, subsample=torch.arange(len(x))):
        pyro.sample("z", dist.Normal(loc + 0 * x.unsqueeze(-1), scale).to_event(1))


@pytest.fixture(autouse=True)
def clear():
    pyro.clear_param_store()


def test_the_term_compares_the_whole_batch_and_stands_for_all_data(assert_mean):
    """Pitfall 7: the aggregated posterior against the prior. 400 batches of 16, N = 160, a guide of two dimensions."""
    x, n = torch.zeros(16), 160
    losses = torch.stack([MMD("z", "gaussian", 1.0).loss(model, guide, x, data_size=n) for _ in range(400)])

    def kernel_mean(variance, squared):  # E exp(-r^2 / 2) for r of that variance in 2 dimensions, squared mean apart
        return 1 / (1 + variance) * math.exp(-squared / (2 * (1 + variance)))

    truth = kernel_mean(2.0, 0.0) + kernel_mean(2 * 0.09, 0.0) - 2 * kernel_mean(1.09, 5.0)
    assert_mean(losses.unsqueeze(1), n * truth)


@pytest.mark.parametrize("term", [MMD("z"), MMD("z", "gaussian"), SlicedWasserstein("z")])
def test_it_brings_the_aggregated_posterior_to_the_prior(term):
    pyro.set_rng_seed(0)
    svi = SVI(model, guide, partial(torch.optim.Adam, lr=0.05), term)
    for _ in range(150):
        svi.step(torch.zeros(64))
    assert pyro.param("loc").norm() < 0.3
    assert abs(pyro.param("scale").item() - 1) < 0.3


def test_terms_add_and_scale():
    total = ELBO() + 10 * MMD("z") * 2
    assert isinstance(total, Sum)
    assert [weight for weight, _ in total.terms] == [1.0, 20.0]
    pyro.set_rng_seed(0)
    first = float(total.loss(model, guide, torch.ones(8)))
    pyro.set_rng_seed(0)
    elbo = float(ELBO().loss(model, guide, torch.ones(8)))
    assert math.isfinite(first)
    assert first != elbo
    for wrong in ("ELBO", 3):
        with pytest.raises(TypeError):
            ELBO() + wrong
    with pytest.raises(TypeError):
        ELBO() * "2"


def test_the_programs_are_run_once_for_all_terms():
    """One run of the guide in a step of four terms, whichever comes first; one simulation of the model."""
    runs = []

    def counted(x):
        runs.append(len(x))
        guide(x)

    for total in (ELBO() + MMD("z") + SlicedWasserstein("z"), MMD("z") + SlicedWasserstein("z") + ELBO()):
        total.loss_and_grads(model, counted, torch.ones(8))  # finds what is to be enumerated
        runs.clear()
        total.loss_and_grads(model, counted, torch.ones(8))
        assert runs == [8]


def test_a_sum_has_the_gradient_of_its_parts():
    x = torch.ones(8)
    found = {}
    for name, term in (("sum", 2 * ELBO() + 3 * IWAE(2)), ("elbo", ELBO()), ("iwae", IWAE(2))):
        pyro.clear_param_store()
        guide(x)
        rows = []
        pyro.set_rng_seed(0)
        for _ in range(2000):
            term.loss_and_grads(model, guide, x)
            leaf = pyro.get_param_store()._params["loc"]
            rows.append(leaf.grad.clone())
            leaf.grad = None
        found[name] = torch.stack(rows)
    mean = {name: rows.mean(0) for name, rows in found.items()}
    error = sum(w**2 * found[name].var(0) / 2000 for name, w in (("sum", 1), ("elbo", 2), ("iwae", 3))) ** 0.5
    assert ((mean["sum"] - 2 * mean["elbo"] - 3 * mean["iwae"]) / error).abs().max() < 5


def test_an_info_vae_trains_in_stock_svi():
    pyro.set_rng_seed(0)
    svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), ELBO(beta=0.5) + 10 * MMD("z"))
    losses = [svi.step(torch.randn(32)) for _ in range(100)]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: MMD("z", "linear"), ("kernel", "'linear'")),
        (lambda: MMD("z", bandwidth=-1.0), ("bandwidth", "-1.0")),
        (lambda: SlicedWasserstein("z", 0), ("num_projections", "got 0")),
        (lambda: MMD("y").loss(model, guide, torch.ones(4)), ("latent of model and guide", "'y'")),
        (lambda: MMD("z").loss(model, guide, torch.ones(1)), ("two draws", "1 and 1")),
        (lambda: divergences.mmd(torch.ones(3), torch.ones(3)), ("shape (n, D)", "(3,)")),
        (lambda: divergences.sliced_wasserstein(torch.ones(3, 1), torch.ones(2, 1)), ("as many", "3 and 2")),
        (lambda: float("nan") * ELBO(), ("finite", "nan")),
        (lambda: Sum([]), ("a term", "none")),
    ],
)
def test_bad_input_is_refused(make, parts):
    with refuses(ValueError, *parts):
        make()


def test_discrete_draws_carry_no_gradient_unless_relaxed():
    def joint(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=torch.zeros(3)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def trained(x):
        with pyro.plate("data", len(x)):
            logits = torch.zeros(3) + pyro.param("logit", torch.tensor(1.0))
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))

    with refuses(ValueError, "'z'", "gumbel"):
        (ELBO(2) + MMD("z")).loss_and_grads(joint, trained, torch.ones(4))
    (ELBO(gradient="gumbel") + MMD("z")).loss_and_grads(joint, trained, torch.ones(4))
    assert pyro.get_param_store()._params["logit"].grad is not None
