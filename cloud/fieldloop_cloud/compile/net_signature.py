"""What a converted net takes and gives: its signature, read from the flatbuffer and its answers.

A net does not say whether its numbers are probabilities. Its own answers on example rows do: they
lie between 0 and 1 and sum to 1. Several inputs and outputs keep the names that the net gave them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop.signature import (
    Category,
    FeatureSpec,
    ImageSpec,
    OutputRole,
    Signature,
    TargetSpec,
    TensorSpec,
    one_target,
)
from fieldloop_cloud.compile.flat_model import parse
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.labelling import Given

NetRows = NDArray[np.float32] | Mapping[str, NDArray[np.float32]]
"""Rows of a net: an array, or for several inputs one for each by the input's name."""

_SUM_TOLERANCE = 1e-3


def tensor_names(tflite: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of inputs and outputs, in the order of the flatbuffer's main graph.

    The names that the net was exported with, where the file has them; else its tensors' own.
    """
    model = parse(tflite)
    graph = model.subgraphs[0]
    signed = model.signatureDefs or []
    known = {
        int(one.tensorIndex): (one.name or b"").decode()
        for one in [*(signed[0].inputs or []), *(signed[0].outputs or [])]
    } if signed else {}  # fmt: skip

    def name(index: int) -> str:
        return known.get(index) or (graph.tensors[index].name or b"").decode()

    return (
        tuple(name(int(index)) for index in graph.inputs),
        tuple(name(int(index)) for index in graph.outputs),
    )


def ordered_answers(
    tflite: bytes, answers: NDArray[np.float32] | Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], ...]:
    """Return a net's answers in the order of the flatbuffer's outputs.

    Raises:
        DataError: They are not the outputs' by number or name.
    """
    if not isinstance(answers, Mapping):
        return (answers,)
    _, names = tensor_names(tflite)
    if set(names) == set(answers):
        return tuple(answers[name] for name in names)
    if len(names) == len(answers) == 1:
        return tuple(answers.values())
    raise DataError(
        f"the net answers {', '.join(answers)}, the flatbuffer gives {', '.join(names)}",
        advice="Give every output a name of its own, as a dict.",
    )


def encoded(tflite: bytes, rows: NetRows) -> NDArray[np.float32]:
    """Return rows as they are encoded: those of several inputs side by side, (n, values).

    Raises:
        DataError: Rows for other inputs than the net's.
    """
    if not isinstance(rows, Mapping):
        return rows
    names, _ = tensor_names(tflite)
    if len(names) == len(rows) == 1:
        return next(iter(rows.values()))
    if set(names) != set(rows):
        raise DataError(
            f"rows are given for {', '.join(rows)}, the net takes {', '.join(names)}",
            advice="Give a dict with an array for each input.",
        )
    return np.concatenate([rows[name].reshape(len(rows[name]), -1) for name in names], axis=1)


def signature_of(
    tflite: bytes,
    answers: Sequence[NDArray[np.float32]],
    *,
    labels: Given = None,
    features: Sequence[FeatureSpec] | None = None,
    image: ImageSpec | None = None,
    called: Mapping[str, str] | None = None,
) -> Signature:
    """Write the contract of a converted net.

    Args:
        tflite: The flatbuffer.
        answers: The net's own answers, one array for each output in the flatbuffer's order.
        labels: Class labels; for several outputs a dict of them by the output's name.
        features: The raw values of a row, for a tabular input.
        image: The image preprocessing, for an image input.
        called: What people call the outputs, by their names in the file.

    Raises:
        DataError: Labels that do not fit the answers.
    """
    facts = inspect(tflite)
    input_names, output_names = tensor_names(tflite)
    is_single = len(input_names) == 1
    inputs = tuple(
        TensorSpec(name="x" if is_single else name, shape=spec.shape, dtype=spec.dtype)
        for name, spec in zip(input_names, facts.inputs, strict=True)
    )
    named = [(called or {}).get(name, name) for name in output_names]
    if len(named) > 1:
        outputs, targets = _several(facts.outputs, answers, named, labels)
    else:
        outputs, targets = _one(facts.outputs[0], answers[0], labels)
    is_classifier = any(target.labels for target in targets)
    return Signature(
        task="classification" if is_classifier else "regression",
        inputs=inputs,
        outputs=outputs,
        features=tuple(features or ()),
        image=image,
        targets=targets,
    ).checked()


def _one(
    spec: TensorSpec, answers: NDArray[np.float32], labels: Given
) -> tuple[tuple[TensorSpec, ...], tuple[TargetSpec, ...]]:
    if isinstance(labels, Mapping):
        if len(labels) != 1:
            raise DataError(
                f"labels of {len(labels)} outputs are given for a net with one",
                advice="Give a list of labels.",
            )
        ((name, own),) = labels.items()
        outputs, targets = _one(spec, answers, own)
        return outputs, one_target(targets[0].labels, name=name) if targets else ()
    role = _role(answers, labels)
    target = one_target(_labels(answers, role, labels)) if role != "value" else ()
    return (TensorSpec(name=role, shape=spec.shape, dtype=spec.dtype, role=role),), target


def _several(
    specs: Sequence[TensorSpec],
    answers: Sequence[NDArray[np.float32]],
    names: Sequence[str],
    labels: Given,
) -> tuple[tuple[TensorSpec, ...], tuple[TargetSpec, ...]]:
    given: Mapping[str, Any] = labels if isinstance(labels, Mapping) else {}
    unknown = sorted(set(given) - set(names))
    if unknown or (labels is not None and not isinstance(labels, Mapping)):
        raise DataError(
            f"the net has {len(names)} outputs, and labels are given for "
            f"{', '.join(unknown) or 'none of them by name'}",
            advice=f"Give a dict of labels by output: {', '.join(names)}.",
        )
    outputs, targets = [], []
    for number, (spec, said, name) in enumerate(zip(specs, answers, names, strict=True)):
        role = _role(said, given.get(name))
        own = _labels(said, role, given.get(name)) if role != "value" else ()
        targets.append(TargetSpec(name=name, labels=own))
        outputs.append(
            TensorSpec(name=name, shape=spec.shape, dtype=spec.dtype, role=role, target=number)
        )
    return tuple(outputs), tuple(targets)


def _role(answers: NDArray[np.float32], labels: Sequence[Any] | None) -> OutputRole:
    """Tell probabilities from decision values and from plain values by what the net answers."""
    table = answers.reshape(len(answers), -1)
    bounded = bool((table >= -_SUM_TOLERANCE).all() and (table <= 1 + _SUM_TOLERANCE).all())
    if table.shape[1] > 1 and bounded and np.allclose(table.sum(axis=1), 1, atol=_SUM_TOLERANCE):
        return "probabilities"
    if labels is None:
        return "value"
    return "probabilities" if table.shape[1] == 1 and bounded else "decision"


def _labels(
    answers: NDArray[np.float32], role: OutputRole, labels: Sequence[Category] | None
) -> tuple[Category, ...]:
    width = max(2, 1 if answers.ndim == 1 else int(answers.shape[-1]))
    named = tuple(labels) if labels is not None else tuple(range(width))
    if len(named) != width:
        raise DataError(
            f"the net answers {width} classes in its {role}, and {len(named)} labels are given",
            advice="Give one label for each class.",
        )
    return named
