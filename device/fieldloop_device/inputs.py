"""Raw inputs from files: one (`read_one`, for a watched directory) or many (`read_many`)."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
MAX_INPUT_BYTES = 256 * 1024 * 1024


def read_one(path: Path) -> object:
    """Read a file that holds one raw row: `.json`, `.npy`, or an image (as bytes).

    Raises:
        DataError: It cannot be read or holds something else.
    """
    data = _read(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(data, where=str(path))
    if suffix == ".json":
        document = _json(data, where=str(path))
        return document["x"] if isinstance(document, dict) and "x" in document else document
    return data


def read_many(path: Path) -> list[object]:
    """Read raw rows: a CSV with a header, JSON, JSON lines, `.npy` with rows first, or an image.

    Raises:
        DataError: It cannot be read, holds something else, or no rows at all.
    """
    suffix = path.suffix.lower()
    data = _read(path)
    rows: list[object]
    if suffix == ".csv":
        rows = _csv(data, path)
    elif suffix == ".npy":
        rows = list(read_npy(data, where=str(path)))
    elif suffix == ".jsonl":
        lines = [(n, line) for n, line in enumerate(data.splitlines(), 1) if line.strip()]
        rows = [_unwrapped(_json(line, where=f"{path}, line {n}")) for n, line in lines]
    elif suffix == ".json":
        document = _json(data, where=str(path))
        # One row of numbers, or a list of rows.
        is_many = isinstance(document, list) and any(isinstance(x, list | dict) for x in document)
        rows = [_unwrapped(row) for row in document] if is_many else [_unwrapped(document)]
    elif suffix in IMAGE_SUFFIXES:
        rows = [data]
    else:
        raise DataError(
            f"'{path.suffix}' is not a kind of input",
            where=str(path),
            advice="Give .csv, .json, .jsonl, .npy or an image.",
        )
    if not rows:
        raise DataError(
            "the input has no rows",
            where=str(path),
            advice="Give at least one; the first line of a .csv names the columns.",
        )
    return rows


def read_npy(data: bytes, *, where: str) -> NDArray[Any]:
    """Read a NumPy file; its header is checked against its length and no pickle is allowed.

    Raises:
        DataError: Not a NumPy array of plain numbers, or truncated.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise ValueError("its header does not fit its content")  # noqa: TRY301 - one way out
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"this is not a NumPy array of numbers: {error}",
            where=where,
            advice="Write it with numpy.save.",
        ) from error


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size <= MAX_INPUT_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the input cannot be read: {error.strerror}", where=str(path), advice="Check the path."
        ) from error
    raise DataError(
        f"the input has {size} bytes, at most {MAX_INPUT_BYTES} are read",
        where=str(path),
        advice="Split it.",
    )


def _json(data: bytes, *, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"this is not JSON: {error}", where=where, advice="Write a list or an object."
        ) from error


def _unwrapped(document: Any) -> object:
    return document["x"] if isinstance(document, dict) and "x" in document else document


def _csv(data: bytes, path: Path) -> list[object]:
    try:
        text = data.decode("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"this is not a CSV: {error}", where=str(path), advice="Save it as UTF-8 CSV."
        ) from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"columns have the same name: {', '.join(twice)}",
            where=str(path),
            advice="Give every column its own name in the first line.",
        )
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"a row has {len(row)} cells under {len(names)} names",
                where=f"{path}, line {line}",
                advice="Write one cell for each column; leave it empty for a missing value.",
            )
    return [dict(zip(names, map(cell, row), strict=True)) for _, row in rows]


def cell(text: str) -> object:
    """Return a number where it is one, None where it is empty, otherwise the text."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return text
