"""Why a net loses what it loses under int8: the lint, the warnings, and the sensitivity table."""

from typing import Any

import msgspec

from fieldloop_cloud.compile.api import encoded_rows, to_tflite
from fieldloop_cloud.compile.auto import judge_of
from fieldloop_cloud.compile.lint import Finding, lint_flatbuffer
from fieldloop_cloud.compile.quantize import EPSILON
from fieldloop_cloud.compile.rungs import NetRungs
from fieldloop_cloud.compile.sensitivity import LayerSensitivity
from fieldloop_cloud.compile.weighing import Truth
from fieldloop_cloud.compile.worker import Progress, quiet


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a net under int8.

    Attributes:
        findings: What in its architecture is known to suffer.
        warnings: What makes the ranges of its activations doubtful.
        layers: What int8 does to each layer, the most sensitive first.
    """

    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    layers: tuple[LayerSensitivity, ...]


def explain(
    model: Any,
    *,
    example: Any,
    held_out: Any = None,
    truth: Truth | None = None,
    progress: Progress = quiet,
    **given: Any,
) -> Explanation:
    """Look at a net, and quantize each of its layers alone and all but each.

    Args:
        model: A Keras model, or the path of a saved one; see `to_tflite`.
        example: Calibration rows, as `to_tflite` takes them.
        held_out: Rows to compare on; None: the example.
        truth: Their labels or values; None: what the float32 net says.
        progress: Receives what the quantizer's process reports.
        given: What else `to_tflite` takes: labels, features, image, trust.

    Raises:
        FieldloopError: What `to_tflite` raises for float32.
        DataError: The truth does not fit the rows.
    """
    reference = to_tflite(model, example=example, held_out=held_out, **given)
    rows = encoded_rows(reference, example if held_out is None else held_out)
    rungs = NetRungs(lambda _: reference, encoded_rows(reference, example), rows, progress)
    judge = judge_of(reference, rows, truth, epsilon=EPSILON)
    layers = rungs.sensitivity(lambda variant: judge(variant).drop)
    calibration = rungs.calibration_used
    return Explanation(
        findings=lint_flatbuffer(reference.tflite),
        warnings=calibration.warnings if calibration else (),
        layers=layers,
    )
