import pytest

from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop_device.sources.directory import DirectorySource
from fieldloop_device.sources.lines import LineSource
from fieldloop_device.sources.opening import open_source
from fieldloop_device.sources.serial_line import SerialSource
from fieldloop_device.sources.topic import TopicSource


def test_sources_by_name(tmp_path):
    assert open_source("none") is None
    assert isinstance(open_source("stdin"), LineSource)
    assert isinstance(open_source("stdin:csv"), LineSource)
    assert isinstance(open_source(f"dir:{tmp_path}"), DirectorySource)
    assert isinstance(open_source("serial:/dev/ttyUSB7?baud=9600&format=csv"), SerialSource)
    topic = open_source("mqtt://localhost/plant/+/raw/#?answers=answers", name="pump-1")
    assert isinstance(topic, TopicSource)
    assert topic._topic == "plant/+/raw/#"
    assert (topic._settings.port, topic._settings.client_id) == (1883, "pump-1-source")
    assert open_source("mqtt://localhost:1999/raw")._settings.port == 1999


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "camera",
        "camera:",
        "camera:0?every_s=0",
        "camera:0?every_s=soon",
        "camera:0?size=3",
        "dir:",
        "dir:/nowhere/at/all",
        "stdin:xml",
        "serial:",
        "serial:/dev/ttyUSB0?baud=17",
        "serial:/dev/ttyUSB0?baud=x",
        "serial:/dev/ttyUSB0?format=xml",
        "mqtt://localhost",
        "mqtt://localhost/",
        "mqtt:///topic",
        "mqtt://localhost:99999/topic",
        "mqtt://localhost/topic?qos=2",
        "mqtt://localhost/plant/#?answers=plant/answers",
        "mqtt://me:secret@localhost/topic",
        "python:",
        "python:nosuchmodule:readings",
        "python:json:nosuchfunction",
        "python:json:__name__",
        "http://localhost",
    ],
)
def test_what_is_no_source_says_what_would_be(wrong):
    with pytest.raises(ConfigError) as caught:
        open_source(wrong)
    assert caught.value.advice
    assert "secret" not in str(caught.value)


def test_a_camera_without_opencv_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(EnvironmentFaultError, match="opencv-python-headless"):
        open_source("camera:0")
