"""Rounds of a loop that need not wait for one another are done at once, and give what they gave one by one."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pyro_dgm.infer.compiling import batching
from pyro_dgm.infer.compiling.backends import prepare
from pyro_dgm.infer.compiling.batching import batched
from pyro_dgm.infer.compiling.capture import capture
from pyro_dgm.infer.compiling.dataflow import Dataflow
from pyro_dgm.infer.compiling.layouts import with_fixed_layouts

ROWS, FEATURES, LENGTH = 3, 4, 24
PRODUCTS = {f"aten.{name}.default" for name in ("mm", "addmm", "bmm")}


def cell(net, x, h):
    return torch.tanh(net(torch.cat([x, h], -1))) * torch.sigmoid(h + x)


def apart(net, x):
    """No round needs another."""
    found = [cell(net, x[:, t], x[:, t].exp()).square().sum() for t in range(x.shape[1])]
    return torch.stack(found).sum()


def backwards(net, x):
    total = x.new_zeros(())
    for t in reversed(range(x.shape[1])):
        total = total + cell(net, x[:, t], x[:, t].exp()).square().sum() - x[:, t].cos().sum()
    return total


def neighbours(net, x):
    """Every round needs what the one before has computed from its data alone."""
    before, total = x[:, 0], x.new_zeros(ROWS, 1)
    for t in range(x.shape[1]):
        z = cell(net, x[:, t], x[:, t].sin())
        total = total + cell(net, z, before).square().mean(-1, keepdim=True)
        before = z
    return total.sum()


def recurrent(net, x):
    h, total = x.new_zeros(ROWS, FEATURES), x.new_zeros(())
    for t in range(x.shape[1]):
        h = cell(net, x[:, t], h)
        total = total - (x[:, t] - h).square().exp().mul(0.1).log1p().sum()
    return total


def total_is_read(net, x):
    """A sum so far that every round looks at."""
    total = x.new_zeros(ROWS, FEATURES)
    for t in range(x.shape[1]):
        total = total + cell(net, x[:, t], total)
    return total.sum()


def even_ones(net, x):
    return apart(net, x[:, ::2]) + backwards(net, x[:, 1::2])


def thin_slices(net, x):
    found = [cell(net, x[:, t : t + 1].squeeze(1), x[:, t].exp()).square().sum() for t in range(x.shape[1])]
    return torch.stack(found).sum()


def thin_slices_at_the_end(net, x):
    y = x.transpose(1, 2).exp()
    found = [cell(net, y[:, :, t : t + 1].squeeze(-1), y[..., t - 1 : t].squeeze(2)).square() for t in range(1, LENGTH)]
    return torch.stack(found).sum()


def thin_slices_at_the_front(net, x):
    y = x.transpose(0, 1).exp()
    found = [cell(net, y[t : t + 1].squeeze(0), y[t - 1]).square().sum() for t in reversed(range(1, len(y)))]
    return torch.stack(found).sum()


def windows(net, x):
    found = [cell(net, x[:, t : t + 2].sum(1), x[:, t + 1]).square().sum() for t in range(x.shape[1] - 1)]
    return torch.stack(found).sum()


def noisy(net, x):
    h, total = x.new_zeros(ROWS, FEATURES), x.new_zeros(())
    for t in range(x.shape[1]):
        mean = cell(net, x[:, t], x[:, t].exp()).square()
        h = 0.5 * h + mean + torch.randn_like(h) * torch.empty_like(h).uniform_()
        total = total + (h * h.detach().sigmoid().bernoulli()).sum() + torch.randn(())
    return total


def noisy_in_columns(net, x):
    """Noise in the likeness of something transposed, which is drawn column by column."""
    h, total = x.new_zeros(FEATURES, ROWS).t(), x.new_zeros(())
    for t in range(x.shape[1]):
        mean = cell(net, x[:, t], x[:, t].exp()).t().contiguous().t().square().exp().log1p().mul(2)
        h = 0.5 * h + torch.randn_like(mean) * mean + torch.empty_like(mean).normal_() * torch.rand_like(h)
        total = total + h.sum()
    return total


def several_outputs(net, x):
    total = x.new_zeros(())
    for t in range(x.shape[1]):
        variance, mean = torch.var_mean(cell(net, x[:, t], x[:, t].exp()), -1)
        values, order = (variance * mean).sort()
        total = total + (values * order).sum()
    return total


def the_same_each_time(net, x):
    total = x.new_zeros(())
    for t in range(x.shape[1]):
        total = total + (net.weight.exp().cos().sin().sum() * net.bias.exp() * cell(net, x[:, t], x[:, 0])).sum()
    return total


def in_place(net, x):
    h, total = x.new_zeros(ROWS, FEATURES), x.new_zeros(())
    for t in range(x.shape[1]):
        z = cell(net, x[:, t], x[:, t].exp()).square()
        h = h + z.cos().sin().cos().sin()
        h[:, 0] += 1
        total = total + h.mul(2).add_(z).sum()
    return total


def two_kinds_in_turn(net, x):
    """Values from two tensors of rows, one after the other."""
    first = [cell(net, x[:, t], x[:, t].exp()).square().sum(-1) for t in range(x.shape[1])]
    second = [cell(net, x[:, t], x[:, t].cos()).square().sum(-1) for t in range(x.shape[1])]
    total = x.new_zeros(ROWS)
    for one, other in zip(first, second, strict=True):
        total = total + one
        total = total + other
    return total.sum()


def running_or(net, x):
    """A sum of booleans is no count."""
    seen, total = torch.zeros(ROWS, FEATURES, dtype=torch.bool), x.new_zeros(())
    for t in range(x.shape[1]):
        seen = seen + (x[:, t] > 1)
        total = total + cell(net, x[:, t], x[:, t].exp()).sum()
    return total + seen.sum() + (seen * x[:, 0]).sum()


def by_place_in_memory(net, x):
    h = x.new_zeros(3, 2)
    for t in range(x.shape[1]):
        h = torch.tanh(h + torch.as_strided(cell(net, x[:, t], x[:, t].exp()).square(), (3, 2), (4, 1), 1))
    return h.sum()


def flattened(net, x):
    """Rows of rounds lie apart in memory, so that what was a view of one no longer is."""
    h = x.new_zeros(ROWS * FEATURES)
    for t in range(x.shape[1]):
        z = x[:, t].exp().log1p().sin().cos().exp().log1p().sin().cos()
        h = torch.tanh(h + z.reshape(-1)) + net.weight.sum() + net.bias.sum()
    return h.sum()


def normalised(net, x):
    """The derivative of a layer's norm leaves out what is not asked for."""
    total = x.new_zeros(())
    for t in range(x.shape[1]):
        frame = nn.functional.layer_norm(x[:, t].detach(), (FEATURES,), net.bias, None)
        total = total + cell(net, frame, x[:, t]).square().sum()
    return total


def noise_like_something_expanded(net, x):
    total = x.new_zeros(())
    for t in range(x.shape[1]):
        z = cell(net, x[:, t], x[:, t].exp()).square()
        wide = z[0].expand(5, FEATURES)
        total = total + (torch.rand_like(wide) * wide).sum() + (torch.zeros_like(z.t()).normal_() * z.t()).sum()
    return total


ALL_AT_ONCE = [apart, backwards, neighbours, thin_slices, several_outputs, two_kinds_in_turn]
PARTLY = [
    running_or,
    flattened,
    normalised,
    noise_like_something_expanded,
    thin_slices_at_the_end,
    thin_slices_at_the_front,
    windows,
    recurrent,
    even_ones,
    noisy,
    noisy_in_columns,
    the_same_each_time,
]
NOT_AT_ALL = [total_is_read, by_place_in_memory]
IN_PLACE = [in_place]  # whose backward pass looks at places in memory


def captured(work, length=LENGTH, with_gradients=True):
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(2 * FEATURES, FEATURES, dtype=torch.double)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(ROWS, length, FEATURES, generator=generator, dtype=torch.double)

    def step(batch):
        if not with_gradients:
            return [work(net, batch)]
        net.zero_grad()
        batch = batch.clone().requires_grad_()
        with torch.enable_grad():
            loss = work(net, batch)
            loss.backward()
        return [loss.detach(), batch.grad, *(p.grad for p in net.parameters() if p.grad is not None)]

    found = capture(step, list(net.parameters()), [x])
    return found.graph, [tensor.detach() for tensor in (*found.live, *found.outside, x)]


def at_once(graph, inputs):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        stand_ins = [torch.empty_like(tensor, device="cpu") for tensor in inputs]
    for node, tensor in zip(graph.graph.find_nodes(op="placeholder"), stand_ins, strict=True):
        node.meta["val"] = tensor
    noise = torch.get_rng_state()
    found = batched(with_fixed_layouts(graph), stand_ins)
    assert torch.equal(torch.get_rng_state(), noise)
    return found


def run(function, inputs):
    torch.manual_seed(1)
    inputs = [tensor.clone() for tensor in inputs]
    with torch.no_grad():
        return [*function(*inputs), *inputs, torch.rand(())]


def assert_same(graph, found, inputs):
    """To the last digits: sums of two dozen terms in another order, in double precision."""
    for expected, value in zip(run(graph, inputs), run(found, inputs), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("work", [*ALL_AT_ONCE, *PARTLY, *NOT_AT_ALL, *IN_PLACE], ids=lambda work: work.__name__)
def test_the_numbers_stay(work, with_gradients):
    graph, inputs = captured(work, with_gradients=with_gradients)
    found = at_once(graph, inputs)
    assert found is not graph or work in NOT_AT_ALL or with_gradients == (work in IN_PLACE)
    assert_same(graph, found, inputs)


@pytest.mark.parametrize("work", ALL_AT_ONCE, ids=lambda work: work.__name__)
def test_nothing_grows_with_the_length_where_no_round_waits(work):
    sizes = [len(Dataflow(at_once(*captured(work, length))).operations) for length in (LENGTH, 3 * LENGTH)]
    assert sizes[1] < 1.1 * sizes[0]


def test_the_gradient_of_weights_is_one_product():
    graph, inputs = captured(recurrent)
    counts = [
        sum(str(node.target) in PRODUCTS for node in each.graph.nodes) for each in (graph, at_once(graph, inputs))
    ]
    # Forward, and back to the state before; the gradient of the weights, which was a third, once for most rounds.
    assert counts[0] == 3 * LENGTH
    assert counts[1] < 2 * LENGTH + 8


def test_random_draws_keep_their_order():
    graph, inputs = captured(noisy, with_gradients=False)
    found = at_once(graph, inputs)
    kinds = [
        [node.target for node in each.graph.nodes if "randn" in str(node.target) or "bernoulli" in str(node.target)]
        for each in (graph, found)
    ]
    assert kinds[0] == kinds[1]
    assert len(kinds[0]) == 3 * LENGTH


@pytest.mark.parametrize("work", [apart, recurrent], ids=lambda work: work.__name__)
def test_few_rounds_are_left(work):
    graph, inputs = captured(work, length=5)
    assert at_once(graph, inputs) is graph


def test_layers_one_behind_the_other_are_left():
    """Rounds with weights of their own: to put those into one tensor would cost what it saves."""
    nets = [nn.Linear(FEATURES, FEATURES, dtype=torch.double) for _ in range(LENGTH)]

    def step(batch):
        h = batch
        for net in nets:
            h = torch.tanh(h @ net.weight) * h
        return [h]

    found = capture(step, [p for net in nets for p in net.parameters()], [torch.ones(3, FEATURES, dtype=torch.double)])
    inputs = [tensor.detach() for tensor in (*found.live, *found.outside, torch.ones(3, FEATURES, dtype=torch.double))]
    assert at_once(found.graph, inputs) is found.graph


def test_what_vmap_cannot_do_is_left(monkeypatch):
    def refuses(*args, **kwargs):
        raise RuntimeError("no batching rule")

    graph, inputs = captured(apart)
    monkeypatch.setattr(batching.torch, "vmap", refuses)
    assert at_once(graph, inputs) is graph


@pytest.mark.parametrize("seed", [*range(40), 104])  # the last has noise in the likeness of something transposed
def test_programs_made_at_random(seed):
    """Rounds of random operations, on data, weights, and what this round or the one before has made."""
    choose = torch.Generator().manual_seed(seed)

    def pick(number):
        return int(torch.randint(number, (), generator=choose))

    plan = [(pick(9), pick(100), pick(100), pick(4)) for _ in range(4 + pick(9))]
    carried, num_totals, is_reversed = pick(4), pick(3), bool(pick(2))

    def work(net, x):
        weight = net.weight[:, :FEATURES]
        before = [x[:, 0] * 0.1 for _ in range(carried)]
        totals = [x.new_zeros(ROWS, FEATURES) for _ in range(num_totals)]
        kept = []
        times = reversed(range(1, x.shape[1])) if is_reversed else range(1, x.shape[1])
        for t in times:
            values = [x[:, t], x[:, t - 1].sin(), *before]
            for kind, i, j, total in plan:
                a, b = values[i % len(values)], values[j % len(values)]
                made = (
                    lambda a=a, b=b: a + b,
                    lambda a=a, b=b: a * b,
                    lambda a=a, b=b: a - 0.5 * b,
                    lambda a=a: torch.tanh(a),
                    lambda a=a: torch.tanh(a @ weight),
                    lambda a=a: torch.nn.functional.linear(a, weight, net.bias).sin(),
                    lambda a=a: a.sum(-1, keepdim=True).expand_as(a).cos(),
                    lambda a=a: a + 0.1 * torch.randn_like(a),
                    lambda a=a, b=b: torch.softmax(a.t(), 0).t() * b,
                )[kind]()
                values.append(made)
                if total < num_totals:
                    totals[total] = totals[total] - made if i % 2 else totals[total] + made
            before = [torch.tanh(value) for value in values[len(values) - carried :]]
            kept += [values[-1]] if plan[0][1] % 2 else []
        return sum(each.square().mean() for each in (*totals, *before, *kept, x, weight, net.bias))

    graph, inputs = captured(work, length=14)
    assert_same(graph, at_once(graph, inputs), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["graph", "inductor"])
def test_it_is_part_of_what_is_compiled(backend):
    graph, inputs = captured(recurrent, length=80)
    function = prepare(graph, inputs, backend)()
    assert_same(graph, function, inputs)
