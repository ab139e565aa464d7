"""A `.tflite` file that somebody else made: checked, given a signature, and taken to the ladder.

It comes from outside, and a damaged file can take a process down. So a process of its own runs it
first.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, ModelRuntimeError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop.signature import FeatureSpec, ImageSpec
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.inspect import ModelFacts, inspect
from fieldloop_cloud.compile.labelling import Given
from fieldloop_cloud.compile.layers import ops
from fieldloop_cloud.compile.net_proof import proven
from fieldloop_cloud.compile.net_signature import NetRows, tensor_names
from fieldloop_cloud.compile.quantizer_worker import QuantizeJob
from fieldloop_cloud.compile.requantize import TIMEOUT_S, WORKER
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker
from fieldloop_cloud.engine import open_engine
from fieldloop_cloud.files import write_file


def compiler(
    model: str | Path,
    precisions: tuple[Precision, ...],
    *,
    example: NetRows,
    calibration: NetRows,
    labels: Given = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    trust: bool = False,
    timeout_s: float = TIMEOUT_S,
    progress: Progress = quiet,
) -> Callable[[Precision], Compiled]:
    """Check a float32 flatbuffer and return what gives it as the ladder's reference.

    Args:
        model: The file.
        precisions: Not needed: quantizers make the others from the reference.
        example: Encoded rows to run it on, (n, *input shape), n > 0.
        calibration: Rows for the integer precisions; the first run is on them.
        labels: Class labels, for a classifier.
        features: The raw values of a row, for a tabular input.
        image: The image preprocessing, for an image input.
        trust: Not needed: a flatbuffer holds no code.
        timeout_s: The first run is killed then.
        progress: Receives what its process reports.

    Raises:
        DataError: There is no such file, or no rows.
        UnsupportedError: No TFLite model, one that is quantized already, or one with ops that are
            not builtin; names their layers.
        ModelRuntimeError: The file takes down the process that runs it, or runs too long.
    """
    del precisions, trust
    path = Path(model)
    try:
        tflite = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the model cannot be read: {error.strerror}", where=str(path), advice="Check the path."
        ) from error
    facts = inspect(tflite)
    _check(tflite, facts, str(path))
    inputs = _inputs(tflite, calibration, facts, str(path))
    _run_apart(tflite, inputs, str(path), timeout_s=timeout_s, progress=progress)
    probes = _inputs(tflite, example, facts, str(path))
    answers = _answers(tflite, probes)

    def compile_to(precision: Precision) -> Compiled:
        if precision != "float32":
            raise UnsupportedError(
                "the converter needs the net itself", where=str(path), advice="Give the net."
            )
        return proven(
            tflite,
            "float32",
            probes=_encoded(probes),
            answers=answers,
            labels=labels,
            features=features,
            image=image,
            original=path.name,
        )

    return compile_to


def _check(tflite: bytes, facts: ModelFacts, where: str) -> None:
    if facts.custom_ops:
        layers = dict.fromkeys(op.layer for op in ops(tflite) if op.kind == "CUSTOM")
        raise UnsupportedError(
            f"it needs {', '.join(facts.custom_ops)} (in layer {', '.join(layers)})",
            where=where,
            advice="Convert the net with builtin ops only.",
        )
    fixed = [spec.shape[0] for spec in facts.inputs if spec.shape and spec.shape[0] not in (-1, 1)]
    if fixed or not all(spec.shape for spec in facts.inputs):
        raise UnsupportedError(
            f"the model takes batches of {fixed[0] if fixed else 'no'} rows",
            where=where,
            advice="Convert the net with a batch of one or of any size.",
        )
    narrow = {"QUANTIZE", "DEQUANTIZE"} & set(facts.op_versions)
    others = [spec.name for spec in (*facts.inputs, *facts.outputs) if spec.is_quantized]
    if narrow or others:
        raise UnsupportedError(
            f"the model is quantized already ({', '.join(sorted(narrow) or others)})",
            where=where,
            advice="Give the float32 model: what rounding took away does not come back.",
        )


def _run_apart(
    tflite: bytes,
    inputs: Sequence[NDArray[np.float32]],
    where: str,
    *,
    timeout_s: float,
    progress: Progress,
) -> None:
    """Run the model in a process of its own: calibrate with it."""
    job = Path(tempfile.mkdtemp(prefix="fieldloop-existing-"))
    order = QuantizeJob(recipes={}, input_count=len(inputs))
    try:
        write_file(job / "model.tflite", tflite)
        write_file(job / "job.json", msgspec.json.encode(order))
        for number, rows in enumerate(inputs):
            np.save(job / f"x{number}.npy", rows)
        end = run_worker(WORKER, job, timeout_s=timeout_s, progress=progress)
    finally:
        shutil.rmtree(job, ignore_errors=True)
    if end.code:
        how = "ran too long" if end.timed_out else "does not run"
        raise ModelRuntimeError(
            f"the model {how}: {last_line(end.tail)}",
            where=where,
            advice="Check that the file is whole and that the rows fit its input.",
        )


def _inputs(
    tflite: bytes, rows: NetRows, facts: ModelFacts, where: str
) -> tuple[NDArray[np.float32], ...]:
    """Give the rows of each input its shape, in the flatbuffer's order."""
    names, _ = tensor_names(tflite)
    given = rows if isinstance(rows, Mapping) else {names[0]: rows}
    if set(given) != set(names):
        raise DataError(
            f"rows are given for {', '.join(given)}, the model takes {', '.join(names)}",
            where=where,
            advice="Give a dict with an array for each input.",
        )
    counts = {len(one) for one in given.values()}
    if len(counts) != 1 or not max(counts):
        raise DataError(
            "an example needs rows, as many for each input", advice="Give at least one row."
        )
    return tuple(
        _shaped(given[name], spec.shape[1:], where)
        for name, spec in zip(names, facts.inputs, strict=True)
    )


def _shaped(rows: NDArray[np.float32], shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    try:
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), *shape)
    except ValueError as error:
        raise DataError(
            f"rows of shape {rows.shape[1:]} do not fit the model's input of {shape}",
            where=where,
            advice="Give rows of its shape.",
        ) from error


def _encoded(inputs: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    if len(inputs) == 1:
        return inputs[0]
    return np.concatenate([one.reshape(len(one), -1) for one in inputs], axis=1)


def _answers(
    tflite: bytes, inputs: tuple[NDArray[np.float32], ...]
) -> dict[str, NDArray[np.float32]]:
    """Return what the model says, by the names of its outputs."""
    _, names = tensor_names(tflite)
    count = len(inputs[0])
    engine = open_engine(tflite)
    try:
        batch = count if engine.inputs[0].shape[0] == -1 else 1
        parts = [
            engine.run([one[start : start + batch] for one in inputs])
            for start in range(0, count, batch)
        ]
    finally:
        engine.close()
    said = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return dict(zip(names, said, strict=True))
