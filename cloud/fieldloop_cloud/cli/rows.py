"""Rows from a file that the user names: an example to compile with, a reference to bundle with."""

import importlib
from pathlib import Path
from typing import Any

from fieldloop.errors import ConfigError, DataError
from fieldloop.signature import Category, Signature

# pandas and numpy are slow to load, so each function imports what it needs.


def load_rows(path: Path) -> Any:
    """Read rows without knowing the model: a DataFrame, or the array X of an `.npz` file.

    Raises:
        DataError: The file cannot be read, or has no array X.
    """
    tables = importlib.import_module("fieldloop_cloud.data.tables")
    if path.suffix == ".parquet":
        return tables.read_table(path)  # says itself what is a number and what is text
    if path.suffix != ".npz":
        return tables.typed(tables.read_table(path))
    return _array(load_arrays(path), "X", path)


def load_arrays(path: Path) -> dict[str, Any]:
    """Return all arrays of an `.npz` file, by name.

    Raises:
        DataError: The file cannot be read.
    """
    numpy = importlib.import_module("numpy")
    try:
        with numpy.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        raise DataError(
            f"the rows cannot be read: {error}", where=str(path), advice="Check the file."
        ) from error


def load_reference(path: Path, signature: Signature, target: str | None) -> tuple[Any, Any]:
    """Read rows for a model, and the truth about them if the file has it.

    Args:
        path: `.csv` or `.parquet` with a column for each feature, or `.npz` with X and maybe y.
        signature: The model's; says which columns are numbers and how categories are written.
        target: The column with the truth; None if there is none.

    Returns:
        The rows and the truth; None for the truth if there is none.

    Raises:
        DataError: The file cannot be read, or lacks what is asked for.
        ConfigError: A target for an `.npz` file.
    """
    if path.suffix == ".npz":
        if target is not None:
            raise ConfigError(
                "an .npz file has no columns", where=str(path), advice="Save the truth as array y."
            )
        arrays = load_arrays(path)
        return _array(arrays, "X", path), arrays.get("y")
    frame = importlib.import_module("fieldloop_cloud.data.tables").read_table(path)
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
    truth = None
    if target is not None:
        if target not in frame.columns:
            raise DataError(
                f"there is no column '{target}'",
                where=str(path),
                advice=f"Name one of {', '.join(frame.columns[:12])}.",
            )
        truth = _read_as(frame.pop(target), signature.labels)
    names = signature.feature_names
    if set(names) <= set(frame.columns):
        frame = frame[list(names)]
    # Too few or too many columns are the codec's to refuse.
    for column, spec in zip(frame.columns, signature.features, strict=False):
        frame[column] = _read_as(frame[column], spec.categories)
    return frame, truth


def _read_as(cells: Any, categories: tuple[Category, ...]) -> Any:
    """Return written cells as what they mean: one of the categories, or else a number.

    What is neither stays as it is: the codec refuses it with its row and column.
    """
    pandas = importlib.import_module("pandas")
    if categories:
        meant = {str(category): category for category in categories}
        texts = [meant.get(cell, cell) if isinstance(cell, str) else cell for cell in cells]
        return pandas.Series(texts, index=cells.index, dtype=object)
    try:
        return pandas.to_numeric(cells)
    except (ValueError, TypeError):
        return cells


def _array(arrays: dict[str, Any], name: str, path: Path) -> Any:
    if name not in arrays:
        raise DataError(
            f"the file has no array {name}", where=str(path), advice=f"Save it as {name}."
        )
    return arrays[name]
