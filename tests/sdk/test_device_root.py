import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.device_root import (
    DeviceRoot,
    locked,
    other_slot,
    read_active,
    seal,
    unseal,
    write_active,
    write_atomic,
)
from fieldloop.errors import ConfigError, DataError, EnvironmentFaultError


def test_no_pointer_means_never_flashed(tmp_path):
    assert read_active(tmp_path) is None


def test_the_last_written_slot_is_active(tmp_path):
    for slot in ("a", "b", "b", "a"):
        write_active(tmp_path, slot)
        assert read_active(tmp_path) == slot


@pytest.mark.parametrize("copy", ["active.0", "active.1"])
@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_one_sound_copy_is_enough(tmp_path, copy, damage):
    write_active(tmp_path, "a")
    write_active(tmp_path, "b")
    if damage is None:
        (tmp_path / copy).unlink()
    else:
        (tmp_path / copy).write_bytes(damage)
    assert read_active(tmp_path) == "b"
    write_active(tmp_path, "a")
    assert read_active(tmp_path) == "a"


def test_a_cut_during_the_switch_leaves_the_old_or_the_new_slot(tmp_path, monkeypatch):
    """Power is cut at each write in turn, leaving a torn file behind."""
    real_open = os.open

    class PowerCut(BaseException):
        pass

    for allowed in range(4):
        write_active(tmp_path, "a")
        calls = 0

        def cutting_open(path, flags, *args, allowed=allowed):
            nonlocal calls
            descriptor = real_open(path, flags, *args)
            if flags & os.O_TRUNC:  # the file is empty at this very moment
                calls += 1
                if calls > allowed:
                    os.close(descriptor)
                    raise PowerCut
            return descriptor

        monkeypatch.setattr(os, "open", cutting_open)
        if allowed < 2:
            with pytest.raises(PowerCut):
                write_active(tmp_path, "b")
        else:
            write_active(tmp_path, "b")
        monkeypatch.setattr(os, "open", real_open)
        assert read_active(tmp_path) == ("a" if allowed == 0 else "b")


@given(body=st.binary(max_size=200), position=st.integers(0, 220), bit=st.integers(0, 7))
def test_any_flipped_bit_breaks_the_seal(body, position, bit):
    sealed = bytearray(seal(body))
    assert unseal(bytes(sealed)) == body
    sealed[position % len(sealed)] ^= 1 << bit
    with pytest.raises(DataError):
        unseal(bytes(sealed))


def test_an_atomic_write_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_atomic(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFaultError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["status.json"]


def test_only_one_process_holds_the_root(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from fieldloop.device_root import locked\n"
        "from fieldloop.errors import EnvironmentFaultError\n"
        "try:\n"
        "    with locked(pathlib.Path(sys.argv[1])): print('mine')\n"
        "except EnvironmentFaultError as error: print(error.what)\n"
    )

    def try_elsewhere() -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with locked(tmp_path):
        assert try_elsewhere() == "another process works on this device root"
    assert try_elsewhere() == "mine"


def test_locking_what_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(ConfigError), locked(tmp_path / "missing"):
        pass


def test_paths_and_slots(tmp_path):
    root = DeviceRoot(tmp_path)
    assert root.slot("b") == tmp_path / "slots" / "b.flb"
    assert other_slot("b") == "a"
