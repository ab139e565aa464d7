import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from fieldloop.device_root import DeviceRoot
from fieldloop.errors import EnvironmentFaultError
from fieldloop_device import records as module
from fieldloop_device.records import Records, RecordStore, deny


def put(root, **changes):
    store = RecordStore(root)
    store.put(replace(store.records, **changes))
    return store


@pytest.fixture
def root(tmp_path):
    return DeviceRoot(tmp_path)


def test_a_new_device_starts_at_nothing(root):
    assert RecordStore(root).records == Records()


def test_every_change_survives(root):
    put(root, boot=3, floor=7)
    put(root, denied=("ab",))
    found = RecordStore(root).records
    assert (found.boot, found.floor, found.denied, found.revision) == (3, 7, ("ab",), 2)


@pytest.mark.parametrize("lost", ["state", "state_copy"])
@pytest.mark.parametrize("damage", [None, b"", b"rubbish" * 2000])
def test_one_lost_copy_lowers_no_floor(root, lost, damage):
    put(root, boot=3, floor=7)
    path: Path = getattr(root, lost)
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    assert RecordStore(root).records.floor == 7
    put(root, boot=4)
    path.unlink()
    (DeviceRoot(root.path).path / "state.sqlite-wal").unlink(missing_ok=True)
    assert RecordStore(root).records.boot == 4


def test_the_newest_copy_counts(root, monkeypatch):
    put(root, floor=1)
    monkeypatch.setattr(module, "write_atomic", _fail)
    store = put(root, floor=2)
    assert "cannot" in store.fault
    monkeypatch.undo()
    assert RecordStore(root).records.floor == 2


def _fail(*_args, **_options):
    raise EnvironmentFaultError("the copy cannot be written")


def test_no_copy_written_is_an_error_but_counts_in_memory(root, monkeypatch):
    store = put(root, floor=1)
    monkeypatch.setattr(module, "write_atomic", _fail)

    def full(*_args, **_options):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.raises(EnvironmentFaultError, match="cannot be stored"):
        store.put(replace(store.records, floor=5))
    assert store.records.floor == 5
    store.put_if_possible(replace(store.records, boot=9))
    assert "full" in store.fault
    monkeypatch.undo()
    assert RecordStore(root).records.floor == 1
    store.put(store.records)
    assert (RecordStore(root).records.boot, store.fault) == (9, "")


def test_the_list_of_denied_hashes_stays_short():
    records = Records()
    for number in range(100):
        records = deny(records, str(number))
    records = deny(records, "50")
    assert len(records.denied) == module.DENIED_LIMIT
    assert records.denied[-1] == "50"
    assert len(set(records.denied)) == len(records.denied)
