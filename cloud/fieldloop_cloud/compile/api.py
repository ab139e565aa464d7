"""`to_tflite`: the entrance to compilation.

model → scikit-learn: `classical_model` (rows → lowering → flatbuffer → parity)
      → Keras, SavedModel: `keras` (a converter in a subprocess)
      → a float32 flatbuffer: `existing`
      → to other precisions: `rungs` (two quantizers), chosen by `auto`
      → `Compiled`
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError
from fieldloop.manifest import Precision
from fieldloop.signature import FeatureSpec, ImageSpec
from fieldloop_cloud.compile.auto import at_precision, smallest_proven
from fieldloop_cloud.compile.classical_model import compile_classical
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.labelling import Given
from fieldloop_cloud.compile.net_signature import NetRows, encoded
from fieldloop_cloud.compile.quantize import (
    CLASSICAL_LADDER,
    EPSILON,
    NET_LADDER,
    calibration_sha256,
    check_epsilon,
)
from fieldloop_cloud.compile.rows import Rows, table_of
from fieldloop_cloud.compile.rungs import INTEGER, NetRungs, compiled_directly
from fieldloop_cloud.compile.weighing import Truth
from fieldloop_cloud.release.targets import Target, load_target


def to_tflite(
    model: Any,
    *,
    example: Any,
    precision: Precision | Literal["auto"] = "float32",
    labels: Given = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    held_out: Any = None,
    truth: Truth | None = None,
    device: str | Path | Target | None = None,
    epsilon: float = EPSILON,
    trust: bool = False,
) -> Compiled:
    """Compile a fitted model to a TFLite flatbuffer of builtin ops, exactly, or refuse.

    Args:
        model: A fitted scikit-learn estimator or Pipeline of a supported type, a Keras model, or
            the path of a saved one: `.keras`, a SavedModel's directory, or a float32 `.tflite`.
        example: Rows like those that it was fitted on, (n, n_features), in the same form (array of
            the same dtype, DataFrame); for a Keras model the calibration rows, of several inputs
            a dict of arrays by the input's name. The more, the stronger the comparison with the
            original.
        precision: `float32`, `float16`, `int8`, or for a net `dynamic`. For a classical model int8
            means an int8 input with a scale for each feature, and int8 tables. A net can also be
            `dynamic`, `int16x8`, or `mixed`: int8 with the worst layers left in float. `auto`
            takes the smallest that is proven to answer as the original, or for a device the
            fastest; `evidence.rungs` tells what each reached. A label needs some 270 rows for
            proof at an epsilon of 0.01.
        labels: Names of the classes, in the order of `classes_` (or indexed by them); None: the
            model's own. For several targets a list of labels for each, or a dict of them by the
            targets' names.
        features: Names, units, ranges and categories of the columns; None: from the example.
        image: The image preprocessing, if a row is a (flattened) image.
        held_out: Rows to compare on; None: the example.
        truth: For `auto` the right labels or values of the rows that are compared; None: what the
            float32 model says stands for them. For several targets a dict by their names.
        device: The device class (name, TOML file or `Target`) that it is meant for: `auto` takes
            what is fastest there, and a precision that it does not run is refused. For a
            microcontroller a classical model in int8 computes and answers in int8 alone, as
            `export_c` wants it; linear models and MLPs have this form.
        epsilon: For `auto` the largest share of labels, or loss of R², that may be lost.
        trust: Load a `.keras` file that holds code (Lambda layers); it may do anything.

    Returns:
        The flatbuffer with its signature and the evidence of the comparison.

    Raises:
        UnsupportedError: It cannot be compiled exactly; names the estimator and the parameter.
        DataError: The example is no table, or the model refuses it.
        ConfigError: A precision that this kind of model does not have or the device does not run,
            or a wrong epsilon.
        GateError: The compiled model deviates from the original beyond the stated limit.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> compiled = to_tflite(LogisticRegression(max_iter=500).fit(X, y), example=X)
        >>> compiled.run(X[:2])["label"].tolist()
        [0, 0]
    """
    check_epsilon(epsilon)
    target = load_target(device) if isinstance(device, (str, Path)) else device
    _check_runs(precision, target)
    job = _Job(example, labels, features, image, held_out, trust)
    if not _is_net(model):
        integers_only = target is not None and target.integers_only
        compile_to, rows = _classical(model, job, integers_only=integers_only)
        if precision != "auto":
            return compile_to(precision)
        offers, ladder = compiled_directly(compile_to), CLASSICAL_LADDER
    else:
        ladder = NET_LADDER if precision == "auto" else (precision,)
        # Of a flatbuffer, and of mixed, the float32 reference is the beginning.
        compile_to, rows = _net(model, job, tuple(dict.fromkeys(("float32", *ladder))))
        if precision == "float32":
            return compile_to("float32")
        calibration = encoded_rows(compile_to("float32"), job.example)
        offers = NetRungs(compile_to, calibration, rows())
    climb = smallest_proven if precision == "auto" else at_precision
    return climb(offers, rows, ladder, epsilon=epsilon, truth=truth, target=target)


def _check_runs(precision: Precision | Literal["auto"], target: Target | None) -> None:
    if target is not None and precision != "auto" and precision not in target.precisions:
        runs = ", ".join(target.precisions)
        raise ConfigError(
            f"the device {target.name} does not run {precision}, but {runs}",
            where="precision",
            advice=f"Take the precision {target.precisions[0]}, or auto.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What `to_tflite` was given besides the model."""

    example: Any
    labels: Given
    features: Sequence[FeatureSpec] | None
    image: ImageSpec | None
    held_out: Any
    trust: bool


_CompileTo = Callable[[Precision], Compiled]
_GiveRows = Callable[[], NDArray[np.float32]]


def _classical(model: Any, job: _Job, *, integers_only: bool) -> tuple[_CompileTo, _GiveRows]:
    rows = Rows.of(job.example, features=job.features, image=job.image)

    def compile_to(precision: Precision) -> Compiled:
        made = compile_classical(
            model,
            rows,
            precision=precision,
            labels=job.labels,
            held_out=job.held_out,
            integers_only=integers_only and precision == "int8",
        )
        return _calibrated(made, rows.example)

    def held_out() -> NDArray[np.float32]:
        return rows.example if job.held_out is None else rows.encode(table_of(job.held_out))

    return compile_to, held_out


def _net(model: Any, job: _Job, precisions: tuple[Precision, ...]) -> tuple[_CompileTo, _GiveRows]:
    rows = _arrays(job.example)
    probes = rows if job.held_out is None else _arrays(job.held_out)
    is_flatbuffer = isinstance(model, (str, Path)) and Path(model).suffix == ".tflite"
    place = "existing" if is_flatbuffer else "keras"
    convert = importlib.import_module(f"fieldloop_cloud.compile.{place}").compiler(
        model,
        precisions,
        example=probes,
        calibration=rows,
        labels=job.labels,
        features=_columns(job.example, job.features, job.image),
        image=job.image,
        trust=job.trust,
    )
    arrays = tuple(rows.values()) if isinstance(rows, Mapping) else (rows,)

    @cache
    def compile_to(precision: Precision) -> Compiled:
        return _calibrated(convert(precision), *arrays)

    return compile_to, lambda: encoded_rows(compile_to("float32"), probes)


def encoded_rows(net: Compiled, rows: Any) -> NDArray[np.float32]:
    """Return the rows of a compiled net as they are encoded: several inputs side by side.

    Raises:
        DataError: Rows for other inputs than the net's.
    """
    return encoded(net.tflite, _arrays(rows))


def _arrays(rows: Any) -> NetRows:
    """Return rows of a net as float32; of several inputs each."""
    if isinstance(rows, Mapping):
        return {str(name): np.asarray(one, dtype=np.float32) for name, one in rows.items()}
    return np.asarray(rows, dtype=np.float32)


def _calibrated(compiled: Compiled, *rows: NDArray[np.float32]) -> Compiled:
    """Note which rows set the ranges of an integer precision."""
    if compiled.precision not in INTEGER:
        return compiled
    evidence = msgspec.structs.replace(
        compiled.evidence, calibration_sha256=calibration_sha256(*rows)
    )
    return dataclasses.replace(compiled, evidence=evidence)


def _columns(
    example: Any, features: Sequence[FeatureSpec] | None, image: ImageSpec | None
) -> Sequence[FeatureSpec] | None:
    """Return the features of a net that takes rows of numbers, named from the example."""
    if features is not None or image is not None or isinstance(example, Mapping):
        return features
    if np.ndim(example) != 2:  # noqa: PLR2004 - a table
        return None
    rows = Rows.of(example)
    return rows.features([False] * rows.width)


def _is_net(model: Any) -> bool:
    if isinstance(model, (str, Path)):
        return True
    return any(
        kind.__module__.partition(".")[0] in {"keras", "tensorflow", "tf_keras"}
        for kind in type(model).__mro__
    )
