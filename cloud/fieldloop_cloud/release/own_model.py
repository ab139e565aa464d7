"""A model of one's own, trained elsewhere and compiled, as the contents of a bundle.

A run knows its data; here reference rows stand for them: what drift is measured against, what the
golden answers are drawn from, and, if the truth is given, what the score is measured on.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, DataError
from fieldloop.layout import layout
from fieldloop.manifest import Lineage
from fieldloop.profile import monitored_names
from fieldloop.signature import Category, FeatureSpec, Signature
from fieldloop.targets import target_views
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.release.contents import Contents, Shipped
from fieldloop_cloud.train.ending import tool_versions
from fieldloop_cloud.train.measure import Answers, answers, answers_of_targets
from fieldloop_cloud.train.metrics import Estimate, Task, estimates
from fieldloop_cloud.train.reference import golden_set, reference_profile

_SEED = 0


def contents_of_model(compiled: Compiled, *, reference: Any, truth: Any = None) -> Contents:
    """Freeze all that the field needs to know about a compiled model.

    Args:
        compiled: From `to_tflite`.
        reference: Rows that are ordinary for the model, as given to `to_tflite`'s `example` or to
            `Compiled.run`; best rows that it was not fitted on.
        truth: Their labels in the model's own words (or as class numbers, where the labels are
            text), or their values; shape (n,), for several targets (n, targets). None leaves score
            and estimated accuracy open.

    Raises:
        ConfigError: No reference rows, or truth for a model without one answer a row.
        DataError: Reference rows of no number, or truth that does not fit.
        SignatureError: A reference row that does not fit the model.
    """
    if reference is None:
        raise ConfigError(
            "a model of one's own needs reference rows: drift is measured against them, and the "
            "answers that a device replays before it switches are drawn from them",
            where="reference",
            advice="Give some hundred ordinary rows, for example the X that it was tested on.",
        )
    rows = _encoded(compiled, reference)
    if not len(rows):
        raise DataError(
            "there are no reference rows", where="reference", advice="Give at least one."
        )
    signature = _ranged(compiled.signature, rows)
    compiled = dataclasses.replace(compiled, signature=signature)
    said = answers(compiled.tflite, signature, rows)
    each = answers_of_targets(signature, said)
    judged = _of_targets(signature, each, truth) if each else _of_one(signature, said, truth)
    return Contents(
        variants=(
            Shipped(
                compiled=compiled,
                golden=golden_set(compiled, rows, seed=_SEED),
                score=judged.scores[0].value if judged.scores else None,
            ),
        ),
        profile=reference_profile(signature, rows, said, judged.classes),
        lineage=_lineage(compiled, rows, judged),
    )


@dataclass(frozen=True)
class _Judged:
    """The answers beside the truth.

    Attributes:
        truth: As numbers, for the data's hash; empty without any.
        classes: The true class indices, or of each target; None without truth or classes.
        scores: Of the only target; empty without truth.
        told: The scores in words.
    """

    truth: tuple[NDArray[Any], ...] = ()
    classes: NDArray[np.int64] | tuple[NDArray[Any] | None, ...] | None = None
    scores: tuple[Estimate, ...] = ()
    told: str = ""


def _of_one(signature: Signature, said: Answers, truth: Any) -> _Judged:
    if truth is None:
        return _Judged()
    actual = _truth(signature, said, truth)
    scores = estimates(_task(signature), actual, said.predicted)
    classes = actual.astype(np.int64) if signature.labels else None
    return _Judged((actual,), classes, scores, _told(scores))


def _of_targets(signature: Signature, each: tuple[Answers, ...], truth: Any) -> _Judged:
    """Judge several targets, each by itself: one score for all would hide which one is wrong."""
    if truth is None:
        return _Judged()
    table = np.asarray(truth, dtype=object)
    if table.shape != (len(each[0].predicted), len(each)):
        raise DataError(
            f"a truth of shape {table.shape} came where "
            f"{(len(each[0].predicted), len(each))} is needed",
            where="truth",
            advice="Give one row for each reference row, and one column for each target.",
        )
    views = target_views(signature)
    actual = tuple(
        _truth(view.signature, said, column)
        for view, said, column in zip(views, each, table.T, strict=True)
    )
    told = (
        f"{view.target.name}: {_told(estimates(_task(view.signature), column, said.predicted))}"
        for view, said, column in zip(views, each, actual, strict=True)
    )
    classes = tuple(
        column if view.target.labels else None for view, column in zip(views, actual, strict=True)
    )
    return _Judged(actual, classes, (), "; ".join(told))


def _told(scores: tuple[Estimate, ...]) -> str:
    return "; ".join(f"{e.metric} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}]" for e in scores)


def _encoded(compiled: Compiled, reference: Any) -> NDArray[np.float32]:
    """Return reference rows as the numbers that the model works on.

    Only where a raw value is something else than its number (an image, a category) does an array
    of floats say by its type that it is encoded already, as in `to_tflite`'s `example`.
    """
    signature = compiled.signature
    has_codes = signature.image is not None or any(spec.categories for spec in signature.features)
    is_float = isinstance(reference, np.ndarray) and reference.dtype.kind == "f"
    if not (has_codes and is_float) or len(signature.inputs) > 1:
        return compiled.encode(reference)
    rows = np.asarray(reference, dtype=np.float32)
    size = int(np.prod(signature.inputs[0].shape[1:]))
    if rows.ndim < 2 or rows[:1].size != size * len(rows[:1]):  # noqa: PLR2004 - rows, values
        raise DataError(
            f"reference rows of shape {rows.shape} came where {size} numbers a row are needed",
            where="reference",
            advice="Give rows like the example's.",
        )
    rows = rows.reshape(len(rows), -1)
    known = np.isfinite(rows)
    for place, spec in enumerate(signature.features):
        known[:, place] |= np.isnan(rows[:, place]) & spec.missing_allowed
        known[:, place] &= _is_code(rows[:, place], spec)
    if not known.all():
        row, place = np.argwhere(~known)[0].tolist()
        name = signature.feature_names[place] if signature.features else f"value {place}"
        raise DataError(
            f"{rows[row, place]} is no number that the model was made for",
            where=f"reference, row {row}, {name}",
            advice="Give encoded rows as float32, or raw rows as a list or a DataFrame.",
        )
    return rows


def _is_code(column: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.bool_]:
    if not spec.categories:
        return np.ones(len(column), dtype=np.bool_)
    lowest = -1 if spec.unknown == "encode" else 0
    codes = np.arange(lowest, len(spec.categories))
    return np.asarray(np.isin(column, codes) | np.isnan(column), dtype=np.bool_)


def _ranged(signature: Signature, rows: NDArray[np.float32]) -> Signature:
    """Widen the features' ranges to the reference rows: neither they nor the example are odd."""
    specs = []
    table = rows.reshape(len(rows), -1)[:, layout(signature).features]
    for place, spec in enumerate(signature.features):
        column = table[:, place]
        seen = column[np.isfinite(column)]
        if not spec.categories and len(seen):
            low, high = float(seen.min()), float(seen.max())
            spec = msgspec.structs.replace(  # noqa: PLW2901 - the same feature, wider
                spec,
                low=low if spec.low is None else min(low, spec.low),
                high=high if spec.high is None else max(high, spec.high),
            )
        specs.append(spec)
    return msgspec.structs.replace(signature, features=tuple(specs))


def _task(signature: Signature) -> Task:
    return "classification" if signature.labels else "regression"


def _truth(signature: Signature, said: Answers, truth: Any) -> NDArray[Any]:
    """Return class indices or values, one for each answer."""
    if (signature.task == "clustering") or np.isnan(said.predicted).all():
        raise ConfigError(
            f"this {signature.task} gives no single answer that truth could be compared with",
            where="truth",
            advice="Leave the truth out.",
        )
    given = truth.tolist() if hasattr(truth, "tolist") else truth
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise DataError(
            f"the truth is no list of answers but {type(truth).__name__}",
            where="truth",
            advice="Give one true answer for each reference row.",
        )
    if len(given) != len(said.predicted):
        raise DataError(
            f"there are {len(given)} true answers for {len(said.predicted)} reference rows",
            where="truth",
            advice="Give one for each row.",
        )
    return _indices(signature.labels, given) if signature.labels else _values(given)


def _indices(labels: tuple[Category, ...], given: Sequence[Any]) -> NDArray[np.int64]:
    known: dict[Any, int] = {label: number for number, label in enumerate(labels)}
    if all(isinstance(label, str) for label in labels):
        known |= {number: number for number in range(len(labels))}
    try:
        return np.array([known[label] for label in given], dtype=np.int64)
    except (KeyError, TypeError):
        unknown = sorted({repr(item) for item in given if _unknown(item, known)})
        raise DataError(
            f"{', '.join(unknown[:5])} {'is' if len(unknown) == 1 else 'are'} no label of the "
            "model",
            where="truth",
            advice=f"Use {', '.join(repr(label) for label in labels[:12])}.",
        ) from None


def _unknown(item: Any, known: dict[Any, int]) -> bool:
    try:
        return item not in known
    except TypeError:  # a list
        return True


def _values(given: Sequence[Any]) -> NDArray[np.float64]:
    try:
        values = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (len(given),) or not np.isfinite(values).all():
        raise DataError(
            "the true answers are not one finite number a row",
            where="truth",
            advice="Leave rows without a known answer out.",
        )
    return values


def _lineage(
    compiled: Compiled,
    rows: NDArray[np.float32],
    judged: _Judged,
) -> Lineage:
    digest = hashlib.sha256(np.ascontiguousarray(rows, dtype="<f4").tobytes())
    for truth in judged.truth:
        digest.update(np.ascontiguousarray(truth).tobytes())
    gates = {
        "parity": compiled.evidence.sentence,
        "reference": (
            f"{judged.told or 'no truth was given'}; {len(rows)} reference rows, of which it is "
            "not known whether the model was fitted on them"
        ),
    }
    gates |= {f"precision {rung.precision}": rung.reason for rung in compiled.evidence.rungs}
    if not monitored_names(compiled.signature):
        gates["drift"] = "the input's values have no names, so only the answers are watched"
    return Lineage(
        data_sha256=digest.hexdigest(),
        split_sha256="",
        calibration_sha256=compiled.evidence.calibration_sha256,
        candidate=compiled.evidence.original.removeprefix("sklearn "),
        metric=judged.scores[0].metric if judged.scores else "",
        gate=gates,
        tools=tool_versions(),
    )
