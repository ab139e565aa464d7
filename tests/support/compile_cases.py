"""The behaviour battery that every compiled estimator must pass.

A `Case` is one row of the table: an estimator, its hyper-parameters as a hypothesis strategy, and
what it cannot do. `check_case` fits it on one of `DATA_SETS`, compiles it, and compares every
output with scikit-learn's own on rows that were not fitted on, in batches of 0, 1, 7 and all, in
ai-edge-litert and in tflite-runtime 2.14.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.originals import ask, target_of

ROWS, FITTED = 90, 60
TOLERANCE = {"probabilities": 1e-5, "decision": 2e-5, "value": 2e-5, "transformed": 1e-5}
DEFAULT_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Case:
    """One estimator in the battery.

    Attributes:
        name: Shown by pytest.
        make: Builds the estimator from drawn hyper-parameters.
        parameters: Strategy for a dict of hyper-parameters.
        target: What y is: "classes", "number", "none", or of several targets "table" (labels
            of each), "indicators" (each is there or not), "numbers".
        skip: Names of data sets that the estimator itself refuses.
        positive: Whether X must not be negative.
        tolerance: Largest deviation by output, relative to its size; probabilities absolute.
        data_sets: Only these; None for all that fit the target.
    """

    name: str
    make: Callable[..., Any]
    parameters: st.SearchStrategy[dict[str, Any]] = field(default_factory=lambda: st.just({}))
    target: str = "classes"
    skip: frozenset[str] = frozenset()
    positive: bool = False
    tolerance: dict[str, float] = field(default_factory=dict)
    data_sets: tuple[str, ...] | None = None


def _blobs(seed, classes, features, *, rows=ROWS):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    y[:classes] = np.arange(classes)
    y[FITTED : FITTED + classes] = np.arange(classes)
    centres = rng.normal(scale=2.0, size=(classes, features))
    return centres[y] + rng.normal(size=(rows, features)), y


def _binary():
    return _blobs(1, 2, 4)


def _multiclass():
    X, y = _blobs(2, 3, 4)
    return X, np.array([7, -2, 30])[y]  # neither contiguous nor in order


def _strings():
    X, y = _blobs(3, 3, 4)
    return X, np.array(["idle", "running", "äußerst heiß"])[y]


def _booleans():
    X, y = _blobs(4, 2, 3)
    return X, y.astype(bool)


def _one_feature():
    return _blobs(5, 3, 1)


def _many_features():
    return _blobs(6, 3, 50)


def _constant_feature():
    X, y = _blobs(7, 3, 4)
    X[:, 1] = 3.25
    return X, y


def _offset():
    X, y = _blobs(8, 3, 4)
    return X + 1e4, y


def _scales():
    X, y = _blobs(9, 3, 4)
    return X * [1e-3, 1.0, 30.0, 1e3], y


def _single_precision():
    X, y = _blobs(10, 3, 4)
    return X.astype(np.float32), y


def _two_targets():
    X, y = _blobs(11, 3, 4)
    other = (X[:, 1] > np.median(X[:, 1])).astype(int)
    return X, np.column_stack([np.array([7, -2, 30])[y], np.array([9, 5])[other]])


def _string_targets():
    X, y = _two_targets()
    names = {7: "idle", -2: "äußerst heiß", 30: "running", 9: "no", 5: "yes"}
    return X, np.array([[names[label] for label in row] for row in y.tolist()])


def _indicators():
    X, y = _blobs(12, 3, 4)
    return X, np.column_stack([y == 0, y > 0, X[:, 2] > np.median(X[:, 2])]).astype(int)


def _two_numbers():
    X, y = _blobs(13, 3, 4)
    return X, np.column_stack([1e6 * (X[:, 0] + y) + 3e6, 1e-3 * X[:, 1] * X[:, 2], X.sum(axis=1)])


SEVERAL = {
    "two-targets": ("table", _two_targets),
    "string-targets": ("table", _string_targets),
    "indicators": ("indicators", _indicators),
    "two-numbers": ("numbers", _two_numbers),
}
"""Data sets of several targets: what y is, and the function."""

DATA_SETS = {
    "binary": _binary,
    "multiclass": _multiclass,
    "strings": _strings,
    "booleans": _booleans,
    "one-feature": _one_feature,
    "many-features": _many_features,
    "constant-feature": _constant_feature,
    "offset-1e4": _offset,
    "scales": _scales,
    "float32": _single_precision,
}
"""Name to a function that returns (X, y), float32 numbers in X."""

DATA_SETS |= {name: function for name, (_, function) in SEVERAL.items()}

CLASSES_ONLY = {"strings", "booleans"}


def data_names(case):
    """Return the names of the data sets that the case runs on."""
    several = [name for name, (target, _) in SEVERAL.items() if target == case.target]
    if several:
        return [name for name in several if name in (case.data_sets or several)]
    names = case.data_sets or [name for name in DATA_SETS if name not in SEVERAL]
    return [
        name
        for name in names
        if name not in case.skip and (case.target == "classes" or name not in CLASSES_ONLY)
    ]


def data_for(case, name):
    """Return X fitted on, y, and X held out."""
    X, y = DATA_SETS[name]()
    if case.positive:
        X = np.abs(X)
    kind = X.dtype
    X = X.astype(np.float32).astype(kind)
    if case.target == "number":
        codes = np.unique(y, return_inverse=True)[1]
        spread = X - X.mean(axis=0)
        y = codes * 3.0 + (spread / np.maximum(spread.std(axis=0), 1e-9)).sum(axis=1) + 5.0
    if case.target == "none":
        y = None
    return X[:FITTED], None if y is None else y[:FITTED], X[FITTED:]


def fitted(case, parameters, X, y):
    """Return the fitted estimator; convergence does not matter here."""
    estimator = case.make(**parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X) if y is None else estimator.fit(X, y)


def check_case(case, parameters, name, worker):
    """Compile and compare; raises AssertionError where anything differs."""
    X, y, held_out = data_for(case, name)
    estimator = fitted(case, parameters, X, y)
    compiled = to_tflite(estimator, example=X, held_out=held_out)
    check_outputs(compiled, estimator, held_out, worker, tolerance=case.tolerance)


def check_outputs(compiled, estimator, rows, worker, *, tolerance=None):
    """Compare all outputs on rows with scikit-learn's, in both runtimes and any batch."""
    limits = {**TOLERANCE, **(tolerance or {})}
    decision = ask(estimator, "decision", rows)
    if decision is not None:  # float32 cannot tell logits of hundreds apart more finely
        limits["probabilities"] *= max(1.0, float(np.abs(decision).max()) / 100)
    here = compiled.run(rows)
    # Both device runtimes on the same tensors, in any batch, agree with the whole batch here.
    tensors = compiled.codec.tensors(compiled.codec.encode_rows(_raw(rows)))[0]
    batches = [tensors, tensors[:1], tensors[:7], tensors[:0]]
    there = worker.run(compiled.tflite, batches) if worker else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for position, spec in enumerate(compiled.signature.outputs):
            expected = ask(estimator, spec.role, rows, target=target_of(spec.name))
            assert expected is not None, f"{spec.name}: scikit-learn has no such method"
            got = here[spec.name]
            assert got.shape == expected.shape, (spec.name, got.shape, expected.shape)
            if spec.role == "label":
                undecided = _undecided(estimator, rows, compiled, limits)
                wrong = (got != expected).reshape(len(rows), -1).any(axis=1) & ~undecided
                assert not wrong.any(), (spec.name, got[wrong], expected[wrong])
            else:
                _assert_close(spec, got, expected, limits)
            for batch, result in zip(batches, there or [], strict=bool(there)):
                _assert_same(compiled, spec, result[position], got, count=len(batch), limits=limits)


def _raw(rows):
    return rows.to_numpy(dtype=object) if hasattr(rows, "to_numpy") else rows


def _size(role, expected):
    if role == "probabilities":
        return 1.0
    if role == "value" and expected.ndim > 1:  # each target by its own size
        return np.abs(expected).max(axis=0, initial=0.0)
    reals = np.abs(expected[np.isfinite(expected)])
    return max(1.0 if role == "decision" else 0.0, reals.max(initial=0.0))


def _assert_close(spec, got, expected, limits):
    limit = limits.get(spec.role, DEFAULT_TOLERANCE) * _size(spec.role, expected)
    close = np.isclose(got, expected, rtol=0, atol=limit, equal_nan=True)
    assert close.all(), (spec.name, got[~close], expected[~close])


def _assert_same(compiled, spec, other, whole, *, count, limits):
    """Another runtime, another batch: the same answers (labels where nothing is a float tie)."""
    assert len(other) == count
    if spec.role == "label":
        other = compiled._named(other)
        changed = np.asarray(other != whole[:count])
        assert changed.mean() <= 0.1 if count else True, spec.name
        return
    limit = 2 * limits.get(spec.role, DEFAULT_TOLERANCE) * _size(spec.role, whole)
    close = np.isclose(other, whole[:count], rtol=0, atol=limit, equal_nan=True)
    assert close.all(), (spec.name, other[~close], whole[:count][~close])


def _undecided(estimator, rows, compiled, limits):
    """Rows on which scikit-learn's own choice is within twice the tolerance of another one."""
    undecided = np.zeros(len(rows), bool)
    for spec in compiled.signature.outputs:
        if spec.role not in {"probabilities", "decision", "distances"}:
            continue
        answer = ask(estimator, spec.role, rows, target=target_of(spec.name))
        limit = 2 * limits.get(spec.role, DEFAULT_TOLERANCE) * _size(spec.role, answer)
        if len(compiled.signature.targets) > 1 and spec.target is None:
            middle = 0.5 if spec.role == "probabilities" else 0.0
            undecided |= (np.abs(answer - middle) <= limit).any(axis=1)
        elif answer.ndim == 1:
            undecided |= np.abs(answer) <= limit
        elif answer.shape[1] > 1:
            ordered = np.sort(answer, axis=1)
            ends = (1, 0) if spec.role == "distances" else (-1, -2)
            undecided |= ordered[:, ends[0]] - ordered[:, ends[1]] <= limit
    return undecided
