"""Steps compiled by Inductor are the steps as they are written; a few only, for each takes a C++ compiler's time."""

import functools
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dgm.infer import ELBO, IWAE, SVI
from pyro_dgm.infer.compiling import Compiler, building
from pyro_dgm.infer.compiling.backends import prepare
from pyro_dgm.infer.compiling.building import Build

STEPS, ROWS, FEATURES = 30, 8, 5


def programs(is_discrete):
    decoder, encoder = nn.Linear(2, FEATURES), nn.Linear(FEATURES, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Bernoulli(torch.full((2,), 0.4)) if is_discrete else dist.Normal(torch.zeros(2), 1.0)
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            q = dist.Bernoulli(logits=loc) if is_discrete else dist.Normal(loc, log_scale.exp())
            pyro.sample("z", q.to_event(1))

    return model, guide


def trainer(objective, compile, is_discrete=False):
    pyro.clear_param_store()
    torch.manual_seed(0)
    return SVI(*programs(is_discrete), functools.partial(torch.optim.Adam, lr=0.01), objective, compile=compile)


def losses(svi, num_steps=STEPS):
    torch.manual_seed(1)
    return torch.tensor([svi.step(torch.randn(ROWS, FEATURES)) for _ in range(num_steps)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "is_discrete"), [(lambda: IWAE(3, gradient="dreg"), False), (lambda: IWAE(3), True)]
)
def test_the_losses_are_those_of_the_step_as_written(objective, is_discrete):
    """With the same seed the draws are the same, too."""
    expected = losses(trainer(objective(), False, is_discrete))
    svi = trainer(objective(), Compiler(wait=True, quiet=True), is_discrete)
    torch.testing.assert_close(losses(svi), expected, rtol=1e-4, atol=1e-4)
    assert svi.compiled.num_compiled == 1
    assert svi.compiled.refusals == []


@pytest.mark.slow
def test_several_steps_in_one_call_draw_the_same_numbers():
    """In one graph, too, which the first call has compiled: the second uses it for all but the last step."""
    data = torch.randn(24, ROWS, FEATURES, generator=torch.Generator().manual_seed(2))
    plain, svi = trainer(IWAE(3), False), trainer(IWAE(3), Compiler(wait=True, quiet=True))
    torch.manual_seed(1)
    found = [svi.step(x) for x in data[:6]] + svi.steps(data[6:15]) + svi.steps(data[15:])
    (versions,) = svi.compiled._versions.values()
    assert 1 < versions[0].num_chained < 9
    assert versions[0].chain.error is None
    pyro.clear_param_store()
    torch.manual_seed(1)
    expected = [plain.step(x) for x in data]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiling_in_a_thread_leaves_the_generator_to_the_others():
    """Torch would put it back at the end to where it was at the beginning, and the noise between would come again."""
    parameter, never_seen = torch.ones(3), time.time()  # so that nothing of it is on disk
    graph = make_fx(lambda tensor: [never_seen * tensor + torch.randn(3)])(parameter)
    torch.manual_seed(3)
    alone = torch.Generator().manual_seed(3)
    build = Build(graph, [parameter], Compiler(quiet=True), "a sum")
    num_draws = 0
    while not build.is_over:
        assert torch.equal(torch.rand(2), torch.rand(2, generator=alone))
        num_draws += 1
        time.sleep(0.001)
    assert torch.equal(torch.rand(2), torch.rand(2, generator=alone))
    assert num_draws > 10
    assert build.error is None


@pytest.mark.slow
def test_steps_go_on_while_it_compiles(capsys):
    svi = trainer(ELBO(), True)
    start = time.monotonic()
    while svi.compiled is None or not svi.compiled.num_compiled:
        svi.step(torch.randn(ROWS, FEATURES))
        assert time.monotonic() - start < 300
    num_steps = svi.num_steps
    assert num_steps > 5
    svi.step(torch.randn(ROWS, FEATURES))
    assert svi.num_steps == num_steps + 1
    said = capsys.readouterr().err
    assert "compiling the step" in said
    assert "compiled the step in" in said


def test_compiling_in_another_thread_touches_no_tensor_of_this_one():
    """Training goes on meanwhile, and a backward pass replaces gradients without holding Python's lock."""
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    graph = make_fx(lambda tensor: [2 * tensor])(parameter.detach())
    build = prepare(graph, [parameter], "inductor")
    gone = weakref.ref(parameter), weakref.ref(parameter.grad)
    del parameter
    assert [reference() for reference in gone] == [None, None]
    assert build()(torch.arange(3.0))[0].tolist() == [0.0, 2.0, 4.0]


SCRIPT = """
import torch, pyro
from torch._dynamo.utils import counters
from test_inductor import ELBO, Compiler, losses, trainer
svi = trainer(ELBO(), Compiler(wait=True, quiet=True))
losses(svi, 6)
assert svi.compiled.num_compiled == 1
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_another_process_finds_what_has_been_compiled(tmp_path):
    places = [str(Path(__file__).parent), str(Path(__file__).parents[2]), *sys.path]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(places)}
    said = [
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [each.stdout.split() for each in said] == [["1", "0"], ["0", "1"]]


def test_nothing_is_traced_while_another_thread_compiles(monkeypatch):
    """Both patch the same functions of torch; steps go on as written until the thread is done."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    monkeypatch.setattr(building, "_THREADS", [thread])
    svi = trainer(ELBO(), Compiler("graph", quiet=True))
    for _ in range(6):
        svi.step(torch.randn(ROWS, FEATURES))
    assert svi.compiled.num_compiled == 0
    assert svi.compiled.refusals == []
    done.set()
    thread.join()
    for _ in range(3):
        svi.step(torch.randn(ROWS, FEATURES))
    assert svi.compiled.num_compiled == 1
