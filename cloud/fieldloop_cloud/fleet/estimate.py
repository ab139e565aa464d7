"""How accurate is the model in the field, when nobody has labelled anything?

Confidence-based performance estimation (CBPE): on held-out reference rows it is known how often
the model is right when it says class c with confidence in cell b. Devices count the same cells; so
the expected accuracy is the mean of those shares over the field's counts.

It holds as long as being sure still means the same: it sees that inputs like the known ones become
harder. It does not see labels change their meaning (concept drift), and on inputs unlike any known
one many models are sure and wrong. So while drift is reported it is an upper hope, not a
measurement: check it against labelled samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fieldloop.errors import DataError, UnsupportedError
from fieldloop.profile import ReferenceProfile
from fieldloop_cloud.fleet.counts import FieldWindow, confidence_table


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatedAccuracy:
    """Accuracy as the confidences suggest it.

    Attributes:
        accuracy: Expected share of right answers, over all targets with probabilities.
        low: Lower end of the interval.
        high: Upper end.
        row_count: Predictions it rests on.
        level: Coverage, if the calibration still holds.
    """

    accuracy: float
    low: float
    high: float
    row_count: int
    level: float = 0.95


def estimated_accuracy(
    profile: ReferenceProfile, windows: Sequence[FieldWindow], *, level: float = 0.95
) -> EstimatedAccuracy:
    """Estimate the accuracy of the predictions counted in these windows.

    The interval holds two errors: that of a finite field, and that of shares which were measured
    on finitely many reference rows (a reference cell with few rows widens it).

    Args:
        profile: Reference of the model that made the predictions.
        windows: Telemetry of that model.
        level: Coverage of the interval.

    Raises:
        UnsupportedError: The model has no probabilities, so there is nothing to estimate from.
        DataError: The windows hold no predictions, or are another model's.
    """
    if not profile.confidence_accuracy:
        raise UnsupportedError(
            "the model gives no probabilities, so accuracy cannot be estimated from confidence",
            advice="Label a random sample of the field instead.",
        )
    share = np.array(profile.confidence_accuracy, dtype=np.float64)
    reference = np.array(profile.confidence_counts, dtype=np.float64)
    counts = np.zeros(share.shape, dtype=np.int64)
    for item in windows:
        counts += confidence_table(item.window, len(share))
    total = int(counts.sum())
    if total == 0:
        raise DataError(
            "there are no predictions to estimate from",
            advice="Wait for telemetry, or choose a longer period.",
        )
    weight = counts / total
    accuracy = float((weight * share).sum())
    row_count = total // max(len(profile.targets), 1)
    error = float(
        # Answers for several targets of one row may be right and wrong together.
        np.sqrt(_field_variance(weight, share, row_count) + _calibration(weight, share, reference))
    )
    reach = float(stats.norm.ppf(0.5 + level / 2.0)) * error
    return EstimatedAccuracy(
        accuracy=accuracy,
        low=max(0.0, accuracy - reach),
        high=min(1.0, accuracy + reach),
        row_count=row_count,
        level=level,
    )


def _field_variance(weight: NDArray[np.float64], share: NDArray[np.float64], total: int) -> float:
    """Variance of the accuracy of `total` answers that are right with these probabilities."""
    return float((weight * share * (1.0 - share)).sum() / total)


def _calibration(
    weight: NDArray[np.float64], share: NDArray[np.float64], reference: NDArray[np.float64]
) -> float:
    """Variance that comes from measuring the shares on `reference` rows.

    One row right and one wrong are added to each cell (Agresti-Coull), so that a cell of five
    right answers is not taken for certainty.
    """
    smoothed = (share * reference + 1.0) / (reference + 2.0)
    variance = smoothed * (1.0 - smoothed) / (reference + 2.0)
    return float((weight**2 * variance).sum())
