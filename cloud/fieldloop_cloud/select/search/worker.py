"""A worker on a study that someone else began: on this machine or on any that reaches it."""

import contextlib
import os
import sys
import time
from pathlib import Path

from fieldloop_cloud.compile.worker import Progress, die_with_parent, quiet
from fieldloop_cloud.select.search.files import load_bench
from fieldloop_cloud.select.search.loop import Worked, work
from fieldloop_cloud.select.search.spec import join_study


def run_worker(
    place: str,
    *,
    name: str | None = None,
    files: Path | None = None,
    most: int | None = None,
    salt: int | None = None,
    progress: Progress = quiet,
) -> Worked:
    """Work on a study until it is done or its time is up.

    Args:
        place: Its directory, or the URL of its database.
        name: Its name; may be left out where there is only one.
        files: Where its files are on this machine; None where they are called as at its start.
        most: Run at most so many trials.
        salt: Lets this worker's sampler draw differently from the others'; None for the process's
            number.
        progress: Receives what happens.

    Raises:
        ConfigError: No such study.
        DataError: Its files are missing here, or are not those that it was begun with.
        EnvironmentFaultError: The database cannot be reached.
    """
    joined = join_study(
        place,
        name=name,
        files=files,
        salt=os.getpid() if salt is None else salt,
    )
    with contextlib.closing(joined) as opened:
        spec = opened.spec
        deadline = time.monotonic() + spec.left_s
        bench = load_bench(opened.files / "bench", spec.bench_sha256, deadline=deadline)
        return work(opened, bench, most=most, progress=progress)


def main() -> None:
    """Help the process that began the study; end with it."""
    die_with_parent()
    name, files, salt = sys.argv[1:]
    run_worker(os.environ["FIELDLOOP_STUDY"], name=name, files=Path(files), salt=int(salt))


if __name__ == "__main__":
    main()
