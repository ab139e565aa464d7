"""Field samples go out to people as a table, and come back as labels.

A CSV file, because everybody can open one. For images the pictures lie beside it. Import checks
the whole file before it stores anything, so a wrong line never leaves half of the labels behind.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldloop.errors import DataError
from fieldloop.signature import Category, ImageSpec
from fieldloop_cloud.files import write_file
from fieldloop_cloud.fleet.records import StoredSample
from fieldloop_cloud.fleet.store import Store

COLUMNS = ("device", "sample_id", "label")
"""Columns that an import needs; others are left alone."""

EXPORT_COLUMNS = (
    "device", "sample_id", "label", "predicted", "confidence", "policy", "raw", "picture"
)  # fmt: skip

MAX_REPORTED = 5
MAX_FILE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of a label file: which sample, and what a person says it is."""

    device: str
    sample_id: str
    label: Category


def export_samples(
    samples: Sequence[StoredSample], path: Path, *, image: ImageSpec | None = None
) -> int:
    """Write samples as a CSV file with an empty `label` column; return how many.

    Args:
        samples: From `Store.samples`; an existing label is written out too.
        path: The CSV file.
        image: The model's image preprocessing; with it every picture is written as PNG into the
            folder `<path without suffix>/` and the `raw` column stays empty.

    Raises:
        EnvironmentFaultError: The place cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, EXPORT_COLUMNS, lineterminator="\n")
    writer.writeheader()
    folder = path.with_suffix("")
    for number, item in enumerate(samples):
        picture = ""
        if image is not None:
            picture = str(Path(folder.name) / f"{number:06d}.png")
            write_file(folder / f"{number:06d}.png", _png(item.sample.raw, image))
        writer.writerow(_exported(item, picture))
    write_file(path, buffer.getvalue().encode())
    return len(samples)


def _exported(item: StoredSample, picture: str) -> dict[str, object]:
    sample = item.sample
    return {
        "device": item.device,
        "sample_id": sample.sample_id,
        "label": "" if item.label is None else str(item.label),
        "predicted": "" if sample.predicted is None else str(sample.predicted),
        "confidence": "" if sample.confidence is None else f"{sample.confidence:.4f}",
        "policy": sample.policy,
        "raw": "" if picture else json.dumps(sample.raw),
        "picture": picture,
    }


def _png(raw: object, image: ImageSpec) -> bytes:
    from PIL import Image  # noqa: PLC0415 - only for pictures

    pixels = np.asarray(raw, dtype=np.float64).reshape(image.height, image.width, image.channels)
    grey = np.clip(np.rint(pixels / image.max_value * 255.0), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey[:, :, 0] if image.channels == 1 else grey).save(buffer, format="PNG")
    return buffer.getvalue()


def import_labels(store: Store, path: Path, *, labels: Sequence[Category]) -> int:
    """Store the labels of a CSV file; lines with an empty label are skipped.

    Args:
        store: Where the samples are.
        path: A file with the columns `device`, `sample_id` and `label`.
        labels: The labels that the model knows; empty for a regression, whose labels are numbers.

    Returns:
        How many labels were stored.

    Raises:
        DataError: The file cannot be read, lacks a column, names a sample that does not exist or a
            label that is not known, or labels one sample twice differently. Nothing is stored.
    """
    known = {(item.device, item.sample.sample_id) for item in store.samples()}
    rows = _checked(_lines(path), known, labels, path)
    store.add_labels([(row.device, row.sample_id, row.label) for row in rows])
    return len(rows)


def _checked(
    lines: Iterable[tuple[int, dict[str, str]]],
    known: set[tuple[str, str]],
    labels: Sequence[Category],
    path: Path,
) -> list[LabelRow]:
    by_text = {str(label): label for label in labels}
    found: dict[tuple[str, str], LabelRow] = {}
    problems: list[str] = []
    for number, line in lines:
        text = line["label"]
        if not text:
            continue
        key = (line["device"], line["sample_id"])
        label = by_text.get(text) if labels else _number(text)
        if key not in known:
            problems.append(f"line {number}: no sample '{key[1]}' of device '{key[0]}'")
        elif label is None:
            problems.append(f"line {number}: '{text}' is not a label")
        elif key in found and found[key].label != label:
            problems.append(f"line {number}: sample '{key[1]}' has another label above")
        else:
            found[key] = LabelRow(*key, label)
    if problems:
        more = f" and {len(problems) - MAX_REPORTED} more" if len(problems) > MAX_REPORTED else ""
        allowed = f"Labels are: {', '.join(by_text)}." if labels else "Labels are numbers."
        raise DataError(
            f"{'; '.join(problems[:MAX_REPORTED])}{more}",
            where=str(path),
            advice=f"Correct these lines; nothing was stored. {allowed}",
        )
    return list(found.values())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the file's lines with their numbers; the header is line 1."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                "the file is too large for labels",
                where=str(path),
                advice="Split it into several files.",
            )
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"the file lacks the column {', '.join(missing)}",
                where=str(path),
                advice=f"Give it the columns {', '.join(COLUMNS)}.",
            )
        return [
            (reader.line_num, {name: (row.get(name) or "").strip() for name in COLUMNS})
            for row in reader
        ]
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}",
            where=str(path),
            advice="Name a CSV file as `fieldloop label export` writes it.",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"the file is no CSV text: {error}",
            where=str(path),
            advice="Save it as CSV, UTF-8.",
        ) from error
