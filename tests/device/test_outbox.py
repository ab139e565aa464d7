import contextlib
import sqlite3

import msgspec
import pytest

from fieldloop import wire
from fieldloop.telemetry import Ack, Clock, Event, FieldSample, TelemetryWindow
from fieldloop_device.outbox import Outbox

NOW = Clock(mono_ms=1, wall_ms=86_400_000 * 20_000)
BIG = 1 << 24


def window(count=1, model="m", **fields):
    return TelemetryWindow(
        boot=0, seq=0, model=model, start=NOW, end=NOW, prediction_count=count, **fields
    )


def event(detail="hello"):
    return Event(boot=0, seq=0, at=NOW, kind="boot", detail=detail)


def sample(size=1):
    return FieldSample(boot=0, seq=0, at=NOW, model="m", sample_id="i", raw=[0.5] * size)


@pytest.fixture
def outbox(tmp_path):
    box = Outbox(tmp_path / "outbox.sqlite", max_bytes=BIG)
    box.begin(1)
    yield box
    box.close()


def messages(box):
    return [row.message() for row in box.pending(limit=10_000)]


def test_messages_are_numbered_from_one_within_a_boot(outbox):
    outbox.append([window(), event()])
    outbox.append([sample()])
    assert [(m.boot, m.seq) for m in messages(outbox)] == [(1, 1), (1, 2), (1, 3)]
    outbox.begin(2)
    outbox.append([window()])
    assert [row.number for row in outbox.pending()][-1] == (2, 1)
    assert [row.stream for row in outbox.pending()] == ["tel", "evt", "smp", "tel"]


def test_numbers_go_on_after_everything_was_acknowledged(outbox):
    outbox.append([window(), window()])
    outbox.acknowledge(Ack(boot=1, ranges=((1, 2),)))
    outbox.append([window()])
    assert [row.number for row in outbox.pending()] == [(1, 3)]


def test_only_acknowledged_ranges_of_that_boot_leave(outbox):
    outbox.append([window() for _ in range(6)])
    outbox.begin(2)
    outbox.append([window()])
    assert outbox.acknowledge(Ack(boot=1, ranges=((1, 2), (5, 5), (100, 200)))) == 3
    assert [row.number for row in outbox.pending()] == [(1, 3), (1, 4), (1, 6), (2, 1)]
    assert outbox.acknowledge(Ack(boot=1, ranges=((1, 2),))) == 0
    assert outbox.size_bytes == sum(len(row.payload) for row in outbox.pending())


def test_it_survives_a_restart_and_remembers_the_boot(tmp_path, outbox):
    outbox.append([window(5)])
    outbox.close()
    again = Outbox(tmp_path / "outbox.sqlite", max_bytes=BIG)
    assert again.last_boot == 1
    assert messages(again)[0].prediction_count == 5
    assert again.size_bytes == len(again.pending()[0].payload)
    again.close()


def test_the_boot_is_remembered_without_any_message_left(tmp_path, outbox):
    outbox.append([window()])
    outbox.acknowledge(Ack(boot=1, ranges=((1, 1),)))
    outbox.close()
    again = Outbox(tmp_path / "outbox.sqlite", max_bytes=BIG)
    assert (again.count, again.last_boot) == (0, 1)
    again.close()


def small(tmp_path, max_bytes):
    box = Outbox(tmp_path / "small.sqlite", max_bytes=max_bytes)
    box.begin(1)
    return box


def test_windows_are_merged_before_anything_is_dropped(tmp_path):
    box = small(tmp_path, 1_000)
    for _ in range(100):
        box.append([window(3)])
    assert box.size_bytes <= 1_000
    assert box.dropped_count == 0
    kept = messages(box)
    assert sum(item.prediction_count for item in kept) == 300
    assert sum(max(item.merged_count, 1) for item in kept) == 100
    box.close()


def test_what_may_have_been_sent_is_never_changed(tmp_path):
    box = small(tmp_path, 700)
    box.append([window(1), window(2), window(4)])
    before = box.pending()
    assert box.mark_sent(before[1].number)
    for _ in range(20):
        box.append([window(8)])
    after = {row.number: row.payload for row in box.pending()}
    for row in before[:2]:
        assert after[row.number] == row.payload
    box.close()


def test_the_mark_of_what_was_sent_survives_a_restart(tmp_path):
    box = small(tmp_path, BIG)
    box.append([window(1), window(2)])
    box.mark_sent((1, 2))
    box.close()
    again = Outbox(tmp_path / "small.sqlite", max_bytes=10)
    again.begin(2)
    again.append([event()])
    # Under a cap of nothing all must go, but by dropping: merging sent windows could count twice.
    assert [m for m in messages(again) if isinstance(m, TelemetryWindow)] == []
    assert again.dropped_count == 3
    again.close()


def test_samples_are_dropped_first_windows_last_and_all_are_counted(tmp_path):
    box = small(tmp_path, 520)
    for index in range(4):
        box.append([sample(60), window(1, model=f"m{index}"), event()])
    kept = messages(box)
    assert not any(isinstance(item, FieldSample) for item in kept)
    assert sum(isinstance(item, TelemetryWindow) for item in kept) == 4
    assert 0 < sum(isinstance(item, Event) for item in kept) < 4
    assert box.dropped_count == 12 - len(kept)
    box.append([window(1, model="last")])
    assert messages(box)[-1].dropped_count >= 4
    box.close()


def test_a_message_that_no_broker_takes_is_dropped_and_counted(outbox):
    outbox.append([window(), sample(400_000), event()])
    assert [row.stream for row in outbox.pending()] == ["tel", "evt"]
    assert outbox.dropped_count == 1
    outbox.append([event()])
    assert outbox.count == 3


@pytest.mark.parametrize("damage", ["rubbish", "header", "middle", "emptied"])
def test_a_corrupt_database_is_put_aside_counted_and_replaced(tmp_path, damage):
    path = tmp_path / "outbox.sqlite"
    box = Outbox(path, max_bytes=BIG)
    box.begin(1)
    box.append([event("x" * 400) for _ in range(200)])
    box.close()
    data = bytearray(path.read_bytes())
    if damage == "rubbish":
        data = bytearray(b"not a database" * 1000)
    elif damage == "header":
        data[:50] = b"\0" * 50
    elif damage == "middle":
        data[4096 : len(data) - 4096] = b"\xff" * (len(data) - 8192)
    else:
        data = bytearray()
    path.write_bytes(data)
    again = Outbox(path, max_bytes=BIG)
    again.begin(2)
    assert again.append([window()]) == 1
    assert [row.number for row in again.pending()] == [(2, 1)]
    aside = list(tmp_path.glob("outbox.sqlite.corrupt-*"))
    if damage == "emptied":  # an empty file is a fresh database to SQLite: nothing to put aside
        assert (again.quarantined_count, aside) == (0, [])
    else:
        assert again.quarantined_count == 1
        assert [path.read_bytes() for path in aside] == [bytes(data)]
    again.close()


def test_a_database_that_rots_while_it_is_open_does_not_stop_the_numbers(tmp_path, outbox):
    outbox.append([event("x" * 400) for _ in range(100)])
    outbox._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = tmp_path / "outbox.sqlite"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    outbox._database.connection.execute("PRAGMA cache_size=0")
    outbox.pending()
    outbox.append([window(7)])
    outbox.append([window(8)])
    assert outbox.quarantined_count == 1
    assert [m.prediction_count for m in messages(outbox)][-2:] == [7, 8]
    assert min(row.seq for row in outbox.pending(limit=1000)) > 100


def test_quarantined_files_do_not_fill_the_disk(tmp_path):
    path = tmp_path / "outbox.sqlite"
    for _ in range(5):
        path.write_bytes(b"rubbish" * 1000)
        Outbox(path, max_bytes=BIG).close()
    assert len(list(tmp_path.glob("*.corrupt-*"))) == 2


class FullDisk(sqlite3.Connection):
    """A connection whose commits fail as on a full disk, while `is_full` says so."""

    is_full = False

    def execute(self, sql, *args):
        if FullDisk.is_full and sql in {"BEGIN IMMEDIATE", "COMMIT"}:
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *args)


@pytest.fixture
def full_disk(monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, factory=FullDisk, **options)
    )
    yield FullDisk
    FullDisk.is_full = False


def test_a_full_disk_keeps_messages_in_memory_until_there_is_space(tmp_path, full_disk):
    box = small(tmp_path, BIG)
    box.append([window(1)])
    full_disk.is_full = True
    assert box.append([window(2), event()]) == 0
    assert box.fault == "database or disk is full"
    assert box.quarantined_count == 0
    full_disk.is_full = False
    assert box.append([]) == 2
    assert [row.number for row in box.pending()] == [(1, 1), (1, 2), (1, 3)]
    assert box.fault == ""
    box.close()


def test_a_long_full_disk_merges_windows_and_counts_what_it_drops(tmp_path, full_disk):
    box = small(tmp_path, BIG)
    full_disk.is_full = True
    for _ in range(150):
        box.append([window(2)])
    for _ in range(100):
        box.append([event()])
    full_disk.is_full = False
    box.append([])
    kept = messages(box)
    assert sum(m.prediction_count for m in kept if isinstance(m, TelemetryWindow)) == 300
    events = sum(isinstance(m, Event) for m in kept)
    assert box.dropped_count == 100 - events > 0
    box.close()


def test_what_cannot_be_marked_as_sent_must_not_be_sent(tmp_path, full_disk):
    box = small(tmp_path, BIG)
    box.append([window()])
    full_disk.is_full = True
    assert box.mark_sent((1, 1)) is False
    full_disk.is_full = False
    assert box.mark_sent((1, 1)) is True
    box.close()


def test_the_days_samples_are_counted_across_restarts(tmp_path, outbox):
    day = 86_400_000
    outbox.append([sample(), sample(), window()], now=Clock(mono_ms=1, wall_ms=day * 5))
    outbox.append([sample()], now=Clock(mono_ms=1, wall_ms=day * 5 + 1000))
    outbox.close()
    again = Outbox(tmp_path / "outbox.sqlite", max_bytes=BIG)
    assert again.samples_on(day * 5 + 2000) == 3
    assert again.samples_on(day * 6) == 0
    again.close()


def test_it_is_as_durable_as_sqlite_can_be(outbox):
    assert outbox._database.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert outbox._database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_stored_payload_is_what_the_wire_carries(outbox):
    outbox.append([window(4)])
    row = outbox.pending()[0]
    assert wire.decode(TelemetryWindow, row.payload) == msgspec.structs.replace(
        window(4), boot=1, seq=1
    )


def test_a_payload_that_cannot_be_read_stops_no_merging(tmp_path):
    box = small(tmp_path, 1_000)
    box.append([window(1)])
    box._database.connection.execute("UPDATE message SET payload = ?", (b"rotten",))
    for _ in range(60):
        box.append([window(2)])
    kept = [row for row in box.pending() if row.payload != b"rotten"]
    assert sum(row.message().prediction_count for row in kept) == 120
    assert box.size_bytes <= 1_000
    box.close()


DAY = 86_400_000


def synchronized(day):
    return Clock(mono_ms=1, wall_ms=day * DAY, synchronized=True)


def unsynchronized(day):
    return Clock(mono_ms=1, wall_ms=day * DAY, synchronized=False)


@pytest.fixture
def ageing(tmp_path):
    box = Outbox(tmp_path / "ageing.sqlite", max_bytes=BIG, max_age_ms=30 * DAY)
    box.begin(1)
    yield box
    box.close()


def test_what_is_too_old_is_dropped_and_counted(ageing):
    ageing.append([window(1), event(), sample()], now=synchronized(100))
    ageing.append([window(2)], now=synchronized(120))
    assert ageing.expire(synchronized(130)) == 0
    assert ageing.expire(synchronized(131)) == 3
    assert [message.prediction_count for message in messages(ageing)] == [2]
    assert ageing.dropped_count == 3
    assert ageing.size_bytes == sum(len(row.payload) for row in ageing.pending())


@pytest.mark.parametrize(
    ("stored", "judged"),
    [
        (unsynchronized(0), synchronized(20_000)),  # a device that began in 1970
        (synchronized(100), unsynchronized(90_000)),  # a clock that has run away
        (synchronized(90_000), synchronized(100)),  # a clock that was set back
        (unsynchronized(1), unsynchronized(90_000)),
    ],
)
def test_a_wrong_clock_drops_nothing(ageing, stored, judged):
    ageing.append([window(), event()], now=stored)
    assert ageing.expire(judged) == 0
    assert ageing.count == 2


def test_without_a_cap_nothing_is_too_old(outbox):
    outbox.append([window()], now=synchronized(1))
    assert outbox.expire(synchronized(100_000)) == 0


def test_drops_that_no_window_told_are_told_by_the_next_boot(tmp_path, ageing):
    ageing.append([event(), event()], now=synchronized(1))
    ageing.expire(synchronized(50))
    ageing.close()  # as a power cut does
    again = Outbox(tmp_path / "ageing.sqlite", max_bytes=BIG)
    again.begin(2)
    assert again.dropped_count == 2
    again.append([window()])
    assert messages(again)[-1].dropped_count == 2
    again.begin(3)
    assert again.dropped_count == 0
    again.close()


def test_counters_that_are_right_are_not_written_again(outbox):
    outbox.append([window()])
    before = outbox._database.connection.total_changes
    outbox.append([window()])
    assert outbox._database.connection.total_changes == before + 1


def test_an_outbox_of_another_release_is_put_aside_and_counted(tmp_path):
    path = tmp_path / "outbox.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE message (boot INTEGER, seq INTEGER)")
    box = Outbox(path, max_bytes=BIG)
    box.begin(1)
    assert box.append([window(1)]) == 1
    assert (box.quarantined_count, box.fault) == (1, "")
    assert path.with_name("outbox.sqlite.corrupt-0").exists()
    box.close()
