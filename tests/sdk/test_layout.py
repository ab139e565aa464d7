"""Rows of several inputs: encoded side by side, cut apart into tensors."""

import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fieldloop.codec import Codec
from fieldloop.errors import SignatureError, UnsupportedError
from fieldloop.layout import layout
from fieldloop.profile import IMAGE_QUANTITIES, monitored, monitored_names
from fieldloop.signature import FeatureSpec, ImageSpec, Signature, TensorSpec

OUT = TensorSpec(name="value", shape=(-1, 1), dtype="float32", role="value")
INPUTS = (
    TensorSpec(name="wave", shape=(-1, 3, 2), dtype="float32"),
    TensorSpec(name="token", shape=(-1, 1), dtype="int32"),
    TensorSpec(name="picture", shape=(-1, 4, 2, 1), dtype="int8", scale=(1.0,), zero_point=(-128,)),
    TensorSpec(name="weather", shape=(-1, 2), dtype="float32"),
)
SIGNATURE = Signature(
    task="regression",
    inputs=INPUTS,
    outputs=(OUT,),
    features=(FeatureSpec(name="sky", categories=("clear", "rain")), FeatureSpec(name="t", high=9)),
    image=ImageSpec(height=4, width=2, channels=1),
)
CODEC = Codec(SIGNATURE)
ROW = {
    "wave": np.arange(6.0).reshape(3, 2),
    "token": 5,
    "picture": np.full((4, 2), 200),
    "weather": {"t": 10.5, "sky": "rain"},
}


def test_every_input_gets_its_tensor():
    rows, outside = CODEC.admit(ROW)
    assert rows.shape == (1, 6 + 1 + 8 + 2)
    wave, token, picture, weather = CODEC.tensors(rows)
    assert wave.tolist() == [ROW["wave"].tolist()]
    assert (token.dtype, token.tolist()) == (np.int32, [[5]])
    assert (picture.shape, picture.dtype, picture.flat[0]) == ((1, 4, 2, 1), np.int8, 72)
    assert weather.tolist() == [[1.0, 10.5]]
    answer = CODEC.decode([np.array([[1.0]], np.float32)], outside=[outside])[0]
    assert (answer.value, answer.out_of_range) == (1.0, ("t",))


@given(arrays(np.float32, (3, 6), elements=st.floats(-9, 9, width=32)), st.integers(0, 3))
def test_a_batch_by_input_is_the_rows_one_by_one(waves, count):
    waves = waves[:count].reshape(count, 3, 2)
    whole = {
        "wave": waves,
        "token": np.arange(count),
        "picture": np.zeros((count, 4, 2)),
        "weather": [("clear", 1.0)] * count,
    }
    each = [{name: values[row] for name, values in whole.items()} for row in range(count)]
    rows = CODEC.encode_rows(whole)
    assert rows.shape == (count, 17)
    np.testing.assert_array_equal(rows, CODEC.encode_rows(each))
    np.testing.assert_array_equal(rows, CODEC.encode_rows([tuple(row.values()) for row in each]))
    for row, one in zip(rows, each, strict=True):
        np.testing.assert_array_equal(CODEC.encode_row(one)[0], row)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token": 1.5}, "input token.*whole numbers"),
        ({"token": 2**24 + 1}, "input token.*whole numbers"),
        ({"wave": np.zeros((2, 3))}, "input wave"),
        ({"weather": ("snow", 1.0)}, "input weather, feature 'sky'"),
        ({"picture": np.full((4, 2), 999)}, "input picture"),
        ({"other": 1}, "look at other"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    with pytest.raises(SignatureError) as caught:
        CODEC.encode_row({**ROW, **change})
    assert re.search(said, f"{caught.value.where} {caught.value}")
    with pytest.raises(SignatureError):
        CODEC.encode_rows([ROW, {**ROW, **change}])


@pytest.mark.parametrize("raw", [[1, 2], "abc", 5, np.zeros(17)])
def test_what_is_no_row_of_several_inputs_is_refused(raw):
    with pytest.raises(SignatureError, match="inputs of the model"):
        CODEC.encode_row(raw)
    with pytest.raises(SignatureError):
        CODEC.encode_rows(raw)


def test_inputs_with_different_numbers_of_rows_are_refused():
    with pytest.raises(SignatureError, match="different numbers of rows"):
        CODEC.encode_rows(
            {
                "wave": np.zeros((2, 3, 2)),
                "token": [1],
                "picture": np.zeros((2, 4, 2)),
                "weather": [("clear", 1)] * 2,
            }
        )


def test_the_picture_and_the_features_are_monitored():
    rows = CODEC.encode_rows([ROW, ROW])
    names = monitored_names(SIGNATURE)
    assert names == (*IMAGE_QUANTITIES, "sky", "t")
    values = monitored(SIGNATURE, rows)
    assert values[:, [names.index("image.mean"), -2, -1]].tolist() == [[200.0, 1.0, 10.5]] * 2
    bare = msgspec.structs.replace(SIGNATURE, features=(), image=None)
    assert monitored(bare, rows).shape == (2, 0)


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        ((INPUTS[0], INPUTS[1]), SignatureError, "features could be 0 of the 2 inputs"),
        (
            (INPUTS[2], INPUTS[3], msgspec.structs.replace(INPUTS[3], name="more")),
            SignatureError,
            "features could be 2 of the 3",
        ),
        ((INPUTS[3], INPUTS[0]), SignatureError, "image could be 0"),
        (
            (msgspec.structs.replace(INPUTS[0], shape=(-1, -1, 2)), *INPUTS[1:]),
            UnsupportedError,
            "no fixed size",
        ),
    ],
)
def test_inputs_that_cannot_be_told_apart_are_refused(inputs, error, said):
    signature = msgspec.structs.replace(SIGNATURE, inputs=inputs)
    for make in (layout, Codec):
        with pytest.raises(error, match=said):
            make(signature)
