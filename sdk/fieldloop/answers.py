"""A model's outputs to labels, values and probabilities.

What decides is fixed by the outputs' roles: a label output before the probabilities, these before
decision values; a regression has its value.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ModelRuntimeError, SignatureError
from fieldloop.signature import Category, OutputRole, Signature

Answer = tuple[Category | None, float | None, tuple[float, ...] | None, float | None]
"""Label, value, probabilities and confidence of one row."""

Outputs = Sequence[NDArray[Any]]


class AnswerReader:
    """Reads the answers of one model.

    Args:
        signature: The model's contract.

    Raises:
        SignatureError: A label output that is not of integers.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._labels = signature.labels
        self._label_at = self._position("label")
        self._probabilities_at = self._position("probabilities")
        self._decision_at = self._position("decision")
        self._value_at = self._position("value")
        label = signature.output("label")
        if label is not None and np.dtype(label.dtype).kind not in "iu":
            raise SignatureError(
                f"a label output of {label.dtype} is not a class number",
                where=f"output {label.name}",
                advice="Compile again.",
            )
        self.read: Callable[[Outputs, int], list[Answer]] = self._choose()

    def _choose(self) -> Callable[[Outputs, int], list[Answer]]:
        if self._probabilities_at is not None:
            return self._read_classes
        if self._label_at is not None or self._decision_at is not None:
            return self._read_labels
        if self._value_at is not None:
            return self._read_values
        return _read_nothing

    def _position(self, role: OutputRole) -> int | None:
        spec = self._signature.output(role)
        return None if spec is None else self._signature.outputs.index(spec)

    # Python numbers from here on: for one row they are several times faster than arrays.

    def _read_classes(self, outputs: Outputs, count: int) -> list[Answer]:
        """Read rows of a model with probabilities."""
        assert self._probabilities_at is not None
        array = outputs[self._probabilities_at]
        if array.ndim != 2:  # noqa: PLR2004 - rows, classes
            array = array.reshape(count, math.prod(array.shape[1:]))
        indexes = None if self._label_at is None else _one_each(outputs[self._label_at], count)
        labels = self._labels
        answers: list[Answer] = []
        # One plain loop: a device reads one row at a time, and each call costs as much as a sum.
        for place, row in enumerate(array.tolist()):
            if not math.isfinite(sum(row)):
                raise _not_a_number("probabilities")
            if len(row) == 1:  # a sigmoid: the probability of the second class
                row.insert(0, 1.0 - row[0])
            index = row.index(max(row)) if indexes is None else indexes[place]
            known = len(row)
            is_known = known == len(labels) and 0 <= index < known
            label = labels[index] if is_known else self._label(index, known)
            answers.append((label, None, tuple(row), row[index]))
        return answers

    def _read_labels(self, outputs: Outputs, count: int) -> list[Answer]:
        """Read rows of a model with labels or decisions, but without probabilities."""
        if self._label_at is not None:
            indexes = _one_each(outputs[self._label_at], count)
        else:
            assert self._decision_at is not None
            indexes = [_decided(row) for row in outputs[self._decision_at]]
        if not self._labels:  # clusters and anomalies are numbers
            return [(index, None, None, None) for index in indexes]
        known = len(self._labels)
        return [(self._label(index, known), None, None, None) for index in indexes]

    def _read_values(self, outputs: Outputs, count: int) -> list[Answer]:
        """Read rows of a regression; several values a row stay in the outputs."""
        assert self._value_at is not None
        if outputs[self._value_at].size != count:
            return _read_nothing(outputs, count)
        values = _one_each(outputs[self._value_at], count)
        # One test for all: a sum is finite only if every part is.
        if not math.isfinite(sum(values)):
            raise _not_a_number("a number")
        return [(None, value, None, None) for value in values]

    def _label(self, index: int, class_count: int) -> Category:
        labels = self._labels
        if not 0 <= index < class_count or (labels and class_count != len(labels)):
            raise ModelRuntimeError(
                f"the model answered class {index} of {class_count}, "
                f"the signature has {len(labels)} labels",
                advice="Compile the model again.",
            )
        return labels[index] if labels else index


def _read_nothing(_outputs: Outputs, count: int) -> list[Answer]:
    """Read rows of a transformer: its answer is in the outputs."""
    return [(None, None, None, None)] * count


def _one_each(array: NDArray[Any], count: int) -> list[Any]:
    """Return one number a row."""
    if array.ndim == 1:
        numbers: list[Any] = array.tolist()
        return numbers
    if array.size != count:
        raise ModelRuntimeError(
            f"an output of shape {array.shape} does not have one number a row",
            advice="Compile the model again.",
        )
    flat: list[Any] = array.reshape(count).tolist()
    return flat


def _decided(row: NDArray[Any]) -> int:
    """Return the class of decision values: the largest, or by sign if there is only one."""
    if np.isnan(row).any():
        raise _not_a_number("decision values")
    return int(row.item() > 0) if row.size == 1 else int(row.argmax())


def _not_a_number(expected: str) -> ModelRuntimeError:
    return ModelRuntimeError(
        f"the model answered NaN or infinity instead of {expected}",
        advice="Check the input's range; compile the model again if it fits.",
    )
