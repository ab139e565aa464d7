"""Every source that `Dataset.load` takes, by what the source looks like."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, DataError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.data.checks import usable
from fieldloop_cloud.data.columns import encode_target
from fieldloop_cloud.data.dataset import Dataset, DataTask, Kind
from fieldloop_cloud.data.images import load_folder
from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.tables import dataset_from_frame, read_table
from fieldloop_cloud.data.windows import Windowing, windows_from_arrays

BUNDLED: tuple[str, ...] = ("digits", "iris", "wine", "breast_cancer", "diabetes")
"""Names after `sklearn:`."""


def load(
    source: str | Path,
    target: str | None,
    *,
    task: DataTask | None,
    drop: Sequence[str],
    categorical: Sequence[str],
    image_size: tuple[int, int] | None,
    group: str | None = None,
    time: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    kind: Kind | None = None,
    stream: bool = False,
) -> Dataset:
    """Load, check and return a data set; see `Dataset.load`.

    Raises:
        ConfigError: An option that this kind of source does not have.
        DataError: The source cannot be used.
    """
    _check_form(source, image_size)
    text = str(source)
    of_tables: dict[str, Any] = {"target": target, "drop": drop, "categorical": categorical}
    beside: dict[str, Any] = {"group": group, "time": time}
    cut: dict[str, Any] = {"window": window, "stride": stride}
    if text.startswith("sklearn:"):
        if image_size is not None:
            raise _not_a_folder(text)
        _refuse_options(text, task=task, **of_tables, **beside, **cut, kind=kind, stream=stream)
        return usable(_load_bundled(text.removeprefix("sklearn:")), where=text)
    path = Path(source)
    if not path.exists():
        raise DataError(
            "there is no such file or folder",
            where=text,
            advice=f"Check the path, or use one of sklearn:{{{','.join(BUNDLED)}}}.",
        )
    if path.is_dir():
        _refuse_options(text, task=task, **of_tables, **beside, **cut, kind=kind)
        return usable(load_folder(path, image_size=image_size, stream=stream), where=text)
    if image_size is not None:
        raise _not_a_folder(text)
    if stream:
        raise ConfigError(
            "only a folder of images is streamed", where=text, advice="Leave `stream` out here."
        )
    if path.suffix.lower() == ".npz":
        _refuse_options(text, **of_tables, **cut)
        return usable(_load_npz(path, task=task, kind=kind, **beside), where=text)
    _refuse_options(text, kind=kind)
    if window is None:
        _refuse_options(text, stride=stride)
    windowing = None if window is None else Windowing(window, stride)
    dataset = dataset_from_frame(
        read_table(path),
        name=path.stem,
        where=text,
        task=task,
        windowing=windowing,
        **of_tables,
        **beside,
    )
    return usable(dataset, where=text)


def _check_form(source: object, image_size: tuple[int, int] | None) -> None:
    if not isinstance(source, (str, Path)):
        raise ConfigError(
            "a data set is loaded from a path or from sklearn:NAME",
            where=type(source).__name__,
            advice="Give a str or a Path.",
        )
    if image_size is not None and min(image_size) < 1:
        raise ConfigError(
            f"an image of {image_size[0]} x {image_size[1]} pixels has no content",
            where="image size",
            advice="Give a height and a width of at least 1.",
        )


def _not_a_folder(where: str) -> ConfigError:
    return ConfigError(
        "an image size is for folders of images", where=where, advice="Leave it out here."
    )


def _refuse_options(where: str, **options: Any) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"this source does not take {', '.join(given)}",
            where=where,
            advice="These are for tables (.csv, .parquet).",
        )


def _load_bundled(name: str) -> Dataset:
    if name not in BUNDLED:
        raise DataError(
            f"scikit-learn bundles no set '{name}' that is known here",
            advice=f"Use one of: {', '.join(BUNDLED)}.",
        )
    from sklearn import datasets  # noqa: PLC0415 - a second of import time, only when asked for

    loader: Callable[[], Any] = getattr(datasets, f"load_{name}")
    bunch = loader()
    if name == "digits":
        return from_arrays(bunch.images, bunch.target, name=name, max_value=16.0)
    frame = pd.DataFrame(bunch.data, columns=[str(column) for column in bunch.feature_names])
    if name == "diabetes":
        return dataset_from_frame(
            frame.assign(progression=bunch.target),
            "progression",
            name=name,
            where=f"sklearn:{name}",
            task="regression",
        )
    names = np.asarray([str(label) for label in bunch.target_names])
    return dataset_from_frame(
        frame.assign(target=names[bunch.target]), "target", name=name, where=f"sklearn:{name}"
    )


def _load_npz(
    path: Path,
    *,
    task: DataTask | None,
    kind: Kind | None,
    group: str | None,
    time: str | None,
) -> Dataset:
    try:
        # Opened here: NumPy leaves its own file open when the archive is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")  # noqa: TRY301, TRY004 - typed below
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"this .npz file cannot be read: {error}",
            where=str(path),
            advice="Write it with numpy.savez(path, X=..., y=...) and no object arrays.",
        ) from error
    missing = [name for name in ("X", "y", group, time) if name is not None and name not in arrays]
    if missing:
        raise DataError(
            f"arrays missing: {', '.join(missing)}; there are: {', '.join(arrays) or 'none'}",
            where=str(path),
            advice="Write it with numpy.savez(path, X=..., y=...).",
        )
    dataset = from_arrays(
        arrays["X"],
        arrays["y"],
        name=path.stem,
        where=str(path),
        task=task,
        kind=kind,
        feature_names=_names(arrays, "feature_names"),
        channel_names=_names(arrays, "channel_names"),
    )
    return related(
        dataset,
        groups=None if group is None else arrays[group],
        times=None if time is None else arrays[time],
        where=str(path),
    )


def _names(arrays: dict[str, NDArray[Any]], key: str) -> list[str] | None:
    names = arrays.get(key)
    return None if names is None else [str(item) for item in np.atleast_1d(names).flat]


def from_arrays(
    X: NDArray[Any],
    y: NDArray[Any],
    *,
    name: str = "arrays",
    where: str = "",
    task: DataTask | None = None,
    kind: Kind | None = None,
    feature_names: Sequence[str] | None = None,
    channel_names: Sequence[str] | None = None,
    max_value: float | None = None,
) -> Dataset:
    """Build a data set from arrays.

    Args:
        X: (n, features) for a table; (n, height, width[, 1 or 3]) for images; (n, steps, channels)
            for windows of sensor readings, which `kind` or `channel_names` must say.
        y: (n,) labels or numbers.
        name: For people.
        where: For error messages.
        task: Says whether classes or numbers are predicted, where `y` leaves it open.
        kind: What the rows are; by default what the dimensions say.
        feature_names: Column names; `x0`, `x1`, … by default.
        channel_names: Names of a window's channels; `c0`, `c1`, … by default.
        max_value: Largest value of an image; by default 255 for uint8, else the largest seen.

    Raises:
        DataError: Shapes or types that do not fit.
    """
    place = where or name
    X, y = np.asarray(X), np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:  # noqa: PLR2004 - a column vector is one target
        y = y[:, 0]
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.ndim != 1 or X.ndim == 0 or len(X) != len(y):
        raise DataError(
            f"X has shape {X.shape} and y has shape {y.shape}; y needs one value a row",
            where=place,
            advice="Give as many targets as rows, in one dimension.",
        )
    if not (np.issubdtype(X.dtype, np.number) or X.dtype == np.bool_) or np.iscomplexobj(X):
        raise DataError(
            f"X holds {X.dtype} where real numbers are needed",
            where=place,
            advice="Convert it to float32, or use a table with named columns.",
        )
    if kind == "series" or channel_names is not None:
        return windows_from_arrays(X, y, name=name, where=place, task=task, channels=channel_names)
    if kind == "image" and X.ndim not in (3, 4):
        raise DataError(
            f"X has {X.ndim} dimensions, images have 3 or 4",
            where=place,
            advice="Reshape it to (rows, height, width), or leave the kind out for a table.",
        )
    if X.ndim in (3, 4) and kind != "tabular":
        return _from_images(X, y, name=name, where=place, task=task, max_value=max_value)
    if X.ndim != 2:  # noqa: PLR2004 - a table
        raise DataError(
            f"X has {X.ndim} dimensions",
            where=place,
            advice="Give 2 for a table, 3 or 4 for images.",
        )
    columns = list(feature_names or [f"x{i}" for i in range(X.shape[1])])
    if len(columns) != X.shape[1]:
        raise DataError(
            f"there are {len(columns)} feature names for {X.shape[1]} columns",
            where=place,
            advice="Name every column once.",
        )
    frame = pd.DataFrame(X.astype(np.float64), columns=columns)
    return dataset_from_frame(frame, pd.Series(y, name="y"), name=name, where=place, task=task)


def _from_images(
    X: NDArray[Any],
    y: NDArray[Any],
    *,
    name: str,
    where: str,
    task: DataTask | None,
    max_value: float | None,
) -> Dataset:
    images = X[..., None] if X.ndim == 3 else X  # noqa: PLR2004 - no channel axis
    channels = images.shape[3]
    if channels not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"images of shape {images.shape[1:]} cannot be used",
            where=where,
            advice="Give (height, width), or (height, width, channels) with 1 or 3 channels.",
        )
    values = images.astype(np.float32)
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values).all(axis=(1, 2, 3)))[0, 0])
        raise DataError(
            "an image holds NaN or infinity", where=f"{where}, row {row + 1}", advice="Repair it."
        )
    full = max_value or (255.0 if X.dtype == np.uint8 else float(values.max()))
    if values.min() < 0 or full <= 0:
        raise DataError(
            "images need values from 0 up", where=where, advice="Shift them to start at 0."
        )
    spec = ImageSpec(
        height=images.shape[1],
        width=images.shape[2],
        channels=1 if channels == 1 else 3,
        max_value=full,
        scale=1.0 / full,
    )
    found, codes, labels = encode_target(pd.Series(y, name="y"), task=task, where=where)
    return Dataset(
        name=name,
        kind="image",
        task=found,
        X=values * np.float32(spec.scale),
        y=codes,
        labels=labels,
        image=spec,
    )
