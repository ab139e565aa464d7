"""What compiling gives: the flatbuffer, its contract, and the proof that nothing was lost."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Codec, dequantize
from fieldloop.errors import SignatureError
from fieldloop.interpreter import Engine, open_engine
from fieldloop.manifest import Precision
from fieldloop.signature import Signature
from fieldloop_cloud.compile.quantize import Gate

BATCH = 256
"""Rows that `run` gives to the interpreter at a time."""


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """What one precision reached when the smallest proven one was looked for.

    Attributes:
        precision: How it was quantized.
        size_bytes: Of the flatbuffer; None if it could not be had.
        gate: The comparison with the float32 reference; None if it could not be had.
        reason: The verdict in one sentence, or why it could not be had.
    """

    precision: Precision
    size_bytes: int | None = None
    gate: Gate | None = None
    reason: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """How the compiled model was compared with its original.

    Attributes:
        original: What it was compared with, for example `sklearn Pipeline`.
        row_count: Held-out (or example) rows compared.
        probe_count: Adversarial rows compared: thresholds, extremes, missing values.
        label_changes: Rows whose label differs although the original's choice is no tie within
            float32's precision; for a quantized input against the original on the dequantized
            rows.
        tie_count: Rows whose label differs where the original itself is undecided.
        deviation: For each real-valued output the largest absolute deviation.
        limit: For each output the largest deviation allowed, relative to the output's size.
        input_label_changes: Rows whose label changes because the input is quantized.
        calibration_sha256: Hash of the rows that set the ranges of integers; empty without any.
        rungs: What each precision reached, if the smallest proven one was looked for.
    """

    original: str
    row_count: int
    probe_count: int = 0
    label_changes: int = 0
    tie_count: int = 0
    deviation: dict[str, float] = {}
    limit: dict[str, float] = {}
    input_label_changes: int = 0
    calibration_sha256: str = ""
    rungs: tuple[Rung, ...] = ()

    @property
    def sentence(self) -> str:
        """The comparison in one sentence, for a lineage."""
        worst = max(self.deviation.values(), default=0.0)
        return (
            f"compared with its original ({self.original}) on {self.row_count} rows and "
            f"{self.probe_count} probes: {self.label_changes} labels changed, largest "
            f"deviation {worst:.1e}"
        )


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled model.

    Attributes:
        tflite: The flatbuffer.
        signature: What goes in and what comes out.
        evidence: The comparison with the original.
        precision: How it was quantized.
    """

    tflite: bytes = field(repr=False)
    signature: Signature
    evidence: Evidence
    precision: Precision

    @cached_property
    def engine(self) -> Engine:
        """The interpreter that `run` uses, opened on first use."""
        return open_engine(self.tflite)

    @cached_property
    def codec(self) -> Codec:
        """The codec that `run` uses: the same code as on a device."""
        return Codec(self.signature)

    def run(self, X: Any) -> dict[str, NDArray[Any]]:
        """Return the outputs by name, as real values, for raw rows.

        Args:
            X: As scikit-learn takes them: array (n, n_features), list of rows or DataFrame; or as
                the codec takes them: list of dicts, images. n may be 0.

        Returns:
            For each output an array with one entry a row; `label` holds the original labels.

        Raises:
            SignatureError: A row does not fit the signature.
        """
        return self.run_encoded(self.encode(X))

    def encode(self, X: Any) -> NDArray[np.float32]:
        """Return raw rows, as `run` takes them, as the numbers that the model works on.

        Raises:
            SignatureError: A row does not fit the signature.
        """
        return self.codec.encode_rows(self._rows(X))

    def _rows(self, X: Any) -> Any:
        """Return rows for the codec; a DataFrame's columns are found by name."""
        if hasattr(X, "toarray"):
            return X.toarray()
        if not hasattr(X, "columns"):
            return X
        names = list(self.signature.feature_names)
        given = [str(column) for column in X.columns]
        if set(names) & set(given):
            missing = [name for name in names if name not in given]
            if missing:
                raise SignatureError(
                    f"the table lacks {', '.join(missing)}", advice="Give every feature."
                )
            X = X.iloc[:, [given.index(name) for name in names]]
        return X.to_numpy(dtype=object)

    def run_encoded(self, rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Return the outputs for encoded rows (real values, categories as codes)."""
        # Some models keep rows x training rows x features numbers at once: not for all rows.
        starts = range(0, max(len(rows), 1), BATCH)
        parts = [
            self.engine.run(list(self.codec.tensors(rows[start : start + BATCH])))
            for start in starts
        ]
        tensors = [np.concatenate(part) for part in zip(*parts, strict=True)]
        outputs = {}
        for spec, tensor in zip(self.signature.outputs, tensors, strict=True):
            real = dequantize(spec, tensor)
            if spec.role == "label" and self.signature.labels:
                real = _as_array(self.signature.labels)[real]
            outputs[spec.name] = real
        return outputs


def _as_array(labels: tuple[Any, ...]) -> NDArray[Any]:
    """Return labels as an array of their own kind; mixed kinds stay objects."""
    if len({type(label) for label in labels}) == 1:
        return np.array(labels)
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array
