import contextlib
import threading
import time

import pytest
from tests.support.devices import WEIGHTS, Device, desired, make_bundle, sha256_hex, trust
from tests.support.file_server import serving
from tests.support.waiting import wait_until

from fieldloop.device_root import read_active
from fieldloop.errors import (
    ConfigError,
    EnvironmentFaultError,
    ModelRuntimeError,
    SignatureError,
)
from fieldloop.histogram import unpack_counts
from fieldloop.telemetry import FieldSample, TelemetryWindow
from fieldloop.testing.transport import InMemoryTransport
from fieldloop_device.agent import Agent
from fieldloop_device.runtime import Runtime
from fieldloop_device.status import read_status

NEW = make_bundle(2, weights=-WEIGHTS)


def windows(cloud):
    return [item for item in cloud.messages if isinstance(item, TelemetryWindow)]


def test_a_window_is_cut_when_it_is_due_and_not_before(bench):
    made = bench(settings="[telemetry]\nwindow_s = 30\n")
    agent = made.start()
    for _ in range(5):
        agent.predict([1.0, 2.0])
    made.clock.advance(29_000)
    made.talk()
    assert windows(made.cloud) == []
    made.clock.advance(1_000)
    made.talk()
    (window,) = windows(made.cloud)
    assert (window.prediction_count, window.model) == (5, made.device.sha256[:16])
    assert window.end.mono_ms - window.start.mono_ms == 30_000
    assert agent.outbox.count == 0


def test_rejected_and_failed_inputs_are_told_apart(bench):
    made = bench()
    agent = made.start()
    with pytest.raises(SignatureError):
        agent.predict([1.0])
    agent.reject()
    agent.serving.runtime._engine.close()
    with pytest.raises(ModelRuntimeError):
        agent.predict([1.0, 2.0])
    agent.record(cut=True)
    agent.pump()
    (window,) = windows(made.cloud)
    assert window.rejected_count == 2
    assert window.error_counts == {"ModelRuntimeError": 1}


def test_feedback_is_counted_once(bench):
    made = bench()
    agent = made.start()
    agent.predict([1.0, 2.0], input_id="x")
    agent.predict([2.0, 1.0], input_id="y")
    assert agent.feedback("x", "bad") is True
    assert agent.feedback("y", "bad") is False
    with pytest.raises(ConfigError, match="'x'"):
        agent.feedback("x", "bad")
    agent.record(cut=True)
    agent.pump()
    (window,) = windows(made.cloud)
    assert (window.feedback_count, window.feedback_correct_count) == (2, 1)


def test_samples_go_home_with_their_inputs_name(bench):
    made = bench(settings="[telemetry]\nsample_random_rate = 1.0\n")
    agent = made.start()
    agent.predict([1.0, 2.0], input_id="scan-7")
    agent.predict([1.0, 2.0])
    agent.record(cut=True)
    agent.pump()
    samples = [item for item in made.cloud.messages if isinstance(item, FieldSample)]
    assert samples[0].sample_id == "scan-7"
    assert samples[0].raw == [1.0, 2.0]
    assert agent.outbox.samples_on(made.clock.wall_ms) == len(samples)


def test_each_start_is_a_new_boot_and_numbers_begin_anew(bench):
    made = bench()
    for boot in (1, 2, 3):
        agent = made.start()
        assert agent.boot == boot
        made.die()
    assert [(event.boot, event.seq) for event in made.cloud.events("boot")] == [
        (1, 1),
        (2, 1),
        (3, 1),
    ]


@pytest.mark.parametrize("lost", ["state", "outbox"])
def test_a_boot_number_is_never_used_twice(bench, lost):
    made = bench()
    made.start()
    made.die()
    made.start()
    made.die()
    if lost == "state":
        made.device.root.state.unlink()
        made.device.root.state_copy.unlink()
    else:
        made.device.root.outbox.unlink()
    assert made.start().boot == 3


def test_what_was_not_sent_is_sent_after_the_restart(bench):
    made = bench()
    agent = made.start()
    made.broker.stop()
    agent.predict([1.0, 2.0])
    agent.record(cut=True)
    made.die()
    made.broker.start()
    made.start()
    (window,) = windows(made.cloud)
    assert (window.boot, window.prediction_count) == (1, 1)


def test_without_a_broker_everything_works_but_the_sending(tmp_path):
    device = Device(
        tmp_path / "device", settings="[broker]\nhost = '127.0.0.1'\nport = 9\ntls = false\n"
    )
    with Agent(device.path) as agent:
        assert agent.predict([1.0, 2.0]).label == "bad"
        agent.record(cut=True)
        assert agent.status.outbox_count >= 2
        assert not agent.status.is_connected
    alone = Device(tmp_path / "alone")
    with Agent(alone.path) as agent:
        assert agent.predict([1.0, 2.0]).label == "bad"
        assert agent.reporter is None


def test_a_rotten_active_slot_leaves_the_other_one(bench):
    made = bench()
    made.start()
    with serving(NEW) as server:
        made.cloud.want(desired(NEW, server.url))
        made.run()
    assert read_active(made.device.path) == "b"
    made.die()
    slot = made.device.root.slot("b")
    data = bytearray(slot.read_bytes())
    data[len(data) // 2] ^= 4
    slot.write_bytes(bytes(data))
    agent = made.start()
    assert agent.running_sha256 == made.device.sha256
    assert read_active(made.device.path) == "a"
    assert "slot b" in made.cloud.events("runtime-error")[0].detail
    assert agent.store.records.floor == 2


def test_a_device_without_a_sound_model_still_takes_an_update(bench):
    made = bench()
    made.device.root.slot("a").write_bytes(b"rotten")
    agent = made.start()
    with pytest.raises(ModelRuntimeError, match="no sound model"):
        agent.predict([1.0, 2.0])
    with serving(NEW) as server:
        made.cloud.want(desired(NEW, server.url))
        for _ in range(20):
            agent.updater.step()
        made.run()
    assert agent.running_sha256 == sha256_hex(NEW)
    assert agent.store.records.job.phase == "committed"


def test_a_committed_bundle_whose_slot_rots_is_fetched_again(bench):
    made = bench()
    made.start()
    with serving(NEW) as server:
        made.cloud.want(desired(NEW, server.url))
        made.run()
        made.die()
        made.device.root.slot("b").write_bytes(b"rotten")
        made.start()
        assert made.agent.running_sha256 == made.device.sha256
        made.run()
    assert made.agent.running_sha256 == sha256_hex(NEW)


def test_two_agents_on_one_root_are_refused(tmp_path):
    device = Device(tmp_path / "device")
    with Agent(device.path), pytest.raises(EnvironmentFaultError, match="another process"):
        Agent(device.path).start()
    with Agent(device.path):
        pass


def test_the_model_is_exchanged_without_dropping_or_mixing_a_request(bench):
    """Threads ask all the time while two models take turns; counts and answers must add up."""
    made = bench()
    agent = made.start()
    stop = threading.Event()
    asked = [0] * 3

    def ask(index):
        while not stop.is_set():
            agent.predict([1.0, 2.0])
            asked[index] += 1

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40):
        bundle = NEW if number % 2 == 0 else made.device.bundle
        agent.activate(Runtime.open(bundle, trust=trust()))
        time.sleep(0.005)
    stop.set()
    for thread in threads:
        thread.join()
    agent.record(cut=True)
    while agent.pump():
        pass
    assert sum(window.prediction_count for window in windows(made.cloud)) == sum(asked)
    # The one model says "bad", the other "good": a window must hold its own model's answers only.
    for window in windows(made.cloud):
        good, bad = (sum(unpack_counts(row, cell_count=9)) for row in window.confidence_counts)
        is_old = window.model == made.device.sha256[:16]
        assert (bad if is_old else good) == window.prediction_count


def test_the_real_threads_do_it_all(tmp_path, bench):
    made = bench(settings="[telemetry]\nwindow_s = 0.1\n")
    agent = Agent(
        made.device.path,
        make_transport=lambda will: InMemoryTransport(made.broker, "pump-1", will=will),
    )
    count = 0
    with agent, serving(NEW) as server:
        made.cloud.want(desired(NEW, server.url))

        def committed():
            nonlocal count
            agent.predict([1.0, 2.0])
            count += 1
            return agent.status.phase == "committed"

        wait_until(committed, timeout_s=60)
    assert made.cloud.last_report().running_sha256 == sha256_hex(NEW)
    assert made.cloud.last_report().phase == "committed"
    assert sum(window.prediction_count for window in windows(made.cloud)) == count
    assert read_status(made.device.root).outbox_count == 0
    assert b'"online":false' in made.cloud.presence[-1]


def test_stopping_while_nobody_listens_keeps_the_last_window(bench):
    made = bench()
    made.broker.stop()
    agent = Agent(
        made.device.path,
        make_transport=lambda will: InMemoryTransport(made.broker, "pump-1", will=will),
    )
    with agent:
        agent.predict([1.0, 2.0])
    made.broker.start()
    made.start()
    assert [window.prediction_count for window in windows(made.cloud)] == [1]


def test_a_step_that_fails_does_not_silence_the_device(bench, monkeypatch, caplog):
    made = bench(settings="[telemetry]\nwindow_s = 0.05\n")
    agent = Agent(made.device.path)
    failures = [RuntimeError("a bug")] * 2
    record = agent.record

    def buggy(**options):
        if failures and threading.current_thread().name == "fieldloop-recorder":
            raise failures.pop()
        record(**options)

    monkeypatch.setattr(agent, "record", buggy)
    with agent:
        agent.predict([1.0, 2.0])
        wait_until(lambda: agent.status.window_count == 1, timeout_s=30)
    assert "a step failed" in caplog.text


def test_the_clock_may_jump(bench):
    made = bench(settings="[telemetry]\nwindow_s = 1\n")
    agent = made.start()
    for wall_ms in (0, 4_000_000_000_000, 1_000):
        made.clock.wall_ms = wall_ms
        made.clock.advance(1_000)
        agent.predict([1.0, 2.0])
        made.talk()
    made.clock.advance(1_000)
    made.talk()
    assert sum(window.prediction_count for window in windows(made.cloud)) == 3


@pytest.mark.parametrize(
    ("policy", "answered", "outside"), [("flag", 2, (1, 0)), ("clip", 2, (1, 0)), ("reject", 1, ())]
)
def test_values_out_of_range_are_counted_under_every_policy(bench, policy, answered, outside):
    made = bench(settings=f"[runtime]\nout_of_range = '{policy}'\n")
    agent = made.start()
    agent.predict([1.0, 2.0])
    with contextlib.suppress(SignatureError):
        agent.predict([9.0, 2.0])
    agent.record(cut=True)
    made.talk()
    window = next(item for item in made.cloud.messages if isinstance(item, TelemetryWindow))
    assert (window.prediction_count, window.rejected_count) == (answered, 2 - answered)
    assert window.out_of_range_counts == outside
