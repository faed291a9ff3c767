"""Loops that were unrolled into a graph are found, become one function, and do exactly what the graph did."""

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from pyro_dgm.infer.compiling.backends import prepare
from pyro_dgm.infer.compiling.bodies import body_of
from pyro_dgm.infer.compiling.capture import capture
from pyro_dgm.infer.compiling.outlining import Outlined
from pyro_dgm.infer.compiling.repeats import Repeat, find_repeats
from pyro_dgm.infer.compiling.segments import segments_of

ROWS, FEATURES, LENGTH = 3, 4, 80


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("xy" + 200 * "abcd" + "z", [Repeat(2, 4, 200)]),
        (200 * "abc" + "xyz" + 100 * "defgh", [Repeat(0, 3, 200), Repeat(603, 5, 100)]),
        (200 * "aab", [Repeat(0, 3, 200)]),
        (40 * ("abcde" + 3 * "xy"), [Repeat(0, 11, 40)]),
        ("abcdefghijklmnopqrstuvwxyz", []),
        (10 * "abcd", []),  # which saves too little
        ("", []),
    ],
)
def test_repeats_are_found(tokens, expected):
    assert find_repeats(tokens, least=300) == expected


def cell(net, x, h):
    gate = torch.sigmoid(net(torch.cat([x, h], -1)))
    new = gate * torch.tanh(h + x) + (1 - gate) * h
    return new * new.exp().log1p() / (1 + new * new)


def forward_only(net, x):
    h, found = torch.zeros(ROWS, FEATURES), []
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], h)
        found.append(h)
    return torch.stack(found)


def with_gradients(loop):
    def work(net, x):
        net.zero_grad()
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            loss = loop(net, x).square().sum()
            loss.backward()
        return torch.cat([loss.detach()[None], x.grad.flatten(), *(p.grad.flatten() for p in net.parameters())])

    return work


def slices(net, x):
    h, found = torch.zeros(ROWS, FEATURES), []
    for t in range(x.shape[1] - 2):
        h = cell(net, x[:, t : t + 2].sum(1) * x[:, -1 - t], h) + x[:, t + 2 : t + 3].squeeze(1)
        found.append(h)
    return torch.stack(found)


def parts(net, x):
    h, total = torch.zeros(ROWS, FEATURES), torch.zeros(())
    for first, second in zip(x.unbind(1), x.split(1, dim=1), strict=True):
        h = cell(net, first, h) - second.squeeze(1)
        total = total + h.sum()
    return total


def noise(net, x):
    h, found = torch.zeros(ROWS, FEATURES), []
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], h) + torch.randn(ROWS, FEATURES) * torch.empty(ROWS, FEATURES).uniform_()
        found.append(h.detach().bernoulli(0.4) + h)
    return torch.stack(found)


def in_place(net, x):
    h, found = torch.zeros(ROWS, FEATURES), []
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], h)
        h.mul_(0.9).add_(0.1)
        h[:, 0].neg_()
        found.append(h.clone())
    return torch.stack(found)


def own_buffer(net, x):
    h = torch.zeros(ROWS, FEATURES)
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], h)
        net.bias[:FEATURES].add_(0.01 * h.sum(0))
    return h


def transposed(net, x):
    h, found = torch.zeros(FEATURES, ROWS).t(), []
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], h.t().contiguous().t())
        found.append(h.t() + 1)
    return torch.stack(found)


def gated_unit(net, x):
    unit = nn.GRU(FEATURES, FEATURES, batch_first=True).requires_grad_(False)
    unit.load_state_dict({name: net.weight.new_full(value.shape, 0.1) for name, value in unit.state_dict().items()})
    return unit(cell(net, x.mean(1), x[:, 0])[:, None] + x)[0]


def several_outputs(net, x):
    h, found = torch.zeros(ROWS, FEATURES), []
    for t in range(x.shape[1]):
        values, order = cell(net, x[:, t], h).sort(-1)
        h = values + x[:, t] * order
        found.append(h)
    return torch.stack(found)


def captured(work, length=LENGTH):
    torch.manual_seed(0)
    net, x = nn.Linear(2 * FEATURES, FEATURES), torch.randn(ROWS, length, FEATURES)
    net.bias.requires_grad_(work is not own_buffer)
    found = capture(lambda batch: [work(net, batch)], list(net.parameters()), [x])
    graph, inputs = found.graph, [*found.live, *found.outside, x]
    for node, tensor in zip(graph.graph.find_nodes(op="placeholder"), inputs, strict=True):
        node.meta["val"] = tensor.detach()
    return graph, [tensor.detach() for tensor in inputs]


def run(function, inputs):
    torch.manual_seed(1)
    inputs = [tensor.clone() for tensor in inputs]
    with torch.no_grad():
        return [*function(*inputs), *inputs]


LOOPS = [slices, parts, noise, several_outputs, transposed, forward_only]
WORKS = [*LOOPS, in_place, own_buffer, *map(with_gradients, [*LOOPS, gated_unit])]


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__qualname__.partition(".")[0])
def test_the_segments_do_what_the_graph_does(work):
    graph, inputs = captured(work)
    segments = segments_of(graph)
    assert segments is not None
    outlined = Outlined(segments, [body_of(segment)[0] for segment in segments])
    for _ in range(2):
        for expected, found in zip(run(graph, inputs), run(outlined, inputs), strict=True):
            assert torch.equal(expected, found)


@pytest.mark.parametrize("work", [forward_only, with_gradients(forward_only), with_gradients(gated_unit)])
def test_what_is_compiled_does_not_grow_with_the_length(work):
    lengths = [sum(each.length for each in segments_of(captured(work, n)[0])) for n in (LENGTH, 2 * LENGTH)]
    assert lengths[1] < 1.2 * lengths[0]


def writes_to_what_moves(net, x):
    found = torch.zeros(ROWS, x.shape[1], FEATURES)
    h = torch.zeros(ROWS, FEATURES)
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], h)
        found[:, t].copy_(h)
    return found


def looks_at_memory(net, x):
    h, found = torch.zeros(ROWS, FEATURES), []
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], torch.as_strided(h, (ROWS, FEATURES), (FEATURES, 1)))
        found.append(h)
    return torch.stack(found)


def short(net, x):
    return forward_only(net, x[:, :5])


@pytest.mark.parametrize("work", [writes_to_what_moves, looks_at_memory, short])
def test_a_graph_stays_whole_where_cutting_is_not_safe_or_not_worth_it(work):
    assert segments_of(captured(work)[0]) is None


def test_a_function_whose_results_are_laid_out_otherwise_does_no_harm():
    graph, inputs = captured(forward_only)
    segments = segments_of(graph)

    def transposing(body: GraphModule):
        return lambda *args: [tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor for tensor in body(*args)]

    seen = []

    def watching(body: GraphModule):
        function = transposing(body)
        return lambda *args: seen.append(all(arg.is_contiguous() for arg in args)) or function(*args)

    outlined = Outlined(segments, [watching(body_of(segment)[0]) for segment in segments])
    for _ in range(2):
        assert torch.equal(run(outlined, inputs)[0], run(graph, inputs)[0])
    assert all(seen)


@pytest.mark.slow
def test_inductor_compiles_the_segments():
    graph, inputs = captured(with_gradients(noise))
    function = prepare(graph, inputs, "inductor")()
    assert isinstance(function, Outlined)
    for expected, found in zip(run(graph, inputs), run(function, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
