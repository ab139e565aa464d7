"""A broker as a child process: its port, its life and its end.

It ends when its parent does, however that ends: each kind watches a pipe on its standard input
that only the parent holds open.
"""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from fieldloop import topics
from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop.transport import Transport
from fieldloop_cloud.release.certificates import CertificateFiles

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0


class Broker(ABC):
    """A local broker; start it, or use it as a context manager.

    Args:
        directory: For its configuration, its log and what it keeps over a restart.
        host: The address it listens on.
        port: The port; 0 takes a free one, which stays the same over restarts.
        tls: The server's certificate; None is a plain broker that lets everybody do everything,
            for trying out on one machine.
        devices: Ids that may connect.

    Raises:
        ConfigError: A plain broker on an address that other machines can reach.
    """

    kind: ClassVar[str]
    """Which broker it is: `mosquitto` or `amqtt`."""

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: CertificateFiles | None = None,
        devices: Iterable[str] = (),
    ) -> None:
        if tls is None and host not in {"127.0.0.1", "::1", "localhost"}:
            raise ConfigError(
                "a broker without TLS would be open to the whole network",
                where=host,
                advice="Use TLS, or listen on 127.0.0.1.",
            )
        self.directory = directory
        self.host = host
        self.port = port or _free_port(host)
        self.tls = tls
        self.devices = {topics.checked_device_id(device) for device in devices}
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    @property
    def address(self) -> str:
        """For messages to people."""
        return f"{self.host}:{self.port}"

    @property
    def log_file(self) -> Path:
        """What the broker has to say."""
        return self.directory / f"{self.kind}.log"

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_died(self) -> bool:
        """Whether it was started, not stopped, and is gone."""
        return self._wanted and not self.is_running

    def start(self) -> None:
        """Start it and wait until it takes connections.

        Raises:
            EnvironmentFaultError: The port is taken, or the broker does not start.
        """
        if self.is_running:
            return
        self.kill()  # what may be left of one that died
        _check_port(self.host, self.port)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for us: we flush first and end the broker last.
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        self._wanted = True

    def stop(self) -> None:
        """End it cleanly; sessions and retained messages are kept if its kind can."""
        process, self._wanted = self._process, False
        if process is None:
            return
        if process.poll() is not None:
            self.kill()  # it died by itself; its guard is still there
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a power cut does."""
        process, self._process, self._wanted = self._process, None, False
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def admit(self, device: str, operator: Transport) -> None:
        """Let one more device in while the broker runs.

        Args:
            device: Its id.
            operator: A connection of ours that may administer the broker.
        """
        self.devices.add(topics.checked_device_id(device))
        self._admit_now(device, operator)

    @abstractmethod
    def _command(self) -> list[str]:
        """Write the configuration and return what to run: it ends at the end of its stdin."""

    @abstractmethod
    def _admit_now(self, device: str, operator: Transport) -> None:
        """Tell the running broker of a device."""

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running:
            if self._answers():
                return
            time.sleep(0.02)
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        raise EnvironmentFaultError(
            f"the broker does not start: {lines[-1] if lines else 'it says nothing'}",
            where=str(self.log_file),
            advice="See its log.",
        )

    def _answers(self) -> bool:
        """Whether somebody is at work behind the port: it listens before it has read its keys."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0) as connection:
                if self.tls is not None:
                    context = ssl.create_default_context(cafile=self.tls.ca)
                    context.check_hostname = False
                    context.wrap_socket(connection).close()
        except ssl.SSLError as error:
            return not isinstance(error, ssl.SSLEOFError)  # "no" is an answer, hanging up is none
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise EnvironmentFaultError(
            f"the broker cannot listen: {error.strerror}",
            where=f"{host}:{port}",
            advice="End what holds the port, or choose another port.",
        ) from error


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])
