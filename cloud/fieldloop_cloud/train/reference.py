"""What the field is compared with: the reference profile, and the golden answers.

Feature histograms come from training rows. Everything about the model's answers should come from
rows that it was not fitted on, because it is surer than it should be on the others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.bundle import to_blob
from fieldloop.codec import Codec
from fieldloop.histogram import Bins
from fieldloop.manifest import GoldenSet, Precision
from fieldloop.profile import (
    CountedTarget,
    MonitoredQuantity,
    ReferenceProfile,
    monitored,
    monitored_names,
)
from fieldloop.signature import FeatureSpec, Signature
from fieldloop.targets import target_views
from fieldloop.telemetry import CONFIDENCE_EDGES
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.train.measure import Answers, answers, answers_of_targets, rows_for

GOLDEN_ROWS = 16

TOLERANCE: dict[Precision, float] = {
    "float32": 1e-3,
    "float16": 1e-2,
    "dynamic": 3e-2,
    "int8": 5e-2,
    "mixed": 5e-2,
    "int16x8": 2e-2,
}
"""Allowed deviation on a device, relative to the outputs' size (at least 1): kernels of another
runtime or processor round differently, the more so the coarser the precision."""


def reference_profile(
    signature: Signature,
    rows: NDArray[np.float32],
    said: Answers,
    truth: NDArray[np.int64] | Sequence[NDArray[Any] | None] | None,
) -> ReferenceProfile:
    """Freeze what rows and answers looked like.

    Args:
        signature: The chosen variant's.
        rows: Encoded rows that the histograms are made from, (n, …).
        said: The chosen variant's answers on held-out rows.
        truth: Their true class indices, for several targets those of each; None leaves the share of
            right answers open.
    """
    quantities = _quantities(signature, rows)
    if len(signature.targets) > 1:
        truths = truth if isinstance(truth, Sequence) else None
        return _of_targets(signature, quantities, said, truths, len(rows))
    assert not isinstance(truth, Sequence)
    class_count = len(signature.labels)
    if not class_count or said.predicted.dtype.kind != "i":
        return ReferenceProfile(quantities=quantities, row_count=len(rows))
    counts = np.bincount(said.predicted, minlength=class_count)
    confidence, accuracy = _calibration(truth, said, class_count)
    return ReferenceProfile(
        quantities=quantities,
        class_counts=tuple(int(n) for n in counts),
        confidence_counts=confidence,
        confidence_accuracy=accuracy,
        row_count=len(rows),
    )


def _of_targets(
    signature: Signature,
    quantities: tuple[MonitoredQuantity, ...],
    said: Answers,
    truths: Sequence[NDArray[Any] | None] | None,
    row_count: int,
) -> ReferenceProfile:
    """Freeze the answers for every target with probabilities, one target after the other."""
    counted: list[CountedTarget] = []
    classes: list[int] = []
    confidence: list[tuple[int, ...]] = []
    accuracy: list[tuple[float, ...]] = []
    each = answers_of_targets(signature, said)
    for place, (view, answered) in enumerate(zip(target_views(signature), each, strict=True)):
        class_count = len(view.counted_labels)
        if not class_count:
            continue
        truth = None if truths is None else truths[place]
        counts, shares = _calibration(truth, answered, class_count)
        counted.append(CountedTarget(name=view.target.name, class_count=class_count))
        classes += np.bincount(answered.predicted, minlength=class_count).tolist()
        confidence += counts
        accuracy += shares
    return ReferenceProfile(
        quantities=quantities,
        class_counts=tuple(classes),
        confidence_counts=tuple(confidence),
        confidence_accuracy=tuple(accuracy),
        targets=tuple(counted),
        row_count=row_count,
    )


def _quantities(signature: Signature, rows: NDArray[np.float32]) -> tuple[MonitoredQuantity, ...]:
    if not monitored_names(signature):
        return ()  # values without names, such as a time series: only the answers are watched
    table = monitored(signature, rows_for(signature, rows))
    specs: dict[str, FeatureSpec] = {spec.name: spec for spec in signature.features}
    return tuple(
        _quantity(name, column, specs.get(name))
        for name, column in zip(monitored_names(signature), table.T, strict=True)
    )


def _quantity(
    name: str, column: NDArray[np.float64], spec: FeatureSpec | None
) -> MonitoredQuantity:
    known = column[np.isfinite(column)]
    if spec is not None and spec.categories:
        # One cell a category, and one below the first for categories never seen.
        bins = Bins(edges=tuple(code - 0.5 for code in range(len(spec.categories))))
    elif not len(known):
        # All of the column's values fell into the other parts of the split.
        return MonitoredQuantity(
            name=name,
            bins=Bins(edges=()),
            counts=(0,),
            low=0.0,
            high=0.0,
            missing_count=len(column),
        )
    else:
        bins = Bins.from_reference(known)
    return MonitoredQuantity(
        name=name,
        bins=bins,
        counts=tuple(int(n) for n in bins.count(column)),
        low=float(known.min()) if len(known) else 0.0,
        high=float(known.max()) if len(known) else 0.0,
        missing_count=int(np.isnan(column).sum()),
    )


def _calibration(
    truth: NDArray[np.int64] | None, said: Answers, class_count: int
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[float, ...], ...]]:
    """Return confidence counts and the share right, for each class and confidence cell."""
    if said.probabilities is None:
        return (), ()
    confidence = said.probabilities[np.arange(len(said.predicted)), said.predicted]
    bins = Bins(edges=CONFIDENCE_EDGES)
    classes = [said.predicted == index for index in range(class_count)]
    counts = tuple(tuple(int(n) for n in bins.count(confidence[mine])) for mine in classes)
    if truth is None:
        return counts, ()
    right = (said.predicted == truth).astype(np.float64)
    return counts, tuple(_isotonic(confidence, right, mine) for mine in classes)


_MIN_CLASS_ROWS = 50
_PRIOR_ROWS = 20.0


def _isotonic(
    confidence: NDArray[np.float64], right: NDArray[np.float64], mine: NDArray[np.bool_]
) -> tuple[float, ...]:
    """Return the share right in each confidence cell, isotonic in the confidence.

    A class seldom predicted says little about its own calibration, so every class leans on all
    rows, the more so the fewer rows it has.
    """
    from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - only when training

    own = mine.astype(np.float64)
    # All other rows together weigh as much as `_PRIOR_ROWS` rows of this class.
    others = max(len(mine) - own.sum(), 1.0)
    weight = np.where(mine, 1.0, min(1.0, _PRIOR_ROWS / others))
    if own.sum() >= _MIN_CLASS_ROWS * len(CONFIDENCE_EDGES):
        weight = own + 1e-9
    curve = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    curve.fit(confidence, right, sample_weight=weight)
    edges = np.asarray(CONFIDENCE_EDGES)
    cells = np.searchsorted(edges, confidence, side="right")
    middles = np.concatenate([[edges[0] / 2], (edges[:-1] + edges[1:]) / 2, [(edges[-1] + 1) / 2]])
    fitted = curve.predict(confidence)
    shares = []
    for cell, middle in enumerate(middles):
        inside = (cells == cell) & mine
        shares.append(float(fitted[inside].mean() if inside.any() else curve.predict([middle])[0]))
    # Averages over cells keep the order of a monotone curve only where every cell is filled.
    return tuple(float(share) for share in np.maximum.accumulate(shares))


def golden_set(compiled: Compiled, rows: NDArray[np.float32], *, seed: int) -> GoldenSet:
    """Freeze some input tensors with the variant's own outputs, for the self-test on a device.

    Rows on which two classes are nearly tied come last: there a kernel that rounds differently
    may rightly give another label, and labels must be equal.

    Args:
        compiled: The variant.
        rows: Encoded rows to draw from, (n, …); labels take turns, so that every answer is
            exercised.
        seed: Same rows and seed, same draw.
    """
    signature = compiled.signature
    said = answers(compiled.tflite, signature, rows)
    reals = [np.abs(output).max() for output in said.outputs if output.dtype.kind == "f"]
    tolerance = TOLERANCE[compiled.precision] * max(1.0, *(float(real) for real in reals), 0.0)
    each = answers_of_targets(signature, said) or (said,)
    clear = np.all([_clear(one, TOLERANCE[compiled.precision]) for one in each], axis=0)
    drawn = _spread(each, clear, seed)
    encoded = rows_for(signature, rows[drawn])
    golden = answers(compiled.tflite, signature, encoded)
    return GoldenSet(
        precision=compiled.precision,
        inputs=tuple(to_blob(tensor) for tensor in Codec(signature).tensors(encoded)),
        outputs=tuple(to_blob(np.ascontiguousarray(output)) for output in golden.outputs),
        tolerance=tolerance,
    )


def _clear(said: Answers, tolerance: float) -> NDArray[np.bool_]:
    """Tell the rows whose best two classes are further apart than the tolerance can move them."""
    if said.probabilities is None:
        return np.ones(len(said.predicted), dtype=np.bool_)
    best_two = np.sort(said.probabilities, axis=1)[:, -2:]
    clear: NDArray[np.bool_] = best_two[:, 1] - best_two[:, 0] > 2 * tolerance
    return clear


def _spread(each: Sequence[Answers], clear: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Draw up to `GOLDEN_ROWS` row numbers, one label after the other, clear rows first.

    Of several targets every combination of labels counts as one.
    """
    order = np.random.default_rng(seed).permutation(len(clear))
    order = order[np.argsort(~clear[order], kind="stable")]
    labels = [said.predicted for said in each if said.predicted.dtype.kind == "i"]
    if labels:
        label = np.unique(np.stack(labels, axis=1), axis=0, return_inverse=True)[1].ravel()[order]
        turn = np.empty(len(label), dtype=np.int64)
        for index in np.unique(label):
            turn[label == index] = np.arange((label == index).sum())
        order = order[np.lexsort((label, turn))]
    return np.sort(order[:GOLDEN_ROWS]).astype(np.int64)
