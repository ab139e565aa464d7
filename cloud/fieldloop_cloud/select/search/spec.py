"""What a study is about, and how it is opened: the record that every worker reads first."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import optuna
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.select.search.storage import (
    HEARTBEAT_S,
    close_storage,
    is_url,
    open_storage,
    quiet_optuna,
    set_heartbeat,
    without_password,
)

DIRECTIONS: tuple[Literal["minimize", "maximize"], ...] = ("maximize", "minimize", "minimize")
"""Score, latency, bytes."""

_STARTUP_TRIALS = 12
_BEGINNING_S, _BEGINNING_STEPS = 10.0, 50
_SPEC = "fieldloop"
_SCREENING = "/screening"
SCREENING_FACTOR = 3
"""Each rung of a screening has so many times the rows of the one before."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What a study is about.

    Attributes:
        files: Directory of the study's files, as the one who began it calls it.
        bench_sha256: Hash of its bench.
        candidates: Names that the data allow.
        known_count: Settings that were queued at the start: the portfolio.
        trial_count: How many trials the search adds to them; None for as many as time allows.
        ends_at: Unix time after which no trial begins and running ones are killed.
        search_until: Unix time after which the search draws no new settings.
        max_trial_s: Longest time for one trial.
        seed: Of the sampler.
        heartbeat_s: Seconds between a trial's signs of life in a database.
        has_screening: Whether settings are first tried on some of the rows.
        weights_sha256: Hash of the backbone in the bench; empty without one, and for ImageNet's.
    """

    format: int = 1
    files: str
    bench_sha256: str
    candidates: tuple[str, ...]
    known_count: int
    trial_count: int | None
    ends_at: float
    search_until: float
    max_trial_s: float | None = None
    seed: int = 0
    heartbeat_s: int = HEARTBEAT_S
    has_screening: bool = False
    weights_sha256: str = ""

    @property
    def left_s(self) -> float:
        """Seconds until every trial must have ended."""
        return self.ends_at - time.time()

    @property
    def trial_limit_s(self) -> float:
        """Seconds that a trial which begins now may take."""
        return self.left_s if self.max_trial_s is None else min(self.max_trial_s, self.left_s)


@dataclass(frozen=True, slots=True, eq=False)
class OpenStudy:
    """A study and where its files are on this machine.

    Attributes:
        study: The trials that are compiled and measured.
        files: Rows and results.
        screening: The trials on some of the rows; None where nothing is screened.
    """

    study: optuna.Study
    files: Path
    screening: optuna.Study | None = None

    @property
    def spec(self) -> Spec:
        """What it is about, as it stands now: whoever resumes it may give it more time."""
        return msgspec.json.decode(self.study.user_attrs[_SPEC], type=Spec)

    def close(self) -> None:
        """Give back what the storage holds."""
        close_storage(self.study._storage)  # noqa: SLF001 - the study has no other way to it


def begin_study(place: str, name: str, spec: Spec, *, queue: list[dict[str, object]]) -> OpenStudy:
    """Make a study, or give an existing one about the same thing more time.

    Args:
        place: Directory or URL of the storage.
        name: The study's name there.
        spec: What it is about.
        queue: Parameters of the trials that come first, for a new study.

    Raises:
        ConfigError: There is one under this name about other data, another device or seed, or
            its backbone has changed.
    """
    storage = open_storage(place)
    with quiet_optuna():
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=list(DIRECTIONS),
            sampler=sampler(spec.seed),
            load_if_exists=True,
        )
        earlier = study.user_attrs.get(_SPEC)
        if earlier is not None:
            before = msgspec.json.decode(earlier, type=Spec)
            _check_same(before, spec, name, place)
            spec = msgspec.structs.replace(spec, known_count=before.known_count)
        else:
            for parameters in queue:
                study.enqueue_trial(parameters)
        study.set_user_attr(_SPEC, msgspec.json.encode(spec).decode())
        set_heartbeat(storage, spec.heartbeat_s)
        screening = _screening(study, storage, spec, spec.seed)
    return OpenStudy(study, Path(spec.files), screening)


def _check_same(before: Spec, spec: Spec, name: str, place: str) -> None:
    if before.weights_sha256 != spec.weights_sha256:
        raise ConfigError(
            f"the study '{name}' was begun with another backbone, or its files have changed since",
            where=without_password(place),
            advice="Give the weights it was begun with, or begin another with --out.",
        )
    if before.bench_sha256 != spec.bench_sha256 or before.candidates != spec.candidates:
        raise ConfigError(
            f"the study '{name}' is about other data, another device, seed, backbone or other "
            "candidates",
            where=without_password(place),
            advice="Repeat the options it was begun with, or begin another with --out.",
        )


def join_study(
    place: str,
    *,
    name: str | None = None,
    files: Path | None = None,
    salt: int = 0,
) -> OpenStudy:
    """Open a study that someone else began.

    Args:
        place: Directory or URL of the storage.
        name: The study's name; may be left out where there is only one.
        files: The directory of its files on this machine, where it is not called as it was by
            the one who began it.
        salt: Lets the samplers of several workers draw differently.

    Raises:
        ConfigError: No such study, or several and no name.
        DataError: The study was not made by fieldloop, or by another version.
    """
    if not is_url(place) and not (Path(place) / "journal.log").exists():
        raise ConfigError(
            "there is no search here",
            where=place,
            advice="Name the `study` directory of a run, or a database's URL.",
        )
    storage = open_storage(place)
    with quiet_optuna():
        names = [n for n in optuna.get_all_study_names(storage) if not n.endswith(_SCREENING)]
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(
                f"there is no study '{name}'" if name else f"there are {len(names)} studies",
                where=without_password(place),
                advice=f"Name one with --name; there are: {known}.",
            )
        study = optuna.load_study(study_name=name, storage=storage)
        for _ in range(_BEGINNING_STEPS):
            if _SPEC in study.user_attrs:
                break
            time.sleep(_BEGINNING_S / _BEGINNING_STEPS)  # its queue is just being filled
        try:
            spec = msgspec.json.decode(study.user_attrs.get(_SPEC, ""), type=Spec)
        except msgspec.MsgspecError as error:
            raise DataError(
                f"the study '{name}' is none of this version of fieldloop",
                where=without_password(place),
                advice="Begin it with `fieldloop train --study`.",
            ) from error
        study.sampler = sampler(spec.seed + salt)
        set_heartbeat(storage, spec.heartbeat_s)
        screening = _screening(study, storage, spec, spec.seed + salt)
    return OpenStudy(study, files or Path(spec.files), screening)


def _screening(
    study: optuna.Study, storage: BaseStorage, spec: Spec, seed: int
) -> optuna.Study | None:
    if not spec.has_screening:
        return None
    return optuna.create_study(
        study_name=study.study_name + _SCREENING,
        storage=storage,
        direction="maximize",
        sampler=sampler(seed),
        pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=SCREENING_FACTOR),
        load_if_exists=True,
    )


def sampler(seed: int) -> BaseSampler:
    """Return the sampler: multi-objective TPE (Ozaki et al., JAIR 73, 2022) with constraints."""
    with quiet_optuna():
        return TPESampler(
            seed=seed,
            n_startup_trials=_STARTUP_TRIALS,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def portfolio_queue(names: tuple[str, ...]) -> list[dict[str, object]]:
    """Return the portfolio as Optuna's parameters: every family's first setting, then the rest."""
    found = portfolio(names)
    classical = [candidate for candidate in found if not candidate.is_deep]
    deep = [candidate for candidate in found if candidate.is_deep]
    longest = max(len(candidate.portfolio) for candidate in found)
    queue: list[dict[str, object]] = []
    for group in (classical, deep):
        for place in range(longest):
            for candidate in group:
                if place < len(candidate.portfolio):
                    named = candidate.portfolio[place].items()
                    parameters = {f"{candidate.name}.{key}": value for key, value in named}
                    queue.append({"candidate": candidate.name, **parameters})
    return queue


def taken(study: optuna.Study) -> int:
    """Return how many trials are queued, running or have ended; a retry counts for the lost one."""
    counted = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=counted))
