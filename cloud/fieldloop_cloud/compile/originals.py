"""What the original answers: one call for each output that the compiled model has."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.compile.value import host_array

METHODS: dict[str, tuple[str, ...]] = {
    "label": ("predict",),
    "probabilities": ("predict_proba",),
    "decision": ("decision_function",),
    "value": ("predict",),
    "transformed": ("transform",),
    "distances": ("transform", "kneighbors"),
    "score": ("score_samples",),
}
"""Where scikit-learn has the answer for each output."""


def ask(model: Any, role: str, raw: Any, *, target: int | None = None) -> NDArray[Any] | None:
    """Return scikit-learn's answer for an output, or None if it has no method for it.

    Args:
        model: The original.
        role: The output's role.
        raw: Rows as the original takes them.
        target: Which target's answer, where there are several; None where there is one.
    """
    for method in METHODS[role]:
        if hasattr(model, method):
            answer = getattr(model, method)(raw)
            if method == "kneighbors":
                answer = answer[0]
            if isinstance(answer, list):  # one answer for each target
                answer = answer[target or 0]
            if role == "label":
                labels = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
                is_column = labels.ndim > 1 and labels.shape[1] == 1  # CatBoost's way
                return labels[:, 0] if is_column else labels
            return host_array(answer)
    return None


def ask_all(
    model: Any, rows: Rows, table: NDArray[Any], specs: Sequence[Any]
) -> dict[str, NDArray[Any]] | None:
    """Return the answer for each output; None if scikit-learn refuses a row."""
    raw = rows.original(table)
    answers = {}
    try:
        with np.errstate(all="ignore"):
            for spec in specs:
                answer = ask(model, spec.role, raw, target=target_of(spec.name))
                if answer is not None:
                    answers[spec.name] = answer
    except ValueError:
        return None
    return answers


def answered(
    model: Any, rows: Rows, table: NDArray[np.float32], specs: Sequence[Any]
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Return the probes that scikit-learn answers (halving what it refuses), and the answers."""
    answers = ask_all(model, rows, table, specs) if len(table) else None
    if answers is not None:
        return table, answers
    if len(table) <= 1:
        empty = ask_all(model, rows, rows.example[:1], specs) or {}
        return table[:0], {name: answer[:0] for name, answer in empty.items()}
    half = len(table) // 2
    first, a = answered(model, rows, table[:half], specs)
    second, b = answered(model, rows, table[half:], specs)
    return np.concatenate([first, second]), {n: np.concatenate([a[n], b[n]]) for n in a}


def widened(fitted: Any) -> Any:
    """Return a fitted object with its float32 arrays as float64, those of its members included.

    For what was fitted on float32 and cannot be asked in float64, as KMeans.
    """
    if isinstance(fitted, np.ndarray) and fitted.dtype == np.float32:
        return fitted.astype(np.float64)
    if isinstance(fitted, list | tuple) and type(fitted) in (list, tuple):
        return type(fitted)(widened(member) for member in fitted)
    if not isinstance(fitted, BaseEstimator):
        return fitted
    made = copy.copy(fitted)
    for name, attribute in vars(fitted).items():
        setattr(made, name, widened(attribute))
    return made


def target_of(name: str) -> int | None:
    """Return the number at the end of an output's name.

    >>> target_of("probabilities_1"), target_of("probabilities")
    (1, None)
    """
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else None
