"""One trial a candidate: is it suitable, is there time, then fit it and climb the ladder.

A candidate that cannot be used, compiled or finished in time is skipped with its reason; it never
ends the run.
"""

import dataclasses

import msgspec

from fieldloop.errors import FieldloopError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.keras import proven
from fieldloop_cloud.compile.quantize import CLASSICAL_LADDER, NET_LADDER
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates import Candidate
from fieldloop_cloud.select.scored import Scored, Skipped
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.classical import estimated_seconds, features, fit
from fieldloop_cloud.train.cnn import plan_cnn
from fieldloop_cloud.train.deep import train_cnn
from fieldloop_cloud.train.ladder import Trained, climb, rungs

_NET_MIN_S = 20.0
"""TensorFlow's start and a conversion take this long before anything is learned."""


def run_trials(
    candidates: tuple[Candidate, ...], bench: Bench
) -> tuple[tuple[Scored, ...], tuple[Skipped, ...]]:
    """Run every candidate that suits the data and the time that is left.

    Returns:
        The measured variants in the order of measuring, and what was skipped with the reason.
    """
    front: list[Scored] = []
    skipped: list[Skipped] = []
    for number, candidate in enumerate(candidates):
        bench.progress(candidate.name, number / len(candidates), f"candidate {candidate.name}")
        try:
            reason = _why_skip(candidate, bench)
            if reason:
                skipped.append(Skipped(name=candidate.name, reason=reason))
                continue
            trial = _deep if candidate.is_deep else _classical
            ladder = NET_LADDER if candidate.is_deep else CLASSICAL_LADDER
            measured, missing = climb(trial(candidate, bench), ladder, bench)
        except FieldloopError as error:
            skipped.append(Skipped(name=candidate.name, reason=str(error)))
            continue
        front += measured
        skipped += missing
    return tuple(front), tuple(skipped)


def _why_skip(candidate: Candidate, bench: Bench) -> str:
    reason = candidate.why_not(bench.train)
    if reason:
        return reason
    left = bench.left_s
    if left <= 0:
        return "the time budget was used up before its turn"
    if candidate.is_deep:
        short = left < _NET_MIN_S
        return f"{left:.0f} s were left, a net needs at least {_NET_MIN_S:.0f} s" if short else ""
    expected = estimated_seconds(candidate, bench.train, seed=bench.seed)
    if expected > left:
        return f"it would take about {expected:.0f} s, and {left:.0f} s were left"
    return ""


def _classical(candidate: Candidate, bench: Bench) -> Trained:
    fitted = fit(
        candidate,
        bench.train,
        bench.validation,
        metric=bench.metric,
        seed=bench.seed,
        max_model_bytes=bench.target.max_model_bytes,
        deadline=bench.deadline,
    )

    def compile_to(precision: Precision) -> Compiled:
        made = to_tflite(
            fitted.model,
            example=features(bench.train),
            precision=precision,
            # A class that no training row has would shift the names of those after it.
            labels=bench.train.labels or None,
            held_out=features(bench.validation),
        )
        return _named(made, bench.train)

    return Trained(
        name=candidate.name,
        compile_to=compile_to,
        parameters=fitted.parameters,
        train_s=fitted.train_s,
        model=fitted.model,
        calibration=bench.train.X,
    )


def _named(compiled: Compiled, data: Dataset) -> Compiled:
    """Give a compiled model the data's own meaning of its columns or pixels, and the labels.

    Raises:
        UnsupportedError: An integer input for columns whose values may be missing, or a class
            that no training row has.
    """
    unseen = [str(label) for label in data.labels if label not in compiled.signature.labels]
    if unseen:
        raise UnsupportedError(
            f"no training row has the class {', '.join(unseen)}",
            where=data.name,
            advice="Bring more rows of it, or leave it out.",
        )
    gaps = [spec.name for spec in data.features if spec.missing_allowed]
    if gaps and compiled.signature.inputs[0].is_quantized:
        raise UnsupportedError(
            "an integer input has no code for a missing value",
            where=f"columns {', '.join(gaps)}",
            advice="Use a float precision, or fill the gaps in.",
        )
    signature = msgspec.structs.replace(
        compiled.signature, features=data.features, image=data.image
    )
    return dataclasses.replace(compiled, signature=signature.checked())


def _deep(candidate: Candidate, bench: Bench) -> Trained:
    data, probes = bench.train, bench.validation.X
    assert data.image is not None
    plan = plan_cnn(data.image, len(data.labels), max_model_bytes=bench.target.max_model_bytes)
    calibration = bench.calibration().X
    net = train_cnn(
        plan,
        data,
        calibration=calibration,
        probes=probes,
        precisions=rungs(NET_LADDER, bench.target),
        seed=bench.seed,
        budget_s=bench.left_s,
        progress=bench.progress,
    )

    def compile_to(precision: Precision) -> Compiled:
        if precision not in net.converted.models:
            raise UnsupportedError(net.converted.failures[precision], where=candidate.name)
        return proven(
            net.converted.models[precision],
            precision,
            probes=probes,
            answers=net.answers,
            labels=data.labels,
            image=data.image,
        )

    return Trained(
        name=candidate.name,
        compile_to=compile_to,
        parameters=net.parameters,
        train_s=net.train_s,
        model=net.keras_bytes,
        calibration=calibration,
    )
