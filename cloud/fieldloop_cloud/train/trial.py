"""One trial: fit one setting of a candidate, compile it, and climb the precision ladder."""

import dataclasses
import functools
from dataclasses import dataclass

import msgspec
import numpy as np

from fieldloop.errors import UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.quantize import CLASSICAL_LADDER, NET_LADDER
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates import Candidate, Settings
from fieldloop_cloud.select.scored import Scored, Skipped
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.classical import check_time, features, fit, some_rows
from fieldloop_cloud.train.crossing import cross
from fieldloop_cloud.train.ladder import Trained, climb, rungs
from fieldloop_cloud.train.measure import Answers
from fieldloop_cloud.train.metrics import estimate
from fieldloop_cloud.train.nets import plan_net, train_net
from fieldloop_cloud.train.qat_training import train_aware

NET_MIN_S = 20.0
"""TensorFlow's start and a conversion take this long before anything is learned."""


@dataclass(frozen=True, slots=True, eq=False)
class TrialEnd:
    """What a trial left.

    Attributes:
        scored: The measured variants, the float32 reference first.
        skipped: Variants that are not among them, and why.
        held_out: For each variant the folds' answers for the validation rows; empty without
            folds, where the flatbuffer itself can be asked.
    """

    scored: tuple[Scored, ...]
    skipped: tuple[Skipped, ...]
    held_out: tuple[Answers, ...]


def run_trial(
    candidate: Candidate, settings: Settings, bench: Bench, *, to_beat: float | None = None
) -> TrialEnd:
    """Run one trial in this process.

    Args:
        candidate: What to train.
        settings: A point of its space.
        bench: Rows, device and rules.
        to_beat: Best score so far; cross-validation of a costly candidate ends early if its
            first fold is clearly worse.

    Raises:
        FieldloopError: The candidate cannot be trained, or its float32 reference cannot be had.
    """
    if candidate.is_deep:
        bench = bench.held_out_once()
        trained, ladder = _deep(candidate, bench), NET_LADDER
    else:
        trained, ladder = _classical(candidate, settings, bench, to_beat), CLASSICAL_LADDER
    scored, skipped = climb(trained, ladder, bench)
    held_out = trained.held_out
    return TrialEnd(
        scored=tuple(scored),
        skipped=tuple(skipped),
        held_out=tuple(held_out(item.precision) for item in scored) if held_out else (),
    )


def screen(candidate: Candidate, settings: Settings, bench: Bench, *, row_count: int) -> float:
    """Score a setting that was fitted on some of the training rows only; nothing is compiled."""
    rows = some_rows(bench.train, row_count, seed=bench.seed)
    limit = bench.target.max_model_bytes
    model = fit(
        dataclasses.replace(candidate, shrink=None),
        settings,
        rows,
        seed=bench.seed,
        max_model_bytes=limit,
    ).model
    said = np.asarray(model.predict(features(bench.validation)))
    return estimate(bench.metric, bench.validation.y, said, seed=bench.seed).value


def _classical(
    candidate: Candidate, settings: Settings, bench: Bench, to_beat: float | None
) -> Trained:
    check_time(candidate, settings, bench.train, seed=bench.seed, left_s=bench.left_s)
    folds = cross(candidate, settings, bench, to_beat=to_beat) if bench.folds else None
    fitted = fit(
        candidate,
        settings,
        bench.train,
        seed=bench.seed,
        max_model_bytes=bench.target.max_model_bytes,
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
        return named(made, bench.train)

    return Trained(
        name=candidate.name,
        compile_to=compile_to,
        parameters={key: _text(value) for key, value in fitted.settings.items()},
        train_s=fitted.train_s + (folds.train_s if folds else 0.0),
        model=fitted.model,
        calibration=bench.train.X,
        held_out=functools.cache(folds.answers) if folds else None,
    )


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def named(compiled: Compiled, data: Dataset) -> Compiled:
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
    data = bench.train
    calibration = bench.calibration().X
    net = train_net(
        plan_net("cnn", data, max_model_bytes=bench.target.max_model_bytes),
        data,
        validation=bench.validation,
        calibration=calibration,
        precisions=rungs(NET_LADDER, bench.target),
        seed=bench.seed,
        budget_s=bench.left_s,
        progress=bench.progress,
    )

    def compile_to(precision: Precision) -> Compiled:
        return named(net.compile_to(precision), data)

    return Trained(
        name=candidate.name,
        compile_to=compile_to,
        parameters=net.parameters,
        train_s=net.train_s,
        model=net.keras_bytes,
        calibration=calibration,
        aware=lambda: (
            train_aware(
                net.keras_bytes,
                np.asarray(data.X, dtype=np.float32),
                data.y,
                classes=len(data.labels),
                net=net.settings,
                budget_s=max(1.0, bench.left_s),
                progress=bench.progress,
            ).tflite
        ),
    )
