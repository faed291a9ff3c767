"""Checkpoints that survive a kill, notice damage and cannot run code.

A file is one line of text and a payload:

    pyro_dgm checkpoint 1 <sha256 of the payload, in hex> <its length in bytes>

The payload is written by `torch.save` and read with ``weights_only=True``, so a checkpoint holds tensors and
plain values and nothing that runs. A file is written next to its place (``NAME.tmp``, one per name, so what a
killed process left is overwritten by the next save) and moved there when it is safe on disk: a path holds the
old checkpoint or the new one, at any moment. One process at a time may write to a path.
"""

__all__ = ["CheckpointError", "check_state_matches", "clone_state", "load_checkpoint", "save_checkpoint"]

import hashlib
import io
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.files import replace_atomically

MAGIC = b"pyro_dgm checkpoint "
FORMAT = b"1"
HEADER_BYTES = 200
PLAIN = (type(None), bool, int, float, str)
DICTS = (dict, OrderedDict, Counter)  # the last two as torch's modules and schedulers return them
SHOWN = 8

State = dict[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, read, or used; the message says which, why, and the cure."""


def save_checkpoint(path: str | os.PathLike[str], state: State) -> None:
    """Write a state to a file, whole or not at all.

    Arguments:
        path: The file; its folder must exist. What it held stays there until the new one is safe on disk.
        state: Tensors and plain values (None, bool, int, float, str) in dicts (keys str or int), lists and tuples.

    Raises:
        TypeError: Something else is in the state; raised before a file is touched.
        CheckpointError: The file could not be written (a full disk, no permission).
    """
    buffer = io.BytesIO()
    torch.save(_map_tensors(state, Tensor.detach), buffer)
    payload = buffer.getvalue()
    header = b"%s%s %s %d\n" % (MAGIC, FORMAT, hashlib.sha256(payload).hexdigest().encode(), len(payload))
    path = Path(path)
    try:
        with replace_atomically(path) as draft:
            draft.write_bytes(header + payload)
    except OSError as err:
        raise CheckpointError(
            f"a checkpoint must reach the disk whole; writing {len(payload):,} bytes to {path} failed: "
            f"{err.strerror or err}. Free space or choose another folder; what {path.name} held before is untouched."
        ) from err


def load_checkpoint(path: str | os.PathLike[str]) -> State:
    """Read what `save_checkpoint` wrote; every tensor is on the CPU.

    Raises:
        CheckpointError: The file is missing, foreign, truncated, damaged, or of a newer format.
    """
    path = Path(path)
    payload = _checked_payload(path)
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as err:  # the unpickler raises many kinds
        raise _unreadable(path, "its payload holds more than tensors and plain values") from err
    if not isinstance(state, dict):
        raise _unreadable(path, f"its payload is a {type(state).__name__}, not a dict")
    return state


def clone_state(state: Any) -> Any:
    """Return a copy that later training does not change: new containers, cloned tensors.

    Raises:
        TypeError: The state holds something else than tensors and plain values.
    """
    return _map_tensors(state, lambda tensor: tensor.detach().clone())


def check_state_matches(expected: Any, got: Any, source: str = "the state") -> None:
    """Compare two states before one is loaded over the other.

    The same names (str keys) must be there, and tensors must agree in shape and dtype. Numbered entries (int keys)
    and what is empty on one side are let through, since an optimizer has no state before its first step, and so are
    plain values: a `momentum_buffer` may be None on one side, a learning rate may differ.

    Arguments:
        expected: The state of the object at hand.
        got: The state about to be loaded into it.
        source: Where `got` comes from, for the message.

    Raises:
        CheckpointError: They differ; the message lists missing, unexpected and mis-shaped names.
    """
    differences = list(_differences(expected, got))
    if not differences:
        return
    more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
    raise CheckpointError(
        f"a state goes back only into the architecture and parts it was saved from; {source} differs: "
        f"{'; '.join(differences[:SHOWN] + more)}. Build the same parts, or use the checkpoint that belongs to these."
    )


def _checked_payload(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as err:
        raise _unreadable(path, err.strerror or str(err)) from err
    if not content:
        raise _unreadable(path, "it is empty")
    head, newline, payload = content[:HEADER_BYTES].partition(b"\n")
    payload = content[len(head) + len(newline) :]
    fields = head.removeprefix(MAGIC).split(b" ")
    if not head.startswith(MAGIC):
        raise _unreadable(path, "it is foreign: no pyro_dgm checkpoint (or its first line is damaged)")
    if fields[0] != FORMAT and fields[0].isdigit():
        raise _unreadable(path, f"its format is {fields[0].decode()}, and this pyro_dgm reads {FORMAT.decode()}")
    if not newline or len(fields) != 3 or not fields[2].isdigit():
        raise _unreadable(path, "its first line is damaged")
    if len(payload) < int(fields[2]):
        raise _unreadable(path, f"it is truncated: {len(payload):,} of {int(fields[2]):,} bytes")
    if hashlib.sha256(payload).hexdigest().encode() != fields[1] or len(payload) != int(fields[2]):
        raise _unreadable(path, "it is damaged: its content does not have the digest it was written with")
    return payload


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"a checkpoint is a whole file written by pyro_dgm; {path} cannot be loaded: {why}. "
        "Use another checkpoint of the run (last.ckpt, best.ckpt) or a copy of this one, or start anew."
    )


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor], where: str = "") -> Any:
    """Rebuild a state with its tensors changed; refuse what is neither tensor nor plain."""
    kind = type(value)
    if kind in (Tensor, torch.nn.Parameter):
        return change(value)
    if kind in PLAIN:
        return value
    if kind in (list, tuple):
        return kind(_map_tensors(part, change, f"{where}.{index}") for index, part in enumerate(value))
    if kind in DICTS and all(type(key) in (str, int) for key in value):
        mapped = kind({key: _map_tensors(part, change, f"{where}.{key}") for key, part in value.items()})
        if kind is OrderedDict:  # a module keeps the version of its layout here, as `_metadata`
            vars(mapped).update(_map_tensors(vars(value), change, where))
        return mapped
    raise TypeError(
        "a state holds tensors and plain values (None, bool, int, float, str) in dicts (keys str or int), lists and "
        f"tuples; got {_describe(value)} at {where.removeprefix('.') or 'the top'}. Convert it in state_dict()."
    )


def _describe(value: Any) -> str:
    kind = type(value)
    if kind in DICTS:
        return f"a dict with keys {[key for key in value if type(key) not in (str, int)]}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _differences(expected: Any, got: Any, where: str = "") -> Iterator[str]:
    name = where.removeprefix(".") or "the top"
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        if (expected.shape, expected.dtype) != (got.shape, got.dtype):
            yield f"{name} is {_layout(got)}, not {_layout(expected)}"
    elif isinstance(expected, dict) and isinstance(got, dict):
        yield from _differences_of_dicts(expected, got, where)
    elif isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        if expected and got and len(expected) != len(got):
            yield f"{name} has {len(got)} entries, not {len(expected)}"
        for index, (ours, theirs) in enumerate(zip(expected, got, strict=False)):
            yield from _differences(ours, theirs, f"{where}.{index}")
    elif type(expected) is not type(got) and not isinstance(expected, PLAIN) and not isinstance(got, PLAIN):
        yield f"{name} is a {type(got).__name__}, not a {type(expected).__name__}"


def _differences_of_dicts(expected: State, got: State, where: str) -> Iterator[str]:
    if not expected or not got:
        return
    for key in {**expected, **got}:
        name = f"{where}.{key}"
        if key in expected and key in got:
            yield from _differences(expected[key], got[key], name)
        elif isinstance(key, str):
            yield f"{name.removeprefix('.')} is {'missing' if key in expected else 'unexpected'}"


def _layout(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
