"""How many rows to test on, to choose by, and to learn from.

The test share follows Joseph (Optimal ratio for data splitting, Statistical Analysis and Data
Mining 15 (2022), 531-538): 1 / (sqrt(p) + 1) with p the parameters of an adequate linear model.
The validation part follows Guyon (A scaling law for the validation-set training-set size ratio,
AT&T Bell Laboratories, 1997): validation : training = sqrt(ln(models compared) / p). Neither looks
at how sure the final score will be, so a floor comes from the wanted width of its interval.
"""

import math
from statistics import NormalDist

import msgspec
import numpy as np

from fieldloop.errors import ConfigError
from fieldloop_cloud.data.dataset import Dataset, DataTask
from fieldloop_cloud.train.metrics import LEVEL, wilson

WIDTH = 0.1
"""Wanted width of the final score's 95 % interval: five points to each side."""

ASSUMED_SCORE: dict[DataTask, float] = {"classification": 0.9, "regression": 0.5}
"""The score that a test set is sized for before anything is known: accuracy, R²."""

MAX_TEST_SHARE = 0.3
"""Beyond this the model loses more by missing rows than the score gains in sureness."""

MODELS_COMPARED = 50
FOLD_COUNT = 5
_SAMPLED_ROWS = 500
_KEPT_VARIANCE = 0.95


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """Recommended sizes.

    Attributes:
        test_count: Rows to seal.
        validation_count: Rows to choose by; 0 where cross-validation serves better.
        fold_count: Folds of the cross-validation; 0 for a single validation part.
        width: Width of the final score's 95 % interval with this test set, at the assumed score.
        wanted_width: What was asked for.
        wanted_test_count: Test rows that would give it.
        parameter_count: Parameters of an adequate linear model.
        reasons: Why, one sentence each.
    """

    test_count: int
    validation_count: int
    fold_count: int
    width: float
    wanted_width: float
    wanted_test_count: int
    parameter_count: int
    reasons: tuple[str, ...]


def interval_width(count: int, *, task: DataTask, score: float) -> float:
    """Return the width of a score's 95 % interval on `count` rows: Wilson's, or R²'s.

    R²'s standard error is 2 R (1 - R²) / sqrt(n) (Olkin and Finn, Psychological Bulletin 118
    (1995), 155-164).
    """
    if count < 1:
        return 1.0
    if task == "classification":
        low, high = wilson(score * count, count)
        return high - low
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    return 4 * z * math.sqrt(max(score, 0.0)) * (1 - score) / math.sqrt(count)


def rows_for_width(width: float, *, task: DataTask, score: float | None = None) -> int:
    """Return the smallest test set whose interval is no wider.

    Args:
        width: Full width of the 95 % interval, 0.1 for five points to each side.
        task: Which score.
        score: Where the score is expected.

    Raises:
        ConfigError: A width or a score outside 0 … 1.

    Example:
        >>> rows_for_width(0.1, task="classification", score=0.9)
        141
    """
    expected = ASSUMED_SCORE[task] if score is None else score
    if not 0 < width < 1 or not 0 <= expected <= 1:
        raise ConfigError(
            f"an interval of width {width:g} at a score of {expected:g} does not exist",
            advice="Give a width between 0 and 1 (0.1 is five points to each side) and a score "
            "from 0 to 1.",
        )
    low, high = 0, 1
    while interval_width(high, task=task, score=expected) > width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if interval_width(middle, task=task, score=expected) > width:
            low = middle
        else:
            high = middle
    return high


def joseph_share(parameter_count: int) -> float:
    """Return the test share 1 / (sqrt(p) + 1).

    Example:
        >>> joseph_share(16)
        0.2
    """
    return 1 / (math.sqrt(parameter_count) + 1)


def guyon_share(parameter_count: int, *, model_count: int = MODELS_COMPARED) -> float:
    """Return the validation part's share of the rows that are not sealed."""
    ratio = math.sqrt(math.log(max(2, model_count)) / max(1, parameter_count))
    return ratio / (1 + ratio)


def adequate_parameters(dataset: Dataset) -> int:
    """Estimate the parameters of a linear model that is adequate for the data.

    As many as principal components of the standardized values that hold 95 % of the variance, on
    up to 500 rows spread over the data.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED_ROWS).astype(np.int64))
    values = np.nan_to_num(dataset.take(rows).flat.astype(np.float64))
    spread = values.std(axis=0)
    values = (values - values.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    if not values.size:
        return 1
    small = values @ values.T if values.shape[1] > len(values) else values.T @ values
    variance = np.linalg.eigvalsh(small)[::-1].clip(min=0.0)
    return int(np.searchsorted(np.cumsum(variance) / variance.sum(), _KEPT_VARIANCE)) + 1


def recommend(
    dataset: Dataset, *, width: float = WIDTH, model_count: int = MODELS_COMPARED
) -> Sizing:
    """Recommend sizes for a data set.

    Args:
        dataset: All rows.
        width: Wanted width of the final score's 95 % interval.
        model_count: Models that will be compared on the validation rows.

    Raises:
        ConfigError: A width outside 0 … 1.
    """
    count, task = len(dataset), dataset.task
    wanted = rows_for_width(width, task=task)
    parameters = adequate_parameters(dataset)
    share = joseph_share(parameters)
    test = round(count * min(MAX_TEST_SHARE, max(share, wanted / count)))
    reached = interval_width(test, task=task, score=ASSUMED_SCORE[task])
    first = (
        f"A linear model for these data needs about {parameters} parameters, for which Joseph's "
        f"rule seals {share:.0%} of the rows."
    )
    reasons = [first]
    if test < wanted:
        reasons.append(
            f"An interval of ±{50 * width:.3g} points would need {wanted} test rows, more than "
            f"{MAX_TEST_SHARE:.0%} of the data; {test} give ±{50 * reached:.2g}."
        )
    elif test > round(count * share):
        reasons.append(
            f"More are sealed than that, {test}, so that the final interval is no wider than "
            f"±{50 * width:.3g} points."
        )
    held_out = round((count - test) * guyon_share(parameters, model_count=model_count))
    use_folds = held_out < wanted
    reasons.append(
        f"Guyon's rule would leave {held_out} rows to choose by, too few to tell models apart: "
        f"cross-validation lets every row serve."
        if use_folds
        else f"Guyon's rule gives {held_out} rows to choose by among {model_count} models."
    )
    return Sizing(
        test_count=test,
        validation_count=0 if use_folds else held_out,
        fold_count=FOLD_COUNT if use_folds else 0,
        width=reached,
        wanted_width=width,
        wanted_test_count=wanted,
        parameter_count=parameters,
        reasons=tuple(reasons),
    )
