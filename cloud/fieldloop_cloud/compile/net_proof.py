"""The proof that a converted net answers as the net itself does."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Codec, dequantize
from fieldloop.errors import GateError
from fieldloop.manifest import Precision
from fieldloop.signature import FeatureSpec, ImageSpec, TensorSpec
from fieldloop_cloud.compile.compiled import Compiled, Evidence, batch_rows
from fieldloop_cloud.compile.labelling import Given
from fieldloop_cloud.compile.net_signature import ordered_answers, signature_of
from fieldloop_cloud.engine import open_engine

LIMITS: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2}
"""Largest deviation from the Keras model's own answers, relative to their size (at least 1).
The integer precisions deviate by design; the accuracy gate judges them (`compile.quantize`)."""


def proven(
    tflite: bytes,
    precision: Precision,
    *,
    probes: NDArray[np.float32],
    answers: NDArray[np.float32] | Mapping[str, NDArray[np.float32]],
    labels: Given = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    called: Mapping[str, str] | None = None,
    original: str = "Keras model",
) -> Compiled:
    """Give a converted flatbuffer its signature and compare it with the net's own answers.

    Args:
        tflite: The flatbuffer.
        precision: How it was quantized.
        probes: Encoded rows, (n, *input shape); of several inputs side by side, (n, values).
        answers: The net's output for them, (n, …); of several outputs by their names in the file.
        labels: Class labels, for a classifier; for several outputs a dict by output.
        features: The raw values of a row, for a tabular input.
        image: The image preprocessing, for an image input.
        called: What people call the outputs, by their names in the file.
        original: What it is compared with.

    Raises:
        DataError: Labels or answers that do not fit the outputs.
        GateError: The answers deviate beyond the precision's limit.
    """
    wanted = ordered_answers(tflite, answers)
    signature = signature_of(
        tflite, wanted, labels=labels, features=features, image=image, called=called
    )
    codec = Codec(signature)
    batch = batch_rows(signature)
    engine = open_engine(tflite)
    try:
        parts = [
            engine.run(codec.tensors(probes[start : start + batch]))
            for start in range(0, len(probes), batch)
        ]
    finally:
        engine.close()
    said = [np.concatenate(part) for part in zip(*parts, strict=True)]
    limit = LIMITS.get(precision, math.inf)
    deviation: dict[str, float] = {}
    changes = 0
    for spec, made, right in zip(signature.outputs, said, wanted, strict=True):
        real = dequantize(spec, made).reshape(right.shape)
        deviation[spec.name] = _deviation(spec, real, right, precision, limit)
        if spec.role != "value":
            changes = max(changes, int((_choice(real) != _choice(right)).sum()))
    evidence = Evidence(
        original=original,
        row_count=len(probes),
        label_changes=changes,
        deviation=deviation,
        limit=dict.fromkeys(deviation, limit) if math.isfinite(limit) else {},
    )
    return Compiled(tflite, signature, evidence, precision)


def _deviation(
    spec: TensorSpec,
    made: NDArray[np.float32],
    right: NDArray[np.float32],
    precision: Precision,
    limit: float,
) -> float:
    size = max(1.0, float(np.abs(right).max()))
    deviation = float(np.abs(made - right).max()) / size
    if not deviation <= limit:  # NaN fails too
        raise GateError(
            f"the {precision} flatbuffer deviates from the Keras model by {deviation:.2g}, "
            f"allowed is {limit:g}",
            where=f"compile_keras, output {spec.name}",
            advice="Check the model for layers that behave differently in training.",
        )
    return deviation


def _choice(answers: NDArray[np.float32]) -> NDArray[np.int64]:
    table = answers.reshape(len(answers), -1)
    if table.shape[1] == 1:
        return (table[:, 0] > 0.5).astype(np.int64)  # noqa: PLR2004 - the middle of a sigmoid
    best: NDArray[np.int64] = table.argmax(axis=1).astype(np.int64)
    return best
