"""Tables: reading `.csv` and `.parquet` files, and a frame as a data set.

Cells are read as they stand and judged in `columns`, so that an error can name the column and the
row instead of a converter's guess being trained on.
"""

import csv
import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fieldloop.errors import DataError
from fieldloop_cloud.data.columns import encode_column, encode_target
from fieldloop_cloud.data.dataset import Dataset, DataTask
from fieldloop_cloud.data.relations import encode_groups, encode_times
from fieldloop_cloud.data.windows import Windowing, windows_from_frame


def read_table(path: Path) -> pd.DataFrame:
    """Read a `.csv` (comma, semicolon or tab) or `.parquet` file; CSV cells stay text.

    Raises:
        DataError: Not such a file, empty, damaged, or with a column name twice.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".parquet"):
        raise DataError(
            f"files ending in '{path.suffix}' are not known",
            where=str(path),
            advice="Use .csv, .parquet, .npz, or a folder of images.",
        )
    try:
        if path.stat().st_size == 0:
            raise DataError("the file is empty", where=str(path), advice="Export it again.")
        return pd.read_parquet(path) if suffix == ".parquet" else _read_csv(path)
    except (ValueError, OSError, csv.Error) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown format"
        raise DataError(
            f"the table cannot be read: {reason}",
            where=str(path),
            advice="Check that it is complete, and UTF-8 text if it is a .csv.",
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline()
    separator = max(",;\t", key=line.count)
    header = next(csv.reader([line], delimiter=separator), [])
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise DataError(
            f"column names stand twice: {', '.join(twice)}" if twice else "a column has no name",
            where=str(path),
            advice="Give every column its own name in the first line.",
        )
    with warnings.catch_warnings():
        # Said as an error below, with the row; pandas would drop the surplus and go on.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            path, sep=separator, dtype=str, encoding="utf-8-sig", skipinitialspace=True
        )
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            "rows have more values than the first line has names",
            where=str(path),
            advice="Name every column in the first line.",
        )
    frame.columns = pd.Index(names)
    return frame


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose columns of written numbers are numbers; other columns stay as they are.

    Example:
        >>> typed(pd.DataFrame({"a": ["1", "2"], "b": ["1", "x"]}))["a"].to_list()
        [1.0, 2.0]
    """
    made = {}
    for name, cells in frame.items():
        numbers = pd.to_numeric(cells, errors="coerce") if _is_text(cells) else cells
        is_complete = bool((numbers.isna() == cells.isna()).all())
        made[name] = numbers.astype("float64") if is_complete and _is_text(cells) else cells
    return pd.DataFrame(made, index=frame.index)


def _is_text(cells: pd.Series) -> bool:
    return bool(pd.api.types.is_object_dtype(cells) or pd.api.types.is_string_dtype(cells))


def dataset_from_frame(
    frame: pd.DataFrame,
    target: "str | pd.Series | None",
    *,
    name: str,
    where: str,
    task: DataTask | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    windowing: Windowing | None = None,
) -> Dataset:
    """Encode a frame; the target is one of its columns, or a series beside it.

    The group and the time column say how the rows hang together and are no features. With a
    windowing every row is one reading, and windows of them become the rows.

    Raises:
        DataError: A column that cannot be used; the message names it.
    """
    columns = [str(column) for column in frame.columns]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise DataError(
            f"column names stand twice: {', '.join(twice)}",
            where=where,
            advice="Give every column its own name.",
        )
    frame = frame.set_axis(columns, axis=1)
    beside_rows = tuple(column for column in (group, time) if column is not None)
    for column in (*drop, *categorical, *beside_rows):
        _require(column, columns, where)
    truth = target if isinstance(target, pd.Series) else _target(frame, target, where)
    beside = isinstance(target, pd.Series)  # then a column may have the same name
    if not beside and target in (*drop, *categorical, *beside_rows):
        raise DataError(
            f"column '{target}' is the target and cannot be a feature or left out",
            where=where,
            advice="Name another target, or take it out of the other option.",
        )
    if windowing is not None:
        if categorical:
            raise _no_categories(where)
        return windows_from_frame(
            frame,
            str(truth.name),
            windowing,
            name=name,
            where=where,
            task=task,
            drop=drop,
            group=group,
            time=time,
        )
    left_out = {*drop, *beside_rows}
    kept = [
        column for column in columns if column not in left_out and (beside or column != truth.name)
    ]
    if not kept:
        raise DataError("no feature columns are left", where=where, advice="Drop fewer columns.")
    found_task, codes, labels = encode_target(truth, task=task, where=where)
    encoded = [
        encode_column(frame[column], where=where, categorical=column in categorical)
        for column in kept
    ]
    return Dataset(
        name=name,
        kind="tabular",
        task=found_task,
        X=np.stack([column.codes for column in encoded], axis=1),
        y=codes,
        labels=labels,
        features=tuple(column.spec for column in encoded),
        target=str(truth.name),
        notes=tuple(note for column in encoded for note in column.notes),
        groups=None if group is None else encode_groups(frame[group], where=where),
        times=None if time is None else encode_times(frame[time], where=where),
    )


def _no_categories(where: str) -> DataError:
    return DataError(
        "the channels of a window are numbers",
        where=where,
        advice="Drop categorical columns, or name one as group.",
    )


def _target(frame: pd.DataFrame, target: str | None, where: str) -> pd.Series:
    columns = list(frame.columns)
    if target is None:
        raise DataError(
            "a table needs a target column",
            where=where,
            advice=f"Name one of: {_listed(columns)}.",
        )
    _require(target, columns, where)
    return frame[target]


def _require(column: str, columns: Sequence[str], where: str) -> None:
    if column in columns:
        return
    close = difflib.get_close_matches(column, columns, n=3, cutoff=0.5)
    advice = f"Did you mean {' or '.join(close)}?" if close else f"Name one of: {_listed(columns)}."
    raise DataError(f"there is no column '{column}'", where=where, advice=advice)


def _listed(columns: Sequence[str], most: int = 12) -> str:
    more = f", … ({len(columns)} in all)" if len(columns) > most else ""
    return ", ".join(columns[:most]) + more
