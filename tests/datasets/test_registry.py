"""Facts about data sets by name."""

import pytest

from pyro_dgm import datasets
from pyro_dgm.datasets import NAMES, load, ppca


def test_every_name_is_a_public_function_and_its_own_name():
    assert set(NAMES) < set(datasets.__all__)


@pytest.mark.parametrize("name", ["digits", "ring", "grid", "moons", "pinwheel", "ppca"])
def test_embedded_data_carry_their_name(name):
    assert load(name).name == name


@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize("name", ["binarized_mnist", "jsb_chorales", "tiny_shakespeare", "names"])
def test_real_data_carry_their_name(name):
    assert load(name).name == name


@pytest.mark.parametrize(
    ("name", "near"), [("minst", "mnist"), ("digit", "digits"), ("binarised_mnist", "binarized_mnist")]
)
def test_unknown_name_answers_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"got '{name}'. Did you mean .*{near}"):
        load(name)


def test_name_like_no_other_answers_with_all():
    with pytest.raises(ValueError, match=r"Did you mean digits or mnist or .* or ppca"):
        load("xyzzy")


def test_load_passes_options_on():
    data = load("ppca", features=3, num_train=5)
    assert data.train.x.shape == (5, 3)
    assert data.digest == ppca(features=3, num_train=5).dataset.digest
