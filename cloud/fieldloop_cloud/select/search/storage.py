"""Where studies live: a journal file in a directory, or PostgreSQL.

Both notice a worker that died. In PostgreSQL a trial's heartbeat stays away; beside a journal file
each running trial holds a lock on a lease file, which the system releases with the process. A trial
that lost its worker is failed and put back in the queue, by whichever worker looks next.
"""

import contextlib
import datetime as dt
import fcntl
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from fieldloop.errors import ConfigError, EnvironmentFaultError

HEARTBEAT_S = 10
"""Seconds between a trial's signs of life in PostgreSQL, unless its study says otherwise."""

_MISSED = 6
"""So many missed signs of life are a death."""

MAX_RETRIES = 2
"""A trial that takes its worker down is tried this often again."""

_UNLEASED_S = 30.0
"""A running trial without a lease is a dead one after this long."""

_TABLE_RACES = 5

_INSTALL = "Install the driver: pip install 'fieldloop-cloud[postgres]'."


def is_url(study: str) -> bool:
    """Whether a study is named by a database's URL and not by a directory."""
    return "://" in study


def open_storage(study: str) -> BaseStorage:
    """Open the storage of a study.

    Args:
        study: `postgresql://USER@HOST/DATABASE`, or a directory.

    Raises:
        ConfigError: A URL of something else.
        EnvironmentFaultError: The driver is missing, or the database cannot be reached.
    """
    with quiet_optuna():
        if not is_url(study):
            return LeasedJournal(Path(study))
        return _open_database(study)


def _open_database(url: str) -> RDBStorage:
    import sqlalchemy.exc  # noqa: PLC0415 - only where a database is used

    scheme, _, rest = url.partition("://")
    shown = without_password(url)
    if scheme not in {"postgresql", "postgres"}:
        raise ConfigError(
            f"a study cannot live in {scheme}://",
            where=shown,
            advice="Name a directory, or postgresql://USER@HOST/DATABASE.",
        )
    try:
        for _ in range(_TABLE_RACES):
            try:
                return _database(rest)
            except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
                time.sleep(0.3)  # someone else is making the tables at this moment
        return _database(rest)
    except ImportError as error:
        raise EnvironmentFaultError(
            "PostgreSQL's driver psycopg is not installed", where=shown, advice=_INSTALL
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise EnvironmentFaultError(
            f"the study's database cannot be used: {cause}",
            where=shown,
            advice="Check address, name and password, and that the database exists.",
        ) from error


def _database(address: str) -> RDBStorage:
    return RDBStorage(
        f"postgresql+psycopg://{address}",
        engine_kwargs={
            "pool_pre_ping": True,
            # A cluster made under LC_ALL=C would otherwise answer in bytes.
            "connect_args": {"connect_timeout": 10, "client_encoding": "utf8"},
        },
        heartbeat_interval=HEARTBEAT_S,
        grace_period=_MISSED * HEARTBEAT_S,
        heartbeat_stale_trial_callback=_retry(),
    )


def set_heartbeat(storage: BaseStorage, heartbeat_s: int) -> None:
    """Let a database's trials show signs of life as their study wants it, the same everywhere."""
    database = getattr(storage, "_backend", storage)
    if isinstance(database, RDBStorage):
        database.heartbeat_interval = heartbeat_s
        database.grace_period = _MISSED * heartbeat_s


def close_storage(storage: BaseStorage) -> None:
    """Give back a database's connections."""
    database = getattr(storage, "_backend", storage)  # a study puts a cache before its database
    if isinstance(database, RDBStorage):
        database.remove_session()
        database.engine.dispose()


def without_password(url: str) -> str:
    """Return a URL that may be shown.

    Example:
        >>> without_password("postgresql://ann:secret@db/studies?password=secret")
        'postgresql://ann@db/studies'
    """
    scheme, separator, rest = url.partition("://")
    rest = rest.partition("?")[0]
    account, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{account.partition(':')[0]}{at}{place}"


def _retry() -> Callable[[optuna.Study, FrozenTrial], None]:
    return optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's log and its notes on experimental parts (versions are pinned) to itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class LeasedJournal(JournalStorage, BaseHeartbeat):
    """A journal file whose running trials hold leases.

    Args:
        directory: For `journal.log` and `leases/`; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "journal.log"
        self._leases = directory / "leases"
        self._leases.mkdir(parents=True, exist_ok=True)
        self._held: dict[int, int] = {}
        lock = _FileLock(directory / "journal.lock")
        _mend(path, lock)
        super().__init__(JournalFileBackend(str(path), lock_obj=lock))

    def record_heartbeat(self, trial_id: int) -> None:
        """Hold the trial's lease; it ends with this process or with `release`."""
        if trial_id in self._held:
            return
        descriptor = os.open(self._leases / str(trial_id), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._held[trial_id] = descriptor

    def release(self) -> None:
        """Give up the leases of trials that have ended."""
        for trial_id in [*self._held]:
            os.close(self._held.pop(trial_id))
            (self._leases / str(trial_id)).unlink(missing_ok=True)

    def get_heartbeat_interval(self) -> int | None:
        """Return how often `record_heartbeat` is called; once would do."""
        return HEARTBEAT_S

    def get_heartbeat_stale_trial_callback(
        self,
    ) -> Callable[[optuna.Study, FrozenTrial], None] | None:
        """Return what is done with a trial that lost its worker."""
        return _retry()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        return [trial._trial_id for trial in running if self._is_dead(trial)]  # noqa: SLF001 - Optuna's interface for storages

    def _is_dead(self, trial: FrozenTrial) -> bool:
        trial_id = trial._trial_id  # noqa: SLF001 - Optuna's interface for storages
        if trial_id in self._held:
            return False
        try:
            descriptor = os.open(self._leases / str(trial_id), os.O_RDWR)
        except FileNotFoundError:
            begun = trial.datetime_start or dt.datetime.now()  # noqa: DTZ005 - as Optuna's
            return (dt.datetime.now() - begun.replace(tzinfo=None)).total_seconds() > _UNLEASED_S  # noqa: DTZ005
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


class _FileLock(BaseJournalFileLock):
    """A lock that the system releases when its holder dies, so that nobody waits for a grace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        os.close(self._descriptor)


def _mend(path: Path, lock: _FileLock) -> None:
    """Take away a last line that a power cut left half written: nothing after it would be read."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with path.open("rb+") as file:
            data = file.read()
            if not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)
    finally:
        lock.release()
