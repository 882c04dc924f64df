import keras
import numpy as np
import pytest

from tf_mrsr.conversion.tensors import assign, translate
from tf_mrsr.errors import ModelError

TABLE = {r"first": "c", r"block(?P<n>\d+)_conv(?P<i>\d)": "c{i}/{before}", r"up(?P<n>\d+)": "u{n}"}


@pytest.mark.parametrize(
    ("ours", "theirs"), [("first", "c"), ("block1_conv2", "c2/0"), ("block12_conv1", "c1/11"), ("up3", "u3")]
)
def test_translate(ours, theirs):
    assert translate(TABLE, ours) == theirs


@pytest.mark.parametrize("ours", ["first_bn", "block1_conv2_bn", "xfirst"])
def test_names_are_translated_whole(ours):
    with pytest.raises(KeyError):
        translate(TABLE, ours)


def dense():
    source = keras.Input((2,))
    return keras.Model(source, keras.layers.Dense(3, name="d")(source))


NAMES = {"d/kernel": "W", "d/bias": "b"}


def test_assign(tmp_path):
    model = dense()
    assign(model, NAMES, {"b": np.arange(3.0), "W": np.ones((2, 3))}, tmp_path)
    np.testing.assert_array_equal(model(np.ones((1, 2))), [[2, 3, 4]])


def test_every_fault_is_listed_and_nothing_assigned(tmp_path):
    model = dense()
    before = model.get_weights()
    with pytest.raises(ModelError) as refused:
        assign(model, NAMES, {"W": np.ones((3, 2)), "step": np.ones(())}, tmp_path)
    assert "b is missing; step is left over; W is (3, 2) instead of (2, 3);" in str(refused.value)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_values_are_finite(tmp_path):
    with pytest.raises(ModelError, match="b has NaN or infinite values"):
        assign(dense(), NAMES, {"b": np.array([0, np.nan, 1]), "W": np.ones((2, 3))}, tmp_path)


def test_a_long_list_is_cut(tmp_path):
    with pytest.raises(ModelError, match="t19 is left over; and 5 more; choose"):
        assign(dense(), {}, {f"t{i}": np.zeros(1) for i in range(25)}, tmp_path)
