"""The store: once and only once, durable, and typed errors."""

import random
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop import wire
from fieldloop.errors import DataError, EnvironmentFaultError
from fieldloop.state import DesiredState, Presence, ReportedState
from fieldloop.telemetry import Clock, Event, FieldSample, TelemetryWindow
from fieldloop_cloud.fleet import recording
from fieldloop_cloud.fleet.records import Incoming, Numbered, event_time_ms
from fieldloop_cloud.fleet.store import Store

NOW_MS = 1_800_000_000_000
CLOCK = Clock(mono_ms=60_000, wall_ms=NOW_MS)


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def window(seq: int, *, boot: int = 1, count: int = 0, model: str = "ab" * 8, sent: Clock = CLOCK):
    return TelemetryWindow(
        boot=boot,
        seq=seq,
        model=model,
        start=CLOCK,
        end=CLOCK,
        sent=sent,
        prediction_count=count,
    )


def sample(seq: int, sample_id: str):
    return FieldSample(
        boot=1, seq=seq, at=CLOCK, sent=CLOCK, model="ab" * 8, sample_id=sample_id, raw=[1.5, "x"]
    )


def incoming(message: Numbered, *, device: str = "pump-1", received_ms: int = NOW_MS) -> Incoming:
    stream = {TelemetryWindow: "tel", Event: "evt", FieldSample: "smp"}[type(message)]
    return Incoming(
        device=device,
        stream=stream,
        message=message,
        payload=wire.encode(message),
        received_ms=received_ms,
    )


# Once


def test_what_was_stored_comes_back_as_it_was(store: Store):
    sent = window(1, count=7)
    assert store.record("pump-1", "tel", sent, NOW_MS) == "stored"
    (found,) = store.windows()
    assert (found.device, found.at_ms, found.window) == ("pump-1", NOW_MS, sent)


def test_the_same_message_again_changes_nothing_but_the_count(store: Store):
    store.record("pump-1", "tel", window(1, count=7), NOW_MS)
    later = Clock(mono_ms=90_000, wall_ms=NOW_MS + 30_000)
    again = window(1, count=7, sent=later)
    assert store.record("pump-1", "tel", again, NOW_MS + 30_000) == "duplicate"
    assert [item.window.prediction_count for item in store.windows()] == [7]
    (counts,) = store.counts()
    assert (counts.stored, counts.duplicates, counts.dead_letters) == (1, 1, 0)


def test_a_number_that_is_used_again_for_something_else_is_kept_and_told(store: Store):
    """A device whose boot counter went back: dropping it silently would lose its data."""
    store.record("pump-1", "tel", window(1, count=7), NOW_MS)
    assert store.record("pump-1", "tel", window(1, count=8), NOW_MS) == "conflict"
    event = Event(boot=1, seq=1, at=CLOCK, kind="boot")
    assert store.record("pump-1", "evt", event, NOW_MS) == "conflict"
    letters = store.dead_letters("pump-1")
    assert [wire.decode(TelemetryWindow, letters[0].payload).prediction_count] == [8]
    assert "boot counter" in letters[0].reason
    assert letters[1].topic == "fl/v1/pump-1/up/evt"
    assert [item.window.prediction_count for item in store.windows()] == [7]


def test_numbers_are_per_device_and_per_boot(store: Store):
    for device in ("pump-1", "pump-2"):
        for boot in (1, 2):
            assert store.record(device, "tel", window(1, boot=boot), NOW_MS) == "stored"
    assert len(store.windows()) == 4
    assert len(store.windows("pump-2")) == 2


def test_a_batch_says_what_became_of_each(store: Store):
    store.record("pump-1", "tel", window(2), NOW_MS)
    batch = [incoming(window(1)), incoming(window(2)), incoming(window(3)), incoming(window(3))]
    assert store.record_many(batch) == ["stored", "duplicate", "stored", "duplicate"]
    assert [item.window.seq for item in store.windows()] == [1, 2, 3]


def test_a_batch_with_an_impossible_number_stores_nothing(store: Store):
    with pytest.raises(DataError, match="cannot be"):
        store.record_many([incoming(window(1)), incoming(window(0))])
    with pytest.raises(DataError):
        store.record_many([incoming(window(1, boot=-1))])
    assert store.windows() == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), max_size=12), max_size=8), st.randoms())
def test_any_order_and_repetition_gives_the_same_store(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], shuffle: random.Random
):
    with Store(tmp_path_factory.mktemp("law") / "store.sqlite") as store:
        for numbers in batches:
            shuffle.shuffle(numbers)
            store.record_many([incoming(window(seq, count=seq)) for seq in numbers])
        sent = {seq for numbers in batches for seq in numbers}
        found = store.windows()
        assert [item.window.seq for item in found] == sorted(sent)
        assert sum(item.window.prediction_count for item in found) == sum(sent)
        if sent:
            (counts,) = store.counts()
            assert counts.duplicates == sum(map(len, batches)) - len(sent)
            assert counts.missing == max(sent) - len(sent)


# Reading


def test_windows_are_chosen_by_device_model_and_time(store: Store):
    for seq, (device, model, at_ms) in enumerate(
        [("pump-1", "a" * 16, 0), ("pump-1", "b" * 16, 1000), ("pump-2", "b" * 16, 2000)], start=1
    ):
        clock = Clock(mono_ms=at_ms, wall_ms=NOW_MS + at_ms)
        message = TelemetryWindow(boot=1, seq=seq, model=model, start=clock, end=clock, sent=clock)
        store.record(device, "tel", message, NOW_MS + at_ms)

    def seqs(**which) -> list[int]:
        return [item.window.seq for item in store.windows(**which)]

    assert seqs() == [1, 2, 3]
    assert seqs(device="pump-1") == [1, 2]
    assert seqs(model="b" * 16) == [2, 3]
    assert seqs(model="b" * 64) == [2, 3], "a whole SHA-256 works too"
    assert seqs(since_ms=NOW_MS + 1000) == [2, 3]
    assert seqs(until_ms=NOW_MS + 1000) == [1]
    assert seqs(device="pump-2", since_ms=NOW_MS + 3000) == []


def test_the_payload_is_kept_as_it_came(store: Store):
    """A newer device sends fields that this release does not know."""
    payload = wire.encode(window(1))[:-1] + b',"new":[1,2]}'
    message = wire.decode(TelemetryWindow, payload)
    store.record_many(
        [
            Incoming(
                device="pump-1", stream="tel", message=message, payload=payload, received_ms=NOW_MS
            )
        ]
    )
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT payload FROM messages").fetchone()[0] == payload
    db.close()


def test_events_and_samples_come_back(store: Store):
    event = Event(boot=1, seq=1, at=CLOCK, sent=CLOCK, kind="boot", detail="hello")
    store.record("pump-1", "evt", event, NOW_MS)
    store.record("pump-1", "smp", sample(2, "img-1"), NOW_MS)
    assert [(item.device, item.event) for item in store.events()] == [("pump-1", event)]
    (found,) = store.samples()
    assert (found.sample, found.label) == (sample(2, "img-1"), None)


def test_a_gap_in_the_numbers_is_counted_until_it_is_filled(store: Store):
    for seq in (1, 2, 5):
        store.record("pump-1", "tel", window(seq), NOW_MS)
    store.record("pump-1", "tel", window(1, boot=2), NOW_MS)
    assert [item.missing for item in store.counts()] == [2]
    store.record("pump-1", "evt", Event(boot=1, seq=3, at=CLOCK, kind="boot"), NOW_MS)
    store.record("pump-1", "tel", window(4), NOW_MS)
    assert [item.missing for item in store.counts()] == [0]


# Labels


@pytest.mark.parametrize("label", ["7", 7, 7.5, True, "ä"])
def test_a_label_keeps_its_type(store: Store, label: object):
    store.record("pump-1", "smp", sample(1, "img-1"), NOW_MS)
    store.add_labels([("pump-1", "img-1", label)])
    (found,) = store.samples(labelled=True)
    assert found.label == label
    assert type(found.label) is type(label)
    assert store.samples(labelled=False) == []


def test_a_label_may_be_corrected(store: Store):
    store.record("pump-1", "smp", sample(1, "img-1"), NOW_MS)
    store.add_labels([("pump-1", "img-1", "a")])
    store.add_labels([("pump-1", "img-1", "b")])
    assert [item.label for item in store.samples()] == ["b"]


def test_a_label_for_no_sample_stores_none(store: Store):
    store.record("pump-1", "smp", sample(1, "img-1"), NOW_MS)
    with pytest.raises(DataError, match="img-2"):
        store.add_labels([("pump-1", "img-1", 1), ("pump-1", "img-2", 1)])
    assert store.samples(labelled=True) == []


def test_a_sample_id_that_comes_twice_stays_one_sample(store: Store):
    store.record("pump-1", "smp", sample(1, "img-1"), NOW_MS)
    assert store.record("pump-1", "smp", sample(2, "img-1"), NOW_MS) == "stored"
    assert [item.sample.seq for item in store.samples()] == [1]


# States


def test_a_stale_death_does_not_bury_a_living_device(store: Store):
    assert store.put_presence("pump-1", Presence(boot=2, online=True))
    assert not store.put_presence("pump-1", Presence(boot=1, online=False))
    assert store.presence() == {"pump-1": Presence(boot=2, online=True)}
    assert store.put_presence("pump-1", Presence(boot=2, online=False))
    assert not store.presence()["pump-1"].online


def test_a_report_of_an_older_boot_is_ignored(store: Store):
    new = ReportedState(boot=3, desired_ver=2, running_sha256="a" * 64, phase="committed")
    assert store.put_reported("pump-1", new)
    assert not store.put_reported("pump-1", ReportedState(boot=2))
    assert store.reported() == {"pump-1": new}


def test_a_wish_must_be_newer_than_the_last(store: Store):
    wish = DesiredState(ver=2, sha256="a" * 64, size_bytes=1, url="http://home/x")
    store.put_desired("pump-1", wish)
    for ver in (1, 2):
        with pytest.raises(DataError, match=f"version {ver}"):
            store.put_desired(
                "pump-1", DesiredState(ver=ver, sha256="b" * 64, size_bytes=1, url="http://home/y")
            )
    assert store.desired() == {"pump-1": wish}


def test_rollouts_keep_their_order_and_survive(store: Store):
    store.put_rollout("b", {"stage": "canary"})
    store.put_rollout("a", {"stage": "canary"})
    store.put_rollout("b", {"stage": "done", "devices": ["pump-1"]})
    store.close()
    with Store(store.path) as again:
        assert list(again.rollouts().items()) == [
            ("b", {"stage": "done", "devices": ["pump-1"]}),
            ("a", {"stage": "canary"}),
        ]


# Dead letters


def test_dead_letters_are_kept_counted_and_bounded(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recording, "MAX_DEAD_LETTERS", 5)
    for number in range(8):
        store.dead_letter("fl/v1/pump-1/up/tel", b"%d" % number, "not JSON", NOW_MS)
    store.dead_letter("not/ours", b"x" * 100_000, "no topic of ours", NOW_MS)
    letters = store.dead_letters()
    assert [letter.payload[:1] for letter in letters] == [b"4", b"5", b"6", b"7", b"x"]
    assert (letters[-1].device, letters[-1].size_bytes) == ("", 100_000)
    assert len(letters[-1].payload) == recording.DEAD_LETTER_BYTES
    assert [(item.device, item.dead_letters) for item in store.counts()] == [("pump-1", 8)]


# Time


def test_a_good_clock_is_believed():
    event = Clock(mono_ms=0, wall_ms=NOW_MS - 3_600_000)
    sent = Clock(mono_ms=5, wall_ms=NOW_MS - 1000)
    assert event_time_ms(event, sent, NOW_MS) == NOW_MS - 3_600_000


@pytest.mark.parametrize("wall_ms", [0, 2 * NOW_MS])
def test_a_bad_clock_is_replaced_by_the_monotonic_difference(wall_ms: int):
    event = Clock(mono_ms=10_000, wall_ms=wall_ms)
    sent = Clock(mono_ms=70_000, wall_ms=wall_ms + 60_000)
    assert event_time_ms(event, sent, NOW_MS) == NOW_MS - 60_000


def test_after_a_restart_the_monotonic_difference_means_nothing():
    event = Clock(mono_ms=9_000_000, wall_ms=1_000)
    sent = Clock(mono_ms=2_000, wall_ms=61_000)
    assert event_time_ms(event, sent, NOW_MS) == NOW_MS - 60_000


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
)
def test_no_clock_puts_an_event_far_into_the_future_or_outside_the_database(
    event_mono: int, event_wall: int, sent_mono: int, sent_wall: int
):
    event = Clock(mono_ms=event_mono, wall_ms=event_wall)
    sent = Clock(mono_ms=sent_mono, wall_ms=sent_wall)
    at_ms = event_time_ms(event, sent, NOW_MS)
    assert -(2**63) <= at_ms <= NOW_MS + 300_000
    assert event_time_ms(event, None, NOW_MS) == NOW_MS


# Durability and errors


def test_every_connection_syncs_and_checks_foreign_keys(store: Store):
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_the_file_is_for_its_owner_only(store: Store):
    store.record("pump-1", "tel", window(1), NOW_MS)
    for file in store.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0


def test_a_killed_writer_leaves_what_it_had_returned_for(tmp_path: Path):
    code = """
import os, sys
from tests.cloud.fleet.test_store import Store, incoming, window
store = Store(sys.argv[1])
store.record_many([incoming(window(seq)) for seq in range(1, 101)])
print("done", flush=True)
with store.transaction():
    store.record_many([incoming(window(seq)) for seq in range(101, 201)])
    os.kill(os.getpid(), 9)
"""
    path = tmp_path / "store.sqlite"
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, check=False
    )
    assert result.stdout == b"done\n", result.stderr.decode()
    assert result.returncode == -9
    with Store(path) as store:
        assert [item.window.seq for item in store.windows()] == list(range(1, 101))


def test_a_transaction_is_whole_or_nothing(store: Store):
    def fail() -> None:
        with store.transaction():
            store.record("pump-1", "tel", window(1), NOW_MS)
            store.put_presence("pump-1", Presence(boot=1, online=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.windows() == []
    assert store.presence() == {}
    assert store.record("pump-1", "tel", window(1), NOW_MS) == "stored"


def test_threads_share_a_store(store: Store):
    def write(device: str) -> None:
        for seq in range(1, 26):
            store.record(device, "tel", window(seq), NOW_MS)
            store.windows(device)

    threads = [threading.Thread(target=write, args=(f"pump-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [item.stored for item in store.counts()] == [25] * 4


def test_another_process_sees_what_is_stored(store: Store):
    with Store(store.path) as other:
        store.record("pump-1", "tel", window(1), NOW_MS)
        assert len(other.windows()) == 1
        other.record("pump-1", "tel", window(2), NOW_MS)
        assert len(store.windows()) == 2


def test_a_full_disk_is_told_and_undone(store: Store):
    store.record("pump-1", "tel", window(1), NOW_MS)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    big = [incoming(window(seq, model="x" * 4000)) for seq in range(2, 200)]
    with pytest.raises(EnvironmentFaultError, match="full") as caught:
        store.record_many(big)
    assert caught.value.advice
    assert [item.window.seq for item in store.windows()] == [1]
    store._writer.execute("PRAGMA max_page_count = 1000000")
    store.record_many(big)
    assert len(store.windows()) == 199


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00junk" * 99])
def test_a_file_that_is_no_store_is_told_and_left_alone(tmp_path: Path, content: bytes):
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(EnvironmentFaultError, match=r"store\.sqlite") as caught:
        Store(path)
    assert caught.value.advice
    assert path.read_bytes() == content


def test_a_damaged_store_is_told(store: Store):
    store.record_many([incoming(window(seq)) for seq in range(1, 500)])
    store.close()
    data = bytearray(store.path.read_bytes())
    data[4096:40_960] = b"\xff" * (40_960 - 4096)
    store.path.write_bytes(data)
    with pytest.raises(EnvironmentFaultError, match="damaged"), Store(store.path) as again:
        again.windows()


def test_a_newer_schema_is_told_and_left_alone(store: Store):
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(EnvironmentFaultError, match="schema 99") as caught:
        Store(store.path)
    assert "Update" in caught.value.advice


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFaultError):
        Store(tmp_path / "file" / "store.sqlite")
