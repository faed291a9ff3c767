"""Facts about the Dataset record and the digest of contents."""

import hashlib

import pytest
import torch

from pyro_dgm.datasets import Dataset, Split, content_digest


def make(**changes):
    part = Split(torch.zeros(3, 2))
    fields = {
        "name": "mine",
        "train": part,
        "valid": part,
        "test": part,
        "digest": "0" * 64,
        "protocol": "mine",
        "event_shape": (2,),
        "kind": "real",
    }
    return Dataset(**{**fields, **changes})


def test_digest_is_the_sha256_of_all_bytes_in_order():
    assert content_digest(b"ab", b"c") == hashlib.sha256(b"abc").hexdigest()
    assert content_digest(torch.tensor([97, 98], dtype=torch.uint8), b"c") == hashlib.sha256(b"abc").hexdigest()


def test_repr_is_one_line():
    assert repr(make()) == "Dataset('mine', 3 + 3 + 3 rows of (2,) real, sha256 000000000000…)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gray"}, "kind must be one of .* got 'gray'"),
        ({"event_shape": (3,)}, r"event_shape \(3,\); got train.x of shape \(3, 2\)"),
        ({"test": Split(torch.zeros(0, 2))}, r"N at least 1.* got test.x of shape \(0, 2\)"),
    ],
)
def test_record_that_contradicts_its_tensors_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
