"""Fleet homes with free ports, and the server as a process that can be killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldloop_cloud.release.certificates import CertificateAuthority, CertificateFiles
from fieldloop_cloud.release.home import BrokerSettings, FleetSettings, Home, HttpSettings

SERVE = """
import sys
from pathlib import Path
from fieldloop_cloud.fleet.server import serve
from fieldloop_cloud.release.home import Home
serve(Home(Path(sys.argv[1])), on_ready=lambda _: print("ready", flush=True))
"""


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def make_home(path: Path, *, tls: bool = True, external: bool = False) -> Home:
    """Make a home with free ports on this machine."""
    settings = FleetSettings(
        broker=BrokerSettings(port=free_port(), tls=tls, external=external),
        http=HttpSettings(port=free_port()),
    )
    return Home(path).create(settings)


def enrol(home: Home, device: str) -> CertificateFiles:
    """Give a device its certificate and put it on the home's list."""
    files = CertificateAuthority(home.ca).issue_device(home.device(device) / "tls", device)
    (home.device(device) / "device.toml").write_text(f'[device]\nid = "{device}"\nclass = "x86"\n')
    return files


class ServerProcess:
    """`serve` in a process of its own."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it without waiting."""
        log = (self._home.path / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(self._home.path)],
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until everything runs."""
        assert self.process is not None
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            pytest.fail((self._home.path / "server.log").read_text())

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self._reap()

    def terminate(self) -> int:
        """End it with SIGTERM; return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(30)
        self.process.stdout.close()
        self.process = None
        return code


@contextlib.contextmanager
def server_process(home: Home) -> Iterator[ServerProcess]:
    """Run a server; it is dead at the end."""
    server = ServerProcess(home)
    server.start()
    try:
        yield server
    finally:
        server.kill()
