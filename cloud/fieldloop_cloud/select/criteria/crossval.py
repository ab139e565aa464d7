"""Cross-validation: a mean score with an honest standard error, and the test of a difference.

Folds share training rows, so the scores' plain standard error is too small. Nadeau and Bengio's
correction replaces 1/k by 1/k + n_validation / n_training.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from fieldloop.errors import ConfigError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.split import Fold
from fieldloop_cloud.select.criteria.verdicts import Verdict


class CrossValidated(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one model over folds.

    Attributes:
        metric: The score's name; more is better.
        scores: One a fold.
        ratio: Validation rows by training rows of a fold, on average.
    """

    metric: str
    scores: tuple[float, ...]
    ratio: float

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return float(np.mean(self.scores))

    @property
    def standard_error(self) -> float:
        """Corrected standard error of the mean."""
        return _corrected(self.scores, self.ratio)

    def verdict(self, family: str) -> Verdict:
        """Return it as a criterion; unlike the others, families may be compared by it."""
        note = f"{self.metric} over {len(self.scores)} folds, ± {self.standard_error:.3g}"
        return Verdict(name="CV", family=family, value=self.mean, note=note)


def cross_validate(
    score: Callable[[Dataset, Dataset], float],
    dataset: Dataset,
    turns: Sequence[Fold],
    *,
    metric: str,
) -> CrossValidated:
    """Score a way of fitting over folds.

    Args:
        score: Fits on the first data set and scores on the second.
        dataset: All rows.
        turns: From `data.split.folds`.
        metric: The score's name.

    Raises:
        ConfigError: Fewer than 2 folds.
    """
    if len(turns) < 2:  # noqa: PLR2004 - no spread, no error
        raise ConfigError("a cross-validation needs 2 folds", advice="Ask for 2 or more.")
    found = [score(dataset.take(turn.train), dataset.take(turn.validation)) for turn in turns]
    ratios = [len(turn.validation) / len(turn.train) for turn in turns]
    return CrossValidated(metric=metric, scores=tuple(found), ratio=float(np.mean(ratios)))


def difference_p_value(one: CrossValidated, other: CrossValidated) -> float:
    """Return the two-sided p-value that two models score the same, on the same folds.

    Raises:
        ConfigError: Not the same metric and number of folds.
    """
    from scipy.stats import t  # noqa: PLC0415 - half a second to load

    if one.metric != other.metric or len(one.scores) != len(other.scores):
        raise ConfigError(
            "cross-validations with different metrics or folds cannot be compared",
            advice="Score both on the same folds.",
        )
    gaps = np.subtract(one.scores, other.scores)
    error = _corrected(tuple(gaps.tolist()), one.ratio)
    if error == 0:
        return 1.0 if float(gaps.mean()) == 0 else 0.0
    return float(2 * t.sf(abs(float(gaps.mean())) / error, len(gaps) - 1))


def _corrected(values: Sequence[float], ratio: float) -> float:
    return math.sqrt(float(np.var(values, ddof=1)) * (1 / len(values) + ratio))
