"""A thread that repeats one step: whenever it is woken, and at least four times a second."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_TICK_S = 0.25
_PAUSE_AFTER_FAULT_S = 1.0


class Loop:
    """One such thread.

    Args:
        name: For logs and debuggers.
        step: What it repeats; an exception is logged and the step tried again, because a thread
            that ends would silence the device for good.
    """

    def __init__(self, name: str, step: Callable[[], object]) -> None:
        self._step = step
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fieldloop-{name}", daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Do the step soon; may be called at any time, before the start too."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the step in progress and end."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self._step()
            except Exception:
                logger.exception("a step failed; it is tried again")
                self._stopping.wait(_PAUSE_AFTER_FAULT_S)
            if not self._stopping.is_set():
                self._wake.wait(_TICK_S)
