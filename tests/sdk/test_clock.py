"""Both clocks keep to one contract; the fake moves only when told."""

import time

import pytest

from fieldloop import clock as clock_module
from fieldloop.clock import SystemClock
from fieldloop.testing.clock import FakeClock


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
def test_the_monotonic_clock_never_goes_back(clock):
    readings = [clock.read() for _ in range(50)]
    monotonic = [reading.mono_ms for reading in readings]
    assert monotonic == sorted(monotonic)
    assert all(isinstance(reading.wall_ms, int) for reading in readings)
    assert all(isinstance(reading.synchronized, bool) for reading in readings)


def test_the_system_clock_reads_the_systems_clocks():
    before_ms, monotonic_ms = time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000
    reading = SystemClock().read()
    assert before_ms <= reading.wall_ms <= time.time_ns() // 1_000_000
    # CLOCK_BOOTTIME also counts the time asleep, so it is never behind.
    assert reading.mono_ms >= monotonic_ms


@pytest.mark.parametrize(("state", "synchronized"), [(0, True), (4, True), (5, False), (-1, False)])
def test_the_kernel_says_whether_the_wall_clock_is_synchronised(monkeypatch, state, synchronized):
    monkeypatch.setattr(clock_module, "_adjtimex", lambda: lambda _buffer: state)
    assert SystemClock().read().synchronized is synchronized


def test_without_adjtimex_no_clock_counts_as_synchronised(monkeypatch):
    monkeypatch.setattr(clock_module, "_adjtimex", lambda: None)
    assert SystemClock().read().synchronized is False


def test_the_fake_moves_when_told_and_its_wall_clock_may_be_set_back():
    clock = FakeClock(mono_ms=5, wall_ms=1_000, synchronized=False)
    clock.advance(20)
    assert (clock.read().mono_ms, clock.read().wall_ms) == (25, 1_020)
    clock.wall_ms = 3
    clock.synchronized = True
    assert (clock.read().mono_ms, clock.read().wall_ms) == (25, 3)
    assert clock.read().synchronized
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)
