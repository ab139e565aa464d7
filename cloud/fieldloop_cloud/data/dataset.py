"""A data set in memory: encoded rows, targets, and what every column means.

Rows are held as the codec would encode them (categories as codes, missing values as NaN, images
scaled), so that training, evaluation and the device see the same numbers. `raw` goes back to the
user's units.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldloop.codec import Codec
from fieldloop.errors import ConfigError, DataError
from fieldloop.signature import Category, FeatureSpec, ImageSpec, Signature, TensorSpec, one_target

Kind = Literal["tabular", "image", "series"]
DataTask = Literal["classification", "regression"]

_CHUNK = 256
"""Rows read at a time where they need not all be in memory."""

_DUST = 1e-3
"""Far below one grey level, far above what float32 scaling leaves on a whole number."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows with their targets.

    Attributes:
        name: For people: the file's or the bundled set's name.
        kind: `tabular` (named features), `image`, or `series` (windows of sensor readings).
        task: `classification` or `regression`.
        X: float32, encoded as the codec encodes: (n, features), (n, height, width, channels), or
            (n, steps, channels) for windows. Streamed images are `StreamedImages`, which are
            decoded when they are turned into an array.
        y: Targets, shape (n,): int64 index into `labels`, or float32 for regression.
        labels: Class labels in the order of their indices; empty for regression.
        features: One spec per column; empty for images.
        image: The image preprocessing; None for tabular data.
        target: The target column's name; empty where it has none.
        notes: What the reader of a report should know, one sentence each.
        channels: Names of a window's channels; empty for other kinds.
        groups: Where rows belong together (one machine, one recording), the number of each row's
            group, int64 (n,); rows of one group should not stand in two parts of a split. None
            where nothing is known.
        times: When each row begins, float64 (n,), in the unit of the time column (seconds for
            dates); NaN where not known, None where nothing is known.
        span: What one row covers, in the unit of `times`: rows of a group that begin less than
            this apart share readings.

    Example:
        >>> Dataset.load("sklearn:iris")
        Dataset('iris', tabular classification, 150 rows, 3 classes)
    """

    name: str
    kind: Kind
    task: DataTask
    X: NDArray[np.float32]
    y: NDArray[np.int64] | NDArray[np.float32]
    labels: tuple[Category, ...] = ()
    features: tuple[FeatureSpec, ...] = ()
    image: ImageSpec | None = None
    target: str = ""
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    times: NDArray[np.float64] | None = None
    span: float = 0.0

    def __len__(self) -> int:
        return len(self.X)

    def __repr__(self) -> str:
        classes = f", {len(self.labels)} classes" if self.labels else ""
        return f"Dataset({self.name!r}, {self.kind} {self.task}, {len(self)} rows{classes})"

    @classmethod
    def load(
        cls,
        source: str | Path,
        target: str | None = None,
        *,
        task: DataTask | None = None,
        drop: Sequence[str] = (),
        categorical: Sequence[str] = (),
        image_size: tuple[int, int] | None = None,
        group: str | None = None,
        time: str | None = None,
        window: int | None = None,
        stride: int | None = None,
        kind: Kind | None = None,
        stream: bool = False,
    ) -> "Dataset":
        """Load a data set; the source says which kind it is.

        Args:
            source: A `.csv` or `.parquet` file, an `.npz` file with arrays `X` and `y`, a folder
                with one sub-folder of images per class, or `sklearn:NAME` with NAME one of
                `digits`, `iris`, `wine`, `breast_cancer`, `diabetes`.
            target: The target column of a table.
            task: Says whether classes or numbers are predicted, where the target leaves it open.
            drop: Columns of a table to leave out.
            categorical: Columns of a table whose numbers are categories.
            image_size: (height, width) that images are resized to; by default the commonest.
            group: The column (of an `.npz` the array) that says what each row belongs to; it is
                no feature.
            time: The column or array that says when each row came, numbers or ISO 8601; it is no
                feature.
            window: Cuts a table of readings, one a row, into windows of so many; none reaches
                over the end of a group.
            stride: Readings from the start of one window to the next; by default the window.
            kind: What the arrays of an `.npz` are; by default what their dimensions say.
                `series` takes `X` as windows (n, steps, channels), with `channel_names` if wanted.
            stream: Leave the images of a folder on disk and decode them when they are read.

        Raises:
            DataError: Anything in the source that a model could not honestly be trained on; the
                message names the column, row or file.
        """
        from fieldloop_cloud.data.sources import load  # noqa: PLC0415 - sources build on Dataset

        return load(
            source,
            target,
            task=task,
            drop=drop,
            categorical=categorical,
            image_size=image_size,
            group=group,
            time=time,
            window=window,
            stride=stride,
            kind=kind,
            stream=stream,
        )

    @cached_property
    def sha256(self) -> str:
        """Hash of the content: rows, targets, labels and column meanings; the name is no part."""
        digest = hashlib.sha256()
        described = (self.kind, self.task, self.labels, self.features, self.image, self.X.shape)
        digest.update(repr(described).encode())
        for start in range(0, len(self.X), _CHUNK):
            part = np.asarray(self.X[start : start + _CHUNK])
            digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(np.ascontiguousarray(self.y).tobytes())
        if self.channels:
            digest.update(repr((self.channels, self.span)).encode())
        for beside in (self.groups, self.times):
            if beside is not None:
                digest.update(np.ascontiguousarray(beside).tobytes())
        return digest.hexdigest()

    @property
    def flat(self) -> NDArray[np.float32]:
        """Rows as shape (n, values): what a classical model takes."""
        return self.X.reshape(len(self.X), -1)

    def take(self, indices: ArrayLike) -> Self:
        """Return the rows with these numbers, in their order."""
        rows = np.asarray(indices)
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            groups=None if self.groups is None else self.groups[rows],
            times=None if self.times is None else self.times[rows],
        )

    def concat(self, other: "Dataset") -> Self:
        """Return these rows followed by another set's; no row of one shares a group of the other.

        Raises:
            DataError: The two differ in labels, columns, image size, window or task.
        """
        if _form(self) != _form(other):
            raise DataError(
                f"data sets '{self.name}' and '{other.name}' do not have the same columns and "
                "labels",
                advice="Encode the second with the first's `encode`.",
            )
        return replace(
            self,
            X=np.concatenate([self.X, other.X]),
            y=np.concatenate([self.y, other.y]),
            groups=_joined_groups(self, other),
            times=_joined_times(self, other),
        )

    def ranged(self) -> Self:
        """Return the rows with each numeric feature's `low` and `high` as these rows have them."""
        if self.kind != "tabular":
            return self
        specs = []
        for spec, column in zip(self.features, self.X.T, strict=True):
            known = column[np.isfinite(column)]
            if not spec.categories and len(known):
                low, high = float(known.min()), float(known.max())
                specs.append(msgspec.structs.replace(spec, low=low, high=high))
            else:
                specs.append(spec)
        return replace(self, features=tuple(specs))

    def encode(self, raw: Sequence[object], targets: Sequence[Category | float]) -> Self:
        """Return new rows in this set's form, for `concat`.

        Args:
            raw: Rows in the user's units, as a device sends them.
            targets: Their labels, or values for regression.

        Raises:
            SignatureError: A row does not fit; it is named.
            DataError: A label that is not among `labels`, or as many targets as rows are not given.
        """
        if len(raw) != len(targets):
            raise DataError(
                f"there are {len(targets)} targets for {len(raw)} rows",
                advice="Give one target a row.",
            )
        X = Codec(self.input_signature).encode_rows(list(raw))
        bare = replace(self, X=X, notes=(), groups=None, times=None)
        if not self.labels:
            return replace(bare, y=np.asarray(targets, dtype=np.float32))
        index = {label: number for number, label in enumerate(self.labels)}
        unknown = sorted({repr(label) for label in targets if label not in index})
        if unknown:
            raise DataError(
                f"labels {', '.join(unknown)} are not known",
                where=self.name,
                advice=f"Use one of {', '.join(map(repr, self.labels))}.",
            )
        return replace(bare, y=np.asarray([index[t] for t in targets], np.int64))

    @property
    def input_signature(self) -> Signature:
        """A signature of the input alone, enough for the codec's encoding."""
        answer = TensorSpec(name="label", shape=(-1,), dtype="int32", role="label")
        tensor = TensorSpec(name="x", shape=(-1, *self.X.shape[1:]), dtype="float32")
        return Signature(
            task=self.task,
            inputs=(tensor,),
            outputs=(answer,),
            features=self.features,
            image=self.image,
            targets=one_target(self.labels),
        )

    def label(self, index: int) -> Category | float:
        """Return the target of one row as the user wrote it."""
        value = self.y[index]
        return self.labels[int(value)] if self.labels else float(value)

    def raw(self, index: int) -> list[Any]:
        """Return one row in the user's units, as a device would be given it.

        Returns:
            For a table one entry a feature (a category as written, None where missing); for an
            image nested lists of shape (height, width, channels) in 0 … `max_value`; for a window
            nested lists of shape (steps, channels).
        """
        row = self.X[index]
        if self.kind == "series":
            return row.tolist()  # type: ignore[no-any-return]
        if self.image is not None:
            pixels = (row.astype(np.float64) - self.image.offset) / self.image.scale
            whole = np.rint(pixels)
            # Scaling to 0 … 1 in float32 and back leaves dust on whole grey levels.
            return np.where(np.abs(pixels - whole) < _DUST, whole, pixels).tolist()  # type: ignore[no-any-return]
        return [_decoded(feature, value) for feature, value in zip(self.features, row, strict=True)]

    @cached_property
    def class_counts(self) -> tuple[int, ...]:
        """Rows of each class, in the labels' order; empty for regression."""
        if not self.labels:
            return ()
        return tuple(int(n) for n in np.bincount(self.y, minlength=len(self.labels)))


def check_dataset(data: object) -> None:
    """Refuse what is no data set yet, such as a path.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(data, Dataset):
        shown = f", not {data!r}" if isinstance(data, (str, Path)) else ""
        raise ConfigError(
            f"a Dataset is needed here{shown}",
            where=type(data).__name__,
            advice="Load it first: Dataset.load(path).",
        )


def _form(data: Dataset) -> tuple[Any, ...]:
    """Return what two sets must have in common to be joined."""
    names = [spec.name for spec in data.features]
    return (data.kind, data.task, data.labels, names, data.image, data.channels, data.X.shape[1:])


def _joined_groups(one: Dataset, other: Dataset) -> NDArray[np.int64] | None:
    if one.groups is None and other.groups is None:
        return None
    # A row that is known to belong nowhere is a group of its own.
    first, second = (
        np.arange(len(data), dtype=np.int64)
        if data.groups is None
        else np.unique(data.groups, return_inverse=True)[1].astype(np.int64)
        for data in (one, other)
    )
    start = int(first.max(initial=-1)) + 1
    return np.concatenate([first, second + start])


def _joined_times(one: Dataset, other: Dataset) -> NDArray[np.float64] | None:
    if one.times is None and other.times is None:
        return None
    return np.concatenate(
        [np.full(len(data), np.nan) if data.times is None else data.times for data in (one, other)]
    )


def _decoded(feature: FeatureSpec, value: np.float32) -> Category | None:
    if np.isnan(value):
        return None
    if not feature.categories:
        return float(value)
    code = int(value)
    return feature.categories[code] if 0 <= code < len(feature.categories) else None
