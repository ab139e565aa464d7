"""Images become the same tensor however they are given."""

import importlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fieldloop import decoding
from fieldloop.codec import Codec
from fieldloop.errors import DataError, EnvironmentFaultError, SignatureError
from fieldloop.signature import ImageSpec, Signature, TensorSpec


def codec(*, shape=None, **changes):
    spec = ImageSpec(**{"height": 8, "width": 8, "channels": 1} | changes)
    shape = shape or (-1, spec.height, spec.width, spec.channels)
    return Codec(
        Signature(
            task="classification",
            inputs=(TensorSpec(name="x", shape=shape, dtype="float32"),),
            outputs=(TensorSpec(name="label", shape=(-1,), dtype="int32", role="label"),),
            image=spec,
        )
    )


def png(array, *, kind="PNG", mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


GREY = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def test_every_spelling_of_an_image_gives_the_same_tensor(tmp_path):
    path = tmp_path / "grey.png"
    path.write_bytes(png(GREY))
    expected = GREY.astype(np.float32)[np.newaxis, :, :, np.newaxis]
    one = codec()
    spellings = [
        GREY,
        GREY[:, :, np.newaxis],
        GREY.astype(np.float64),
        GREY.tolist(),
        GREY.ravel(),
        GREY.ravel().tolist(),
        np.repeat(GREY[:, :, np.newaxis], 3, axis=2),
        png(GREY),
        bytearray(png(GREY)),
        png(GREY, mode="RGB"),
        png(GREY, kind="BMP"),
        str(path),
        path,
    ]
    for raw in spellings:
        encoded = one.encode_row(raw)
        assert encoded.dtype == np.float32
        np.testing.assert_allclose(encoded, expected, atol=1e-3)
        np.testing.assert_array_equal(one.encode_rows([raw, raw])[1], encoded[0])
    assert one.encode_rows([]).shape == (0, 8, 8, 1)
    np.testing.assert_array_equal(one.encode_rows(np.stack([GREY, GREY])), [expected[0]] * 2)


def test_a_classical_model_gets_the_image_as_a_flat_row():
    flat = codec(shape=(-1, 64)).encode_row(GREY)
    assert flat.shape == (1, 64)
    np.testing.assert_array_equal(flat[0], GREY.ravel())
    with pytest.raises(SignatureError, match="does not fit"):
        codec(shape=(-1, 63))


def test_scale_and_offset_are_applied_last():
    encoded = codec(scale=1 / 127.5, offset=-1.0).encode_row(GREY)
    np.testing.assert_allclose(encoded[0, :, :, 0], GREY / 127.5 - 1.0, atol=1e-6)


def test_the_users_array_is_not_touched():
    given = GREY.astype(np.float32)
    before = given.copy()
    codec(scale=0.5, offset=3.0).encode_row(given)
    codec(scale=0.5, offset=3.0).encode_rows(given[np.newaxis])
    np.testing.assert_array_equal(given, before)


def test_files_are_brought_to_the_models_range():
    np.testing.assert_allclose(
        codec(max_value=16.0).encode_row(png(GREY))[0, :, :, 0], GREY / 255 * 16, atol=1e-4
    )


def test_sixteen_bit_grey_keeps_its_range():
    deep = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    np.testing.assert_allclose(
        codec().encode_row(png(deep))[0, :, :, 0], deep / 65535 * 255, atol=0.01
    )


def test_colour_becomes_grey_as_pillow_does_it_and_grey_becomes_colour():
    picture = COLOUR[:8, :8]
    expected = np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32)
    np.testing.assert_allclose(codec().encode_row(picture)[0, :, :, 0], expected, atol=1.0)
    as_colour = codec(channels=3).encode_row(GREY)
    np.testing.assert_array_equal(as_colour[0], np.repeat(GREY[:, :, np.newaxis], 3, axis=2))
    alpha = np.dstack([picture, np.full((8, 8), 7, dtype=np.uint8)])
    np.testing.assert_array_equal(codec(channels=3).encode_row(alpha)[0], picture)


@pytest.mark.parametrize("size", [(6, 9), (12, 20), (30, 31), (3, 40), (1, 1)])
def test_bilinear_is_pillows_filter(size):
    height, width = size
    encoded = codec(height=height, width=width, channels=3).encode_row(COLOUR)[0]
    resized = Image.fromarray(COLOUR).resize((width, height), Image.Resampling.BILINEAR)
    # Pillow rounds to whole levels after each of its two passes.
    np.testing.assert_allclose(encoded, np.asarray(resized, dtype=np.float32), atol=1.01)


@pytest.mark.parametrize("size", [(6, 10), (24, 40), (5, 7)])
def test_nearest_is_pillows_too(size):
    height, width = size
    encoded = codec(height=height, width=width, channels=3, resize="nearest").encode_row(COLOUR)[0]
    resized = Image.fromarray(COLOUR).resize((width, height), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(encoded, np.asarray(resized))


def test_a_constant_stays_constant_under_any_resize():
    flat = np.full((17, 5), 200, dtype=np.uint8)
    for resize in ("bilinear", "nearest"):
        np.testing.assert_allclose(codec(resize=resize).encode_row(flat), 200.0, rtol=1e-5)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        5,
        [],
        {},
        [["a"]],
        [[1, 2], [3]],
        np.zeros((2, 2, 2)),
        np.zeros((2, 2, 2, 2)),
        np.zeros(63),
        np.zeros((0, 8)),
        np.full((8, 8), 256.0),
        np.full((8, 8), -1.0),
        np.full((8, 8), np.nan),
        np.full((8, 8), np.inf),
    ],
    ids=range(14),
)
def test_what_is_not_an_image_is_refused(raw):
    with pytest.raises(SignatureError) as caught:
        codec().encode_row(raw)
    assert caught.value.advice
    with pytest.raises(SignatureError, match="row 1"):
        codec().encode_rows([GREY, raw])


@pytest.mark.parametrize("raw", [None, 5, b"abc", "abc.png"])
def test_a_single_image_is_not_a_batch(raw):
    with pytest.raises(SignatureError):
        codec().encode_rows(raw)


@pytest.mark.parametrize(
    "content", [b"", b"hello", png(GREY)[:-30], b"\x89PNG\r\n\x1a\n" + b"\0" * 50], ids=range(4)
)
def test_a_file_that_is_no_image_or_a_damaged_one_is_refused(content, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not an image"):
        codec().encode_row(content)
    with pytest.raises(DataError, match=r"broken\.png"):
        codec().encode_row(path)


def test_a_path_that_leads_nowhere_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        codec().encode_row(tmp_path / "missing.png")
    with pytest.raises(DataError, match="cannot be read"):
        codec().encode_row(tmp_path)


def test_a_small_file_with_an_enormous_picture_is_refused(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 63)
    with pytest.raises(DataError, match="too many pixels"):
        codec().encode_row(png(GREY))


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="too many pixels"):
        codec().encode_row(png(GREY))


@pytest.fixture
def lacking(monkeypatch):
    """Pretend that libraries are not installed."""
    real = importlib.import_module

    def lack(*names):
        def lookup(name, *args, **kwargs):
            if name.partition(".")[0] in names:
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(importlib, "import_module", lookup)

    return lack


def test_without_a_library_files_name_the_extra_and_arrays_still_work(lacking):
    lacking("PIL", "cv2")
    with pytest.raises(EnvironmentFaultError, match=r"fieldloop-device\[image\]"):
        codec().encode_row(png(GREY))
    assert codec().encode_row(GREY).shape == (1, 8, 8, 1)


DEEP = np.random.default_rng(2).integers(0, 65_536, (9, 7), dtype=np.uint16)
SMOOTH = np.stack(np.meshgrid(np.arange(0, 240, 5), np.arange(0, 240, 5)), axis=2).astype(np.uint8)
SMOOTH = np.dstack([SMOOTH, SMOOTH[:, :, 0] // 2])


@pytest.mark.parametrize(
    "content",
    [
        png(GREY),
        png(COLOUR),
        png(GREY, kind="BMP"),
        png(COLOUR, kind="BMP"),
        png(COLOUR, kind="TIFF"),
        png(DEEP),
        png(COLOUR, mode="RGBA"),
        png(GREY, mode="1"),
        png(COLOUR, mode="P"),
    ],
    ids=["grey", "colour", "bmp-grey", "bmp", "tiff", "deep", "alpha", "bits", "palette"],
)
def test_opencv_decodes_as_pillow_does(content, lacking):
    for channels in (1, 3):
        one = codec(channels=channels)
        expected = one.encode_row(content)
        lacking("PIL")
        np.testing.assert_allclose(one.encode_row(content), expected, atol=1e-4)
        lacking()


def test_jpeg_differs_by_a_rounding_at_most(lacking):
    content = png(SMOOTH, kind="JPEG")
    one = codec(height=48, width=48, channels=3)
    expected = one.encode_row(content)
    lacking("PIL")
    difference = np.abs(one.encode_row(content) - expected)
    assert difference.max() <= 4
    assert difference.mean() <= 0.5


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, png(GREY)[:-30]], ids=range(4)
)
def test_opencv_refuses_what_is_no_image(content, lacking):
    lacking("PIL")
    with pytest.raises(DataError, match="not an image"):
        codec().encode_row(content)


def test_opencv_refuses_an_enormous_picture():
    code = (
        "import importlib, sys\n"
        "sys.modules['PIL'] = sys.modules['PIL.Image'] = None\n"
        "from fieldloop import decoding\n"
        "decoding.MAX_PIXELS = 63\n"
        "try:\n"
        "    decoding.decode_picture(sys.stdin.buffer.read())\n"
        "except decoding.DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=png(GREY), capture_output=True, check=True
    )
    assert b"too many pixels" in done.stdout, done.stderr
