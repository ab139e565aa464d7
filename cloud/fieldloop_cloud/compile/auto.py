"""`precision="auto"`: the precision that is proven to answer as the original does, and costs least.

Every rung of the ladder is compiled and compared with the float32 reference, row by row, through
codec and interpreter. The reference has passed its comparison with the original, so its labels are
the original's and stand for the truth where the user gave none. Nothing is taken on trust: without
proof it is float32. Without a device the smallest proven file is taken; for a device the fastest
one that it runs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled, Rung
from fieldloop_cloud.compile.quantize import (
    RESCUES,
    Gate,
    needs_rescue,
)
from fieldloop_cloud.compile.rungs import Judge, Offers
from fieldloop_cloud.compile.weighing import Scale, Truth
from fieldloop_cloud.release.targets import Target


def smallest_proven(
    offers: Offers,
    rows: Callable[[], NDArray[np.float32]],
    ladder: Sequence[Precision],
    *,
    epsilon: float,
    truth: Truth | None = None,
    target: Target | None = None,
) -> Compiled:
    """Climb the ladder and return the best accepted flatbuffer; `evidence.rungs` tells why.

    Args:
        offers: Gives every way to a precision.
        rows: Gives the encoded rows to compare on, once the reference is compiled.
        ladder: Precisions, float32 first.
        epsilon: Largest share of labels, or loss of R², that may be lost.
        truth: Labels or values of the rows; None: what the reference says.
        target: The device class; None: the smallest file is taken, whatever would run it.

    Raises:
        GateError: Nothing that the device runs is proven.
        FieldloopError: The float32 reference itself cannot be had.
    """
    reference = offers("float32", _none_yet)[0].compiled
    assert reference is not None
    whole = rows()
    scale = Scale.of(reference, whole, truth, epsilon=epsilon, target=target)
    rungs = [scale.rung(reference, scale.reference)]
    accepted = [] if scale.misfit(reference) else [(rungs[0], reference)]
    gates: dict[Precision, Gate | None] = {}
    for precision in ladder[1:]:
        if target is not None and precision not in target.precisions:
            continue
        if precision in RESCUES and not needs_rescue(gates.get("int8")):
            continue
        rung, compiled = scale.best(precision, offers(precision, scale.judge))
        rungs.append(rung)
        gates[precision] = rung.gate
        if compiled is not None and rung.gate is not None and rung.gate.passed:
            accepted += [] if scale.misfit(compiled) else [(rung, compiled)]
    if not accepted:
        raise _nothing_fits(rungs, target)
    best = min(accepted, key=lambda one: scale.cost(one[0]))[1]
    return dataclasses.replace(
        best, evidence=msgspec.structs.replace(best.evidence, rungs=tuple(rungs))
    )


def at_precision(
    offers: Offers,
    rows: Callable[[], NDArray[np.float32]],
    ladder: Sequence[Precision],
    *,
    epsilon: float,
    truth: Truth | None = None,
    target: Target | None = None,
) -> Compiled:
    """Compile to the one precision that the user wants, by the better way, proven or not.

    Args:
        offers: Gives every way to a precision.
        rows: Gives the encoded rows to compare on.
        ladder: The precision.
        epsilon: Largest loss for `accepted` in the evidence, and for `mixed` to stop at.
        truth: As for `smallest_proven`.
        target: As for `smallest_proven`.

    Raises:
        GateError: There is no way to it; for `mixed`, none that loses so little.
    """
    reference = offers("float32", _none_yet)[0].compiled
    assert reference is not None
    scale = Scale.of(reference, rows(), truth, epsilon=epsilon, target=target)
    rung, compiled = scale.best(ladder[0], offers(ladder[0], scale.judge))
    if compiled is None:
        raise GateError(
            f"the model cannot be had in {ladder[0]}: {rung.reason}",
            where=ladder[0],
            advice="Take another precision, or auto.",
        )
    rungs = (scale.rung(reference, scale.reference), rung)
    return dataclasses.replace(
        compiled, evidence=msgspec.structs.replace(compiled.evidence, rungs=rungs)
    )


def judge_of(
    reference: Compiled,
    rows: NDArray[np.float32],
    truth: Truth | None = None,
    *,
    epsilon: float,
) -> Judge:
    """Return what compares variants with a float32 reference; arguments as above.

    Raises:
        DataError: The truth does not fit the rows.
    """
    return Scale.of(reference, rows, truth, epsilon=epsilon, target=None).judge


def _none_yet(compiled: Compiled) -> Gate:
    raise AssertionError(compiled.precision)


def _nothing_fits(rungs: Sequence[Rung], target: Target | None) -> GateError:
    reasons = "; ".join(f"{rung.precision}: {rung.reason}" for rung in rungs)
    return GateError(
        f"nothing that the device runs is proven: {reasons}",
        where=target.name if target else "",
        advice="Train with quantization in mind, bring more rows, or allow a larger epsilon.",
    )
