"""What a compiled model's targets and classes are called: the model's words or the user's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_clusterer, is_outlier_detector

from fieldloop.errors import ConfigError
from fieldloop.signature import Category, TargetSpec, TensorSpec, one_target

Given = Sequence[Any] | Mapping[str, Sequence[Category]] | None
"""The user's labels: of the only target, of each target, or of each by the target's name."""

TABLE = 2


@dataclass(frozen=True)
class Labelling:
    """How a model's targets are named.

    Attributes:
        targets: In the user's words.
        own: The classes of each target in the model's words; empty without classes.
    """

    targets: tuple[TargetSpec, ...]
    own: tuple[tuple[Category, ...], ...] = ()

    @classmethod
    def of(
        cls,
        model: Any,
        outputs: Sequence[TensorSpec],
        given: Given,
        *,
        classes: Sequence[Any] | None = None,
    ) -> Self:
        """Name the targets.

        Args:
            model: The original.
            outputs: The compiled model's.
            given: The user's labels; None: the model's own.
            classes: The classes of each target, where not `model.classes_` says them.

        Raises:
            ConfigError: Labels that do not fit the model's classes.
        """
        count = _target_count(outputs)
        if not any(spec.role == "label" for spec in outputs):
            return cls(_several([()] * count, None) if count > 1 else ())
        if is_outlier_detector(model):
            return cls(one_target((-1, 1)))
        if is_clusterer(model) or not hasattr(model, "classes_"):
            return cls(())
        own = _own_labels(model.classes_ if classes is None else classes, count)
        if count > 1 or isinstance(given, Mapping):
            return cls(_several(own, given), own)
        return cls(one_target(_renamed(own[0], given, "labels")), own)

    def applied(self, model: Any) -> Any:
        """Return the original as it would answer in the user's words, for the comparison."""
        is_same = not self.own or self.own == tuple(target.labels for target in self.targets)
        return model if is_same else _Relabelled(model, self)


def _target_count(outputs: Sequence[TensorSpec]) -> int:
    """Return the columns of the label, or of the value."""
    for role in ("label", "value"):
        spec = next((spec for spec in outputs if spec.role == role), None)
        if spec is not None:
            return spec.shape[1] if len(spec.shape) == TABLE else 1
    return 1


def _own_labels(classes: Any, count: int) -> tuple[tuple[Category, ...], ...]:
    """Return the classes of each target as scikit-learn keeps them."""
    if isinstance(classes, list):
        return tuple(tuple(np.asarray(each).ravel().tolist()) for each in classes)
    if count == 1:
        return (tuple(np.asarray(classes).tolist()),)
    return ((0, 1),) * count  # several labels for one row: each is there or not


def _several(own: Sequence[tuple[Category, ...]], given: Given) -> tuple[TargetSpec, ...]:
    names = [f"target_{number}" for number in range(len(own))]
    if given is None:
        given = [None] * len(own)
    if isinstance(given, Mapping):
        names, given = list(given), list(given.values())
    if len(given) != len(own) or any(isinstance(labels, str) for labels in given):
        raise ConfigError(
            f"{len(given)} lists of labels were given for a model with {len(own)} targets",
            where="labels",
            advice="Give a list of labels for each target, or a dict of them by target name.",
        )
    return tuple(
        TargetSpec(name=name, labels=_renamed(labels, renamed, f"labels of {name}"))
        for name, labels, renamed in zip(names, own, given, strict=True)
    )


def _renamed(own: tuple[Category, ...], given: Any, where: str) -> tuple[Category, ...]:
    if given is None:
        return own
    if isinstance(given, Sequence):
        if len(given) == len(own):
            return tuple(given)
        if all(isinstance(label, int) and 0 <= label < len(given) for label in own):
            return tuple(given[int(label)] for label in own)
    raise ConfigError(
        f"{given!r:.80} are no names for {len(own)} classes",
        where=where,
        advice="Name the classes in the order of classes_.",
    )


class _Relabelled:
    """The original with the user's names for its classes."""

    def __init__(self, model: Any, labelling: Labelling) -> None:
        self._model = model
        self._names = [
            dict(zip(own, target.labels, strict=True))
            for own, target in zip(labelling.own, labelling.targets, strict=True)
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, rows: Any) -> Any:
        """Return the user's labels."""
        answer = self._model.predict(rows)
        answer = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
        columns = answer.reshape(len(answer), len(self._names)).T.tolist()
        named = [
            as_array([names[label] for label in column])
            for names, column in zip(self._names, columns, strict=True)
        ]
        return side_by_side(named).reshape(answer.shape)


def as_array(labels: Sequence[Any]) -> NDArray[Any]:
    """Return labels as an array of their own kind; mixed kinds stay objects."""
    if len({type(label) for label in labels}) == 1:
        return np.array(labels)
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


def side_by_side(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return labels of several targets as a table (n, targets); mixed kinds stay objects."""
    kind = columns[0].dtype if len({column.dtype.kind for column in columns}) == 1 else object
    table = np.stack([column.astype(kind) if kind is object else column for column in columns])
    return table.T
