"""Brings a wanted challenger into the shadow place: fetch, verify, replace, start."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from fieldloop.clock import ClockSource
from fieldloop.device_root import DeviceRoot, sync_directory
from fieldloop.errors import (
    EnvironmentFaultError,
    FieldloopError,
    GateError,
    NotConnectedError,
)
from fieldloop.state import DesiredState, ShadowWish
from fieldloop_device.download import download
from fieldloop_device.shadow import Shadow
from fieldloop_device.slots import file_sha256

_RETRY_MS = 60_000


class ShadowPlace:
    """Follows the desired state's challenger; the updater's thread calls it.

    Args:
        root: The device's root.
        shadow: What runs it.
        clock: Time for another attempt.
        verify_download: Raises for a fetched bundle that is not trusted or is below the floor.
        report: Tells the cloud the reported state.
        is_busy: Whether a download must stop: the agent ends, or a newer wish has come.
        max_bundle_bytes: A larger bundle is refused.
        min_bytes_per_s: Slowest download.

    Attributes:
        error: Why the wanted challenger is not there; empty if it is.
    """

    def __init__(
        self,
        root: DeviceRoot,
        shadow: Shadow,
        *,
        clock: ClockSource,
        verify_download: Callable[[Path], None],
        report: Callable[[], None],
        is_busy: Callable[[], bool],
        max_bundle_bytes: int,
        min_bytes_per_s: int,
    ) -> None:
        self._root = root
        self._shadow = shadow
        self._clock = clock
        self._verify_download = verify_download
        self._report = report
        self._is_busy = is_busy
        self._max_bundle_bytes = max_bundle_bytes
        self._min_bytes_per_s = min_bytes_per_s
        self._wish: ShadowWish | None = None
        self._not_before_ms = 0
        self.error = ""

    def want(self, desired: DesiredState, *, is_new: bool) -> None:
        """Note a wish that is not stale.

        Args:
            desired: The whole wish. One that is new and names no challenger ends the one here,
                also one that was flashed by hand.
            is_new: Whether its version was not seen before.
        """
        wish = desired.shadow
        if wish is None:
            if is_new:
                self._wish = None
                self._clear()
            return
        if file_sha256(self._root.shadow) == wish.sha256:
            self._wish = None
            if is_new and not self._shadow.sha256:
                self._shadow.start()
            return
        self._wish, self._not_before_ms, self.error = wish, 0, ""

    def step(self) -> None:
        """Fetch what is wanted, if it is not here."""
        wish = self._wish
        if wish is None or self._clock.read().mono_ms < self._not_before_ms:
            return
        try:
            if not self._fetch(wish):
                return
        except (NotConnectedError, EnvironmentFaultError) as error:
            self._not_before_ms = self._clock.read().mono_ms + _RETRY_MS
            self.error = str(error)
        except FieldloopError as error:
            self._wish, self.error = None, str(error)
        else:
            self._wish, self.error = None, ""
            self._shadow.start()
        self._report()

    @property
    def _part(self) -> Path:
        return self._root.slots / "shadow.download"

    def _fetch(self, wish: ShadowWish) -> bool:
        if not 0 < wish.size_bytes <= self._max_bundle_bytes:
            raise GateError(
                f"a challenger of {wish.size_bytes} bytes is not accepted here",
                advice="Raise [update] max_bundle_bytes.",
            )
        if not download(
            wish, self._part, min_bytes_per_s=self._min_bytes_per_s, is_cancelled=self._is_busy
        ):
            return False
        try:
            self._verify_download(self._part)
        except FieldloopError:
            self._part.unlink(missing_ok=True)
            raise
        self._shadow.stop()
        try:
            self._part.replace(self._root.shadow)
            sync_directory(self._root.slots)
        except OSError as error:
            raise EnvironmentFaultError(
                f"the challenger cannot be stored: {error.strerror}",
                where=str(self._root.shadow),
                advice="Free disk space or check whether the root is mounted read-only.",
            ) from error
        return True

    def _clear(self) -> None:
        self._shadow.stop()
        self.error = ""
        with contextlib.suppress(OSError):  # read-only: it comes back at the next start
            self._part.unlink(missing_ok=True)
            self._root.shadow.unlink(missing_ok=True)
