"""Trial after trial until a study is done: the same loop in the one who began it and in workers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.select.search.evaluator import leased_evaluator
from fieldloop_cloud.select.search.objective import Objective
from fieldloop_cloud.select.search.screening import Screening, is_over, promote
from fieldloop_cloud.select.search.spec import OpenStudy, taken
from fieldloop_cloud.select.search.storage import LeasedJournal, quiet_optuna
from fieldloop_cloud.train.bench import Bench

_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Worked:
    """What one worker did: trials it ran, and whether it was interrupted."""

    trial_count: int
    interrupted: bool = False


def work(
    opened: OpenStudy,
    bench: Bench,
    *,
    most: int | None = None,
    progress: Progress = quiet,
    pause: Callable[[float], None] = time.sleep,
) -> Worked:
    """Run trials until the study is done, its time is up, or Ctrl-C.

    Args:
        opened: The study.
        bench: Its rows, device and rules.
        most: Run at most so many trials here.
        progress: Receives what happens.
        pause: Waits for other workers' trials.
    """
    done = 0
    with leased_evaluator() as evaluator, quiet_optuna():
        objective = Objective(opened, bench, evaluator, progress)
        screening = Screening(opened, bench, evaluator, progress)
        begun_at = time.time()
        try:
            while most is None or done < most:
                optuna.storages.fail_stale_trials(opened.study)
                step = _next_step(opened, begun_at)
                if step == "end":
                    break
                if step == "wait":
                    pause(_PAUSE_S)
                    continue
                try:
                    if step == "screen":
                        assert opened.screening is not None
                        opened.screening.optimize(screening, n_trials=1)
                        continue
                    opened.study.optimize(objective, n_trials=1)
                finally:
                    _release(opened.study)
                done += 1
        except KeyboardInterrupt:
            return Worked(done, interrupted=True)
    return Worked(done)


def _next_step(opened: OpenStudy, begun_at: float) -> str:
    """Return `trial`, `screen`, `wait` (for what runs elsewhere and may be lost there) or `end`."""
    study, spec = opened.study, opened.spec
    if spec.left_s <= 0:
        return "end"
    if study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return "trial"
    if spec.has_screening and time.time() < spec.search_until:
        if not is_over(opened, begun_at):
            return "screen"
        if promote(opened):
            return "trial"
    planned = None if spec.trial_count is None else spec.known_count + spec.trial_count
    if time.time() < spec.search_until and (planned is None or taken(study) < planned):
        return "trial"
    return "wait" if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) else "end"


def _release(study: optuna.Study) -> None:
    storage = study._storage  # noqa: SLF001 - the study has no other way to its storage
    if isinstance(storage, LeasedJournal):
        storage.release()
