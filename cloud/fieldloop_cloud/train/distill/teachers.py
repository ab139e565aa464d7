"""What a teacher says about rows: probabilities of classes, or values.

A teacher may be a fitted estimator with `predict_proba` (or `predict`, for values), a Keras model
or its file, a compiled model, the answers themselves as an array, or a list of these, whose answers
are averaged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, UnsupportedError
from fieldloop.signature import Category
from fieldloop_cloud.compile.compiled import Compiled

AskNet = Callable[[Path, NDArray[np.float32]], NDArray[np.float32]]
"""Asks a `.keras` file in a process of its own."""

_TINY = 1e-7
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A teacher's answers.

    Attributes:
        answers: (n, classes) probabilities, or (n,) values; float64.
        classes: The classes' names in the order of the columns; None where the teacher does not
            know them.
    """

    answers: NDArray[np.float64]
    classes: tuple[Category, ...] | None

    @property
    def is_classifier(self) -> bool:
        """Whether the answers are probabilities."""
        return self.answers.ndim > 1

    def softened(self, temperature: float) -> NDArray[np.float64]:
        """Return the probabilities at a temperature: above 1 the small ones count for more."""
        logits = np.log(np.maximum(self.answers, _TINY)) / temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def lesson(teacher: Any, rows: NDArray[np.float32], ask_net: AskNet) -> Lesson:
    """Ask a teacher about rows, (n, *shape).

    Raises:
        UnsupportedError: The teacher gives neither probabilities nor values.
        DataError: Its answers do not fit the rows, or teachers disagree about the classes.
    """
    if isinstance(teacher, list | tuple):
        return _averaged([lesson(member, rows, ask_net) for member in teacher])
    if isinstance(teacher, Compiled):
        return _compiled(teacher, rows)
    if isinstance(teacher, np.ndarray):
        answers = teacher
    elif isinstance(teacher, str | Path):
        answers = ask_net(Path(teacher), rows)
    elif hasattr(teacher, "predict_proba"):
        answers = _asked(teacher, teacher.predict_proba, rows)
    elif hasattr(teacher, "layers") and hasattr(teacher, "predict"):
        answers = teacher.predict(rows.reshape(len(rows), *teacher.input_shape[1:]), verbose=0)
    elif hasattr(teacher, "predict") and not _has_classes(teacher):
        answers = np.asarray(_asked(teacher, teacher.predict, rows), dtype=np.float64)
    else:
        raise UnsupportedError(
            "the teacher gives no probabilities",
            where=type(teacher).__name__,
            advice="Use an estimator with predict_proba (calibrate the others with "
            "CalibratedClassifierCV), a Keras model or its file, or an array of probabilities.",
        )
    classes = tuple(np.asarray(teacher.classes_).tolist()) if _has_classes(teacher) else None
    return _checked(answers, classes, rows)


def _has_classes(teacher: Any) -> bool:
    return getattr(teacher, "classes_", None) is not None


def _asked(teacher: Any, ask: Callable[[Any], Any], rows: NDArray[np.float32]) -> Any:
    """Ask an estimator; rows that it does not take are an error of the rows.

    Raises:
        DataError: It does not take them.
    """
    try:
        return ask(rows.reshape(len(rows), -1))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the teacher does not take these rows: {str(error).splitlines()[0]}",
            where=type(teacher).__name__,
            advice="Give rows with the columns that it was fitted on, in the same order.",
        ) from error


def _compiled(teacher: Compiled, rows: NDArray[np.float32]) -> Lesson:
    outputs = teacher.run_encoded(rows.reshape(len(rows), *teacher.signature.inputs[0].shape[1:]))
    for role in ("probabilities", "value"):
        spec = teacher.signature.output(role)
        if spec is not None:
            return _checked(outputs[spec.name], teacher.signature.labels or None, rows)
    raise UnsupportedError(
        "the compiled teacher gives neither probabilities nor a value",
        where="teacher",
        advice="Compile a model with probabilities.",
    )


def _checked(
    answers: Any, classes: tuple[Category, ...] | None, rows: NDArray[np.float32]
) -> Lesson:
    table = np.asarray(answers, dtype=np.float64)
    if len(table) != len(rows) or not np.isfinite(table).all():
        raise DataError(
            f"the teacher gave {len(table)} answers for {len(rows)} rows, or not all are numbers",
            where="teacher",
            advice="Give one finite answer for each row, the labelled rows first.",
        )
    table = table.reshape(len(table), -1)
    bounded = bool((table >= -_TINY).all() and (table <= 1 + _SUM_TOLERANCE).all())
    if table.shape[1] == 1:
        # One column is a value, unless there are classes: then it is the second one's probability.
        if classes is None or not bounded:
            return Lesson(table[:, 0], None)
        table = np.hstack([1 - table, table])
    elif not (bounded and np.allclose(table.sum(axis=1), 1.0, atol=_SUM_TOLERANCE)):
        # Logits of a net without a softmax.
        table = np.exp(table - table.max(axis=1, keepdims=True))
        table /= table.sum(axis=1, keepdims=True)
    if classes is not None and len(classes) != table.shape[1]:
        raise DataError(
            f"the teacher has {len(classes)} classes and gives {table.shape[1]} probabilities",
            where="teacher",
            advice="Use a teacher with one target.",
        )
    return Lesson(table, classes)


def _averaged(lessons: Sequence[Lesson]) -> Lesson:
    if not lessons:
        raise DataError("there is no teacher", where="teacher", advice="Give at least one.")
    shapes = {member.answers.shape for member in lessons}
    named = {member.classes for member in lessons if member.classes is not None}
    if len(shapes) > 1 or len(named) > 1:
        raise DataError(
            "the teachers answer differently shaped or differently named classes",
            where="teacher",
            advice="Use teachers of the same classes in the same order.",
        )
    answers = np.mean([member.answers for member in lessons], axis=0)
    return Lesson(np.asarray(answers), named.pop() if named else None)
