"""What compiling gives: the flatbuffer, its contract, and the proof that nothing was lost."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Codec, dequantize
from fieldloop.errors import SignatureError
from fieldloop.interpreter import Engine
from fieldloop.manifest import Precision
from fieldloop.signature import Signature
from fieldloop_cloud.compile.labelling import as_array, side_by_side
from fieldloop_cloud.compile.quantize import Gate
from fieldloop_cloud.engine import open_engine

BATCH = 256
"""Rows that `run` gives to the interpreter at a time."""


def batch_rows(signature: Signature) -> int:
    """Return how many rows an interpreter can be given at a time; some files take just one."""
    return BATCH if signature.inputs[0].shape[0] == -1 else signature.inputs[0].shape[0]


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """What one precision reached when the smallest proven one was looked for.

    Attributes:
        precision: How it was quantized.
        size_bytes: Of the flatbuffer; None if it could not be had.
        gate: The comparison with the float32 reference; None if it could not be had.
        arena_bytes: Memory for what is computed for a row.
        latency_p50_ms: One row on this machine, median, on the device's runtime where that is
            installed here; None if it was not measured.
        latency_by_runtime: The same for every runtime at hand that loads it.
        min_runtime: First TFLite version that has its ops.
        quantizer: What quantized it; the better of those that could.
        kept_float: Layers that stay in float.
        warnings: What makes it doubtful.
        reason: The verdict in one sentence, or why it could not be had.
    """

    precision: Precision
    size_bytes: int | None = None
    gate: Gate | None = None
    reason: str
    arena_bytes: int | None = None
    latency_p50_ms: float | None = None
    latency_by_runtime: dict[str, float] = {}
    min_runtime: str = ""
    quantizer: str = ""
    kept_float: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


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
        quantizer: What made the integers or halves of a net; empty for float32.
        kept_float: Layers that stay in float; for `mixed`.
        warnings: What makes the result doubtful: ranges that did not settle or are stretched.
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
    quantizer: str = ""
    kept_float: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
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
                the codec takes them: list of dicts, images, for several inputs a dict of arrays by
                input name. n may be 0.

        Returns:
            For each output an array with one entry a row; `label` holds the original labels, for
            several targets in a table (n, targets).

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
        batch = batch_rows(self.signature)
        starts = range(0, max(len(rows), 1), batch)
        parts = [
            self.engine.run(list(self.codec.tensors(rows[start : start + batch])))
            for start in starts
        ]
        tensors = [np.concatenate(part) for part in zip(*parts, strict=True)]
        outputs = {}
        for spec, tensor in zip(self.signature.outputs, tensors, strict=True):
            real = dequantize(spec, tensor)
            outputs[spec.name] = self._named(real) if spec.role == "label" else real
        return outputs

    def _named(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the labels of class numbers, (n,) or (n, targets); clusters stay numbers."""
        targets = self.signature.targets
        if not targets:
            return numbers
        columns = numbers.reshape(len(numbers), len(targets)).T
        named = [
            as_array(target.labels)[column] for target, column in zip(targets, columns, strict=True)
        ]
        return side_by_side(named).reshape(numbers.shape)
