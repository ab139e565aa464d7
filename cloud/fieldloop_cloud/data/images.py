"""Image folders: one sub-folder a class.

Sizes and colours are read first, so that one preprocessing fits all; then every picture goes
through the codec, as it will on the device.
"""

from collections import Counter
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fieldloop.codec import Codec
from fieldloop.errors import DataError, FieldloopError
from fieldloop.signature import ImageSpec, Signature, TensorSpec
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.streamed import StreamedImages

SUFFIXES: frozenset[str] = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
)

MAX_ENCODED_BYTES = 4 << 30
"""Rows are held in memory; more than this belongs to a smaller `image_size`."""

_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"P", "RGB", "RGBA", "CMYK", "YCbCr"})


def load_folder(
    folder: Path, *, image_size: tuple[int, int] | None = None, stream: bool = False
) -> Dataset:
    """Load `folder/<class>/<image>`; mixed sizes become `image_size` or the commonest.

    Args:
        folder: Where the class folders are.
        image_size: (height, width); None for the commonest.
        stream: Leave the images on disk, to be decoded when they are read.

    Raises:
        DataError: Fewer than two class folders, an empty one, a file that is not an image (it is
            named), or more pixels than fit in memory.
    """
    classes = sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(classes) < 2:  # noqa: PLR2004 - one class is no choice
        raise DataError(
            f"there are {len(classes)} class folders",
            where=str(folder),
            advice="Put the images of each class into a sub-folder with the class's name.",
        )
    files: list[Path] = []
    y: list[int] = []
    skipped = 0
    for index, entry in enumerate(classes):
        inside = sorted(path for path in entry.iterdir() if not path.is_dir())
        images = [path for path in inside if path.suffix.lower() in SUFFIXES]
        skipped += len(inside) - len(images)
        if not images:
            raise DataError(
                "a class folder holds no images",
                where=str(entry),
                advice=f"Fill it or remove it; known are {', '.join(sorted(SUFFIXES))}.",
            )
        files += images
        y += [index] * len(images)
    spec, notes = _common_spec(files, image_size)
    if skipped:
        notes = (*notes, f"{skipped} files that are not images were left out.")
    return Dataset(
        name=folder.name,
        kind="image",
        task="classification",
        X=_streamed(files, spec) if stream else _encode(files, spec, str(folder)),
        y=np.asarray(y, dtype=np.int64),
        labels=tuple(entry.name for entry in classes),
        image=spec,
        notes=notes,
    )


def _streamed(files: list[Path], spec: ImageSpec) -> NDArray[np.float32]:
    # It answers as an array does, and becomes one where it is used as one.
    return cast("NDArray[np.float32]", StreamedImages(tuple(files), spec))


def _common_spec(
    files: list[Path], image_size: tuple[int, int] | None
) -> tuple[ImageSpec, tuple[str, ...]]:
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    for path in files:
        try:
            with Image.open(path) as image:
                sizes[(image.height, image.width)] += 1
                modes[image.mode] += 1
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise _broken(path, error) from error
        if image.mode not in _GREY_MODES | _COLOUR_MODES:
            raise DataError(
                f"images of mode {image.mode} are not known",
                where=str(path),
                advice="Convert it to 8 bits a channel.",
            )
    height, width = image_size or sizes.most_common(1)[0][0]
    channels: Literal[1, 3] = 1 if set(modes) <= _GREY_MODES else 3
    resized = sum(sizes.values()) - sizes[(height, width)]
    notes = (f"{resized} images are resized to {height} x {width}.",) if resized else ()
    spec = ImageSpec(height=height, width=width, channels=channels, scale=1.0 / 255.0)
    return spec, notes


def _encode(files: list[Path], spec: ImageSpec, where: str) -> NDArray[np.float32]:
    shape = (len(files), spec.height, spec.width, spec.channels)
    if np.prod(shape, dtype=np.float64) * 4 > MAX_ENCODED_BYTES:
        raise DataError(
            f"{shape[0]} images of {shape[1]} x {shape[2]} do not fit in memory",
            where=where,
            advice="Give a smaller image_size.",
        )
    tensor = TensorSpec(name="x", shape=(-1, *shape[1:]), dtype="float32")
    answer = TensorSpec(name="label", shape=(-1,), dtype="int32", role="label")
    signature = Signature(task="classification", inputs=(tensor,), outputs=(answer,), image=spec)
    codec = Codec(signature)
    X = np.empty(shape, dtype=np.float32)
    for row, path in enumerate(files):
        try:
            X[row] = codec.encode_row(path)[0]
        except (FieldloopError, OSError) as error:
            raise _broken(path, error) from error
    return X


def _broken(path: Path, error: Exception) -> DataError:
    reason = error.what if isinstance(error, FieldloopError) else str(error)
    if isinstance(error, UnidentifiedImageError):
        reason = "this is not an image, or a damaged one"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror  # without the path, which `where` names
    return DataError(
        f"an image cannot be read: {reason}",
        where=str(path),
        advice="Repair it or take it out of the folder.",
    )
