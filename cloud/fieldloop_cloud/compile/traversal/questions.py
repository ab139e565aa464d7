"""The questions of all inner nodes of a forest, folded into the model's input.

A node asks `number > threshold`, and goes right if so. A missing value (NaN) fails GREATER and goes
left. Where it must go right the node asks a second copy of the input, in which missing values
became a number above every threshold. (The mirrored question -x > -t would be an op cheaper, but
NEG takes the smallest floats for zero.) A question that every number passes, or none, only tells
missing values from numbers: it asks a table of flags. Only copies that some node asks are made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.thresholds import ThresholdTable

NUMBER, RAISED, MISSING, ANSWERED = range(4)
"""What a node asks: the number; the number with missing values above every threshold; whether the
value is missing; a column of answers that were given before."""


@dataclass(frozen=True, eq=False)
class Questions:
    """The inner nodes' questions about the model's input.

    Attributes:
        kind: (n,) see above.
        column: (n,) int32.
        threshold: (n,) float32 or int32.
        only_left: (n,) nobody goes right.
        only_right: (n,) nobody goes left.
        swapped: (n,) who passes the question goes left instead of right.
    """

    kind: NDArray[np.int8]
    column: NDArray[np.int32]
    threshold: NDArray[Any]
    only_left: NDArray[np.bool_]
    only_right: NDArray[np.bool_]
    swapped: NDArray[np.bool_]

    def ways(
        self, left: NDArray[np.int32], right: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the next state after GREATER says no, and after it says yes."""
        low = np.where(self.only_right | self.swapped, right, left)
        high = np.where(self.only_left | self.swapped, left, right)
        return low, high

    def beyond(self, width: int) -> NDArray[np.float32]:
        """For each column a number clearly above every threshold that its raised copy meets."""
        highest = np.zeros(width)
        raised = self.kind == RAISED
        np.maximum.at(highest, self.column[raised], self.threshold[raised].astype(np.float64))
        return np.minimum(2 * highest + 1, np.finfo(np.float32).max).astype(np.float32)


def folded_questions(
    trees: Sequence[Any], table: ThresholdTable, compared_as: Literal["float32", "float64"]
) -> Questions:
    """Return the question of every inner node, about the model's input."""

    def inner(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name)[tree.inner] for tree in trees])

    column, limit, missing_right = inner("column"), inner("threshold"), ~inner("missing_left")
    width = table.value.width
    asks = column < width
    folded = table.fold(column[asks], limit[asks], compared_as=compared_as)
    with np.errstate(over="ignore"):
        image = folded.nan_image.astype(compared_as).astype(np.float64)
    missing_right[asks] = np.where(np.isnan(image), missing_right[asks], image > limit[asks])
    place = column - width
    place[asks] = folded.columns
    threshold = np.zeros(len(column), folded.thresholds.dtype)
    threshold[asks] = folded.thresholds
    if threshold.dtype.kind == "i":
        info, floats = np.iinfo(np.int8), False
        all_pass, none_pass = threshold >= info.max, threshold < info.min
    else:
        top, floats = np.finfo(np.float32).max, True
        all_pass, none_pass = threshold >= top, threshold <= -top
    missing_tells = floats & ((all_pass & missing_right) | (none_pass & ~missing_right))
    kind = np.where(missing_right & floats, RAISED, NUMBER)
    kind[missing_tells] = MISSING
    kind[all_pass & ~missing_tells | none_pass & ~missing_tells] = NUMBER
    kind[~asks] = ANSWERED
    threshold[all_pass | none_pass] = 0
    return Questions(
        kind=kind.astype(np.int8),
        column=place.astype(np.int32),
        threshold=threshold,
        only_left=all_pass & ~missing_tells,
        only_right=none_pass & ~missing_tells,
        swapped=none_pass & missing_tells,
    )
