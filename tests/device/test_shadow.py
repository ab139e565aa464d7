"""A challenger beside the champion: counted rightly, within its budget, never felt."""

import threading
import time

import msgspec
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.devices import (
    OTHER_KEY,
    WEIGHTS,
    Device,
    dense_signature,
    desired,
    make_bundle,
    sha256_hex,
)
from tests.support.file_server import serving
from tests.support.waiting import wait_until

from fieldloop.codec import Prediction
from fieldloop.histogram import unpack_counts
from fieldloop.signature import Signature, TargetSpec, TensorSpec
from fieldloop.state import ShadowWish
from fieldloop.telemetry import DIFFERENCE_EDGES, TelemetryWindow
from fieldloop_device import shadow as shadow_module
from fieldloop_device.agent import Agent
from fieldloop_device.shadow_tally import ShadowTally, question, said

SAME = make_bundle(2)
OPPOSITE = make_bundle(3, weights=-WEIGHTS)
GREEDY = "[shadow]\ncpu_share = 1.0\n"


def value_signature(count=1):
    return Signature(
        task="regression",
        inputs=(TensorSpec(name="x", shape=(-1, 2), dtype="float32"),),
        outputs=(TensorSpec(name="value", shape=(-1, count), dtype="float32", role="value"),),
        targets=tuple(TargetSpec(name=f"t{number}") for number in range(count)),
    )


# Counting

labels = st.sampled_from(["good", "bad"])


@given(st.lists(st.tuples(labels, labels), max_size=40))
def test_agreement_is_counted_by_the_champions_class(pairs):
    tally = ShadowTally(dense_signature(), "m")
    for old, new in pairs:
        tally.record([(old, None)], [(new, None)], 1.0)
    counts = tally.cut()
    if not pairs:
        assert counts is None
        return
    for row, label in enumerate(("good", "bad")):
        of_class = [new for old, new in pairs if old == label]
        assert counts.agreed_counts[row] == of_class.count(label)
        assert counts.differed_counts[row] == len(of_class) - of_class.count(label)
    assert counts.row_count == len(pairs)
    assert sum(item for item in counts.latency_counts if item > 0) == len(pairs)
    assert tally.cut() is None


def test_differences_of_values_are_summed_and_counted():
    tally = ShadowTally(value_signature(2), "m")
    tally.record([(None, 1.0), (None, 10.0)], [(None, 1.5), (None, 10.0)], 1.0)
    tally.record([(None, 2.0), (None, 10.0)], [(None, 0.0), (None, float("nan"))], 1.0)
    counts = tally.cut()
    assert counts.difference_sums == (2.5, 0.0)
    assert counts.error_counts == {"NotFinite": 1}
    cells = [
        unpack_counts(row, cell_count=len(DIFFERENCE_EDGES) + 1) for row in counts.difference_counts
    ]
    assert [sum(row) for row in cells] == [2, 1]
    assert cells[0][np.searchsorted(DIFFERENCE_EDGES, 0.5, side="right")] == 1
    assert cells[1][0] == 1


def test_what_a_model_answers_is_compared_before_what_it_answers():
    assert question(dense_signature()) == [False]
    assert question(value_signature(2)) == [True, True]
    assert said(Prediction(label="good", outputs={})) == [("good", None)]


# Beside a running agent


def flash_shadow(device, bundle):
    device.root.shadow.write_bytes(bundle)


def running(tmp_path, bundle, settings=GREEDY):
    device = Device(tmp_path / "device", settings=settings)
    flash_shadow(device, bundle)
    return Agent(device.path)


def feed(agent, *, until, timeout_s=60.0):
    """Predict again and again; return the windows that were stored."""
    end = time.monotonic() + timeout_s
    generator = np.random.default_rng(0)
    while not until():
        assert time.monotonic() < end, agent.shadow.error
        agent.predict(generator.normal(size=2).tolist())
        time.sleep(0.001)


def shadows(agent):
    """What all windows so far say about the challenger."""
    agent.record(cut=True)
    rows = [row.message() for row in agent.outbox.pending(limit=10_000)]
    return [row.shadow for row in rows if isinstance(row, TelemetryWindow) and row.shadow]


def started(agent):
    wait_until(lambda: agent.shadow.sha256 or agent.shadow.error, timeout_s=60)
    assert agent.shadow.error == ""


@pytest.mark.parametrize(("bundle", "agrees"), [(SAME, True), (OPPOSITE, False)])
def test_agreement_goes_home_in_telemetry(tmp_path, bundle, agrees):
    with running(tmp_path, bundle) as agent:
        started(agent)
        feed(agent, until=lambda: sum(item.row_count for item in shadows(agent)) > 20)
        seen = shadows(agent)
    assert {item.model for item in seen} == {sha256_hex(bundle)[:16]}
    agreed = sum(sum(item.agreed_counts) for item in seen)
    differed = sum(sum(item.differed_counts) for item in seen)
    assert (agreed > 20, differed > 20) == (agrees, not agrees)
    assert 0 in (agreed, differed)
    assert all(not item.error_counts for item in seen)


def test_the_champions_answers_are_the_same_with_and_without(tmp_path):
    rows = np.random.default_rng(1).normal(size=(300, 2)).tolist()
    with Agent(Device(tmp_path / "alone").path) as agent:
        alone = [agent.predict(row) for row in rows]
    with running(tmp_path, OPPOSITE) as agent:
        started(agent)
        feed(agent, until=lambda: agent.shadow.is_hungry)
        beside = [agent.predict(row) for row in rows]
        feed(agent, until=lambda: shadows(agent))
    for old, new in zip(alone, beside, strict=True):
        assert (old.label, old.probabilities) == (new.label, new.probabilities)


def test_its_share_of_a_core_is_kept(tmp_path):
    share = 0.05
    with running(tmp_path, SAME, settings="[shadow]\ncpu_share = 0.05\n") as agent:
        begin = time.monotonic()
        started(agent)
        child = psutil.Process(agent.shadow._process._process.pid)
        agent.shadow._rest = counting_rest(agent.shadow)
        feed(agent, until=lambda: agent.shadow.rests >= 20)
        used_s = agent.shadow.cpu_s
        times = child.cpu_times()
        elapsed_s = time.monotonic() - begin
    assert used_s > 0
    assert used_s <= share * elapsed_s * 1.1
    assert times.user + times.system <= share * elapsed_s * 1.2  # what the kernel counted


def counting_rest(shadow):
    rest = type(shadow)._rest
    shadow.rests = 0

    def counted(cost_s):
        rest(shadow, cost_s)
        shadow.rests += 1

    return counted


def test_a_challenger_that_does_not_answer_delays_nobody(tmp_path, monkeypatch):
    asked, release = threading.Event(), threading.Event()

    def stuck(self, request):
        asked.set()
        release.wait(30)
        raise shadow_module.ModelRuntimeError("late")

    monkeypatch.setattr(shadow_module.ShadowProcess, "ask", stuck)
    with running(tmp_path, SAME) as agent:
        started(agent)
        feed(agent, until=asked.is_set)
        # While it is stuck every answer comes: none waits for the mailbox.
        answers = [agent.predict([1.0, 2.0]).label for _ in range(200)]
        assert not release.is_set()
        release.set()
    assert answers == ["bad"] * 200


def test_a_crash_never_touches_the_champion_and_is_counted(tmp_path):
    with running(tmp_path, SAME) as agent:
        for _ in range(shadow_module.MAX_CRASHES):
            wait_until(lambda: agent.shadow.sha256, timeout_s=60)
            process = agent.shadow._process
            process._process.kill()  # as a segmentation fault would
            feed(agent, until=lambda dead=process: agent.shadow._process is not dead)
        wait_until(lambda: agent.shadow.error, timeout_s=60)
        assert "died with 9" in agent.shadow.error
        assert agent.predict([1.0, 2.0]).label == "bad"
        seen = shadows(agent)
    assert sum(item.error_counts.get("Crash", 0) for item in seen) == shadow_module.MAX_CRASHES


@pytest.mark.parametrize(
    ("bundle", "word"),
    [
        (make_bundle(2, key=OTHER_KEY), "trusted"),
        (make_bundle(2, golden_wrong_by=0.5), "golden"),
        (make_bundle(2, device_classes=("pi4",)), "pi4"),
        (SAME[:-200], ""),
    ],
)
def test_what_is_not_sound_never_runs(tmp_path, bundle, word):
    with running(tmp_path, bundle) as agent:
        wait_until(lambda: agent.shadow.error, timeout_s=60)
        assert word in agent.shadow.error
        assert agent.predict([1.0, 2.0]).label == "bad"
        agent.record()
        kinds = [row.message().kind for row in agent.outbox.pending() if row.stream == "evt"]
        assert "shadow-failed" in kinds
        assert agent.shadow.sha256 == ""


def test_a_promoted_challenger_ends(tmp_path):
    with running(tmp_path, make_bundle()) as agent:
        wait_until(
            lambda: agent.shadow._thread and not agent.shadow._thread.is_alive(), timeout_s=60
        )
        assert agent.shadow.error == ""


# From home


def wish(bundle, server):
    return ShadowWish(sha256=sha256_hex(bundle), size_bytes=len(bundle), url=server.url)


def wanted(made, bundle, server, *, ver):
    state = desired(made.device.bundle, "http://127.0.0.1:1/", ver=ver)
    shadow = None if bundle is None else wish(bundle, server)
    return msgspec.structs.replace(state, shadow=shadow)


def test_a_wish_brings_a_challenger_and_the_next_takes_it_away(bench):
    made = bench(settings=GREEDY)
    agent = made.start()
    with serving(SAME) as server:
        made.cloud.want(wanted(made, SAME, server, ver=1))
        agent._update()
    assert made.device.root.shadow.read_bytes() == SAME
    wait_until(lambda: agent.shadow.sha256, timeout_s=60)
    agent.report()
    made.talk()
    assert made.cloud.last_report().shadow_sha256 == sha256_hex(SAME)
    assert made.cloud.last_report().running_sha256 == made.device.sha256
    made.cloud.want(wanted(made, None, None, ver=2))
    agent._update()
    assert not made.device.root.shadow.exists()
    assert agent.shadow.sha256 == ""


def test_an_old_wish_changes_nothing(bench):
    made = bench()
    agent = made.start()
    made.cloud.want(wanted(made, None, None, ver=5))
    agent._update()
    with serving(SAME) as server:
        made.cloud.want(wanted(made, SAME, server, ver=4))
        agent._update()
        assert server.requests == []
    flash_shadow(made.device, SAME)
    made.cloud.want(wanted(made, None, None, ver=5))  # heard again at every connection
    agent._update()
    assert made.device.root.shadow.exists()


@pytest.mark.parametrize(
    "bundle", [make_bundle(2, key=OTHER_KEY), make_bundle(2, device_classes=("pi4",))]
)
def test_a_challenger_that_is_not_trusted_is_refused_and_reported(bench, bundle):
    made = bench()
    agent = made.start()
    with serving(bundle) as server:
        made.cloud.want(wanted(made, bundle, server, ver=1))
        agent._update()
        agent._update()
        assert len(server.requests) == 1
    made.talk()
    assert not made.device.root.shadow.exists()
    assert made.cloud.last_report().shadow_error
    assert made.cloud.last_report().phase == "committed"


def test_a_network_that_is_away_is_tried_again(bench):
    made = bench()
    agent = made.start()
    with serving(SAME) as server:
        server.cut_after = 100
        made.cloud.want(wanted(made, SAME, server, ver=1))
        agent._update()
        assert agent.shadow_place.error
        server.cut_after = None
        made.clock.advance(60_000)
        agent._update()
    assert made.device.root.shadow.read_bytes() == SAME
    assert agent.shadow_place.error == ""
