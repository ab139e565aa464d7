"""Screening: many settings on few rows, the better third on three times as many, and so on.

Successive halving (Jamieson & Talwalkar 2016; asynchronous: Li et al. 2020) in a study of its own
with one objective, because a study of several objectives cannot end a trial early. Its best
settings are queued in the main study, where they are fitted on all rows, compiled and measured.
"""

import time
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from fieldloop_cloud.compile.worker import Progress
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.select.search.evaluator import Evaluator
from fieldloop_cloud.select.search.limits import early_overruns
from fieldloop_cloud.select.search.objective import propose
from fieldloop_cloud.select.search.orders import Order
from fieldloop_cloud.select.search.spec import SCREENING_FACTOR, OpenStudy
from fieldloop_cloud.train.bench import Bench

LEAST_ROWS = 3000
"""With fewer training rows a whole fit is cheap, and a part of them says little."""

_FEWEST = 300
_PROMOTED_SHARE = 1 / 4
_PROMOTED = "promoted"


def rungs(row_count: int) -> tuple[int, ...]:
    """Return how many rows a setting is tried on, one rung after the other; the last is not all.

    Example:
        >>> rungs(30_000), rungs(3_000), rungs(200)
        ((370, 1111, 3333, 10000), (333, 1000), ())
    """
    found: list[int] = []
    count = row_count // SCREENING_FACTOR
    while count >= _FEWEST:
        found.insert(0, count)
        count //= SCREENING_FACTOR
    return tuple(found)


def is_over(opened: OpenStudy, begun_at: float) -> bool:
    """Whether enough was screened: the number, or half of the search's time."""
    study, spec = opened.screening, opened.spec
    if study is None or _PROMOTED in study.user_attrs:
        return True
    planned = spec.trial_count
    counted = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    if planned is not None and len(study.get_trials(deepcopy=False, states=counted)) >= planned:
        return True
    return time.time() >= begun_at + (spec.search_until - begun_at) / 2


def promote(opened: OpenStudy) -> bool:
    """Queue the best screened settings in the main study, once; whether any were."""
    study = opened.screening
    if study is None or _PROMOTED in study.user_attrs:
        return False
    study.set_user_attr(_PROMOTED, value=True)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ranked = sorted(complete, key=_rank, reverse=True)
    most = max(1, round(_PROMOTED_SHARE * (opened.spec.trial_count or len(ranked))))
    for trial in ranked[:most]:
        opened.study.enqueue_trial(trial.params, skip_if_exists=True)
    return bool(ranked)


def _rank(trial: FrozenTrial) -> tuple[float, int]:
    assert trial.value is not None
    return trial.value, -trial.number


@dataclass(frozen=True, slots=True, eq=False)
class Screening:
    """A screening trial, as `optuna.Study.optimize` calls it."""

    opened: OpenStudy
    bench: Bench
    evaluator: Evaluator
    progress: Progress

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the score on the last rung.

        Raises:
            TrialPruned: It is over a limit, cannot be trained, or others are better so far.
        """
        spec = self.opened.spec
        candidate, settings = propose(trial, screened_names(spec.candidates))
        early = early_overruns(candidate, settings, self.bench.train, self.bench.target)
        if early:
            raise optuna.TrialPruned("; ".join(over.text for over in early.values()))
        score = 0.0
        for step, count in enumerate(rungs(len(self.bench.train))):
            self.progress("screen", 0.0, f"screening {candidate.name} on {count} rows")
            order = Order(
                files=str(self.opened.files.resolve()),
                bench_sha256=spec.bench_sha256,
                candidate=candidate.name,
                settings=settings,
                left_s=spec.trial_limit_s,
                row_count=count,
            )
            reply = self.evaluator.evaluate(order, progress=self.progress)
            if reply.score is None:
                raise optuna.TrialPruned(reply.reason)
            score = reply.score
            trial.report(score, SCREENING_FACTOR**step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"others are better on {count} rows")
        return score


def screened_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the candidates that can be screened: fits of nets cost their start, not their rows."""
    return tuple(candidate.name for candidate in portfolio(names) if not candidate.is_deep)
