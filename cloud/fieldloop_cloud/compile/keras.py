"""Keras to TFLite: the conversion in a killable process, and the proof that nothing was lost.

The converter can abort the whole process (LLVM ERROR); then only the precision it was working on
is lost, with a typed reason, and the others are converted by a fresh process.
"""

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Codec, dequantize
from fieldloop.errors import DataError, GateError, ModelRuntimeError, UnsupportedError
from fieldloop.interpreter import open_engine
from fieldloop.manifest import Precision
from fieldloop.signature import (
    Category,
    FeatureSpec,
    ImageSpec,
    OutputRole,
    Signature,
    Task,
    TensorSpec,
)
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.compile.keras_worker import ConvertJob
from fieldloop_cloud.compile.worker import (
    Progress,
    WorkerEnd,
    last_line,
    quiet,
    run_worker,
    write_atomically,
)

CONVERT_TIMEOUT_S = 600.0

LIMITS: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2}
"""Largest deviation from the Keras model's own answers, relative to their size (at least 1).
The integer precisions deviate by design; the accuracy gate judges them (`compile.quantize`)."""

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Converted:
    """Flatbuffers by precision, and the reasons of those that failed."""

    models: dict[Precision, bytes]
    failures: dict[Precision, str]


def compile_keras(
    model: Any,
    *,
    example: NDArray[np.float32],
    precision: Precision = "float32",
    labels: Sequence[Category] | None = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    calibration: NDArray[np.float32] | None = None,
    timeout_s: float = CONVERT_TIMEOUT_S,
    progress: Progress = quiet,
) -> Compiled:
    """Compile a Keras model, or a `.keras` file, to TFLite with builtin ops only.

    Args:
        model: A Keras 3 model with one input and one output, or the path of a saved one.
        example: Encoded rows, (n, *input shape), n > 0: the answers are compared on them.
        precision: What to quantize to; inputs and outputs stay float32.
        labels: Class labels, for a classifier.
        features: The raw values of a row, for a tabular input.
        image: The image preprocessing, for an image input.
        calibration: Rows for the integer precisions, from training data; None: the example.
        timeout_s: The conversion is killed then.
        progress: Receives what the converter's process reports.

    Raises:
        UnsupportedError: A layer or a form of model that does not convert to builtin ops.
        GateError: The flatbuffer's answers deviate from the model's.
        ModelRuntimeError: The converter aborted or ran out of time.
    """
    rows = np.asarray(example, dtype=np.float32)
    if not len(rows):
        raise DataError("an example of no rows shows nothing", advice="Give at least one row.")
    job = Path(tempfile.mkdtemp(prefix="fieldloop-convert-"))
    try:
        name = _save(model, job, rows)
        np.save(job / "probes.npy", rows)
        np.save(job / "calibration.npy", rows if calibration is None else calibration)
        _write_job(job, name, (precision,))
        end = run_worker(_WORKER, job, timeout_s=timeout_s, progress=progress)
        converted = collect(job, (precision,), first=end, timeout_s=timeout_s, progress=progress)
        if precision not in converted.models:
            raise _failure(converted.failures[precision], precision)
        answers = np.load(job / "answers.npy", allow_pickle=False)
    finally:
        shutil.rmtree(job, ignore_errors=True)
    return proven(
        converted.models[precision],
        precision,
        probes=rows,
        answers=answers,
        labels=labels,
        features=features,
        image=image,
    )


def collect(
    job: Path,
    precisions: tuple[Precision, ...],
    *,
    first: WorkerEnd,
    timeout_s: float,
    progress: Progress = quiet,
) -> Converted:
    """Gather what a worker converted; restart it for what an abort left undone.

    Args:
        job: The job's directory, with `model.keras` or `saved_model`.
        precisions: What was asked for, in the worker's order.
        first: How the worker ended.
        timeout_s: Limit for each further process.
        progress: Receives their reports.
    """
    end = first
    while True:
        models = {
            p: path.read_bytes() for p in precisions if (path := job / f"{p}.tflite").exists()
        }
        failures = {
            p: path.read_text(errors="replace")
            for p in precisions
            if (path := job / f"{p}.error").exists()
        }
        undone = tuple(p for p in precisions if p not in models and p not in failures)
        if not undone:
            return Converted(models, failures)
        # The worker goes in order, so the first undone one is what it died of.
        how = "ran out of time" if end.timed_out else "took its process down"
        reason = f"the converter {how}: {last_line(end.tail)}"
        write_atomically(job / f"{undone[0]}.error", reason.encode())
        if len(undone) > 1:
            saved = "model.keras" if (job / "model.keras").exists() else "saved_model"
            _write_job(job, saved, undone[1:])
            end = run_worker(_WORKER, job, timeout_s=timeout_s, progress=progress)


def proven(
    tflite: bytes,
    precision: Precision,
    *,
    probes: NDArray[np.float32],
    answers: NDArray[np.float32],
    labels: Sequence[Category] | None = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
) -> Compiled:
    """Give a converted flatbuffer its signature and compare it with the net's own answers.

    Args:
        tflite: The flatbuffer, with one input and one output.
        precision: How it was quantized.
        probes: Encoded rows, (n, *input shape).
        answers: The Keras model's output for them, (n, …).
        labels: Class labels, for a classifier.
        features: The raw values of a row, for a tabular input.
        image: The image preprocessing, for an image input.

    Raises:
        UnsupportedError: More than one input or output.
        GateError: The answers deviate beyond the precision's limit.
    """
    signature = _signature(tflite, answers, labels=labels, features=features, image=image)
    codec = Codec(signature)
    engine = open_engine(tflite)
    try:
        made = dequantize(signature.outputs[0], engine.run(codec.tensors(probes))[0])
    finally:
        engine.close()
    size = max(1.0, float(np.abs(answers).max()))
    deviation = float(np.abs(made.reshape(answers.shape) - answers).max()) / size
    limit = LIMITS.get(precision, math.inf)
    if not deviation <= limit:  # NaN fails too
        raise GateError(
            f"the {precision} flatbuffer deviates from the Keras model by {deviation:.2g}, "
            f"allowed is {limit:g}",
            where="compile_keras",
            advice="Check the model for layers that behave differently in training.",
        )
    changed = _choice(made.reshape(len(probes), -1)) != _choice(answers.reshape(len(probes), -1))
    role = str(signature.outputs[0].role)
    evidence = Evidence(
        original="Keras model",
        row_count=len(probes),
        label_changes=int(changed.sum()) if signature.task == "classification" else 0,
        deviation={role: deviation},
        limit={role: limit} if math.isfinite(limit) else {},
    )
    return Compiled(tflite, signature, evidence, precision)


_WORKER = "fieldloop_cloud.compile.keras_worker"


def _write_job(job: Path, model: str, precisions: tuple[Precision, ...]) -> None:
    order = ConvertJob(model=model, precisions=precisions)
    write_atomically(job / "job.json", msgspec.json.encode(order))


def _save(model: Any, job: Path, rows: NDArray[np.float32]) -> str:
    """Put the model into the job's directory; a live one also answers the example here."""
    if isinstance(model, (str, Path)):
        path = Path(model)
        if path.suffix != ".keras" or not path.is_file():
            raise DataError(
                "this is not a .keras file", where=str(path), advice="Save it with model.save()."
            )
        shutil.copy(path, job / "model.keras")
        return "model.keras"
    try:
        answers = np.asarray(model.predict(rows, verbose=0), dtype=np.float32)
        np.save(job / "answers.npy", answers)
        model.export(str(job / "saved_model"), format="tf_saved_model", verbose=False)
    except Exception as error:
        raise UnsupportedError(
            f"the Keras model cannot be run and exported: {last_line(str(error))}",
            where=type(model).__name__,
            advice="Call it once on the example, with one input and one output.",
        ) from error
    return "saved_model"


def _failure(reason: str, precision: Precision) -> UnsupportedError | ModelRuntimeError:
    if reason.startswith("the converter "):
        return ModelRuntimeError(
            reason, where=precision, advice="Try another precision, or a simpler layer."
        )
    return UnsupportedError(
        f"the model does not convert to builtin TFLite ops: {last_line(reason)}",
        where=precision,
        advice="Replace the named layer or op; Flex ops do not run on a device.",
    )


def _signature(
    tflite: bytes,
    answers: NDArray[np.float32],
    *,
    labels: Sequence[Category] | None,
    features: Sequence[FeatureSpec] | None,
    image: ImageSpec | None,
) -> Signature:
    engine = open_engine(tflite)
    try:
        inputs, outputs = engine.inputs, engine.outputs
    finally:
        engine.close()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnsupportedError(
            f"the net has {len(inputs)} inputs and {len(outputs)} outputs",
            where="compile_keras",
            advice="Compile a net with one of each.",
        )
    task, role = _meaning(answers, labels)
    width = 1 if answers.ndim == 1 else int(answers.shape[-1])
    named = tuple(labels) if labels is not None else tuple(range(max(2, width)))
    if task == "classification" and len(named) != max(2, width):
        raise DataError(
            f"the net answers {max(2, width)} classes, and {len(named)} labels are given",
            advice="Give one label for each class.",
        )
    return Signature(
        task=task,
        inputs=(TensorSpec(name="x", shape=inputs[0].shape, dtype=inputs[0].dtype),),
        outputs=(TensorSpec(name=role, shape=outputs[0].shape, dtype=outputs[0].dtype, role=role),),
        features=tuple(features or ()),
        image=image,
        labels=named if task == "classification" else (),
    ).checked()


def _meaning(
    answers: NDArray[np.float32], labels: Sequence[Category] | None
) -> tuple[Task, OutputRole]:
    """Tell probabilities from decision values and from plain values by what the net answers."""
    table = answers.reshape(len(answers), -1)
    bounded = bool((table >= -_SUM_TOLERANCE).all() and (table <= 1 + _SUM_TOLERANCE).all())
    if table.shape[1] > 1 and bounded and np.allclose(table.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return "classification", "probabilities"
    if labels is None:
        return "regression", "value"
    if table.shape[1] == 1 and bounded:
        return "classification", "probabilities"
    return "classification", "decision"


def _choice(table: NDArray[np.float32]) -> NDArray[np.int64]:
    if table.shape[1] == 1:
        return (table[:, 0] > 0.5).astype(np.int64)  # noqa: PLR2004 - the middle of a sigmoid
    best: NDArray[np.int64] = table.argmax(axis=1).astype(np.int64)
    return best
