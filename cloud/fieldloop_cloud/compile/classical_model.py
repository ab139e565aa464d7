"""A fitted scikit-learn estimator as a flatbuffer with its signature."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from fieldloop.manifest import Precision
from fieldloop.signature import Category, OutputRole, Signature, Task, TensorSpec
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context
from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

INPUT_NAME = "x"


def compile_classical(
    model: Any, rows: Rows, *, precision: Precision, labels: Sequence[Category] | None
) -> tuple[bytes, Signature]:
    """Lower `model` and return the flatbuffer with its signature."""
    graph = Graph(Model())
    width = len(rows.features)
    entrance = graph.input(INPUT_NAME, (-1, width), "float32")
    value = Value(
        graph=graph,
        width=width,
        reference=rows.original,
        example=rows.example,
        entrance=entrance,
        raw=tuple(range(width)),
        build=lambda: entrance,
        untouched=True,
        categories=((),) * width,
    )
    outputs = Context(graph, precision).lower(model, value)
    specs = []
    for name, made in outputs.items():
        tensor = made if isinstance(made, Tensor) else made.tensor()
        graph.output(name, tensor)
        role = msgspec.convert(name, OutputRole)
        specs.append(TensorSpec(name=name, shape=tensor.shape, dtype=tensor.dtype, role=role))
    signature = Signature(
        task=_task(outputs),
        inputs=(TensorSpec(name=INPUT_NAME, shape=(-1, width), dtype="float32"),),
        outputs=tuple(specs),
        features=rows.features,
        labels=tuple(np.asarray(labels if labels is not None else model.classes_).tolist())
        if "label" in outputs
        else (),
    )
    return graph.finish(), signature.checked()


def _task(outputs: Any) -> Task:
    if "label" in outputs:
        return "classification"
    return "regression" if "value" in outputs else "transform"
