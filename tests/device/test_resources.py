"""What systems show of themselves, and what is done where they show nothing."""

import pytest

from fieldloop_device import resources
from fieldloop_device.resources import ResourceMeter


def test_the_hottest_sensor_counts_and_a_broken_one_is_left_out(tmp_path):
    for name, text in (("0", "48123\n"), ("1", "71500"), ("2", "no number")):
        zone = tmp_path / f"thermal_zone{name}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    assert resources.temperature_c(tmp_path) == 71.5
    assert resources.temperature_c(tmp_path / "missing") is None


def test_throttling_is_added_over_the_processors(tmp_path):
    for name, count in (("cpu0", 3), ("cpu1", 4), ("cpufreq", 100)):
        folder = tmp_path / name / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(str(count))
    assert resources.throttle_count(tmp_path) == 7
    assert resources.throttle_count(tmp_path / "missing") == 0


@pytest.mark.parametrize(("bits", "expected"), [("50005", True), ("50000", False), ("0", False)])
def test_a_raspberry_pi_says_whether_it_is_slowed_down_now(tmp_path, bits, expected):
    (tmp_path / "get_throttled").write_text(bits)
    assert resources.is_throttled_now(tmp_path / "get_throttled") is expected
    assert not resources.is_throttled_now(tmp_path / "missing")


def test_memory_is_not_guessed(tmp_path):
    assert resources.rss_bytes(tmp_path / "missing") is None
    assert resources.rss_bytes() > 1 << 20


def test_a_meter_tells_what_was_spent_since_it_was_read_last(monkeypatch):
    counts = iter([5, 7, 7])
    monkeypatch.setattr(resources, "throttle_count", lambda: next(counts))
    monkeypatch.setattr(resources, "is_throttled_now", lambda: False)
    spent = iter([1.0, 1.5, 1.75])
    monkeypatch.setattr(resources.time, "process_time", lambda: next(spent))
    meter = ResourceMeter()
    readings = [meter.read(), meter.read()]
    assert [(item.cpu_ms, item.throttle_count) for item in readings] == [(500, 2), (250, 0)]
    monkeypatch.setattr(resources, "rss_bytes", lambda: None)
    assert meter.read() is None
