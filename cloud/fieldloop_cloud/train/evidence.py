"""What one look at the sealed test rows shows besides the score.

Whether confidences can be believed, which rows were answered wrongly, and for which part of the
rows the model is weaker than for the others.
"""

import base64
import io
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.measure import Answers
from fieldloop_cloud.train.metrics import Estimate, estimate, wilson

BIN_COUNT = 10
MAX_MISTAKES = 12
MAX_PARTS = 12
"""Parts of one kind (classes, groups, values of a column) that are scored; the largest ones."""

_MIN_PART_ROWS = 5
_MIN_BIN_ROWS = 15
_SHOWN_VALUES = 6
_PICTURE_SIDE = 96


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of similar confidence.

    Attributes:
        confidence: Their mean confidence.
        accuracy: Share that was right.
        low: Lower end of the share's 95 % interval.
        high: Upper end.
        row_count: Rows.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    row_count: int


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was answered wrongly, or by the largest error.

    Attributes:
        row: Its number in the data, from 1.
        truth: The target as the user wrote it.
        predicted: The answer.
        confidence: Of the answer; None without probabilities.
        picture: PNG of an image as base64; empty for other data.
        values: Some values of a table's row, by column.
    """

    row: int
    truth: str
    predicted: str
    confidence: float | None = None
    picture: str = ""
    values: dict[str, str] = {}


class PartScore(msgspec.Struct, frozen=True, kw_only=True):
    """The score on a part of the test rows.

    Attributes:
        kind: `class`, `group`, or a column's name.
        name: Which one.
        score: On its rows alone.
    """

    kind: str
    name: str
    score: Estimate


class SealedEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the test rows show besides the score.

    Attributes:
        reliability: Confidence against accuracy; empty without probabilities.
        calibration_error: Mean gap between the two, over rows; None without probabilities.
        mistakes: The surest wrong answers, or the largest errors.
        mistake_count: Wrong answers in all; 0 for regression.
        parts: Scores by class, group and category.
    """

    reliability: tuple[ReliabilityBin, ...] = ()
    calibration_error: float | None = None
    mistakes: tuple[Mistake, ...] = ()
    mistake_count: int = 0
    parts: tuple[PartScore, ...] = ()


def evidence_on(
    test: Dataset, said: Answers, rows: NDArray[np.int64], *, seed: int = 0
) -> SealedEvidence:
    """Look at the test rows.

    Args:
        test: The test rows.
        said: The chosen variant's answers for them.
        rows: Their numbers in the whole data set.
        seed: Of intervals by resampling.
    """
    confidence = None if said.probabilities is None else said.probabilities.max(axis=1)
    bins = _reliability(test, said, confidence)
    gaps = [item.row_count * abs(item.confidence - item.accuracy) for item in bins]
    wrong = int((said.predicted != test.y).sum()) if test.labels else 0
    return SealedEvidence(
        reliability=bins,
        calibration_error=sum(gaps) / len(test) if bins else None,
        mistakes=_mistakes(test, said, confidence, rows),
        mistake_count=wrong,
        parts=tuple(_parts(test, said, seed)),
    )


def _reliability(
    test: Dataset, said: Answers, confidence: NDArray[np.float64] | None
) -> tuple[ReliabilityBin, ...]:
    if confidence is None or not test.labels:
        return ()
    right = said.predicted == test.y
    # Bins of equally many rows: equal widths would leave most of them empty.
    order = np.argsort(confidence, kind="stable")
    made = []
    for members in np.array_split(order, min(BIN_COUNT, max(1, len(order) // _MIN_BIN_ROWS))):
        hits = int(right[members].sum())
        low, high = wilson(hits, len(members))
        made.append(
            ReliabilityBin(
                confidence=float(confidence[members].mean()),
                accuracy=hits / len(members),
                low=low,
                high=high,
                row_count=len(members),
            )
        )
    return tuple(made)


def _mistakes(
    test: Dataset,
    said: Answers,
    confidence: NDArray[np.float64] | None,
    rows: NDArray[np.int64],
) -> tuple[Mistake, ...]:
    if test.labels:
        wrong = np.flatnonzero(said.predicted != test.y)
        weight = np.zeros(len(test)) if confidence is None else confidence
    else:
        wrong = np.arange(len(test))
        weight = np.abs(said.predicted.astype(np.float64) - test.y)
    worst = wrong[np.argsort(-weight[wrong], kind="stable")][:MAX_MISTAKES]
    return tuple(
        Mistake(
            row=int(rows[index]) + 1,
            truth=_shown(test.label(int(index))),
            predicted=_shown(
                test.labels[int(said.predicted[index])]
                if test.labels
                else float(said.predicted[index])
            ),
            confidence=None if confidence is None else float(confidence[index]),
            picture=_picture(test, int(index)),
            values=_values(test, int(index)),
        )
        for index in worst
    )


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _values(test: Dataset, index: int) -> dict[str, str]:
    if test.kind != "tabular":
        return {}
    row = test.raw(index)[:_SHOWN_VALUES]
    names = [spec.name for spec in test.features]
    return {
        name: "missing" if value is None else _shown(value)
        for name, value in zip(names, row, strict=False)
    }


def _picture(test: Dataset, index: int) -> str:
    if test.image is None:
        return ""
    from PIL import Image  # noqa: PLC0415 - only for images

    row = np.asarray(test.X[index], dtype=np.float64)
    grey = (row - test.image.offset) / test.image.scale / test.image.max_value * 255
    pixels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    factor = max(1, _PICTURE_SIDE // max(picture.size))
    # Small pictures grow by whole pixels, large ones shrink.
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _parts(test: Dataset, said: Answers, seed: int) -> Iterator[PartScore]:
    metric = "accuracy" if test.labels else "mean_absolute_error"
    for kind, names in _divisions(test):
        found, counts = np.unique(names, return_counts=True)
        largest = found[np.argsort(-counts, kind="stable")][:MAX_PARTS]
        for name in sorted(largest.tolist()):
            members = np.flatnonzero(names == name)
            if len(members) >= _MIN_PART_ROWS:
                score = estimate(metric, test.y[members], said.predicted[members], seed=seed)
                yield PartScore(kind=kind, name=str(name), score=score)


def _divisions(test: Dataset) -> Iterator[tuple[str, NDArray[np.str_]]]:
    """Name the part of each row: its class, its group, and its value in each category column."""
    if test.labels:
        labels = np.asarray([str(label) for label in test.labels])
        yield "class", labels[test.y]
    if test.groups is not None:
        yield "group", np.char.add("group ", (test.groups + 1).astype(str))
    for index, spec in enumerate(test.features):
        if spec.categories:
            codes = test.X[:, index]
            known = np.asarray([*(str(item) for item in spec.categories), "missing"])
            inside = np.isfinite(codes) & (codes >= 0) & (codes < len(spec.categories))
            yield spec.name, known[np.where(inside, codes, len(spec.categories)).astype(np.int64)]
