"""Tells systemd that the agent is ready, alive or stopping (sd_notify(3)), where it runs under it.

`fieldloop-device.service` beside this module is a unit that asks for it: a start counts when the
model is loaded, and an agent that no longer records is restarted.
"""

import os
import socket
import time


class Supervisor:
    """The way to systemd; does nothing where there is none."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        watchdog_us = os.environ.get("WATCHDOG_USEC", "")
        # Twice as often as asked for, as the manual advises.
        self._interval_s = int(watchdog_us) / 2e6 if watchdog_us.isdigit() else 0.0
        self._next_beat = 0.0

    def ready(self) -> None:
        """The agent answers."""
        self._send("READY=1")

    def beat(self) -> None:
        """The agent lives; may be called as often as one likes."""
        now = time.monotonic()
        if self._interval_s and now >= self._next_beat:
            self._next_beat = now + self._interval_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The agent is on its way out."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.sendto(state.encode(), address)
        except OSError:
            return  # nobody listens any more; the agent's work does not depend on it
