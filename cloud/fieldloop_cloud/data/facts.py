"""What a data set looks like, before anything is trained on it."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.disguise import TELLING, feature_scores
from fieldloop_cloud.data.units import duplicate_groups


class ColumnFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One feature.

    Attributes:
        name: The column's name.
        kind: `number`, `category` or `constant`.
        distinct_count: Different values.
        missing_share: Share of rows without a value.
        low: Smallest number; None for a category.
        high: Largest number; None for a category.
        tells_target: Whether this column alone gives the target away in (nearly) every row.
    """

    name: str
    kind: str
    distinct_count: int
    missing_share: float
    low: float | None
    high: float | None
    tells_target: bool


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A data set's facts.

    Attributes:
        row_count: Rows.
        value_count: Values in a row: features, or pixels times channels.
        class_shares: Share of each label, in the labels' order; empty for regression.
        majority_share: The largest of them: what guessing reaches; 0 for regression.
        duplicate_count: Rows that repeat an earlier one.
        conflict_count: Rows whose features occur with another target too: noise that no model
            can resolve.
        missing_share: Share of all values that are missing.
        columns: One entry a feature; empty for images.
    """

    row_count: int
    value_count: int
    class_shares: tuple[float, ...]
    majority_share: float
    duplicate_count: int
    conflict_count: int
    missing_share: float
    columns: tuple[ColumnFacts, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be looked at before a model is believed, one sentence each."""
        found = [
            f"Column '{column.name}' alone tells the target in nearly every row: check that it is "
            "known before the answer is."
            for column in self.columns
            if column.tells_target
        ]
        if self.conflict_count:
            found.append(
                f"{self.conflict_count} rows occur with different targets: no model can be right "
                "on all of them."
            )
        return tuple(found)


def facts(dataset: Dataset) -> DataFacts:
    """Look at a data set; nothing is changed and nothing is kept.

    Example:
        >>> facts(Dataset.load("sklearn:iris")).majority_share
        0.3333333333333333
    """
    groups = duplicate_groups(dataset.X)
    shares = tuple(count / len(dataset) for count in dataset.class_counts)
    return DataFacts(
        row_count=len(dataset),
        value_count=dataset.flat.shape[1],
        class_shares=shares,
        majority_share=max(shares, default=0.0),
        duplicate_count=len(dataset) - len(np.unique(groups)),
        conflict_count=_conflicts(dataset, groups),
        missing_share=float(np.isnan(dataset.X).mean()),
        columns=tuple(
            _column(dataset, index, score) for index, score in enumerate(feature_scores(dataset))
        ),
    )


def _conflicts(dataset: Dataset, groups: NDArray[np.int64]) -> int:
    pairs = np.unique(np.stack([groups.astype(np.float64), dataset.y], axis=1), axis=0)
    targets = np.bincount(pairs[:, 0].astype(np.int64))
    return int((targets[groups] > 1).sum())


def _column(dataset: Dataset, index: int, score: float) -> ColumnFacts:
    spec, column = dataset.features[index], dataset.X[:, index]
    known = column[~np.isnan(column)]
    distinct = len(np.unique(known))
    kind = "category" if spec.categories else "number"
    is_number = not spec.categories and len(known) > 0
    return ColumnFacts(
        name=spec.name,
        kind="constant" if distinct <= 1 else kind,
        distinct_count=distinct,
        missing_share=float(np.isnan(column).mean()),
        low=float(known.min()) if is_number else None,
        high=float(known.max()) if is_number else None,
        tells_target=bool(score > TELLING),
    )
