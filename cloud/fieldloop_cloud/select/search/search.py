"""The search of a run, begun here: a study, its files, its workers, and what came of it."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fieldloop.errors import ConfigError
from fieldloop_cloud.select.candidates import Candidate
from fieldloop_cloud.select.scored import Scored, SearchRecord, Skipped
from fieldloop_cloud.select.search.files import save_bench
from fieldloop_cloud.select.search.front import read_front, search_record
from fieldloop_cloud.select.search.loop import work
from fieldloop_cloud.select.search.screening import LEAST_ROWS, screened_names
from fieldloop_cloud.select.search.spec import OpenStudy, Spec, begin_study, portfolio_queue
from fieldloop_cloud.select.search.storage import HEARTBEAT_S, is_url
from fieldloop_cloud.train.bench import Bench

LOCAL_NAME = "search"
_WORKER = "fieldloop_cloud.select.search.worker"
_LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How to search.

    Attributes:
        trials: Trials after the portfolio; None for as many as `search_s` allows.
        search_s: Seconds from the start in which new settings are drawn; None without a limit
            other than the budget. With neither only the portfolio is tried.
        max_trial_s: Longest time for one trial, after which it is killed.
        workers: Processes that work on the study on this machine.
        study: URL of a database for the study; None for a journal file beside its files.
        name: The study's name in a database.
        resume: Go on with the study that is there.
        heartbeat_s: Seconds between signs of life of a trial in a database.
    """

    trials: int | None = None
    search_s: float | None = None
    max_trial_s: float | None = None
    workers: int = 1
    study: str | None = None
    name: str = LOCAL_NAME
    resume: bool = False
    heartbeat_s: int = HEARTBEAT_S

    @property
    def is_search(self) -> bool:
        """Whether more than the portfolio is tried."""
        return self.trials is not None or self.search_s is not None

    def checked(self) -> "SearchPlan":
        """Return self after checking the numbers.

        Raises:
            ConfigError: A time or count that is none, or a study that is no URL.
        """
        wrong = {
            "trials": self.trials is not None and self.trials < 0,
            "search_s": self.search_s is not None and not self.search_s > 0,
            "max_trial_s": self.max_trial_s is not None and not self.max_trial_s > 0,
            "workers": self.workers < 1,
            "heartbeat_s": self.heartbeat_s < 1,
        }
        named = [name for name, failed in wrong.items() if failed]
        if named:
            raise ConfigError(
                f"{', '.join(named)} cannot be {getattr(self, named[0])}",
                advice="Give a positive number.",
            )
        if self.study is not None and not is_url(self.study):
            raise ConfigError(
                "a study beside its files needs no --study",
                where=self.study,
                advice="Leave it out, or give postgresql://USER@HOST/DATABASE.",
            )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What came of a search."""

    front: tuple[Scored, ...]
    skipped: tuple[Skipped, ...]
    record: SearchRecord


def search(
    candidates: tuple[Candidate, ...], bench: Bench, plan: SearchPlan, *, out: Path | None
) -> Searched:
    """Try the portfolio, then what the search draws, and read the front.

    Ctrl-C ends the search, not its run: what was measured so far is the result, if one of it may
    be chosen.

    Args:
        candidates: What may be tried.
        bench: Rows, device and rules.
        plan: How to search.
        out: The run's directory; the study is in its `study`. None for a temporary one.

    Raises:
        ConfigError: There is a study already, or none to resume, or it is about something else.
        EnvironmentFaultError: The storage cannot be used.
        KeyboardInterrupt: Ctrl-C before there was anything to keep.
    """
    unsuited = {item.name: item.why_not(bench.train, bench.backbone) for item in candidates}
    names = tuple(name for name, reason in unsuited.items() if not reason)
    skipped = tuple(Skipped(name=n, reason=text) for n, text in unsuited.items() if text)
    with _study_files(out, plan) as files:
        if not names:
            record = SearchRecord(
                trial_count=0, measured_count=0, over_limit_count=0, retried_count=0, train_s=0.0
            )
            return Searched((), skipped, record)
        with contextlib.closing(_begun(names, bench, plan, files)) as opened:
            with _helpers(opened, plan):
                worked = work(opened, bench, progress=bench.progress)
            front, missing = read_front(opened, bench.target, interrupted=worked.interrupted)
            record = search_record(opened.study, interrupted=worked.interrupted)
        may_ship = any(item.gate.passed and not item.over_budget for item in front)
        if worked.interrupted and not may_ship:
            raise KeyboardInterrupt  # there is no best so far that could be kept
    return Searched(front, (*skipped, *missing), record)


def _begun(names: tuple[str, ...], bench: Bench, plan: SearchPlan, files: Path) -> OpenStudy:
    queue = portfolio_queue(names)
    now = time.time()
    ends_at = now + bench.left_s
    spec = Spec(
        files=str(files.resolve()),
        bench_sha256=save_bench(bench, files / "bench"),
        candidates=names,
        known_count=len(queue),
        trial_count=plan.trials if plan.is_search else 0,
        ends_at=ends_at,
        search_until=min(ends_at, now + (plan.search_s or float("inf"))),
        max_trial_s=plan.max_trial_s,
        seed=bench.seed,
        heartbeat_s=plan.heartbeat_s,
        has_screening=plan.is_search
        and len(bench.train) >= LEAST_ROWS
        and bool(screened_names(names)),
        weights_sha256=bench.backbone.sha256 if bench.backbone else "",
    )
    place = plan.study or str(files)
    return begin_study(place, plan.name, spec, queue=queue)


@contextlib.contextmanager
def _study_files(out: Path | None, plan: SearchPlan) -> Iterator[Path]:
    """Yield the directory of a study's files.

    The copy of the rows goes at the end; the rest stays where a search may be gone on with.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="fieldloop-study-") as name:
            yield Path(name)
        return
    files = out / "study"
    is_there = files.exists()
    if is_there != plan.resume:
        what = "there is a search already" if is_there else "there is no search to resume"
        raise ConfigError(
            what,
            where=str(files),
            advice="Go on with it by --resume, or name a new directory."
            if is_there
            else "Leave --resume out.",
        )
    made = [path for path in (out, *out.parents) if not path.exists()]
    files.mkdir(parents=True, exist_ok=True)
    try:
        yield files
    finally:
        shutil.rmtree(files / "bench", ignore_errors=True)
        if not plan.is_search and not plan.resume:
            shutil.rmtree(files, ignore_errors=True)
            with contextlib.suppress(OSError):  # someone else has put something there
                for path in made:
                    path.rmdir()


@contextlib.contextmanager
def _helpers(opened: OpenStudy, plan: SearchPlan) -> Iterator[None]:
    """Run the other local workers meanwhile."""
    if plan.workers == 1:
        yield
        return
    threads = max(1, (os.cpu_count() or 1) // plan.workers)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    place = plan.study or str(opened.files)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", _WORKER, plan.name, str(opened.files), str(number)],
            # The URL may hold a password, and a command line is everyone's to read.
            env={**environment, "FIELDLOOP_STUDY": place},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for number in range(1, plan.workers)
    ]
    try:
        yield
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_WORDS_S)
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
