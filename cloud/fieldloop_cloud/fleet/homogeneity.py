"""Are two sets of counts from the same distribution? The chi-square test, made honest.

Three things separate field counts from a textbook's: cells that hardly anything falls into, values
of one window that resemble each other, and samples so large that everything is significant. So
small cells are pooled, the field's counts are scaled down to what they are worth, and an effect
size stands beside the p-value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MIN_EXPECTED = 5.0
"""Smallest expected count of a cell; the chi-square approximation needs it (Cochran 1954)."""

MIN_BATCHES = 4
"""With fewer batches of windows their variation cannot be estimated; independence is assumed."""

MAX_BATCHES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Field counts against reference counts.

    Attributes:
        row_count: Field values.
        effective_count: Field values divided by their over-dispersion.
        statistic: Chi-square statistic on the effective counts.
        p_value: Its tail probability; 1 where there is nothing to compare.
        effect: Population stability index less its expectation under no change, at least 0.
    """

    row_count: int
    effective_count: float
    statistic: float
    p_value: float
    effect: float


def compare(reference: NDArray[np.int64], windows: NDArray[np.int64]) -> Comparison:
    """Compare windows of counts with reference counts.

    The statistic is the two-sample chi-square, so the reference's own sampling error is part of
    it. Field counts are divided by the over-dispersion between windows (see `spread`); as that is
    estimated, the tail is an F distribution's.

    Args:
        reference: Shape (cells,).
        windows: Shape (windows, cells), in order of time.
    """
    field = windows.sum(axis=0)
    row_count = int(field.sum())
    groups = pooled_cells(reference, field)
    r = np.add.reduceat(reference, groups).astype(np.float64)
    w = np.add.reduceat(windows, groups, axis=1).astype(np.float64)
    df = len(r) - 1
    if df < 1 or row_count == 0 or r.sum() == 0:
        return Comparison(
            row_count=row_count,
            effective_count=float(row_count),
            statistic=0.0,
            p_value=1.0,
            effect=0.0,
        )
    found = spread(w)
    total = w.sum(axis=0) / found.factor
    statistic = _two_sample(r, total)
    if np.isinf(found.precision):
        p_value = float(stats.chi2.sf(statistic, df))
    else:
        p_value = float(stats.f.sf(statistic / df, found.df, found.precision * found.df))
    return Comparison(
        row_count=row_count,
        effective_count=row_count / found.factor,
        statistic=statistic,
        p_value=p_value,
        effect=stability_index(r, total),
    )


def pooled_cells(reference: NDArray[np.int64], field: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where the groups of neighbouring cells begin that are large enough to be tested.

    A group is closed as soon as the smaller sample expects `MIN_EXPECTED` values in it; a small
    rest joins the last group. Expectations are those under no change, so the pooling itself says
    nothing about a difference.
    """
    total = float(reference.sum() + field.sum())
    share = min(reference.sum(), field.sum()) / total if total else 0.0
    expected = (reference + field) * share
    starts: list[int] = []
    begin, held = 0, 0.0
    for cell, value in enumerate(expected):
        held += float(value)
        if held >= MIN_EXPECTED:
            starts.append(begin)
            begin, held = cell + 1, 0.0
    return np.array(starts or [0], dtype=np.intp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How field counts vary from batch to batch.

    Attributes:
        factor: Variance relative to independent values; at least 1 (the design effect).
        df: Dimensions in which they vary, at most cells - 1 (Satterthwaite).
        precision: Degrees of freedom that `factor` was estimated with; infinite if it was not.
    """

    factor: float
    df: float
    precision: float


def spread(windows: NDArray[np.float64]) -> Spread:
    """Estimate the over-dispersion of pooled counts, shape (windows, cells), in order of time.

    Values that follow each other resemble each other. So windows are joined to at most
    `MAX_BATCHES` batches, and the covariance of their shares is taken from the differences of
    neighbours, which one jump of the distribution hardly touches. Dependence that lasts longer
    than a batch is not seen; asking for a drift to persist over cycles is the guard against it.

    Rao and Scott 1987, Ann. Statist. 15 (second-order correction).
    """
    full = windows.shape[1] - 1
    w = _batches(windows[windows.sum(axis=1) > 0])
    if len(w) < MIN_BATCHES:
        return Spread(factor=1.0, df=full, precision=np.inf)
    rows = w.sum(axis=1)
    share = w.sum(axis=0) / rows.sum()
    used = share > 0
    differences = np.diff(w[:, used] / rows[:, None], axis=0) / np.sqrt(share[used])
    differences /= np.sqrt(1.0 / rows[1:] + 1.0 / rows[:-1])[:, None]
    covariance = differences.T @ differences / len(differences)
    trace, square = float(np.trace(covariance)), float((covariance**2).sum())
    # Neighbouring differences share a batch: they are worth two thirds of independent ones.
    precision = max(1.0, 2.0 / 3.0 * len(differences))
    if trace <= full:
        return Spread(factor=1.0, df=full, precision=precision)
    # Few batches alone make the estimated eigenvalues unequal; that part is taken off.
    unbiased = (square - trace**2 / precision) * precision / (precision + 1.0)
    df = full if unbiased <= 0 else min(full, max(1.0, trace**2 / unbiased))
    return Spread(factor=trace / full, df=df, precision=precision)


def _batches(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    size = -(-len(windows) // MAX_BATCHES)
    return np.add.reduceat(windows, np.arange(0, len(windows), size), axis=0) if size else windows


def stability_index(reference: NDArray[np.float64], field: NDArray[np.float64]) -> float:
    """Return the population stability index less its expectation under no change.

    PSI = sum (q - p) ln(q / p), with half a count added to each cell; when nothing has changed it
    is about (cells - 1) (1/n + 1/m), which is taken off.
    """
    p, q = ((c + 0.5) / (c.sum() + 0.5 * len(c)) for c in (reference, field))
    index = float(((q - p) * np.log(q / p)).sum())
    chance = (len(p) - 1) * (1.0 / reference.sum() + 1.0 / max(field.sum(), 1.0))
    return max(0.0, index - float(chance))


def _two_sample(r: NDArray[np.float64], w: NDArray[np.float64]) -> float:
    ratio = float(np.sqrt(r.sum() / w.sum()))
    return float(np.sum((ratio * w - r / ratio) ** 2 / (r + w)))
