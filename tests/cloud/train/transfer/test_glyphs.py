"""The source task: rendered, repeatable, and without the digits it is later used for."""

import numpy as np
import pytest

from fieldloop.errors import ConfigError
from fieldloop_cloud.train.transfer.glyphs import LETTERS, glyphs


def test_letters_are_rendered_evenly_and_the_same_every_time():
    data = glyphs(370, side=12, seed=3)
    assert data.X.shape == (370, 12, 12, 1)
    assert data.X.dtype == np.float32
    assert set(data.class_counts) == {10}
    assert not set(data.labels) & set("0123456789")
    np.testing.assert_array_equal(data.X, glyphs(370, side=12, seed=3).X)
    assert not np.array_equal(data.X, glyphs(370, side=12, seed=4).X)


def test_every_picture_shows_something_and_none_is_full():
    ink = glyphs(1000).X.mean(axis=(1, 2, 3))
    assert ink.min() > 0.03
    assert ink.max() < 0.9


def test_a_letter_can_be_told_from_others_by_its_neighbours():
    seen, asked = glyphs(3700), glyphs(370, seed=1)
    distance = ((asked.flat[:, None] - seen.flat[None]) ** 2).sum(axis=2)
    assert (seen.y[distance.argmin(axis=1)] == asked.y).mean() > 0.6


@pytest.mark.parametrize(
    "options", [{"side": 4}, {"characters": "A"}, {"characters": "AA"}, {"count": 5}]
)
def test_what_cannot_be_rendered_is_refused(options):
    with pytest.raises(ConfigError):
        glyphs(**{"count": 100, "characters": LETTERS} | options)
