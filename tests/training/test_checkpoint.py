import errno
import hashlib
import io
import os
import pickle
import resource
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_dgm.training import CheckpointError, check_state_matches, clone_state, load_checkpoint, save_checkpoint


@pytest.fixture
def state():
    return {
        "tensor": torch.arange(6.0).reshape(2, 3),
        "plain": [None, True, 3, 2.5, "text", (1, 2)],
        "deep": {0: {"exp_avg": torch.ones(2, dtype=torch.float64)}, "empty": {}},
        "counter": Counter({30: 1}),
    }


@pytest.fixture
def saved(tmp_path, state):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, state)
    return path


def only_file(path: Path) -> bool:
    return [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_state_comes_back_as_it_was(saved, state):
    got = load_checkpoint(saved)
    assert torch.equal(got.pop("tensor"), state.pop("tensor"))
    moment, expected = got["deep"][0].pop("exp_avg"), state["deep"][0].pop("exp_avg")
    assert torch.equal(moment, expected)
    assert moment.dtype == expected.dtype
    assert got == state
    assert [type(part) for part in got["plain"]] == [type(part) for part in state["plain"]]
    assert only_file(saved)


def test_the_layout_version_of_a_module_comes_back(tmp_path):
    state = torch.nn.BatchNorm1d(2).state_dict()
    save_checkpoint(tmp_path / "a", state)
    got = load_checkpoint(tmp_path / "a")
    assert isinstance(got, OrderedDict)
    assert got._metadata == state._metadata


def test_every_scheduler_and_optimizer_state_is_plain(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=torch.tensor(0.1))
    schedules = torch.optim.lr_scheduler
    made = [
        schedules.MultiStepLR(optimizer, [2, 4]),
        schedules.OneCycleLR(torch.optim.SGD([parameter], lr=0.1, momentum=0.9), 0.1, total_steps=5),
        schedules.ReduceLROnPlateau(optimizer),
        schedules.LambdaLR(optimizer, lambda step: 0.9**step),
        schedules.SequentialLR(
            optimizer, [schedules.ConstantLR(optimizer), schedules.ExponentialLR(optimizer, 0.9)], [2]
        ),
        optimizer,
    ]
    for each in made:
        save_checkpoint(tmp_path / "a", each.state_dict())
        each.load_state_dict(load_checkpoint(tmp_path / "a"))


def test_parameters_and_views_lose_what_is_not_theirs(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.unconstrained = lambda: None  # Pyro hangs such things on its parameters
    save_checkpoint(tmp_path / "a", {"weight": weight})
    got = load_checkpoint(tmp_path / "a")["weight"]
    assert type(got) is torch.Tensor
    assert not got.requires_grad


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"optimizer": {"state": {0: {"step": np.float64(1.0)}}}}, "optimizer.state.0.step"),
        ({"a": [1, {2}]}, "a.1"),
        ({"a": {"b": lambda: None}}, "a.b"),
        ({"a": {(1, 2): 3}}, "at a"),
        ({"a": np.ones(2)}, "numpy.ndarray at a"),
        ({"a": torch.float32}, "at a"),
        (Path("x"), "the top"),
    ],
)
def test_what_is_not_plain_is_refused_by_its_place(saved, bad, where):
    before = saved.read_bytes()
    with pytest.raises(TypeError, match=where):
        save_checkpoint(saved, bad)
    assert saved.read_bytes() == before
    assert only_file(saved)


def test_a_missing_file_or_a_folder_is_one_error(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(CheckpointError, match=str(path)):
            load_checkpoint(path)


def test_an_empty_file_is_refused(saved):
    saved.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last.ckpt cannot be loaded: it is empty"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", ["torch", "text", "pickle", "zeros"])
def test_a_foreign_file_is_refused(saved, content):
    if content == "torch":
        torch.save({"a": torch.ones(2)}, saved)
    else:
        saved.write_bytes({"text": b"hello\n", "pickle": pickle.dumps({"a": 1}), "zeros": bytes(1000)}[content])
    with pytest.raises(CheckpointError, match="foreign"):
        load_checkpoint(saved)


def test_a_truncated_file_is_refused_at_any_length(saved):
    whole = saved.read_bytes()
    for length in range(1, len(whole), 17):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"truncated|first line|foreign"):
            load_checkpoint(saved)
    saved.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


def test_a_damaged_byte_is_noticed_anywhere(saved):
    whole = saved.read_bytes()
    positions = [*range(110), *range(110, len(whole), 13)]
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"last.ckpt cannot be loaded"):
            load_checkpoint(saved)


def test_a_newer_format_is_named(saved):
    saved.write_bytes(saved.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 2 ", 1))
    with pytest.raises(CheckpointError, match="its format is 2"):
        load_checkpoint(saved)


def write_with_digest(path: Path, payload: bytes) -> None:
    digest = hashlib.sha256(payload).hexdigest()
    path.write_bytes(f"pyro_dgm checkpoint 1 {digest} {len(payload)}\n".encode() + payload)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_crafted_payload_runs_no_code(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": Trap(tmp_path / "sprung")}, buffer)
    for payload in (buffer.getvalue(), pickle.dumps(Trap(tmp_path / "sprung"))):
        write_with_digest(tmp_path / "a", payload)
        with pytest.raises(CheckpointError, match="more than tensors"):
            load_checkpoint(tmp_path / "a")
        assert not (tmp_path / "sprung").exists()


def test_a_payload_that_is_no_dict_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    write_with_digest(tmp_path / "a", buffer.getvalue())
    with pytest.raises(CheckpointError, match="not a dict"):
        load_checkpoint(tmp_path / "a")


def check_old_one_stays(saved, state):
    with pytest.raises(
        CheckpointError, match=r"must reach the disk whole; writing .* to .*last.ckpt failed.*Free space"
    ):
        save_checkpoint(saved, {"tensor": torch.zeros(1_000_000)})
    assert only_file(saved)
    assert torch.equal(load_checkpoint(saved)["tensor"], state["tensor"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_leaves_the_old_checkpoint(saved, state):
    (saved.parent / "last.ckpt.tmp").symlink_to("/dev/full")
    check_old_one_stays(saved, state)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_late_leaves_the_old_checkpoint(saved, state, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    check_old_one_stays(saved, state)


def test_a_limit_on_the_file_size_leaves_the_old_checkpoint(saved, state):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        check_old_one_stays(saved, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_saving_into_no_folder_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        save_checkpoint(tmp_path / "none" / "last.ckpt", {})


def test_what_a_killed_process_left_does_not_pile_up(saved, state):
    (saved.parent / "last.ckpt.tmp").write_bytes(b"half a checkpoint")
    assert load_checkpoint(saved)["plain"] == state["plain"]
    save_checkpoint(saved, state)
    assert only_file(saved)


def test_a_clone_does_not_follow_training():
    model = torch.nn.Linear(2, 2)
    clone = clone_state({"model": model.state_dict(), "list": [1]})
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    assert torch.equal(clone["model"]["weight"], before)


def trained_adam(model):
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def fresh_adam(model, optimizer=torch.optim.Adam):
    return {"model": model.state_dict(), "optimizer": optimizer(model.parameters(), lr=0.5).state_dict()}


def test_a_fresh_trainer_matches_a_trained_one_and_back():
    trained, fresh = trained_adam(torch.nn.Linear(2, 1)), fresh_adam(torch.nn.Linear(2, 1))
    check_state_matches(fresh, trained)
    check_state_matches(trained, fresh)
    check_state_matches(trained, trained)


def test_a_mismatch_lists_what_differs():
    got = trained_adam(torch.nn.Linear(2, 1))
    with pytest.raises(CheckpointError, match=r"model.weight is float32\[1, 2\], not float32\[3, 2\]"):
        check_state_matches(fresh_adam(torch.nn.Linear(2, 3)), got)
    with pytest.raises(CheckpointError, match=r"model.weight is float32\[1, 2\], not float64\[1, 2\]"):
        check_state_matches(fresh_adam(torch.nn.Linear(2, 1).double()), got)
    with pytest.raises(
        CheckpointError, match=r"a.ckpt differs: .*model.0.weight is missing; .*model.weight is unexpected"
    ):
        check_state_matches(fresh_adam(torch.nn.Sequential(torch.nn.Linear(2, 1))), got, "a.ckpt")
    with pytest.raises(CheckpointError, match=r"model.bias is unexpected"):
        check_state_matches(fresh_adam(torch.nn.Linear(2, 1, bias=False)), got)
    with pytest.raises(CheckpointError, match=r"param_groups.0.momentum is missing"):
        check_state_matches(fresh_adam(torch.nn.Linear(2, 1), torch.optim.SGD), got)
    with pytest.raises(CheckpointError, match="and 12 more"):
        check_state_matches(dict.fromkeys("abcdefghij"), dict.fromkeys("klmnopqrst"))
    with pytest.raises(CheckpointError, match="model is a list, not a dict"):
        check_state_matches({"model": {"a": 1}}, {"model": [1]})


def test_entries_of_another_parameter_group_are_noticed():
    two = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    one = torch.optim.SGD([{"params": two[:1]}, {"params": two[1:]}])
    other = torch.optim.SGD(two)
    with pytest.raises(CheckpointError, match="param_groups has 1 entries, not 2"):
        check_state_matches(one.state_dict(), other.state_dict())
