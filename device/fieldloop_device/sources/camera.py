"""A camera, through OpenCV where it is installed."""

import importlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from fieldloop.errors import EnvironmentFaultError
from fieldloop_device.sources.source import Item, rest

_RETRY_S = 2.0


class CameraSource:
    """Pictures from a camera or a video: uint8 arrays (height, width, 3), RGB.

    Args:
        device: The camera's number or device file, or the path or URL of a video.
        every_s: Seconds from one picture to the next; the camera goes on in between, and the
            newest picture is taken.

    Raises:
        EnvironmentFaultError: OpenCV is not installed.
    """

    def __init__(self, device: str, *, every_s: float = 1.0) -> None:
        try:
            self._cv2: Any = importlib.import_module("cv2")
        except ImportError as error:
            raise EnvironmentFaultError(
                "a camera needs OpenCV, which cannot be imported",
                where=f"camera:{device}",
                advice="Run: pip install opencv-python-headless, or use --source dir:PATH.",
            ) from error
        self._device = device
        self._every_s = every_s

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give pictures; each loss of the camera is one item with its error.

        A video file ends; a camera that gives nothing is opened again.
        """
        is_lost = False
        while not stop.is_set():
            camera = self._cv2.VideoCapture(_numbered(self._device))
            # The newest picture counts: without this drivers queue old ones.
            camera.set(self._cv2.CAP_PROP_BUFFERSIZE, 1)
            seen = 0
            try:
                for item in self._pictures(camera, stop):
                    seen += 1
                    yield item
                is_file = camera.get(self._cv2.CAP_PROP_FRAME_COUNT) > 0
            finally:
                camera.release()
            if stop.is_set() or (seen and is_file):
                return
            is_lost = is_lost and not seen
            if not is_lost:
                yield Item(None, error=self._fault())
            is_lost = True
            rest(stop, _RETRY_S)

    def _pictures(self, camera: Any, stop: threading.Event) -> Iterator[Item]:
        due = time.monotonic()
        while not stop.is_set():
            # Grabbing is cheap and keeps the driver's queue empty; only what is due is decoded.
            if not camera.grab():
                return
            if time.monotonic() < due:
                continue
            is_read, picture = camera.retrieve()
            if not is_read:
                return
            due = max(due + self._every_s, time.monotonic())
            yield Item(None, self._cv2.cvtColor(picture, self._cv2.COLOR_BGR2RGB))

    def _fault(self) -> EnvironmentFaultError:
        return EnvironmentFaultError(
            "the camera gives no picture",
            where=f"camera:{self._device}",
            advice="Check the cable, the device file and the user's group (video); it is tried "
            "again every two seconds.",
        )


def _numbered(device: str) -> int | str:
    return int(device) if device.isdigit() else device
