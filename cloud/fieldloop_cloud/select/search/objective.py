"""One trial of a study: draw settings, check what can be known, order the rest, record it."""

import os
import socket
from dataclasses import dataclass

import msgspec
import numpy as np
import optuna
from optuna.trial import TrialState

from fieldloop_cloud.compile.worker import Progress
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.select.candidates import Candidate, Settings, portfolio
from fieldloop_cloud.select.candidates.space import draw
from fieldloop_cloud.select.choice import NEGLIGIBLE_LATENCY, cost, device_latency_ms, overruns
from fieldloop_cloud.select.scored import Measured
from fieldloop_cloud.select.search.evaluator import Evaluator
from fieldloop_cloud.select.search.files import get
from fieldloop_cloud.select.search.fold_backend import active_backend
from fieldloop_cloud.select.search.limits import early_overruns
from fieldloop_cloud.select.search.orders import Order, Outcome
from fieldloop_cloud.select.search.spec import OpenStudy
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.net_trial import NET_MIN_S

OUTCOME, REASON, WORKER = "outcome", "reason", "worker"
_UNKNOWN = 1.0
"""How far a trial that cannot be measured counts as over a limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """A trial, as `optuna.Study.optimize` calls it.

    Attributes:
        opened: The study.
        bench: Rows, device and rules.
        evaluator: The process that trains.
        progress: Receives what happens.
    """

    opened: OpenStudy
    bench: Bench
    evaluator: Evaluator
    progress: Progress

    def __call__(self, trial: optuna.Trial) -> tuple[float, float, float]:
        """Return score, latency as a share of its budget, and the logarithm of the bytes.

        Raises:
            TrialPruned: It breaks a limit before training, or could not be trained; the trial
                says which as a constraint, and why as an attribute.
        """
        candidate, settings = propose(trial, self.opened.spec.candidates)
        self._tell(trial, candidate)
        trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
        early = early_overruns(candidate, settings, self.bench.train, self.bench.target)
        if early:
            text = "; ".join(over.text for over in early.values())
            raise _given_up(trial, text, {name: over.factor - 1 for name, over in early.items()})
        limit_s = self.opened.spec.trial_limit_s
        if candidate.is_deep and limit_s < NET_MIN_S:
            text = f"{limit_s:.0f} s were left, a net needs at least {NET_MIN_S:.0f} s"
            raise _given_up(trial, text, {"time": _UNKNOWN})
        reply = self.evaluator.evaluate(
            Order(
                files=str(self.opened.files.resolve()),
                bench_sha256=self.opened.spec.bench_sha256,
                candidate=candidate.name,
                settings=settings,
                left_s=limit_s,
                to_beat=best_score(self.opened.study),
                folds_on=active_backend(),
            ),
            progress=self.progress,
        )
        if reply.reason:
            raise _given_up(trial, reply.reason, {"trained": _UNKNOWN})
        return self._recorded(trial, reply.outcome_sha256)

    def _tell(self, trial: optuna.Trial, candidate: Candidate) -> None:
        spec = self.opened.spec
        planned = spec.known_count + (spec.trial_count or 0)
        fraction = min(1.0, trial.number / max(planned, trial.number + 1))
        self.progress("trial", fraction, f"trial {trial.number + 1}: {candidate.name}")

    def _recorded(self, trial: optuna.Trial, sha256: str) -> tuple[float, float, float]:
        outcome = read_outcome(self.opened, sha256)
        target = self.bench.target
        best = representative([item.measured for item in outcome.variants], target)
        for name, value in constraints(best, target).items():
            trial.set_constraint(name, value)
        trial.set_user_attr(OUTCOME, sha256)
        trial.set_user_attr("train_s", best.train_s)
        return objectives(best, target)


def propose(trial: optuna.Trial, names: tuple[str, ...]) -> tuple[Candidate, Settings]:
    """Draw a candidate and a point of its space."""
    name = trial.suggest_categorical("candidate", names)
    candidate = portfolio((name,))[0]
    return candidate, draw(trial, candidate.name, candidate.space)


def read_outcome(opened: OpenStudy, sha256: str) -> Outcome:
    """Read what a trial left.

    Raises:
        DataError: It is missing or damaged.
    """
    return msgspec.json.decode(get(opened.files, sha256), type=Outcome)


def representative(variants: list[Measured], target: Target) -> Measured:
    """Return the variant that speaks for a trial: of those that may ship the cheapest."""
    may_ship = [item for item in variants if item.gate.passed and not item.over_budget]
    if may_ship:
        return min(may_ship, key=lambda item: (cost(item, target), -item.score))
    proven = [item for item in variants if item.gate.passed] or variants
    return min(proven, key=lambda item: max(over.factor for over in overruns(item, target)))


def constraints(measured: Measured, target: Target) -> dict[str, float]:
    """Return by how much of each limit a variant exceeds it; zero or less is within."""
    found = {over.name: over.factor - 1 for over in overruns(measured, target)}
    return {name: float(min(value, 1e9)) for name, value in found.items()} or {"limits": 0.0}


def objectives(measured: Measured, target: Target) -> tuple[float, float, float]:
    """Return what the search weighs; the clock's noise below the negligible is left out."""
    share = device_latency_ms(measured, target) / target.latency_budget_ms
    return measured.score, max(NEGLIGIBLE_LATENCY, share), float(np.log2(measured.size_bytes))


def best_score(study: optuna.Study) -> float | None:
    """Return the best score among finished trials within the limits; None if there is none."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    fitting = [t.values[0] for t in finished if max(t.constraints.values(), default=0.0) <= 0]
    return max(fitting, default=None)


def _given_up(
    trial: optuna.Trial, reason: str, broken: dict[str, float]
) -> optuna.exceptions.TrialPruned:
    for name, value in broken.items():
        trial.set_constraint(name, min(value, 1e9))
    trial.set_user_attr(REASON, reason)
    return optuna.exceptions.TrialPruned(reason)
