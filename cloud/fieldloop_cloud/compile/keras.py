"""Keras to TFLite: the conversion in a killable process, and the proof that nothing was lost."""

import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Codec, dequantize
from fieldloop.errors import DataError, EnvironmentFaultError, GateError, UnsupportedError
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
    one_target,
)
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.compile.conversion import (
    INSTALL_DEEP,
    WORKER,
    collect,
    failure,
    missing_packages,
    write_job,
)
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker

CONVERT_TIMEOUT_S = 600.0

LIMITS: dict[Precision, float] = {"float32": 1e-4, "float16": 2e-2}
"""Largest deviation from the Keras model's own answers, relative to their size (at least 1).
The integer precisions deviate by design; the accuracy gate judges them (`compile.quantize`)."""

_SUM_TOLERANCE = 1e-3


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
        EnvironmentFaultError: The packages for nets are not installed.
    """
    compile_to = compiler(
        model,
        (precision,),
        example=example,
        labels=labels,
        features=features,
        image=image,
        calibration=calibration,
        timeout_s=timeout_s,
        progress=progress,
    )
    return compile_to(precision)


def compiler(
    model: Any,
    precisions: tuple[Precision, ...],
    *,
    example: NDArray[np.float32],
    labels: Sequence[Category] | None = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    calibration: NDArray[np.float32] | None = None,
    trust: bool = False,
    timeout_s: float = CONVERT_TIMEOUT_S,
    progress: Progress = quiet,
) -> Callable[[Precision], Compiled]:
    """Convert a net to several precisions in one process; arguments as for `compile_keras`.

    With `trust` code in a `.keras` file, such as Lambda layers, is loaded and run.

    Returns:
        A function that compares one of the precisions with the net and returns it compiled, or
        raises what `compile_keras` raises.

    Raises:
        UnsupportedError: The net cannot be run and exported.
        ModelRuntimeError: The converter ended before the net had answered the example.
        EnvironmentFaultError: The packages for nets are not installed.
    """
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a Keras model cannot be compiled here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    rows = np.asarray(example, dtype=np.float32)
    if not len(rows):
        raise DataError("an example of no rows shows nothing", advice="Give at least one row.")
    job = Path(tempfile.mkdtemp(prefix="fieldloop-convert-"))
    try:
        name = _save(model, job, rows)
        np.save(job / "probes.npy", rows)
        np.save(job / "calibration.npy", rows if calibration is None else calibration)
        write_job(job, name, precisions, trust=trust)
        end = run_worker(WORKER, job, timeout_s=timeout_s, progress=progress)
        converted = collect(job, precisions, first=end, timeout_s=timeout_s, progress=progress)
        if not converted.models:
            raise failure(converted.failures[precisions[0]], precisions[0])
        answers = np.load(job / "answers.npy", allow_pickle=False)
    finally:
        shutil.rmtree(job, ignore_errors=True)

    def compile_to(precision: Precision) -> Compiled:
        if precision not in converted.models:
            raise failure(converted.failures[precision], precision)
        return proven(
            converted.models[precision],
            precision,
            probes=rows,
            answers=answers,
            labels=labels,
            features=features,
            image=image,
        )

    return compile_to


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


def _save(model: Any, job: Path, rows: NDArray[np.float32]) -> str:
    """Put the model into the job's directory; a live one also answers the example here."""
    if isinstance(model, (str, Path)):
        return _copy(Path(model), job)
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


def _copy(path: Path, job: Path) -> str:
    """Copy a saved model into the job's directory and return its name there."""
    if path.is_dir() and (path / "saved_model.pb").is_file():
        shutil.copytree(path, job / "saved_model")
        return "saved_model"
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise DataError(
            "this is neither a .keras file nor a SavedModel's directory, or a damaged one",
            where=str(path),
            advice="Save it with model.save('name.keras') or model.export('name').",
        )
    shutil.copy(path, job / "model.keras")
    return "model.keras"


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
        targets=one_target(named) if task == "classification" else (),
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
