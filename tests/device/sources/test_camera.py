import threading

import numpy as np
import pytest
from tests.support.parts import missing

from fieldloop_device.sources import camera
from fieldloop_device.sources.camera import CameraSource

try:
    import cv2
except ImportError:
    cv2 = None


@pytest.fixture(autouse=True)
def _needs_opencv():
    if cv2 is None:
        missing("OpenCV is not installed")


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 24))
    for step in range(10):
        picture = np.zeros((24, 32, 3), dtype=np.uint8)
        picture[:, :, 0] = 25 * step  # blue, as OpenCV orders channels
        writer.write(picture)
    writer.release()
    return str(path)


def test_pictures_are_rgb_arrays_and_a_video_ends(video):
    items = list(CameraSource(video, every_s=1e-6).items(threading.Event()))
    assert len(items) == 10
    assert all(item.raw.shape == (24, 32, 3) and item.raw.dtype == np.uint8 for item in items)
    blue = [int(item.raw[12, 16, 2]) for item in items]
    assert blue == sorted(blue)
    assert abs(blue[-1] - 225) < 20
    assert int(items[-1].raw[12, 16, 0]) < 20


def test_only_what_is_due_is_decoded(video):
    assert len(list(CameraSource(video, every_s=3600).items(threading.Event()))) == 1


def test_a_camera_that_is_not_there_is_said_once(monkeypatch):
    monkeypatch.setattr(camera, "_RETRY_S", 0.01)
    stop = threading.Event()
    items = CameraSource("/dev/no-such-camera").items(stop)
    assert "camera" in next(items).error.what
    threading.Timer(0.3, stop.set).start()
    assert list(items) == []
