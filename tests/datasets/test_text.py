"""Facts about the running text, the names and the molecules."""

import itertools
import random

import pytest
import torch

from pyro_dgm.datasets import decode, names, qm9_smiles, text, tiny_shakespeare


@pytest.mark.parametrize("strings", [["ab", "b", "cab"], ["ab", "ba"]])
def test_codes_decode_to_the_strings_and_zero_is_padding(strings):
    codes, vocabulary = text._encode(strings)
    assert decode(codes, vocabulary) == strings
    assert vocabulary == ("", *sorted(set("".join(strings))))
    assert (codes > 0).sum(dim=1).tolist() == [len(string) for string in strings]


def test_one_row_of_codes_decodes_to_one_string():
    assert decode(torch.tensor([1, 0]), ("a", "b")) == ["ba"]


@pytest.mark.parametrize("code", [-1, 2])
def test_code_outside_the_vocabulary_is_refused(code):
    with pytest.raises(ValueError, match=f"codes must be 0 to 1.* got {code}"):
        decode(torch.tensor([[0, code]]), ("a", "b"))


@pytest.mark.usefixtures("real_data")
def test_shakespeare_is_split_contiguously():
    data = tiny_shakespeare()
    parts = [data.train.x, data.valid.x, data.test.x]
    assert [len(part) for part in parts] == [1_003_854, 55_770, 55_770]
    assert len(data.vocabulary) == 65
    whole = decode(torch.cat(parts), data.vocabulary)[0]
    assert whole.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
    assert whole.endswith("Whiles thou art waking.\n")


@pytest.mark.usefixtures("real_data")
def test_names_are_split_as_in_the_makemore_lectures():
    data = names()
    parts = [decode(part.x, data.vocabulary) for part in (data.train, data.valid, data.test)]
    words = sorted(itertools.chain(*parts))
    n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
    assert [len(part) for part in parts] == [n1, n2 - n1, len(words) - n2]
    assert (len(words), len(set(words)), words[0], words[-1]) == (32_033, 29_494, "aaban", "zzyzx")
    assert data.vocabulary == ("", *"abcdefghijklmnopqrstuvwxyz")
    state = random.getstate()
    names()
    assert random.getstate() == state


@pytest.mark.usefixtures("real_data")
def test_molecules_are_split_by_the_seed_alone():
    data, same, other = qm9_smiles(seed=1), qm9_smiles(seed=1), qm9_smiles(seed=2)
    assert [len(part.x) for part in (data.train, data.valid, data.test)] == [113_247, 10_000, 10_000]
    assert torch.equal(data.test.x, same.test.x)
    assert not torch.equal(data.test.x, other.test.x)
    smiles = decode(torch.cat([data.train.x, data.valid.x, data.test.x]), data.vocabulary)
    assert {"C", "N", "O", "C#C", "C#N", "C=O"} < set(smiles)
    assert "smiles" not in smiles
    assert data.train.lengths.max() <= data.event_shape[0] == data.train.x.shape[1]
