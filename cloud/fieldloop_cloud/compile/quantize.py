"""The precision ladder: which rungs there are, what calibrates them, and the gate each must pass.

A quantized variant is compared with the float32 variant on the same rows, so the comparison is a
paired one: only rows on which the two differ say anything. A rung is accepted when the upper
confidence limit of what it lost is at most `epsilon`. Where the rows are too few to show that,
the verdict is "not proven", which is neither a pass nor an accusation.
"""

import hashlib
import math
from statistics import NormalDist
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError
from fieldloop.manifest import Precision

Verdict = Literal["reference", "accepted", "refused", "not proven"]

EPSILON = 0.01
"""Largest accepted loss of score: one point of accuracy, or 0.01 of R²."""

CALIBRATION_ROWS = 300
"""Between the 100 and 500 that settle activation ranges."""

NET_LADDER: tuple[Precision, ...] = (
    "float32",
    "dynamic",
    "float16",
    "int8",
    "mixed",
    "int16x8",
)
CLASSICAL_LADDER: tuple[Precision, ...] = ("float32", "float16", "int8")
"""Rungs, the reference first; a target takes those that it runs."""

RESCUES: tuple[Precision, ...] = ("mixed", "int16x8")
"""Rungs between int8 and float32 in cost: they are tried only where int8 does not pass."""

_CONFIDENCE = 0.95
_RESAMPLES = 2000
_TINY = 1e-12


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a variant may be chosen, and on what evidence.

    Attributes:
        verdict: `reference` is the float32 variant that the others are compared with; only it
            and `accepted` may be chosen.
        reason: One sentence for people, with the numbers.
        drop: Score lost against the reference on the same rows; negative if it gained.
        drop_high: Upper 95 % confidence limit of the drop.
        epsilon: The largest drop allowed.
        agreement: Share of rows with the reference's label (classification).
        row_count: Rows compared.
        recall: The variant's recall of each class that has rows, in the classes' order
            (classification).
    """

    verdict: Verdict
    reason: str
    drop: float = 0.0
    drop_high: float = 0.0
    epsilon: float = 0.0
    agreement: float | None = None
    row_count: int = 0
    recall: tuple[float, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the variant may be chosen."""
        return self.verdict in ("reference", "accepted")


def needs_rescue(int8: Gate | None) -> bool:
    """Whether int8 lost something that a rung between int8 and float32 could keep.

    Where nothing was lost and the rows are just too few to prove it, no other rung can prove more.
    """
    return int8 is None or not (int8.passed or (int8.verdict == "not proven" and int8.drop <= 0))


def paired_drop_high(
    lost: int, won: int, row_count: int, *, confidence: float = _CONFIDENCE
) -> float:
    """Return the upper one-sided limit of a paired drop in accuracy (Tango's score limit).

    Args:
        lost: Rows that only the reference got right.
        won: Rows that only the variant got right.
        row_count: All rows compared.
        confidence: Of the limit; one-sided.

    The score limit stays honest where a Wald limit collapses to zero width: with no row lost
    among n it is z² / (n + z²). Tango, Statistics in Medicine 17 (1998), 891-908.

    Example:
        >>> round(paired_drop_high(0, 0, 100), 4)
        0.0263
    """
    from scipy.optimize import brentq  # noqa: PLC0415 - a second of import time, only for a gate

    z = NormalDist().inv_cdf(confidence)
    net = lost - won

    def excess(delta: float) -> float:
        # Maximum-likelihood share of rows won, given that the drop is delta.
        a = 2 * row_count
        b = -(lost + won) + (2 * row_count - net) * delta
        c = -won * delta * (1 - delta)
        won_share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = row_count * (2 * won_share + delta * (1 - delta))
        return row_count * delta - net - z * math.sqrt(max(variance, 0.0))

    if net == row_count:
        return 1.0
    # At the estimate itself the variance may be zero, which is a root but not the limit.
    estimate = net / row_count + _TINY
    return float(brentq(excess, estimate, 1.0 - _TINY, xtol=1e-10))


def check_epsilon(epsilon: float) -> None:
    """Refuse an epsilon that is no share.

    Raises:
        ConfigError: It is not between 0 and 1.
    """
    if not 0 < epsilon < 1:
        raise ConfigError(
            f"an epsilon of {epsilon} is no share of the score",
            where="epsilon",
            advice="Give a number between 0 and 1; 0.01 is one point of accuracy.",
        )


def rows_needed(epsilon: float) -> int:
    """Return how many rows can show a drop below `epsilon` if not one is lost.

    Example:
        >>> rows_needed(0.01)
        268
    """
    z = NormalDist().inv_cdf(_CONFIDENCE)
    return math.ceil(z * z * (1 - epsilon) / epsilon)


def classification_gate(
    truth: NDArray[np.int64],
    reference: NDArray[np.int64],
    variant: NDArray[np.int64],
    *,
    epsilon: float = EPSILON,
) -> Gate:
    """Judge a variant's class indices against the reference's on the same rows, all shape (n,).

    A class that is rare hardly moves the accuracy, so a variant is also refused when any one class
    is shown to have lost more than `epsilon` of its recall.
    """
    count = len(truth)
    right, still = reference == truth, variant == truth
    lost, won = int((right & ~still).sum()), int((~right & still).sum())
    drop, high = (lost - won) / count, paired_drop_high(lost, won, count)
    counted = f"{lost} rows lost and {won} won of {count}"
    gate = _judge(
        drop, high, epsilon, count, counted, agreement=float(np.mean(reference == variant))
    )
    recall = tuple(float(still[truth == index].mean()) for index in np.unique(truth))
    gate = msgspec.structs.replace(gate, recall=recall)
    collapsed = _collapsed_class(truth, right, still, epsilon)
    if collapsed is None:
        return gate
    index, gone, members = collapsed
    reason = (
        f"refused: class number {index} lost {gone} of its {members} rows, more than the allowed "
        f"{epsilon:g} beyond doubt ({counted} in all)"
    )
    return msgspec.structs.replace(gate, verdict="refused", reason=reason)


def _collapsed_class(
    truth: NDArray[np.int64],
    right: NDArray[np.bool_],
    still: NDArray[np.bool_],
    epsilon: float,
) -> tuple[int, int, int] | None:
    """Return (class, rows lost, rows) of the class whose recall surely fell most, if any did."""
    classes = np.unique(truth)
    # Bonferroni: of many harmless classes one in twenty would look guilty by itself.
    confidence = 1 - (1 - _CONFIDENCE) / len(classes)
    found: list[tuple[float, tuple[int, int, int]]] = []
    for index in classes:
        mine = truth == index
        lost, won = int((mine & right & ~still).sum()), int((mine & ~right & still).sum())
        members = int(mine.sum())
        # The lower limit of a drop is the upper limit of the gain, turned round.
        low = -paired_drop_high(won, lost, members, confidence=confidence) if lost > won else 0.0
        if low > epsilon:
            found.append((low, (int(index), lost, members)))
    return max(found)[1] if found else None


def regression_gate(
    truth: NDArray[np.float32],
    reference: NDArray[np.float32],
    variant: NDArray[np.float32],
    *,
    epsilon: float = EPSILON,
    seed: int = 0,
) -> Gate:
    """Judge a variant's values by the R² it lost; the limit is a paired bootstrap's."""
    truth64 = truth.astype(np.float64)
    extra = (variant - truth64) ** 2 - (reference - truth64) ** 2
    spread = (truth64 - truth64.mean()) ** 2
    drop = float(extra.sum() / spread.sum())
    random = np.random.default_rng(seed)
    drops = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        rows = random.integers(0, len(truth), len(truth))
        drops[index] = extra[rows].sum() / max(spread[rows].sum(), np.finfo(np.float64).tiny)
    high = float(np.quantile(drops, _CONFIDENCE))
    return _judge(drop, high, epsilon, len(truth), f"R² over {len(truth)} rows", agreement=None)


def _judge(
    drop: float, high: float, epsilon: float, count: int, counted: str, *, agreement: float | None
) -> Gate:
    numbers = f"drop {drop:+.4f}, at most {high:.4f} with 95 % confidence ({counted})"
    if high <= epsilon:
        verdict: Verdict = "accepted"
        reason = f"accepted: {numbers}; allowed is {epsilon:g}"
    elif drop > epsilon:
        verdict = "refused"
        reason = f"refused: {numbers}; allowed is {epsilon:g}"
    else:
        verdict = "not proven"
        need = f"; at least {rows_needed(epsilon)} rows are needed" if agreement is not None else ""
        reason = f"not proven: n = {count} is too small for {epsilon:g}: {numbers}{need}"
    return Gate(
        verdict=verdict,
        reason=reason,
        drop=drop,
        drop_high=high,
        epsilon=epsilon,
        agreement=agreement,
        row_count=count,
    )


def reference_gate(row_count: int, evidence: str) -> Gate:
    """Return the gate of the float32 variant, whose evidence is its parity with the original."""
    return Gate(
        verdict="reference",
        reason=f"reference: {evidence}",
        agreement=1.0,
        row_count=row_count,
    )


def calibration_rows(
    y: NDArray[np.int64] | NDArray[np.float32], *, seed: int, count: int = CALIBRATION_ROWS
) -> NDArray[np.int64]:
    """Draw row numbers for calibration, each class by its share and at least once.

    Args:
        y: Targets of the *training* rows, shape (n,): class indices, or numbers.
        seed: Same rows and seed, same draw.
        count: How many; all rows if there are fewer.
    """
    random = np.random.default_rng(seed)
    if len(y) <= count:
        return np.arange(len(y), dtype=np.int64)
    if np.issubdtype(y.dtype, np.floating):
        return np.sort(random.permutation(len(y))[:count]).astype(np.int64)
    drawn = []
    for index in np.unique(y):
        members = random.permutation(np.flatnonzero(y == index))
        drawn.append(members[: max(1, round(count * len(members) / len(y)))])
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def calibration_sha256(*inputs: NDArray[Any]) -> str:
    """Hash calibration rows, one array for each input, for the lineage."""
    digest = hashlib.sha256()
    for rows in inputs:
        digest.update(np.ascontiguousarray(rows, dtype="<f4").data)
    return digest.hexdigest()
