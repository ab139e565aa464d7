"""Learning curves: the score with fewer rows, and from it what more labels would buy.

Sizes grow by a factor of sqrt(2); each is repeated with other rows held out. Smaller training sets
are parts of the larger ones, classes keep their shares, groups come whole.
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.split import Fold, folds
from fieldloop_cloud.data.units import Rows, strata
from fieldloop_cloud.select.extrapolation import MIN_ANCHORS, Extrapolation, extrapolate

REPEATS = 5
MAX_ANCHORS = 11
MAX_FACTOR = 4.0
"""Nothing is said about more than this many times the rows that there are."""

_FULL_SHARE = 0.9
_MIN_ROWS = 10
_MIN_ROWS_PER_CLASS = 2

Scorer = Callable[[Dataset, Dataset], float]
"""Fits on the first data set and scores on the second; 1 is the best."""


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One size.

    Attributes:
        row_count: Rows learnt from.
        score: Mean over the repeats.
        standard_error: Of the mean, without what all sizes of a repeat share.
    """

    row_count: int
    score: float
    standard_error: float


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What more rows are expected to give.

    Attributes:
        row_count: Rows learnt from, in all.
        score: Expected.
        low: Lower end of the 95 % band.
        high: Upper end.
    """

    row_count: int
    score: float
    low: float
    high: float


class Purchase(msgspec.Struct, frozen=True, kw_only=True):
    """What more labels buy.

    Attributes:
        more_count: Labels bought.
        gain: Expected gain of score.
        low: Lower end of its 95 % band.
        high: Upper end.
    """

    more_count: int
    gain: float
    low: float
    high: float

    def sentence(self, metric: str) -> str:
        """Say it: "400 more labels ≈ +1.2 points of accuracy (0.3 to 2.0)"."""
        ends = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return (
            f"{self.more_count:,} more labels ≈ {100 * self.gain:+.1f} points of {metric} ({ends})"
        )


class LearningCurve(msgspec.Struct, frozen=True, kw_only=True):
    """A measured curve and its forecast.

    Attributes:
        model: What was fitted.
        metric: The score's name.
        points: By size, ascending.
        forecast: Beyond the largest size; empty if refused.
        purchases: What more labels buy; empty if refused.
        refusal: Why nothing is forecast; empty if it is.
    """

    model: str
    metric: str
    points: tuple[CurvePoint, ...]
    forecast: tuple[Forecast, ...] = ()
    purchases: tuple[Purchase, ...] = ()
    refusal: str = ""


def learning_curve(
    score: Scorer,
    dataset: Dataset,
    *,
    model: str,
    metric: str,
    seed: int = 0,
    repeats: int = REPEATS,
    progress: Callable[[float], None] | None = None,
) -> LearningCurve:
    """Measure a curve and forecast it.

    Args:
        score: Fits on one data set and scores on another.
        dataset: Rows that may be learnt from; not the test set.
        model: Name of what `score` fits.
        metric: Name of the score.
        seed: Of the choice of rows.
        repeats: How often each size is measured; 3 or more.
        progress: Told the share that is done.

    Raises:
        DataError: Too few rows for a curve.
    """
    measured = measure(score, dataset, seed=seed, repeats=repeats, progress=progress)
    sizes, errors = measured
    means, noise = errors.mean(axis=0), paired_errors(errors)
    points = tuple(
        CurvePoint(row_count=int(size), score=1 - float(mean), standard_error=float(error))
        for size, mean, error in zip(sizes, means, noise, strict=True)
    )
    try:
        fitted = extrapolate(sizes.astype(np.float64), means, noise, seed=seed)
    except GateError as error:
        return LearningCurve(model=model, metric=metric, points=points, refusal=str(error))
    return LearningCurve(
        model=model,
        metric=metric,
        points=points,
        forecast=tuple(_forecasts(fitted, int(sizes[-1]))),
        purchases=tuple(_purchases(fitted, int(sizes[-1]), len(dataset))),
    )


def measure(
    score: Scorer,
    dataset: Dataset,
    *,
    seed: int = 0,
    repeats: int = REPEATS,
    progress: Callable[[float], None] | None = None,
) -> tuple[Rows, NDArray[np.float64]]:
    """Measure errors (1 - score) at growing sizes.

    Returns:
        Sizes (k,), ascending, and errors (repeats, k).

    Raises:
        DataError: Too few rows for six sizes.
    """
    turns = [folds(dataset, seed=seed + number) for number in range(repeats)]
    picked = [_full(found, number) for number, found in enumerate(turns)]
    sizes = anchors(min(len(turn.train) for turn in picked), len(dataset.labels))
    errors = np.empty((repeats, len(sizes)))
    for number, turn in enumerate(picked):
        pool, rest = dataset.take(turn.train), dataset.take(turn.validation)
        order = _growing(pool, np.random.default_rng([seed, number]))
        for place, size in enumerate(sizes):
            errors[number, place] = 1 - score(pool.take(order[:size]), rest)
            if progress is not None:
                progress((number * len(sizes) + place + 1) / errors.size)
    return sizes, errors


def _full(turns: tuple[Fold, ...], number: int) -> Fold:
    """Return one of the folds that learn from most rows: in time order only the last ones do."""
    most = max(len(turn.train) for turn in turns)
    full = [turn for turn in turns if len(turn.train) >= _FULL_SHARE * most]
    return full[number % len(full)]


def anchors(largest: int, class_count: int) -> Rows:
    """Return sizes that grow by sqrt(2) up to the largest.

    Raises:
        DataError: Fewer than six of them leave enough rows in each.

    Example:
        >>> anchors(400, 2)
        array([ 12,  18,  25,  35,  50,  71, 100, 141, 200, 283, 400])
    """
    smallest = max(_MIN_ROWS, _MIN_ROWS_PER_CLASS * class_count)
    sizes = np.rint(largest / np.sqrt(2.0) ** np.arange(MAX_ANCHORS)).astype(np.int64)
    sizes = np.unique(sizes[sizes >= smallest])
    if len(sizes) < MIN_ANCHORS:
        raise DataError(
            f"{largest} rows to learn from leave {len(sizes)} sizes of a learning curve",
            advice=f"Bring at least {int(smallest * np.sqrt(2.0) ** (MIN_ANCHORS - 1)) + 1}.",
        )
    return sizes


def paired_errors(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error at each size, without what the sizes of a repeat share; (k,).

    Few repeats underrate it: it is widened by Student's factor, so that bands keep their promise.
    """
    from scipy.stats import norm, t  # noqa: PLC0415 - half a second to load

    repeats = len(errors)
    widening = float(t.ppf(0.975, repeats - 1) / norm.ppf(0.975))
    centred = errors - errors.mean(axis=1, keepdims=True)
    return np.asarray(widening * centred.std(axis=0, ddof=1) / np.sqrt(repeats))


def _growing(pool: Dataset, random: np.random.Generator) -> Rows:
    """Order rows so that each beginning keeps class shares, or whole groups."""
    if pool.groups is not None:
        groups = np.unique(pool.groups, return_inverse=True)[1]
        place = random.permutation(int(groups.max()) + 1)[groups]
        return np.lexsort((random.permutation(len(pool)), place)).astype(np.int64)
    layer = strata(pool)
    mixed = random.permutation(len(pool))
    key = np.empty(len(pool))
    for number in np.unique(layer):
        members = mixed[layer[mixed] == number]
        key[members] = (np.arange(len(members)) + random.random()) / len(members)
    return np.argsort(key, kind="stable").astype(np.int64)


def _forecasts(fitted: Extrapolation, largest: int) -> list[Forecast]:
    made = []
    for factor in np.geomspace(1, MAX_FACTOR, 9):
        error, low, high = fitted.error_at(largest * factor)
        made.append(
            Forecast(row_count=round(largest * factor), score=1 - error, low=1 - high, high=1 - low)
        )
    return made


def _purchases(fitted: Extrapolation, largest: int, row_count: int) -> list[Purchase]:
    """Say what a quarter, once and three times the rows more would buy."""
    made = []
    for share in (0.25, 1.0, MAX_FACTOR - 1):
        gain, low, high = fitted.gain_between(largest, largest * (1 + share))
        made.append(Purchase(more_count=_rounded(row_count * share), gain=gain, low=low, high=high))
    return made


def _rounded(count: float) -> int:
    """Round to two digits, as nobody buys 317 labels."""
    digits = max(0, int(np.floor(np.log10(max(count, 1)))) - 1)
    step = int(10**digits)
    return max(1, round(count / step) * step)
