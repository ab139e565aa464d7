"""A real PostgreSQL of the test's own: a cluster in a temporary directory."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.parts import missing
from tests.support.waiting import wait_until

_DEBIAN = Path("/usr/lib/postgresql")
"""Debian keeps the server's programs off the path, in a folder for each version."""


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of an empty database; left out where the server is not installed."""
    programs = _programs()
    if programs is None:
        missing("PostgreSQL's server (Debian: postgresql) is not installed")
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses to run as root
    directory = Path(tempfile.mkdtemp(prefix="fieldloop-postgres-"))
    data = directory / "data"
    if user is not None:
        shutil.chown(directory, user)
    options = {"user": user, "cwd": directory, "env": {**os.environ, "LC_ALL": "C"}}
    make = [programs / "initdb", "-D", data, "-U", "fieldloop", "-A", "trust", "--no-sync"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, **options)
    port = _free_port()
    serve = [programs / "postgres", "-D", data, "-p", str(port), "-F"]
    serve += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with (directory / "server.log").open("wb") as log:
        server = subprocess.Popen(serve, stdout=log, stderr=log, **options)
    try:
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, what="PostgreSQL")
        yield f"postgresql://fieldloop@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait(30)
        shutil.rmtree(directory)


def _programs() -> Path | None:
    found = shutil.which("initdb")
    folders = sorted(_DEBIAN.glob("*/bin"), reverse=True)
    folders += [Path(found).resolve().parent] if found else []
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
