"""Large matrix products go through oneDNN where Inductor compiles: the same numbers, whatever lies where in memory."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dgm.infer import SVI
from pyro_dgm.infer.compiling import Compiler
from pyro_dgm.infer.compiling.backends import prepare
from pyro_dgm.infer.compiling.products import _dense_strides, with_fast_products

needs_mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
ROWS, TERMS, COLUMNS = 96, 160, 112


def factor(rows, columns, is_turned, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows + columns)
    drawn = torch.randn((columns, rows) if is_turned else (rows, columns), generator=generator, dtype=dtype)
    return drawn.t() if is_turned else drawn


def num_replaced(graph, inputs):
    with FakeTensorMode() as mode:
        found = with_fast_products(graph, [mode.from_tensor(tensor) for tensor in inputs])
    return sum("pyro_dgm.dense_linear" in str(node.target) for node in found.graph.nodes)


@needs_mkldnn
@pytest.mark.parametrize("left_is_turned", [False, True])
@pytest.mark.parametrize("right_is_turned", [False, True])
@pytest.mark.parametrize("shape", [(ROWS, TERMS, COLUMNS), (COLUMNS, ROWS, TERMS), (17, 784, 131)], ids=str)
def test_product_is_right_in_every_layout(left_is_turned, right_is_turned, shape):
    rows, terms, columns = shape
    inputs = [
        factor(rows, terms, left_is_turned),
        factor(terms, columns, right_is_turned),
        torch.linspace(-1, 1, columns),
    ]

    def work(a, b, c):
        return [torch.mm(a, b), torch.addmm(c, a, b).relu(), torch.mm(b.t(), a.t()) * 2]

    graph = make_fx(work)(*inputs)
    found = prepare(graph, inputs, "inductor")()(*inputs)
    assert num_replaced(graph, inputs) == 3
    a, b, c = (tensor.double() for tensor in inputs)
    # Sums of products of standard normals, which are as large as the root of how many there are.
    for got, expected in zip(found, [a @ b, (c + a @ b).relu(), 2 * (a @ b).t()], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5 * terms**0.5)


@needs_mkldnn
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 8, 5), torch.float32), ((4, 1000, 1000), torch.float32), ((ROWS, TERMS, COLUMNS), torch.float64)],
    ids=["small", "narrow", "double"],
)
def test_other_products_are_left(shape, dtype):
    rows, terms, columns = shape
    inputs = factor(rows, terms, False, dtype), factor(terms, columns, False, dtype)
    graph = make_fx(torch.mm)(*inputs)
    assert num_replaced(graph, inputs) == 0


@needs_mkldnn
def test_scaled_sums_are_left():
    inputs = torch.ones(COLUMNS), factor(ROWS, TERMS, False), factor(TERMS, COLUMNS, False)
    graph = make_fx(lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2))(*inputs)
    assert num_replaced(graph, inputs) == 0


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 128), nn.Tanh(), nn.Linear(128, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 128), nn.Tanh(), nn.Linear(128, 784))

    def model(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@needs_mkldnn
def test_training_goes_the_same_way():
    batches = torch.full((20, 32, 784), 0.1).bernoulli(generator=torch.Generator().manual_seed(0))
    runs = []
    for compiler in (False, Compiler(wait=True)):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        net = Autoencoder()
        svi = SVI(net.model, net.guide, partial(torch.optim.Adam, lr=3e-3), Trace_ELBO(), compile=compiler)
        runs.append([svi.step(batch) for batch in batches])
    assert svi.compiled.num_compiled == 1
    # Adam divides a gradient by its own size, and so doubts in its seventh digit grow with the steps.
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)
    assert runs[1][-1] < 0.9 * runs[1][0]


@needs_mkldnn
def test_columns_of_a_wider_matrix_are_laid_out_without_gaps():
    """Through oneDNN's reference code such a product takes two thousand times as long."""
    assert _dense_strides([200, 784], [791, 1]) == [784, 1]
    assert _dense_strides([200, 784], [1, 210]) == [1, 200]
    assert _dense_strides([1, 784], [1, 1]) == [784, 1]
    x, first, second = factor(ROWS, TERMS, False), factor(COLUMNS, 80, False), factor(COLUMNS, TERMS, False)

    def work(x, first, second):
        wide = torch.cat([first.exp(), second.sin()], dim=1)
        return [x @ wide[:, 80:].t(), wide.relu()]

    graph = make_fx(work)(x, first, second)
    assert num_replaced(graph, [x, first, second]) == 1
    found, _ = prepare(graph, [x, first, second], "inductor")()(x, first, second)
    expected = x.double() @ second.double().sin().t()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * TERMS**0.5)
