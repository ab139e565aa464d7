import os
import pty
import threading
import time
import tty

from fieldloop.errors import EnvironmentFaultError
from fieldloop_device.sources import serial_line
from fieldloop_device.sources.lines import CsvParser
from fieldloop_device.sources.serial_line import SerialSource


def test_readings_come_over_a_real_terminal_line():
    far, near = pty.openpty()
    tty.setraw(far)
    source = SerialSource(os.ttyname(near), baud=9600, parse=CsvParser())
    items = source.items(threading.Event())
    os.write(far, b"current,voltage\r\n1.5,2\r\n")
    assert next(items).raw == {"current": 1.5, "voltage": 2.0}
    os.write(far, b"2.5,")
    os.write(far, b"3\r\n")
    assert next(items).raw == {"current": 2.5, "voltage": 3.0}
    items.close()
    os.close(near)
    os.close(far)


def test_an_unplugged_port_is_said_once_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(serial_line, "_RETRY_S", 0.01)
    port = tmp_path / "ttyUSB0"
    far, near = pty.openpty()
    tty.setraw(far)
    unplugged = threading.Event()

    def speak():
        time.sleep(0.2)
        port.symlink_to(os.ttyname(near))
        while not unplugged.wait(0.05):
            os.write(far, b'{"x": [1]}\n')
        os.close(near)
        os.close(far)

    speaker = threading.Thread(target=speak)
    speaker.start()
    items = SerialSource(str(port)).items(threading.Event())
    assert isinstance(next(items).error, EnvironmentFaultError)
    assert next(items).raw == [1]  # after many tries, which were not said again
    unplugged.set()
    speaker.join()
    while (item := next(items)).error is None:
        assert item.raw == [1]
    assert isinstance(item.error, EnvironmentFaultError)
    items.close()


def test_a_file_is_no_serial_port(tmp_path):
    path = tmp_path / "file"
    path.write_text("1,2\n")
    item = next(SerialSource(str(path)).items(threading.Event()))
    assert "not a serial port" in item.error.what
