"""A fitted scikit-learn estimator as a flatbuffer with its signature."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from sklearn.base import is_outlier_detector

from fieldloop.errors import ConfigError, DataError, GateError
from fieldloop.manifest import Precision
from fieldloop.signature import OutputRole, Signature, Task, TensorSpec
from fieldloop_cloud.compile import parity
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.input_tensor import input_spec, root_value
from fieldloop_cloud.compile.labelling import Given, Labelling
from fieldloop_cloud.compile.lowering import Context, Outputs
from fieldloop_cloud.compile.micro.rewrite import in_integers
from fieldloop_cloud.compile.originals import ask, target_of, widened
from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

PRECISIONS = ("float32", "float16", "int8")

_ORDER = ("label", "probabilities", "decision", "value", "transformed", "distances", "score")


def compile_classical(
    model: Any,
    rows: Rows,
    *,
    precision: Precision = "float32",
    labels: Given = None,
    held_out: Any = None,
    compared: bool = True,
    integers_only: bool = False,
) -> Compiled:
    """Lower `model`, pack the flatbuffer, compare it with the original.

    `integers_only` is a form of int8 for processors without floating point: all arithmetic and the
    outputs are int8 too, so that probabilities come in steps of 1/256 (`micro.rewrite`).
    `compared=False` leaves the comparison out, for a flatbuffer that is only measured, never
    shipped; its evidence is empty.

    Raises:
        UnsupportedError: The model cannot be compiled exactly.
        ConfigError: A precision that classical models do not have, or labels that do not fit.
        GateError: The compiled model deviates from the original beyond the limit.
    """
    assert precision == "int8" or not integers_only
    if precision not in PRECISIONS:
        raise ConfigError(
            f"a classical model cannot be compiled to {precision}",
            where="precision",
            advice=f"Use one of {', '.join(PRECISIONS)}.",
        )
    with warnings.catch_warnings():
        # The original warns about column names that it did not see in training, row by row.
        warnings.simplefilter("ignore")
        graph = Graph(Model())
        spec = input_spec(rows, precision, spread=integers_only)
        value = root_value(graph, rows, spec)
        # The rewriting rounds the weights itself.
        context = Context(graph, "float32" if integers_only else precision)
        outputs = _lowered(model, value, context, rows)
        specs = _write_outputs(graph, outputs)
        tflite = graph.finish()
        if integers_only:
            tflite, specs = in_integers(tflite, value.example, specs, where=type(model).__name__)
        labelling = Labelling.of(model, specs, labels, classes=context.classes)
        signature = Signature(
            task=_task(model, outputs),
            inputs=(spec,),
            outputs=specs,
            features=rows.features(_missing_allowed(model, rows, spec)),
            image=rows.image,
            targets=labelling.targets,
        ).checked()
        pending = Evidence(original="", row_count=0)
        compiled = Compiled(tflite, signature, pending, precision)
        if not compared:
            return compiled
        original = labelling.applied(model)
        name = f"{type(model).__module__.partition('.')[0]} {type(model).__name__}"

        def compare(form: Rows, name: str, asked: Any = original) -> Evidence:
            return parity.check(
                compiled,
                asked,
                form,
                name=name,
                held_out=held_out,
                thresholds=value.probes,
                unsteady=context.unsteady,
                ties=context.ties,
            )

        evidence = _evidence(compare, original, rows, name)
    return Compiled(compiled.tflite, signature, evidence, precision)


def _lowered(model: Any, value: Value, context: Context, rows: Rows) -> Outputs:
    """Lower the model; rows that the model itself does not take are the example's fault.

    Raises:
        DataError: The original cannot answer the example either.
    """
    try:
        return context.lower(model, value)
    except (TypeError, ValueError, KeyError) as error:
        try:
            ask(model, "transformed" if hasattr(model, "transform") else "label", rows.raw)
        except (TypeError, ValueError, KeyError) as refusal:
            raise DataError(
                f"the model does not take the example's rows: {refusal}",
                where=type(model).__name__,
                advice="Give rows like those it was fitted on: the same columns, the same types.",
            ) from error
        raise


def _evidence(compare: Callable[..., Evidence], original: Any, rows: Rows, name: str) -> Evidence:
    """Compare with the original; what was fitted on float32 may also be asked in float64.

    scikit-learn then computes in float32 itself, and may be further from the truth than we are.
    """
    try:
        return compare(rows, name)
    except GateError:
        if not any(dtype == np.float32 for dtype in rows.dtypes):
            raise
        for asked in (original, widened(original)):
            with contextlib.suppress(GateError, DataError):  # the first one says more
                return compare(rows.in_float64(), f"{name} asked in float64", asked)
        raise


def _write_outputs(graph: Graph, outputs: Mapping[str, Tensor | Value]) -> tuple[TensorSpec, ...]:
    """Make the tensors outputs of the graph, in a fixed order, and describe them."""
    specs = []
    for name in sorted(outputs, key=lambda name: (_ORDER.index(_role(name)), name)):
        made = outputs[name]
        tensor = graph.output(name, made if isinstance(made, Tensor) else made.tensor())
        specs.append(
            TensorSpec(
                name=name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                role=_role(name),
                target=target_of(name),
            )
        )
    return tuple(specs)


def _role(name: str) -> OutputRole:
    """Return the role of an output: its name, without a number at the end (`probabilities_1`)."""
    stem, _, number = name.rpartition("_")
    role: OutputRole = msgspec.convert(stem if number.isdigit() else name, OutputRole)
    return role


def _task(model: Any, outputs: Mapping[str, Any]) -> Task:
    if "label" in outputs:
        if hasattr(model, "classes_"):
            return "classification"
        return "anomaly" if is_outlier_detector(model) else "clustering"
    return "regression" if "value" in outputs else "transform"


def _missing_allowed(model: Any, rows: Rows, spec: TensorSpec) -> list[bool]:
    """Find out for which columns the original answers a row with a missing value."""
    if spec.is_quantized or not len(rows.example):
        return [False] * rows.width
    probe = rows.example[:1].copy()
    probe[:] = np.nan
    seen: list[bool] = np.asarray(np.isnan(rows.example).any(axis=0)).tolist()
    method = next((m for m in ("predict", "transform") if hasattr(model, m)), None)
    if method is None:
        return seen
    try:
        with np.errstate(all="ignore"):
            getattr(model, method)(rows.original(probe))
    except (ValueError, TypeError):
        return seen
    return [True] * rows.width
