"""Keras to TFLite: the conversion in a killable process, and the proof that nothing was lost."""

import importlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fieldloop.errors import DataError, EnvironmentFaultError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop.signature import FeatureSpec, ImageSpec
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.conversion import (
    INSTALL_DEEP,
    WORKER,
    collect,
    failure,
    missing_packages,
    write_job,
)
from fieldloop_cloud.compile.keras_worker import CALLED, LINT, answers_of, load_arrays, save_arrays
from fieldloop_cloud.compile.labelling import Given
from fieldloop_cloud.compile.lint import Finding, lint_net
from fieldloop_cloud.compile.net_proof import proven
from fieldloop_cloud.compile.net_signature import NetRows, encoded
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker

CONVERT_TIMEOUT_S = 600.0


def compile_keras(
    model: Any,
    *,
    example: NetRows,
    precision: Precision = "float32",
    labels: Given = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    calibration: NetRows | None = None,
    timeout_s: float = CONVERT_TIMEOUT_S,
    progress: Progress = quiet,
) -> Compiled:
    """Compile a Keras model, or a `.keras` file, to TFLite with builtin ops only.

    Args:
        model: A Keras 3 model, or the path of a saved one (`.keras`, or a SavedModel's directory).
        example: Encoded rows, (n, *input shape), n > 0: the answers are compared on them. For
            several inputs a dict of such arrays by the input's name.
        precision: What to quantize to; inputs and outputs stay float32.
        labels: Class labels, for a classifier; for several outputs a dict by the output's name.
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
    example: NetRows,
    labels: Given = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    calibration: NetRows | None = None,
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
    rows = _checked(example)
    job = Path(tempfile.mkdtemp(prefix="fieldloop-convert-"))
    try:
        name = _save(model, job, rows)
        save_arrays(job, "probes", rows)
        save_arrays(job, "calibration", rows if calibration is None else _checked(calibration))
        write_job(job, name, precisions, trust=trust)
        end = run_worker(WORKER, job, timeout_s=timeout_s, progress=progress)
        converted = collect(job, precisions, first=end, timeout_s=timeout_s, progress=progress)
        findings = _findings(model, job)
        if not converted.models:
            raise failure(converted.failures[precisions[0]], precisions[0], findings)
        answers = load_arrays(job, "answers")
        called = job / CALLED
        names = msgspec.json.decode(called.read_bytes()) if called.exists() else {}
    finally:
        shutil.rmtree(job, ignore_errors=True)

    def compile_to(precision: Precision) -> Compiled:
        if precision not in converted.models:
            raise failure(converted.failures[precision], precision, findings)
        tflite = converted.models[precision]
        return proven(
            tflite,
            precision,
            probes=encoded(tflite, rows),
            answers=answers,
            labels=labels,
            features=features,
            image=image,
            called=names,
        )

    return compile_to


def _findings(model: Any, job: Path) -> tuple[Finding, ...]:
    """Return what the lint says of the net, where there are layers to look at."""
    if (job / LINT).exists():
        return msgspec.json.decode((job / LINT).read_bytes(), type=tuple[Finding, ...])
    return lint_net(model) if hasattr(model, "layers") else ()


def _checked(rows: NetRows) -> NetRows:
    """Return rows as float32, as a net takes them.

    Raises:
        DataError: No rows, inputs with different numbers of rows, or NaN or infinity in them.
    """
    if not isinstance(rows, Mapping):
        arrays: NetRows = np.asarray(rows, dtype=np.float32)
        counts = {len(rows)}
    else:
        arrays = {str(name): np.asarray(one, dtype=np.float32) for name, one in rows.items()}
        counts = {len(one) for one in arrays.values()}
    if len(counts) != 1:
        raise DataError(
            f"the inputs have different numbers of rows: {sorted(counts)}",
            advice="Give every input the same rows.",
        )
    if not max(counts):
        raise DataError("an example of no rows shows nothing", advice="Give at least one row.")
    for one in arrays.values() if isinstance(arrays, Mapping) else (arrays,):
        if not np.isfinite(one).all():
            row = int(np.argwhere(~np.isfinite(one))[0, 0])
            raise DataError(
                "the rows of the example hold NaN or infinity",
                where=f"row {row + 1}",
                advice="Leave such rows out, or fill them in as in training.",
            )
    return arrays


def _save(model: Any, job: Path, rows: NetRows) -> str:
    """Put the model into the job's directory; a live one also answers the example here."""
    if isinstance(model, (str, Path)):
        return _copy(Path(model), job)
    try:
        answers_of(model, rows, job)
        model.export(
            str(job / "saved_model"),
            format="tf_saved_model",
            verbose=False,
            input_signature=_named_inputs(model, rows),
        )
    except Exception as error:
        raise UnsupportedError(
            f"the Keras model cannot be run and exported: {last_line(str(error))}",
            where=type(model).__name__,
            advice="Call it once on the example; give several inputs as a dict by their names.",
        ) from error
    return "saved_model"


def _named_inputs(model: Any, rows: NetRows) -> Any:
    """Return what gives the inputs of a subclassed model their names; None where it has them."""
    if not isinstance(rows, Mapping) or getattr(model, "inputs", None):
        return None
    spec = importlib.import_module("keras").InputSpec
    return [
        {
            name: spec(shape=(None, *one.shape[1:]), dtype="float32", name=name)
            for name, one in rows.items()
        }
    ]


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
