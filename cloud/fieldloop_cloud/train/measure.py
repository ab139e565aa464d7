"""What a flatbuffer does: its answers and its latency, through the codec and the interpreter.

Never through the scikit-learn or Keras object it came from: what is shipped is what is measured.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.backends import available_backends, choose_backend
from fieldloop.codec import Codec, dequantize
from fieldloop.errors import CompatibilityError
from fieldloop.interpreter import Engine
from fieldloop.signature import Signature
from fieldloop.targets import target_views
from fieldloop_cloud.compile.compiled import batch_rows
from fieldloop_cloud.engine import open_engine

_WARM_UP = 20
_TIMED_RUNS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Answers for n rows.

    Attributes:
        predicted: Class indices (int64) or values (float64), shape (n,); NaN where the model has
            no single answer for a row (a transformer, several targets).
        probabilities: float64 (n, classes); None without such an output, and for several targets.
        outputs: Every output in the signature's order, as real values, shape (n, …).
    """

    predicted: NDArray[Any]
    probabilities: NDArray[np.float64] | None
    outputs: tuple[NDArray[Any], ...]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the answers as named arrays, for a file."""
        named = {f"output-{number}": output for number, output in enumerate(self.outputs)}
        if self.probabilities is not None:
            named["probabilities"] = self.probabilities
        return {"predicted": self.predicted, **named}

    @classmethod
    def from_arrays(cls, named: Mapping[str, NDArray[Any]]) -> "Answers":
        """Return the answers that `arrays` gave."""
        count = sum(name.startswith("output-") for name in named)
        return cls(
            predicted=named["predicted"],
            probabilities=named.get("probabilities"),
            outputs=tuple(named[f"output-{number}"] for number in range(count)),
        )


@dataclass(frozen=True, slots=True)
class Latency:
    """One-row latency on this machine, in milliseconds."""

    p50_ms: float
    p90_ms: float


def rows_for(signature: Signature, X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shape encoded rows as the model's input wants them: flat, or (height, width, channels).

    Rows of several inputs are flat (`fieldloop.layout`).
    """
    if len(signature.inputs) > 1:
        return X
    return X.reshape(len(X), *signature.inputs[0].shape[1:])


def answers(tflite: bytes, signature: Signature, X: NDArray[np.float32]) -> Answers:
    """Run encoded rows, shape (n, …), through a flatbuffer.

    Raises:
        ModelRuntimeError: The interpreter failed.
    """
    engine = open_engine(tflite)
    try:
        tensors = _run(engine, Codec(signature), rows_for(signature, X))
    finally:
        engine.close()
    outputs = tuple(
        dequantize(spec, tensor) for spec, tensor in zip(signature.outputs, tensors, strict=True)
    )
    if len(signature.targets) > 1:
        return Answers(np.full(len(X), np.nan), None, outputs)
    return Answers(_predicted(signature, outputs), _probabilities(signature, outputs), outputs)


def answers_of_targets(signature: Signature, said: Answers) -> tuple[Answers, ...]:
    """Return the answers for each of several targets, as if it were the only one; else none."""
    cut = [(view.signature, tuple(view.cut(said.outputs))) for view in target_views(signature)]
    return tuple(
        Answers(_predicted(alone, outputs), _probabilities(alone, outputs), outputs)
        for alone, outputs in cut
    )


def latencies(tflite: bytes, signature: Signature, X: NDArray[np.float32]) -> dict[str, Latency]:
    """Time single rows on every runtime at hand that loads the model, the usual one first.

    Which precision is fastest depends on the runtime more than on the model. TensorFlow is left
    out where there is another: it is no device's runtime, and takes seconds to import.
    """
    usual = choose_backend().name
    others = [
        one.name
        for one in available_backends()
        if one.usable and one.name not in (usual, "tensorflow")
    ]
    found = {usual: latency(tflite, signature, X)}
    for name in others:
        with contextlib.suppress(CompatibilityError):  # too old for one of its ops
            found[name] = latency(tflite, signature, X, backend=name)
    return found


def latency(
    tflite: bytes, signature: Signature, X: NDArray[np.float32], *, backend: str | None = None
) -> Latency:
    """Time single rows: quantize, set, invoke, get; encoding and decoding are left out."""
    codec = Codec(signature)
    rows = rows_for(signature, X)
    engine = open_engine(tflite, backend=backend)
    try:
        for number in range(_WARM_UP):
            engine.run(codec.tensors(rows[number % len(rows)][np.newaxis]))
        taken = np.empty(_TIMED_RUNS)
        for number in range(_TIMED_RUNS):
            row = rows[number % len(rows)][np.newaxis]
            start = time.perf_counter_ns()
            engine.run(codec.tensors(row))
            taken[number] = time.perf_counter_ns() - start
    finally:
        engine.close()
    p50, p90 = np.quantile(taken / 1e6, [0.5, 0.9])
    return Latency(float(p50), float(p90))


def _run(engine: Engine, codec: Codec, rows: NDArray[np.float32]) -> list[NDArray[Any]]:
    batch = batch_rows(codec.signature)
    parts = [
        engine.run(codec.tensors(rows[start : start + batch]))
        for start in range(0, max(len(rows), 1), batch)
    ]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _predicted(signature: Signature, outputs: tuple[NDArray[Any], ...]) -> NDArray[Any]:
    by_role = _by_role(signature, outputs)
    for role, dtype in (("label", np.int64), ("value", np.float64)):
        found = by_role.get(role)
        if found is not None and found.size == len(found):
            return found.reshape(-1).astype(dtype)
    scores = by_role.get("probabilities", by_role.get("decision"))
    if scores is None or "label" in by_role:
        return np.full(len(outputs[0]), np.nan)
    scores = scores.reshape(len(scores), -1)
    threshold = 0.5 if "probabilities" in by_role else 0.0
    is_single = scores.shape[1] == 1  # a sigmoid, or one decision value
    best = scores[:, 0] > threshold if is_single else scores.argmax(axis=1)
    return np.asarray(best, dtype=np.int64)


def _probabilities(
    signature: Signature, outputs: tuple[NDArray[Any], ...]
) -> NDArray[np.float64] | None:
    found = _by_role(signature, outputs).get("probabilities")
    if found is None:
        return None
    table = found.reshape(len(found), -1).astype(np.float64)
    return np.hstack([1 - table, table]) if table.shape[1] == 1 else table


def _by_role(
    signature: Signature, outputs: tuple[NDArray[Any], ...]
) -> dict[str | None, NDArray[Any]]:
    """Return the first output of each role: the one that a device reads."""
    pairs = list(zip(signature.outputs, outputs, strict=True))
    return {spec.role: output for spec, output in reversed(pairs)}
