"""Facts about batches: every row once, in an order of their own, which resumes bitwise."""

import io
import itertools

import pytest
import torch

from pyro_dgm.datasets import Batches, binarize

X = torch.linspace(0, 1, 23 * 2).view(23, 2)
Y = torch.arange(23)


def flip(batch, generator):
    return batch + torch.randn(batch.shape, generator=generator)


def make(**changes):
    return Batches(X, Y, **{"batch_size": 5, "seed": 3, "transform": flip, **changes})


def equal(ones, others):
    """Whether two lists of tuples of tensors are bitwise the same."""
    return len(ones) == len(others) and all(
        torch.equal(a, b) for one, other in zip(ones, others, strict=True) for a, b in zip(one, other, strict=True)
    )


def through_a_file(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [(5, False, [5, 5, 5, 5, 3]), (5, True, [5] * 4), (23, True, [23]), (50, False, [23])],
)
def test_epoch_has_the_stated_batches(batch_size, drop_last, sizes):
    batches = Batches(X, batch_size=batch_size, drop_last=drop_last)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == len(sizes)
    assert batches.num_rows == 23


def test_every_row_comes_once_an_epoch_with_its_label_in_a_new_order():
    batches = make(transform=None)
    epochs = [[torch.cat(column) for column in zip(*batches, strict=True)] for _ in range(2)]
    for x, y in epochs:
        assert torch.equal(y.sort().values, Y)
        assert torch.equal(x, X[y])
    assert not torch.equal(epochs[0][1], epochs[1][1])


def test_rows_keep_their_order_without_shuffling():
    assert torch.equal(torch.cat(list(Batches(Y, batch_size=4, shuffle=False))), Y)


def test_order_is_of_the_seed_and_not_of_the_global_generator():
    one = list(make())
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert equal(one, list(make()))
    assert not equal(one, list(make(seed=4)))


def test_transform_applies_to_the_first_tensor_and_draws_anew():
    batches = Batches(torch.full((40, 3), 0.5), Y.new_zeros(40), batch_size=40, transform=binarize)
    (first, label), (second, _) = next(iter(batches)), next(iter(batches))
    assert set(first.unique().tolist()) == {0, 1}
    assert not torch.equal(first, second)
    assert label.sum() == 0


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 7, 9, 13])
def test_resumed_batches_are_bitwise_those_that_were_left(stop, shuffle, drop_last):
    arguments = {"shuffle": shuffle, "drop_last": drop_last}
    straight = make(**arguments)
    expected = [batch for _ in range(4) for batch in straight]

    stopped = make(**arguments)
    seen = list(itertools.islice((batch for _ in range(4) for batch in stopped), stop))
    resumed = make(seed=77, **arguments)
    resumed.load_state_dict(through_a_file(stopped.state_dict()))
    assert equal(seen, expected[:stop])
    while len(seen) < len(expected):
        seen += list(resumed)
    assert equal(seen, expected)


def test_state_taken_after_the_last_batch_leaves_an_empty_remainder():
    batches = make()
    iterator = iter(batches)
    for _ in range(len(batches)):
        next(iterator)
    before_the_end = batches.state_dict()
    assert next(iterator, None) is None
    after_the_end = batches.state_dict()
    following = list(batches)

    resumed = make()
    resumed.load_state_dict(before_the_end)
    assert list(resumed) == []
    assert equal(list(resumed), following)
    resumed.load_state_dict(after_the_end)
    assert equal(list(resumed), following)


def test_state_of_a_resumed_but_unused_one_is_the_loaded_state():
    batches = make()
    next(iter(batches))
    state = batches.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    again = resumed.state_dict()
    assert state.keys() == again.keys()
    for key, value in state.items():
        assert torch.equal(value, again[key]) if isinstance(value, torch.Tensor) else value == again[key]


def test_iteration_after_a_break_is_a_new_whole_epoch():
    batches = make(transform=None)
    next(iter(batches))
    rows = torch.cat([y for _, y in batches])
    assert torch.equal(rows.sort().values, Y)


def test_state_is_plain_tensors_and_integers():
    assert {type(value) for value in make().state_dict().values()} == {torch.Tensor, int}


@pytest.mark.parametrize("other", [{"batch_size": 6}, {"shuffle": False}, {"drop_last": True}])
def test_state_of_other_arguments_is_refused_and_changes_nothing(other):
    batches = make()
    with pytest.raises(ValueError, match="must be of the same data and arguments"):
        batches.load_state_dict(make(**other).state_dict())
    assert equal(list(batches), list(make()))


def test_incomplete_state_and_foreign_generator_are_refused():
    batches, state = make(), make().state_dict()
    with pytest.raises(ValueError, match=r"without \['generator'\]"):
        batches.load_state_dict({key: value for key, value in state.items() if key != "generator"})
    with pytest.raises(ValueError, match="must be of a generator on cpu"):
        batches.load_state_dict({**state, "generator": torch.zeros(16, dtype=torch.uint8)})
    assert equal(list(batches), list(make()))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, "4", None])
def test_batch_size_that_is_no_positive_integer_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a positive integer; got"):
        Batches(X, batch_size=batch_size)


def test_drop_last_that_would_leave_nothing_is_refused():
    with pytest.raises(ValueError, match="got 24 for 23 rows, which leaves no batch"):
        Batches(X, batch_size=24, drop_last=True)


@pytest.mark.parametrize("tensors", [(), ([1, 2],), (X, X.numpy())])
def test_other_things_than_tensors_are_refused(tensors):
    with pytest.raises(TypeError, match="Batches needs one or more tensors; got"):
        Batches(*tensors, batch_size=2)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((X[:0],), r"must have rows; got shapes \[\(0, 2\)\]"),
        ((torch.tensor(1.0),), r"must have rows; got shapes \[\(\)\]"),
        ((X, Y[:-1]), r"same number of rows; got shapes \[\(23, 2\), \(22,\)\]"),
        ((X, Y.to("meta")), r"on one device; got \['cpu', 'meta'\]"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        Batches(*tensors, batch_size=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_resume_bitwise():
    x = X.cuda()
    straight = Batches(x, batch_size=5, transform=binarize)
    expected = list(straight) + list(straight)
    stopped = Batches(x, batch_size=5, transform=binarize)
    next(iter(stopped))
    resumed = Batches(x, batch_size=5, transform=binarize)
    resumed.load_state_dict(stopped.state_dict())
    assert equal([list(resumed) + list(resumed)], [expected[1:]])
