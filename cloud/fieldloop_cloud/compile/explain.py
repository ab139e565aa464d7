"""Why a net loses what it loses under int8: the sensitivity table of a compiled net."""

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.auto import Truth, judge_of
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.quantize import EPSILON
from fieldloop_cloud.compile.rungs import NetRungs
from fieldloop_cloud.compile.sensitivity import LayerSensitivity
from fieldloop_cloud.compile.worker import Progress, quiet


def sensitivity_table(
    reference: Compiled,
    *,
    calibration: NDArray[np.float32],
    rows: NDArray[np.float32],
    truth: Truth | None = None,
    progress: Progress = quiet,
) -> tuple[LayerSensitivity, ...]:
    """Quantize each layer alone, and all but each layer, and measure what it costs.

    Args:
        reference: A net compiled to float32.
        calibration: Encoded training rows that set the ranges.
        rows: Encoded rows to compare on.
        truth: Their labels or values; None: what the reference says.
        progress: Receives what the quantizer's process reports.

    Returns:
        One line a layer, the most sensitive first.

    Raises:
        DataError: The truth does not fit the rows.
        ModelRuntimeError: The interpreter failed.
    """
    rungs = NetRungs(lambda _: reference, calibration, rows, progress)
    judge = judge_of(reference, rows, truth, epsilon=EPSILON)
    return rungs.sensitivity(lambda variant: judge(variant).drop)
