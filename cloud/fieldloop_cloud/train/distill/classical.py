"""Classical students: fitted on the teacher's probabilities by weights, or on its values.

A row is given once for each class, weighted with the class's probability. For a logistic
regression that is the cross-entropy against soft labels, exactly; trees split by weighted impurity.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from fieldloop.errors import UnsupportedError

_LEAST_WEIGHT = 1e-3
"""A class of less weight in a row is left out; 1000 of these together weigh as one row."""


def fit_soft(
    student: Any, rows: NDArray[np.float32], weights: NDArray[np.float64], classes: NDArray[Any]
) -> Any:
    """Return a clone of a classifier, fitted on probabilities of classes.

    Args:
        student: An estimator whose `fit` takes sample weights, or a pipeline that ends with one.
        rows: (n, features).
        weights: (n, classes), each row adding up to 1.
        classes: Labels, in the order of the columns.

    Raises:
        UnsupportedError: The student takes no sample weights.
    """
    head, last = _parts(student)
    if not has_fit_parameter(last, "sample_weight"):
        raise UnsupportedError(
            "this student takes no sample weights, through which the teacher would speak",
            where=type(last).__name__,
            advice="Use a tree, forest, boosting, logistic regression or a small net.",
        )
    seen = _through(head, rows)
    row, column = np.nonzero(weights >= _LEAST_WEIGHT)
    last.fit(seen[row], classes[column], sample_weight=weights[row, column])
    return _together(student, head, last)


def fit_values(student: Any, rows: NDArray[np.float32], values: NDArray[np.float64]) -> Any:
    """Return a clone of a regressor, fitted on values (n,)."""
    head, last = _parts(student)
    last.fit(_through(head, rows), values)
    return _together(student, head, last)


def _parts(student: Any) -> tuple[Any, Any]:
    """Return unfitted copies of the steps before the last one (None without any) and of the last.

    The preprocessing sees every row once; only the last step sees it once for each class.
    """
    if not isinstance(student, Pipeline):
        return None, clone(student)
    copy = clone(student)
    return (copy[:-1] if len(copy.steps) > 1 else None), copy.steps[-1][1]


def _through(head: Any, rows: NDArray[np.float32]) -> Any:
    return rows if head is None else head.fit_transform(rows)


def _together(student: Any, head: Any, last: Any) -> Any:
    if not isinstance(student, Pipeline):
        return last
    steps = [] if head is None else list(head.steps)
    return Pipeline([*steps, (student.steps[-1][0], last)])
