"""`to_tflite`: the entrance to compilation.

model -> dispatch (scikit-learn here, Keras in `compile.keras`) -> lowering -> flatbuffer
-> parity with the original -> `Compiled`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.interpreter import Engine, open_engine
from fieldloop.manifest import Precision
from fieldloop.signature import Category, FeatureSpec, Signature
from fieldloop_cloud.compile.classical_model import compile_classical
from fieldloop_cloud.compile.rows import Rows


@dataclass(frozen=True)
class Compiled:
    """A compiled model.

    Attributes:
        tflite: The flatbuffer.
        signature: Its contract.
        precision: How it was quantized.
    """

    tflite: bytes
    signature: Signature
    precision: Precision
    rows: Rows

    @cached_property
    def engine(self) -> Engine:
        """The interpreter that `run` uses, opened once."""
        return open_engine(self.tflite)

    def run(self, X: Any) -> dict[str, NDArray[Any]]:
        """Return the outputs by name, for raw rows as scikit-learn takes them.

        Args:
            X: (n, n_features) array, list of rows or DataFrame; n may be 0.
        """
        tensors = self.engine.run([self.rows.encode(X)])
        outputs = dict(zip((spec.name for spec in self.signature.outputs), tensors, strict=True))
        labels = np.array(self.signature.labels)
        for spec in self.signature.outputs:
            if spec.role == "label" and len(labels):
                outputs[spec.name] = labels[outputs[spec.name]]
        return outputs


def to_tflite(
    model: Any,
    *,
    example: Any,
    precision: Precision = "float32",
    labels: Sequence[Category] | None = None,
    features: Sequence[FeatureSpec] | None = None,
) -> Compiled:
    """Compile a fitted estimator or Pipeline to a TFLite flatbuffer of builtin ops.

    Args:
        model: A fitted scikit-learn estimator of a supported type.
        example: Rows like those it was fitted on, (n, n_features).
        precision: float32, float16 or int8.
        labels: Class labels; None: the estimator's `classes_`.
        features: The raw values of a row; None: worked out from the example.

    Raises:
        UnsupportedError: If it cannot be compiled exactly; names estimator and parameter.
    """
    rows = Rows.of(example, features=features)
    tflite, signature = compile_classical(model, rows, precision=precision, labels=labels)
    return Compiled(tflite, signature, precision, rows)
