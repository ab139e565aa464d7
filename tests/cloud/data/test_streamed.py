"""Images that stay on disk: decoded when read, by the codec, and never before."""

import numpy as np
import pytest
from PIL import Image

from fieldloop.codec import Codec
from fieldloop.errors import DataError
from fieldloop_cloud.data import streamed
from fieldloop_cloud.data.dataset import Dataset


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for number in range(30):
        path = tmp_path / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        size = (12, 9) if number % 3 else (20, 15)
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return tmp_path


def test_what_is_read_is_what_a_device_reads(folder):
    data = Dataset.load(folder, stream=True)
    codec = Codec(data.input_signature)
    for number in (0, 7, 29):
        encoded = codec.encode_row(data.X.paths[number])
        np.testing.assert_array_equal(np.asarray(data.X[[number]]), encoded)
        np.testing.assert_array_equal(data.X[number], encoded[0])
    np.testing.assert_array_equal(np.asarray(data.X), Dataset.load(folder).X)
    assert np.asarray(data.X[3:5], dtype=np.float64).shape == (2, 12, 9, 3)


def test_rows_are_picked_without_decoding(folder):
    data = Dataset.load(folder, stream=True)
    for path in data.X.paths:
        path.write_bytes(b"")
    part = data.take(np.arange(0, 30, 2))
    assert (len(part), part.X.shape) == (15, (15, 12, 9, 3))
    assert data.X.paths[::2] == part.X.paths
    with pytest.raises(DataError, match=r"cannot be read.*00\.png"):
        np.asarray(part.X)


def test_copies_are_found_by_their_bytes(folder):
    (folder / "a" / "copy.png").write_bytes((folder / "a" / "00.png").read_bytes())
    data = Dataset.load(folder, stream=True)
    assert any(note.startswith("1 rows repeat another row") for note in data.notes)


def test_more_than_memory_holds_is_refused_as_an_array(folder, monkeypatch):
    data = Dataset.load(folder, stream=True)
    monkeypatch.setattr(streamed, "MAX_DECODED_BYTES", 10_000)
    assert np.asarray(data.X[:2]).shape[0] == 2
    with pytest.raises(DataError, match=r"30 images .* do not fit in memory"):
        np.asarray(data.X)


def test_a_file_that_is_gone_is_named(folder):
    data = Dataset.load(folder, stream=True)
    data.X.paths[4].unlink()
    for read in (data.X.copies, lambda: data.X[4]):
        with pytest.raises(DataError, match=f"cannot be read.*{data.X.paths[4].name}"):
            read()
