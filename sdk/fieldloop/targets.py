"""A model of several targets, seen as several models of one target each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray

from fieldloop.signature import PER_TARGET, Category, Signature, TargetSpec


@dataclass(frozen=True, slots=True)
class TargetView:
    """What one target's outputs would be, were it the only one.

    Attributes:
        target: The target.
        signature: A signature with this target and its outputs alone.
        places: For each of these outputs its place among the model's, and its column there; None
            takes the whole output.
    """

    target: TargetSpec
    signature: Signature
    places: tuple[tuple[int, int | None], ...]

    @property
    def counted_labels(self) -> tuple[Category, ...]:
        """The labels whose confidence is counted in telemetry; none without probabilities."""
        return self.target.labels if self.signature.output("probabilities") else ()

    def cut(self, outputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return this target's part of the model's outputs; a column keeps its two dimensions."""
        return [
            outputs[place] if column is None else outputs[place][:, column : column + 1]
            for place, column in self.places
        ]


def target_views(signature: Signature) -> tuple[TargetView, ...]:
    """Return a view for each target; a model of one target, or none, has none.

    Raises:
        SignatureError: No output speaks of a target.

    Example:
        >>> from fieldloop.signature import TensorSpec
        >>> views = target_views(Signature(
        ...     task="classification",
        ...     inputs=(TensorSpec(name="x", shape=(-1, 4), dtype="float32"),),
        ...     outputs=(TensorSpec(name="label", shape=(-1, 2), dtype="int32", role="label"),),
        ...     targets=(TargetSpec(name="fault"), TargetSpec(name="load")),
        ... ))
        >>> [view.places for view in views]
        [((0, 0),), ((0, 1),)]
    """
    if len(signature.targets) < 2:  # noqa: PLR2004 - several
        return ()
    return tuple(_view(signature, number) for number in range(len(signature.targets)))


def _view(signature: Signature, number: int) -> TargetView:
    places: list[tuple[int, int | None]] = []
    outputs = []
    for place, spec in enumerate(signature.outputs):
        if spec.role not in PER_TARGET or spec.target not in (None, number):
            continue
        is_column = spec.target is None
        places.append((place, number if is_column else None))
        shape = (*spec.shape[:1], 1) if is_column else spec.shape
        outputs.append(msgspec.structs.replace(spec, target=None, shape=shape))
    target = signature.targets[number]
    alone = msgspec.structs.replace(signature, outputs=tuple(outputs), targets=(target,))
    return TargetView(target, alone.checked(), tuple(places))
