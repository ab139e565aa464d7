import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_cloud.fleet.simulate import SensorChange


def _images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 16, (4, 8, 8, 1)).astype(np.float32)


def test_no_change_changes_nothing():
    images = _images()
    changed = SensorChange().apply(images, max_value=16, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(changed, images)


@given(rows=st.integers(-3, 3), columns=st.integers(-3, 3))
def test_a_shift_moves_every_pixel_that_stays_in_the_frame(rows, columns):
    images = _images()
    moved = SensorChange(shift_rows=rows, shift_columns=columns).apply(
        images, max_value=16, rng=np.random.default_rng(1)
    )
    for row in range(8):
        for column in range(8):
            source = row - rows, column - columns
            inside = all(0 <= index < 8 for index in source)
            expected = images[:, source[0], source[1]] if inside else 0.0
            np.testing.assert_array_equal(moved[:, row, column], expected)


@given(
    contrast=st.floats(0, 2),
    brightness=st.floats(-1, 1),
    noise=st.floats(0, 1),
    seed=st.integers(0),
)
def test_values_stay_in_range(contrast, brightness, noise, seed):
    change = SensorChange(contrast=contrast, brightness=brightness, noise=noise)
    changed = change.apply(_images(), max_value=16, rng=np.random.default_rng(seed))
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 16


def test_the_same_seed_gives_the_same_noise():
    change = SensorChange(noise=0.1)
    first, second = (
        change.apply(_images(), max_value=16, rng=np.random.default_rng(3)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
