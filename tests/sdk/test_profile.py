"""Monitored quantities: what moves when a camera or a sensor does."""

import numpy as np
import pytest

from fieldloop.profile import IMAGE_QUANTITIES, monitored, monitored_names
from fieldloop.signature import FeatureSpec, ImageSpec, Signature, TensorSpec

OUT = TensorSpec(name="label", shape=(-1,), dtype="int32", role="label")


def images(channels=1):
    return Signature(
        task="classification",
        inputs=(TensorSpec(name="x", shape=(-1, 6, 8, channels), dtype="float32"),),
        outputs=(OUT,),
        image=ImageSpec(height=6, width=8, channels=channels),
    )


def quantities(picture):
    values = monitored(images(), np.asarray(picture, dtype=np.float32)[np.newaxis])[0]
    return dict(zip(IMAGE_QUANTITIES, values.tolist(), strict=True))


BLOB = np.zeros((6, 8))
BLOB[2:4, 3:5] = 1.0


def test_a_table_is_monitored_by_its_features():
    tabular = Signature(
        task="classification",
        inputs=(TensorSpec(name="x", shape=(-1, 2), dtype="float32"),),
        outputs=(OUT,),
        features=(FeatureSpec(name="a"), FeatureSpec(name="b")),
    )
    assert monitored_names(tabular) == ("a", "b")
    rows = np.array([[1.0, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(monitored(tabular, rows), rows)


def test_each_fault_of_a_camera_moves_its_quantity():
    plain = quantities(BLOB)
    assert quantities(BLOB + 0.5)["image.mean"] == pytest.approx(plain["image.mean"] + 0.5)
    assert quantities(BLOB * 3)["image.contrast"] == pytest.approx(plain["image.contrast"] * 3)
    blurred = (BLOB + np.roll(BLOB, 1, axis=1)) / 2
    assert quantities(blurred)["image.sharpness"] < plain["image.sharpness"]
    moved = quantities(np.roll(BLOB, (1, 2), axis=(0, 1)))
    assert moved["image.center_row"] == pytest.approx(plain["image.center_row"] + 1)
    assert moved["image.center_column"] == pytest.approx(plain["image.center_column"] + 2)


def test_a_black_picture_and_a_single_column_have_finite_quantities():
    assert np.isfinite(list(quantities(np.zeros((6, 8))).values())).all()
    narrow = Signature(
        task="classification",
        inputs=(TensorSpec(name="x", shape=(-1, 6, 1, 1), dtype="float32"),),
        outputs=(OUT,),
        image=ImageSpec(height=6, width=1, channels=1),
    )
    assert np.isfinite(monitored(narrow, np.ones((2, 6, 1, 1), dtype=np.float32))).all()


def test_flat_rows_colour_and_no_rows_are_taken():
    colour = np.random.default_rng(0).uniform(size=(3, 6, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(
        monitored(images(3), colour), monitored(images(3), colour.reshape(3, -1))
    )
    assert monitored(images(), np.empty((0, 6, 8, 1), dtype=np.float32)).shape == (0, 5)
