"""What came of a study: the measured variants that matter, and why others are not among them."""

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.select.scored import Measured, Scored, SearchRecord, Skipped
from fieldloop_cloud.select.search.files import get, get_arrays
from fieldloop_cloud.select.search.objective import OUTCOME, REASON, read_outcome, representative
from fieldloop_cloud.select.search.orders import Outcome, Variant
from fieldloop_cloud.select.search.spec import OpenStudy
from fieldloop_cloud.train.measure import Answers


def read_front(
    opened: OpenStudy, target: Target, *, interrupted: bool = False
) -> tuple[tuple[Scored, ...], tuple[Skipped, ...]]:
    """Return of each family its best trial, and every trial on the Pareto front.

    Args:
        opened: The study.
        target: The device class.
        interrupted: Whether it was ended by hand, which is why some trials did not end.

    Raises:
        DataError: A trial's files are missing or damaged.
    """
    finished = [t for t in _ended(opened.study) if OUTCOME in t.user_attrs]
    outcomes = {t.number: read_outcome(opened, t.user_attrs[OUTCOME]) for t in finished}
    best = _best_of_families(finished, outcomes, target)
    shown = sorted({*best.values(), *(t.number for t in _pareto(finished))})
    front: list[Scored] = []
    skipped: list[Skipped] = []
    for number in shown:
        outcome = outcomes[number]
        family = outcome.variants[0].measured.candidate
        trial = 0 if best[family] == number else number + 1
        front += [_scored(opened, item, trial) for item in outcome.variants]
        if trial == 0:
            skipped += outcome.skipped
    return tuple(front), (*skipped, *_left_out(opened.study, set(best), interrupted=interrupted))


def search_record(study: optuna.Study, *, interrupted: bool) -> SearchRecord:
    """Count a study's trials."""
    ended = _ended(study)
    lost = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return SearchRecord(
        trial_count=len(ended),
        measured_count=sum(OUTCOME in t.user_attrs for t in ended),
        over_limit_count=sum(max(t.constraints.values(), default=0.0) > 0 for t in ended),
        retried_count=len(lost),
        train_s=sum(float(t.user_attrs.get("train_s", 0.0)) for t in ended),
        interrupted=interrupted,
    )


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _best_of_families(
    finished: list[FrozenTrial], outcomes: dict[int, Outcome], target: Target
) -> dict[str, int]:
    """Return the number of each family's best trial: within the limits first, then by score."""
    best: dict[str, tuple[tuple[bool, float, int], int]] = {}
    for trial in finished:
        speaker = representative([v.measured for v in outcomes[trial.number].variants], target)
        rank = (not speaker.over_budget, speaker.score, -trial.number)
        if speaker.candidate not in best or rank > best[speaker.candidate][0]:
            best[speaker.candidate] = (rank, trial.number)
    return {family: number for family, (_, number) in best.items()}


def _pareto(finished: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials within the limits that no other such trial is better than in all."""
    fitting = [t for t in finished if max(t.constraints.values(), default=0.0) <= 0]
    points = [(-t.values[0], *t.values[1:]) for t in fitting]
    return [
        trial
        for trial, point in zip(fitting, points, strict=True)
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points
        )
    ]


def _scored(opened: OpenStudy, variant: Variant, trial: int) -> Scored:
    measured = msgspec.structs.replace(variant.measured, trial=trial)
    tflite = get(opened.files, variant.tflite_sha256)
    said = None
    if variant.held_out_sha256:
        said = Answers.from_arrays(get_arrays(opened.files, variant.held_out_sha256))
    fields = {name: getattr(measured, name) for name in Measured.__struct_fields__}
    compiled = Compiled(tflite, variant.signature, variant.evidence, measured.precision)
    return Scored(**fields, compiled=compiled, held_out=said)


def _left_out(study: optuna.Study, families: set[str], *, interrupted: bool) -> tuple[Skipped, ...]:
    """Return the reasons of families without any measured trial; each family's first one."""
    reasons: dict[str, str] = {}
    for trial in _ended(study):
        name = trial.params.get("candidate", "")
        if name not in families and REASON in trial.user_attrs:
            reasons.setdefault(name, trial.user_attrs[REASON])
    why = "the time budget was used up before its turn"
    states: tuple[TrialState, ...] = (TrialState.WAITING,)
    if interrupted:
        why = "training was interrupted before it was measured"
        states = (TrialState.WAITING, TrialState.RUNNING, TrialState.FAIL)
    for trial in study.get_trials(deepcopy=False, states=states):
        name = trial.system_attrs.get("fixed_params", {}).get("candidate", "")
        if name and name not in families:
            reasons.setdefault(name, why)
    return tuple(Skipped(name=name, reason=text) for name, text in reasons.items())
