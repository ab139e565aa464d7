"""`to_tflite`: the entrance to compilation.

model → scikit-learn: `classical_model` (rows → lowering → flatbuffer → parity)
      → Keras: `keras` (a converter in a subprocess)
      → `Compiled`
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fieldloop.manifest import Precision
from fieldloop.signature import Category, FeatureSpec, ImageSpec
from fieldloop_cloud.compile.classical_model import compile_classical
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.rows import Rows


def to_tflite(
    model: Any,
    *,
    example: Any,
    precision: Precision = "float32",
    labels: Sequence[Category] | None = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    held_out: Any = None,
) -> Compiled:
    """Compile a fitted model to a TFLite flatbuffer of builtin ops, exactly, or refuse.

    Args:
        model: A fitted scikit-learn estimator or Pipeline of a supported type, a Keras model, or
            the path of a saved Keras model.
        example: Rows like those that it was fitted on, (n, n_features), in the same form (array of
            the same dtype, DataFrame); for a Keras model the calibration rows. The more, the
            stronger the comparison with the original.
        precision: `float32`, `float16` or `int8`. For a classical model int8 means an int8 input
            with a scale for each feature, and int8 tables.
        labels: Names of the classes, in the order of `classes_` (or indexed by them); None: the
            model's own.
        features: Names, units, ranges and categories of the columns; None: from the example.
        image: The image preprocessing, if a row is a (flattened) image.
        held_out: Rows to compare on; None: the example.

    Returns:
        The flatbuffer with its signature and the evidence of the comparison.

    Raises:
        UnsupportedError: It cannot be compiled exactly; names the estimator and the parameter.
        DataError: The example is no table, or the model refuses it.
        GateError: The compiled model deviates from the original beyond the stated limit.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> compiled = to_tflite(LogisticRegression(max_iter=500).fit(X, y), example=X)
        >>> compiled.run(X[:2])["label"].tolist()
        [0, 0]
    """
    if _is_keras(model):
        keras = importlib.import_module("fieldloop_cloud.compile.keras")
        compiled: Compiled = keras.compile_keras(
            model,
            precision=precision,
            example=example,
            labels=labels,
            features=_columns(example, features, image),
            image=image,
        )
        return compiled
    rows = Rows.of(example, features=features, image=image)
    return compile_classical(model, rows, precision=precision, labels=labels, held_out=held_out)


def _columns(
    example: Any, features: Sequence[FeatureSpec] | None, image: ImageSpec | None
) -> Sequence[FeatureSpec] | None:
    """Return the features of a net that takes rows of numbers, named from the example."""
    if features is not None or image is not None or np.ndim(example) != 2:  # noqa: PLR2004 - a table
        return features
    rows = Rows.of(example)
    return rows.features([False] * rows.width)


def _is_keras(model: Any) -> bool:
    if isinstance(model, (str, Path)):
        return True
    return any(
        kind.__module__.partition(".")[0] in {"keras", "tensorflow", "tf_keras"}
        for kind in type(model).__mro__
    )
