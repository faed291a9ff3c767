"""Sources: what each of them reads, from as few runs of the programs as can be."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from contracts import refuses
from pyro_dgm.distributions import Implicit
from pyro_dgm.infer import DATA, ELBO, IWAE, KL, MMD, NLL, P, Q
from pyro_dgm.infer.draws import Draws
from pyro_dgm.infer.rows import read, stands_for

B = 6


class Programs:
    """A chain beta -> z -> x with a context c, and how often each program has run."""

    def __init__(self, data_size=None):
        self.runs = {"model": 0, "guide": 0}
        self.data_size = data_size

    def plate(self, x):
        return pyro.plate("data", self.data_size or len(x), subsample_size=len(x), dim=-1)

    def model(self, x, c):
        self.runs["model"] += 1
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(beta, torch.ones(len(x), 2)).to_event(1))
            return pyro.sample("x", Implicit(10 * z + c, event_dim=1), obs=x)

    def guide(self, x, c):
        self.runs["guide"] += 1
        pyro.sample("beta", dist.Normal(5.0, 0.1))
        with self.plate(x):
            loc = pyro.deterministic("loc", x / 10)
            pyro.sample("z", Implicit(loc + 0.1, event_dim=1, scorer=dist.Normal(loc, 1e-3).to_event(1)))


@pytest.fixture
def x():
    return torch.arange(2.0 * B).view(B, 2)


@pytest.fixture
def c():
    return torch.ones(B, 1)


def test_each_source_reads_its_own_draws_and_the_data_beside_them(x, c):
    torch.manual_seed(0)
    programs = Programs()
    draws = Draws(programs.model, programs.guide, (x, c), {})
    beta, z, own_x = read(draws, P, ["beta", "z", "x"])
    assert beta.shape == (B,)
    assert (beta == beta[0]).all()
    torch.testing.assert_close(own_x, 10 * z + c)
    of_guide = read(draws, Q, ["z", "x", "loc", "c"])
    for got, expected in zip(of_guide, (x / 10 + 0.1, x, x / 10, c), strict=True):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(read(draws, DATA, ["x"])[0], x)
    assert programs.runs == {"model": 1, "guide": 1}


def test_a_program_runs_once_for_all_that_ask(x, c):
    programs = Programs()
    draws = Draws(programs.model, programs.guide, (x, c), {})
    for _ in range(3):
        read(draws, P, ["x"])
        read(draws, P.observed(), ["x", "z"])
        read(draws, P.shuffled("z"), ["x", "z"])
        read(draws, Q, ["z"])
        read(draws, P.given("z"), ["x"])
    assert programs.runs == {"model": 2, "guide": 1}  # the second of the model is at the guide's z


def test_the_guide_alone_is_enough_for_a_contrast_of_its_latents(x, c):
    programs = Programs()
    draws = Draws(programs.model, programs.guide, (x, c), {})
    read(draws, Q, ["z"])
    read(draws, Q.shuffled("z", each_feature=True), ["z"])
    assert programs.runs == {"model": 0, "guide": 1}


def test_given_latents_are_the_guides_and_the_rest_is_the_models(x, c):
    torch.manual_seed(0)
    programs = Programs()
    draws = Draws(programs.model, programs.guide, (x, c), {})
    (q_beta,) = read(draws, Q, ["beta"])
    beta, z, own_x = read(draws, P.given("beta"), ["beta", "z", "x"])
    torch.testing.assert_close(beta, q_beta)
    assert (z - beta.unsqueeze(1)).abs().max() < 5
    torch.testing.assert_close(own_x, 10 * z + c)
    assert not torch.equal(z, read(draws, Q, ["z"])[0])
    torch.testing.assert_close(read(draws, P.given(), ["z"]), read(draws, Q, ["z"]))
    torch.testing.assert_close(read(draws, P.given("z"), ["x"])[0], 10 * (x / 10 + 0.1) + c)


def test_observed_puts_the_data_over_the_simulation(x, c):
    draws = Draws(Programs().model, Programs().guide, (x, c), {})
    z, own_x = read(draws, P.observed(), ["z", "x"])
    torch.testing.assert_close(own_x, x)
    torch.testing.assert_close(z, read(draws, P, ["z"])[0])


def test_shuffling_permutes_rows_and_keeps_them_together(x, c):
    torch.manual_seed(0)
    draws = Draws(Programs().model, Programs().guide, (x, c), {})
    z, data = read(draws, Q.shuffled("z"), ["z", "x"])
    own = read(draws, Q, ["z"])[0]
    torch.testing.assert_close(data, x)
    assert not torch.equal(z, own)
    torch.testing.assert_close(z[z[:, 0].argsort()], own)  # whose rows are in ascending order
    (apart,) = read(draws, Q.shuffled("z", each_feature=True), ["z"])
    assert not torch.equal(apart[apart[:, 0].argsort()], own)
    torch.testing.assert_close(apart.sort(0).values, own)


def test_redrawing_is_from_the_scorer(x, c):
    draws = Draws(Programs().model, Programs().guide, (x, c), {})
    (z,) = read(draws, Q.redrawn("z"), ["z"])
    torch.testing.assert_close(z, x / 10, atol=0.01, rtol=0)  # 10 sd


def test_gradients_pass_through_given_latents_unless_they_are_cut(x, c):
    slope = torch.tensor(1.0, requires_grad=True)

    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Implicit(slope * x, event_dim=1))

    draws = Draws(Programs().model, guide, (x, c), {})
    assert read(draws, P.given("z"), ["x"])[0].requires_grad
    assert not read(draws, P.given("z", through_draws=False), ["x"])[0].requires_grad


def test_a_subsampled_batch_stands_for_all_data(x, c):
    programs = Programs(data_size=60)
    assert stands_for(Draws(programs.model, programs.guide, (x, c), {})) == 60


def test_programs_without_a_plate_have_one_row():
    def model():
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    (z,) = read(Draws(model, lambda: None, (), {}), P, ["z"])
    assert z.shape == (1, 3)


def test_a_simulator_that_observes_nothing_has_the_rows_of_its_data_plate():
    def simulator(num):
        with pyro.plate("data", num):
            pyro.sample("theta", dist.Normal(0.0, 1.0))

    (theta,) = read(Draws(simulator, lambda num: None, (4,), {}), P, ["theta"])
    assert theta.shape == (4,)


def test_a_source_says_what_it_is():
    assert repr(P.given("z", through_draws=False).observed().shuffled("x")) == (
        "P.given('z', through_draws=False).observed().shuffled('x')"
    )
    assert repr(Q.redrawn("z")) == "Q.redrawn('z')"
    assert repr(DATA.shuffled("x", each_feature=True)) == "DATA.shuffled('x', each_feature=True)"
    assert P.given() == P.given() != P


@pytest.mark.parametrize(
    ("error", "make", "parts"),
    [
        (ValueError, lambda: Q.given("z"), ("given is for P", "got Q")),
        (ValueError, lambda: DATA.observed(), ("observed is for P", "got DATA")),
        (ValueError, lambda: P.shuffled(), ("which sites",)),
        (ValueError, lambda: Q.redrawn(), ("which sites",)),
        (ValueError, lambda: DATA.redrawn("x"), ("P or Q", "got DATA")),
        (TypeError, lambda: P.given(3), ("names", "(3,)")),
    ],
)
def test_sources_that_make_no_sense_are_refused(error, make, parts):
    with refuses(error, *parts):
        make()


@pytest.mark.parametrize(
    ("source", "sites", "parts"),
    [
        (P, ["y"], ("'y'", "x", "z", "c")),
        (DATA, ["z"], ("DATA", "'z'")),
        (Q.shuffled("beta"), ["z"], ("['beta']", "Add it")),
        (P.redrawn("z"), ["z"], ("scorer", "Normal")),
        (P.given("w"), ["z"], ("['w']", "guide has")),
    ],
)
def test_sites_that_a_source_has_not_are_refused(x, c, source, sites, parts):
    with refuses(ValueError, *parts):
        read(Draws(Programs().model, Programs().guide, (x, c), {}), source, sites)


def test_a_context_with_another_number_of_rows_is_refused(x):
    def model(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("x", Implicit(x + 0.0, event_dim=1), obs=x)

    with refuses(ValueError, "6 rows", "'c'", "(1, 1)"):
        read(Draws(model, lambda x, c: None, (x, torch.ones(1, 1)), {}), P, ["x", "c"])


@pytest.mark.parametrize("gradient", ["reparam", "stl", "dreg"])
def test_a_term_beside_a_bound_has_its_own_gradient_whatever_the_bounds_estimator(gradient, assert_mean):
    """Doubly reparameterised draws scale the gradients of what they were drawn for. Seed 0, 20,000 data of x = 1."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    slopes = torch.full((20_000,), 0.3, dtype=torch.float64, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slopes * x, 1.0))

    def gradients(term):
        return torch.autograd.grad(term.differentiable_loss(model, guide, torch.ones_like(slopes)), slopes)[0]

    torch.manual_seed(0)
    bound, other = IWAE(3, gradient=gradient), NLL("x", of="model", at=Q, through_draws=True)
    assert_mean(gradients(bound + 5 * other) - gradients(bound) - 5 * gradients(other), 0.0)


# What terms share with a bound whose draws are its own


def normal_programs():
    slope = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 1.0))

    return model, guide, slope


@pytest.mark.parametrize("gradient", ["score", "nvil", "dreg", "reparam"])
def test_paths_are_whole_beside_a_bound_that_scores_its_draws(gradient):
    """d/dslope of -E log N(x; slope x + e, 1) is (slope - 1) x^2 in the mean; seed 0, 40,000 data, 5 errors."""
    model, guide, slope = normal_programs()
    torch.manual_seed(0)
    draws = Draws(model, guide, (torch.ones(40_000, dtype=torch.float64),), {}, ELBO(gradient=gradient))
    draws.completed(ELBO(gradient=gradient))
    own = NLL("x", of="model", at=Q, through_draws=True).loss_of(draws) / 40_000
    (found,) = torch.autograd.grad(own, slope)
    assert abs(found.item() - (0.5 - 1)) < 5 / 200
    assert read(draws, Q, ["z"])[0].requires_grad


def test_terms_beside_an_enumerated_bound_are_means_over_draws():
    """Bits with probability 0.9: listing both values would give them equal weights. Seed 0, 20,000 data, 5 errors."""
    logits = torch.tensor(0.9, dtype=torch.float64).logit().requires_grad_()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full_like(x, 0.5)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits.expand(len(x))))

    x = torch.zeros(20_000, dtype=torch.float64)
    torch.manual_seed(0)
    bound = ELBO(gradient="enumerate")
    draws = Draws(model, guide, (x,), {}, bound)
    bound.loss_of(draws)
    found = NLL("x", of="model", at=Q).loss_of(draws) / len(x)
    exact = 0.5 * math.log(2 * math.pi) + 0.9 * 0.5
    assert abs(found.item() - exact) < 5 * 0.15 / len(x) ** 0.5


def test_the_weight_of_a_bounds_latents_is_its_own():
    model, guide, _ = normal_programs()
    x = torch.ones(4, dtype=torch.float64)
    alone = KL("z").loss(model, guide, x)
    for beta in (0.0, 3.0):
        bound = ELBO(beta=beta)
        draws = Draws(model, guide, (x,), {}, bound)
        bound.loss_of(draws)
        torch.testing.assert_close(KL("z").loss_of(draws).detach(), alone)


def test_a_latent_without_a_path_is_refused_where_the_guide_would_be_trained_by_it():
    logits = torch.zeros(6, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)))
            pyro.sample("x", Implicit(x + 0.0, event_dim=1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits))

    x = torch.zeros(6, 2)
    with refuses(ValueError, "'z'", "Bernoulli", "StraightThrough"):
        read(Draws(model, guide, (x,), {}), Q, ["z"])
    with torch.no_grad():  # in the critic's turn they are numbers
        assert read(Draws(model, guide, (x,), {}), Q, ["z"])[0].shape == (6,)


# Plates, conditions and handlers


def test_programs_that_subsample_take_the_same_rows():
    data = torch.arange(20.0)

    def model():
        with pyro.plate("data", 20, subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0))
            pyro.sample("x", Implicit(z, 0), obs=data[rows])

    def guide():
        with pyro.plate("data", 20, subsample_size=5) as rows:
            pyro.sample("z", Implicit(data[rows], 0))

    torch.manual_seed(0)
    draws = Draws(model, guide, (), {})
    z, x = read(draws, Q, ["z", "x"])
    torch.testing.assert_close(z, x)
    (rebuilt,) = read(draws, P.given("z"), ["x"])
    torch.testing.assert_close(rebuilt, x)
    assert stands_for(draws) == 20


@pytest.mark.parametrize("first", [P, P.given("beta")])
def test_the_data_plate_may_have_any_name(first, x, c):
    def model(x, c):
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 60, subsample_size=len(x)):
            pyro.sample("x", Implicit(x + beta, event_dim=1), obs=x)

    def guide(x, c):
        pyro.sample("beta", dist.Normal(5.0, 0.1))

    draws = Draws(model, guide, (x, c), {})
    read(draws, first, ["x"])
    beta, own_x = read(draws, P.given("beta"), ["beta", "x"])
    assert beta.shape == (B,)
    assert own_x.shape == (B, 2)
    assert stands_for(draws) == 60


def test_plates_that_stand_for_other_numbers_are_refused(x, c):
    def guide(x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Implicit(x, event_dim=1))

    draws = Draws(Programs(data_size=600).model, guide, (x, c), {})
    read(draws, Q, ["z"])
    read(draws, P, ["z"])
    with refuses(ValueError, "600 in the model", "6 in the guide"):
        stands_for(draws)


def test_a_context_is_found_under_handlers_and_partials(x, c):
    scaled = pyro.poutine.scale(Programs().model, 2.0)
    for model, args, kwargs in (
        (scaled, (x, c), {}),
        (functools.partial(Programs().model, c=c), (x,), {}),
        (lambda x, **rest: Programs().model(x, **rest), (x,), {"c": c}),
    ):
        (found,) = read(Draws(model, lambda *a, **k: None, args, kwargs), P, ["c"])
        torch.testing.assert_close(found, c)


def test_what_comes_after_data_is_drawn_given_the_data():
    """Y observed, z | y, x | y, z: beside the data stands z given the observed y, and x is scored given it."""

    def model(x, y):
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", dist.Normal(torch.zeros(len(x)), 1.0), obs=y)
            z = pyro.sample("z", dist.Normal(100 * label, 0.1))
            pyro.sample("x", dist.Normal(z + label, 1.0), obs=x)

    y = torch.tensor([1.0, -1.0, 2.0])
    x = 101 * y
    torch.manual_seed(0)
    draws = Draws(model, lambda x, y: None, (x, y), {})
    z, own_y = read(draws, P.observed(), ["z", "y"])
    torch.testing.assert_close(own_y, y)
    torch.testing.assert_close(z, 100 * y, atol=1.0, rtol=0)
    assert NLL("x", of="model", at=P.observed()).loss_of(draws) < 10


def test_sites_that_a_program_has_drawn_itself_are_not_scored_at_data(x, c):
    programs = Programs()
    for term, of in ((NLL("beta", of="guide", at=DATA), "guide"), (NLL("beta", of="model", at=P.observed()), "model")):
        with refuses(ValueError, "['beta']", f"the {of} has drawn"):
            term.loss_of(Draws(programs.model, programs.guide, (x, c), {}))


def test_what_is_the_same_for_all_data_is_not_shuffled(x, c):
    with refuses(ValueError, "'beta'", "every row is the same"):
        read(Draws(Programs().model, Programs().guide, (x, c), {}), P.shuffled("beta"), ["x", "beta"])


def test_the_guide_is_scored_at_dreams_of_given_latents():
    model, guide, slope = normal_programs()
    torch.manual_seed(0)
    x = torch.ones(3, dtype=torch.float64)
    draws = Draws(model, guide, (x,), {})
    loss = NLL(of="guide", at=P.given("z")).loss_of(draws)
    z, dreamt = (value.detach() for value in read(draws, P.given("z"), ["z", "x"]))
    torch.testing.assert_close(loss, -dist.Normal(slope * dreamt, 1.0).log_prob(z).sum())


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("NLL with through_draws", NLL("x", of="model", at=Q, through_draws=True)),
        ("KL", KL("z", analytic=False)),
        ("KL", KL("w")),  # a closed form, below a latent without a path
        ("what the model is given", MMD("x", num=DATA, den=P.given("z"))),
    ],
)
def test_no_term_trains_a_guide_through_draws_without_a_path(name, term):
    logits = torch.zeros(4, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 0.5)))
            w = pyro.sample("w", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=logits))
            pyro.sample("w", dist.Normal(z + logits, 1.0))

    x = torch.randn(4)
    with refuses(ValueError, name, "'z'", "Bernoulli"):
        term.differentiable_loss(model, guide, x)
    assert term.loss(model, guide, x).isfinite()  # without a gradient there is nothing to lose
    assert KL("z").differentiable_loss(model, guide, x).requires_grad  # a closed form of its own
