"""One trial: fit one setting of a candidate, compile it, and climb the precision ladder."""

import dataclasses
import functools
from dataclasses import dataclass

import msgspec
import numpy as np

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.quantize import CLASSICAL_LADDER, NET_LADDER
from fieldloop_cloud.select.candidates import Candidate, Settings
from fieldloop_cloud.select.criteria.assess import assess, assess_net
from fieldloop_cloud.select.criteria.verdicts import Assessment
from fieldloop_cloud.select.scored import Scored, Skipped
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.classical import check_time, features, fit, some_rows
from fieldloop_cloud.train.crossing import cross
from fieldloop_cloud.train.feature_trial import FEATURE_LADDER, trained_head
from fieldloop_cloud.train.ladder import Trained, climb
from fieldloop_cloud.train.meaning import named
from fieldloop_cloud.train.measure import Answers
from fieldloop_cloud.train.metrics import estimate
from fieldloop_cloud.train.net_trial import trained_net


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
        if candidate.net_settings is None:
            trained, ladder = trained_head(candidate, settings, bench), FEATURE_LADDER
        else:
            trained, ladder = trained_net(candidate, settings, bench), NET_LADDER
    else:
        trained, ladder = _classical(candidate, settings, bench, to_beat), CLASSICAL_LADDER
    scored, skipped = climb(trained, ladder, bench)
    criteria = _criteria(trained, bench)
    scored = [msgspec.structs.replace(item, criteria=criteria) for item in scored]
    held_out = trained.held_out
    return TrialEnd(
        scored=tuple(scored),
        skipped=tuple(skipped),
        held_out=tuple(held_out(item.precision) for item in scored) if held_out else (),
    )


def _criteria(trained: Trained, bench: Bench) -> tuple[Assessment, ...]:
    if trained.is_net:
        return assess_net()
    if trained.features is not None:
        return assess(trained.model, trained.features, on="a backbone's features")
    return assess(trained.model, bench.train)


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
            # A reference that the device itself does not run is compiled for this machine.
            device=bench.target if precision in bench.target.precisions else None,
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
