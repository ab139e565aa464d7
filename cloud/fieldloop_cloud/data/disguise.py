"""Features that may be the target in disguise: how well each column alone tells it."""

from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset

TELLING = 0.999
"""A column alone that reaches this is the target in disguise, until somebody vouches for it."""

_MIN_ROWS = 50
_MAX_ROWS = 3000
_MAX_PROBED = 40
_BINS = 16
_FOLDS = 3

_known: WeakKeyDictionary[Dataset, NDArray[np.float64]] = WeakKeyDictionary()
"""The facts and the leakage check ask for the same scores."""


def feature_scores(dataset: Dataset) -> NDArray[np.float64]:
    """Score each column alone; shape (features,), NaN where it was not probed.

    For classes the balanced accuracy of a small tree on rows that it was not fitted on; for
    numbers the rank correlation's size. Of more than 40 columns those are probed whose bins are
    the purest, and of many rows a sample.
    """
    if dataset not in _known:
        _known[dataset] = _scores(dataset)
    return _known[dataset]


def _scores(dataset: Dataset) -> NDArray[np.float64]:
    scores = np.full(len(dataset.features), np.nan)
    if dataset.kind != "tabular" or len(dataset) < _MIN_ROWS:
        return scores
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_MAX_ROWS])
    table, target = filled(dataset.X[rows]), dataset.y[rows]
    varies = np.ptp(table, axis=0) > 0
    columns = np.flatnonzero(varies)
    if dataset.task == "regression":
        scores[columns] = _rank_correlations(table[:, columns], target)
        return scores
    if len(columns) > _MAX_PROBED:
        columns = columns[_most_telling(table[:, columns], target)]
    for column in columns:
        scores[column] = tree_score(table[:, column], target)
    return scores


def filled(table: NDArray[np.float32]) -> NDArray[np.float64]:
    """Put missing values below everything else: that a value is missing can tell as well."""
    known = np.where(np.isnan(table), np.inf, table)
    floor = known.min(axis=0)
    floor = np.where(np.isfinite(floor), floor, 0.0)
    return np.where(np.isnan(table), floor - 1.0 - np.abs(floor), table).astype(np.float64)


def tree_score(column: NDArray[np.float64], target: NDArray[np.generic]) -> float:
    """Return the balanced accuracy, on rows held out in turn, of a tree on one column.

    Args:
        column: (n,), nothing missing.
        target: Class indices, (n,).

    Returns:
        0 … 1; NaN where a class has too few rows to hold any out.
    """
    from sklearn.metrics import balanced_accuracy_score  # noqa: PLC0415 - slow to load
    from sklearn.model_selection import StratifiedKFold, cross_val_predict  # noqa: PLC0415
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415

    counts = np.unique(target, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < _FOLDS:  # noqa: PLR2004 - one class tells nothing
        return float("nan")
    tree = DecisionTreeClassifier(max_leaf_nodes=2 * len(counts), random_state=0)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    said = cross_val_predict(tree, column[:, np.newaxis], target, cv=folds)
    return float(balanced_accuracy_score(target, said))


def is_renamed(column: NDArray[np.float32], target: NDArray[np.generic]) -> bool:
    """Whether values and classes correspond one to one (missing is a value, too)."""
    values = np.unique(column, return_inverse=True)[1]
    classes = np.unique(target, return_inverse=True)[1]
    pairs = len(np.unique(np.stack([values, classes]), axis=1).T)
    return bool(pairs == values.max() + 1 == classes.max() + 1)


def _rank_correlations(
    table: NDArray[np.float64], target: NDArray[np.generic]
) -> NDArray[np.float64]:
    from scipy.stats import rankdata  # noqa: PLC0415 - half a second to load

    ranks = rankdata(table, axis=0)
    ranks -= ranks.mean(axis=0)
    wanted = rankdata(target) - (len(target) + 1) / 2
    size = np.sqrt((ranks**2).sum(axis=0) * (wanted**2).sum())
    return np.asarray(np.abs(ranks.T @ wanted) / np.where(size > 0, size, 1.0))


def _most_telling(table: NDArray[np.float64], target: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the columns in whose quantile bins one class prevails most."""
    codes = np.unique(target, return_inverse=True)[1]
    count = int(codes.max()) + 1
    # Counted by the class's own share, so that a rare class is not drowned by the others.
    weight = 1.0 / np.bincount(codes)[codes]
    edges = np.quantile(table, np.linspace(0, 1, _BINS + 1)[1:-1], axis=0)
    purity = np.empty(table.shape[1])
    for column in range(table.shape[1]):
        bins = np.searchsorted(edges[:, column], table[:, column], side="right")
        cells = np.bincount(bins * count + codes, weights=weight, minlength=_BINS * count)
        purity[column] = cells.reshape(_BINS, count).max(axis=1).sum()
    return np.argsort(-purity, kind="stable")[:_MAX_PROBED].astype(np.int64)
