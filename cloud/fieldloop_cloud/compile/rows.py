"""The user's rows and the model's input tensor: what leads there, and the way back.

The way there is the SDK's codec with the model's signature, so that the workstation feeds a model
exactly as a device does. The way back (`Rows.original`) gives scikit-learn its rows in the form
that it was fitted on: an array of the same dtype, or a DataFrame with the same columns and
categories.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop.signature import Category, FeatureSpec, ImageSpec

UNKNOWN = "\N{REPLACEMENT CHARACTER}unknown"
"""Stands for a category that no encoder knows, when scikit-learn is asked about code -1."""


@dataclass
class Vocabulary:
    """The categories of one column of text (or of other things that are no numbers).

    Encoders add what they know while they are lowered; codes never change.

    Attributes:
        categories: In the order of their codes.
        unknown: What the encoders do with other categories; "reject" as soon as one refuses them.
        missing: How the user writes a missing value.
    """

    categories: list[Category] = field(default_factory=list)
    unknown: Literal["reject", "encode"] | None = None
    missing: Any = np.nan

    def codes(self, categories: Iterable[Any]) -> list[float]:
        """Return the codes of categories, adding the ones that are new; NaN for a missing one."""
        codes = []
        for given in categories:
            if is_missing(given):
                codes.append(np.nan)
                continue
            category = _plain(given)
            if category not in self.categories:
                self.categories.append(category)
            codes.append(float(self.categories.index(category)))
        return codes

    def restrict(self, unknown: Literal["reject", "encode"]) -> None:
        """Note what one more encoder does with unknown categories."""
        self.unknown = "reject" if "reject" in (unknown, self.unknown) else unknown

    def decode(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Return the categories of codes, as objects."""
        known = dict(enumerate(self.categories))
        cells = [
            self.missing if np.isnan(code) else known.get(int(code), UNKNOWN) for code in codes
        ]
        column = np.empty(len(codes), dtype=object)
        column[:] = cells
        return column


@dataclass(frozen=True, eq=False)
class Rows:
    """What rows look like.

    Attributes:
        names: Of the columns; empty for an image.
        example: Encoded, float32 (n, n_features).
        raw: The example as it was given: a DataFrame or an array.
        dtypes: For each column what scikit-learn gets: float32 or float64.
        vocabularies: For each column its categories, None for a number.
        columns: DataFrame column labels; None for an array.
        specs: What the user said about the features; () if nothing.
        image: The image that is flattened to a row; None for named features.
    """

    names: tuple[str, ...]
    example: NDArray[np.float32]
    raw: Any
    dtypes: tuple[Any, ...]
    vocabularies: tuple[Vocabulary | None, ...]
    columns: tuple[Any, ...] | None = None
    specs: tuple[FeatureSpec, ...] = ()
    image: ImageSpec | None = None

    @classmethod
    def of(
        cls,
        example: Any,
        *,
        features: Sequence[FeatureSpec] | None = None,
        image: ImageSpec | None = None,
    ) -> "Rows":
        """Work out the form from example rows.

        Raises:
            DataError: The example is not a table, has no rows, or does not fit the features.
        """
        frame = _frame(example)
        if not len(frame):
            raise DataError(
                "the example has no rows",
                where="example",
                advice="Give rows like those that the model was fitted on.",
            )
        specs = tuple(features or ())
        if specs and len(specs) != frame.shape[1]:
            raise DataError(
                f"{len(specs)} features were named for an example with {frame.shape[1]} columns",
                where="features",
                advice="Name every column once.",
            )
        vocabularies, encoded, dtypes = [], [], []
        for place in range(frame.shape[1]):
            known = specs[place].categories if specs else ()
            vocabulary, codes, dtype = _column(frame.iloc[:, place], known)
            vocabularies.append(vocabulary)
            encoded.append(codes)
            dtypes.append(dtype)
        columns = tuple(example.columns) if hasattr(example, "columns") else None
        names = [spec.name for spec in specs]
        if not names and image is None:
            names = [str(c) for c in columns or [f"x{i}" for i in range(frame.shape[1])]]
        table = np.column_stack(encoded).astype(np.float32)
        return cls(
            names=tuple(names),
            example=table,
            raw=table_of(example),
            dtypes=tuple(dtypes),
            vocabularies=tuple(vocabularies),
            columns=columns,
            specs=specs,
            image=image,
        )

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.example.shape[1])

    def original(self, rows: NDArray[Any]) -> Any:
        """Return input rows, float (n, width), in the form that scikit-learn was fitted on."""
        if self.columns is None and not any(self.vocabularies):
            return rows.astype(self.dtypes[0])
        cells = [
            rows[:, place].astype(self.dtypes[place])
            if vocabulary is None
            else vocabulary.decode(rows[:, place])
            for place, vocabulary in enumerate(self.vocabularies)
        ]
        if self.columns is not None:
            frame = pd.concat([pd.Series(cell) for cell in cells], axis=1)
            frame.columns = list(self.columns)
            return frame
        table = np.empty((len(rows), self.width), dtype=object)
        for place, cell in enumerate(cells):
            table[:, place] = cell
        return table

    def in_float64(self) -> "Rows":
        """Return the same form with float64 where scikit-learn got float32."""
        wide = tuple(
            np.dtype(np.float64) if dtype == np.float32 else dtype for dtype in self.dtypes
        )
        return replace(self, dtypes=wide)

    def encode(self, X: Any) -> NDArray[np.float32]:
        """Return raw rows as input rows; unknown categories become -1."""
        frame = _frame(X)
        if frame.shape[1] != self.width:
            raise DataError(
                f"{frame.shape[1]} columns came where {self.width} are needed",
                advice="Give rows like the example's.",
            )
        table = np.empty((len(frame), self.width), dtype=np.float32)
        for place, vocabulary in enumerate(self.vocabularies):
            cells = frame.iloc[:, place]
            table[:, place] = cells if vocabulary is None else _encode(cells, vocabulary)
        return table

    def features(self, missing_allowed: Sequence[bool]) -> tuple[FeatureSpec, ...]:
        """Return the features for the signature, with what lowering found out."""
        if self.image is not None:
            return ()
        made = []
        for place, name in enumerate(self.names):
            spec = self.specs[place] if self.specs else self._measured(place, name)
            vocabulary = self.vocabularies[place]
            made.append(
                FeatureSpec(
                    name=name,
                    unit=spec.unit,
                    low=spec.low,
                    high=spec.high,
                    categories=tuple(vocabulary.categories) if vocabulary else spec.categories,
                    missing_allowed=bool(missing_allowed[place]),
                    unknown=(vocabulary.unknown or "reject") if vocabulary else spec.unknown,
                )
            )
        return tuple(made)

    def _measured(self, place: int, name: str) -> FeatureSpec:
        cells = self.example[:, place]
        seen = cells[np.isfinite(cells)]
        if self.vocabularies[place] is not None or not len(seen):
            return FeatureSpec(name=name)
        return FeatureSpec(name=name, low=float(seen.min()), high=float(seen.max()))


def table_of(rows: Any) -> Any:
    """Return rows as a DataFrame (if they are one) or an array, so that they can be sliced."""
    if isinstance(rows, pd.DataFrame):
        return rows
    if hasattr(rows, "toarray"):
        return rows.toarray()
    return np.asarray(rows) if _is_plain(rows) else np.asarray(rows, dtype=object)


def _is_plain(rows: Any) -> bool:
    return np.asarray(rows).dtype.kind in "fiub"


def _frame(rows: Any) -> pd.DataFrame:
    """Return rows of any kind as a DataFrame, one row each."""
    if isinstance(rows, pd.DataFrame):
        return rows
    if hasattr(rows, "toarray"):
        rows = rows.toarray()
    try:
        array = np.asarray(rows)
        if array.dtype.kind not in "fiub":
            array = np.asarray(rows, dtype=object)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.ndim != 2 or not array.shape[1]:  # noqa: PLR2004 - rows and columns
        raise DataError(
            f"the example is not a table: its shape is {array.shape}",
            where="example",
            advice="Give rows and columns, for instance the X that the model was fitted on.",
        )
    return pd.DataFrame(array)


def _column(
    cells: "pd.Series[Any]", known: Sequence[Category]
) -> tuple[Vocabulary | None, NDArray[np.float32], Any]:
    """Return the column's vocabulary (None for numbers), its codes, and scikit-learn's dtype."""
    if _is_numeric(cells):
        float32 = cells.dtype == np.float32
        numbers = pd.to_numeric(cells).to_numpy(dtype=np.float64, na_value=np.nan)
        return None, numbers.astype(np.float32), np.dtype(np.float32 if float32 else np.float64)
    missing = [cell for cell in cells if is_missing(cell)]
    vocabulary = Vocabulary(list(known), missing=missing[0] if missing else np.nan)
    seen = {_plain(cell) for cell in cells if not is_missing(cell)}
    vocabulary.codes(sorted(seen, key=lambda cell: (type(cell).__name__, cell)))
    return vocabulary, _encode(cells, vocabulary), np.dtype(object)


def _is_numeric(cells: "pd.Series[Any]") -> bool:
    if cells.dtype == bool or isinstance(cells.dtype, pd.CategoricalDtype):
        return False
    if pd.api.types.is_numeric_dtype(cells.dtype):
        return True
    return all(
        is_missing(cell)
        or (isinstance(cell, (int, float, np.number)) and not isinstance(cell, bool))
        for cell in cells
    )


def _encode(cells: "pd.Series[Any]", vocabulary: Vocabulary) -> NDArray[np.float32]:
    codes = {category: code for code, category in enumerate(vocabulary.categories)}
    return np.array(
        [np.nan if is_missing(cell) else codes.get(_plain(cell), -1) for cell in cells],
        dtype=np.float32,
    )


def is_missing(cell: Any) -> bool:
    """Whether a cell is None, NaN or pandas' NA."""
    if cell is None or cell is pd.NA:
        return True
    return isinstance(cell, (float, np.floating)) and math.isnan(cell)


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell
