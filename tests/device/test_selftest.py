import os
import threading

import pytest
from tests.support.devices import Device, dense_model, golden_set, make_bundle, trust

from fieldloop.bundle import from_blob, to_blob
from fieldloop.errors import GateError
from fieldloop_device import selftest
from fieldloop_device.config import load_config
from fieldloop_device.runtime import Runtime
from fieldloop_device.selftest import replay, run_in_child


def child(device, slot="a", **options):
    return run_in_child(device.root, slot, load_config(device.root), **options)


def test_a_sound_bundle_gets_a_receipt(tmp_path):
    device = Device(tmp_path / "device")
    receipt = child(device)
    assert receipt.sha256 == device.sha256
    assert receipt.max_deviation <= 1e-5
    assert receipt.p95_latency_ms > 0
    assert receipt.golden_count == 8


def test_wrong_answers_are_named(tmp_path):
    device = Device(tmp_path / "device", bundle=make_bundle(golden_wrong_by=0.25))
    with pytest.raises(GateError, match=r"'probabilities': it deviates by 0\.25"):
        child(device)


def test_an_unsigned_slot_is_never_replayed(tmp_path):
    device = Device(tmp_path / "device")
    slot = device.root.slot("a")
    slot.write_bytes(slot.read_bytes()[:-1] + b"\0")
    with pytest.raises(GateError, match="changed after signing"):
        child(device)


def test_a_device_that_allows_less_latency_says_no(tmp_path):
    device = Device(tmp_path / "device", settings="[update]\nmax_latency_ms = 1e-7\n")
    with pytest.raises(GateError, match="are allowed"):
        child(device)


def test_a_child_without_enough_memory_is_a_failed_test_and_no_more(tmp_path):
    device = Device(tmp_path / "device", settings="[update]\nself_test_memory_bytes = 1000000\n")
    with pytest.raises(GateError):
        child(device)


def test_a_child_that_hangs_is_ended(tmp_path):
    device = Device(tmp_path / "device", settings="[update]\nself_test_timeout_s = 0.05\n")
    with pytest.raises(GateError, match="did not end within"):
        child(device)


def test_a_child_can_be_stopped(tmp_path):
    stop = threading.Event()
    stop.set()
    assert child(Device(tmp_path / "device"), is_cancelled=stop.is_set) is None


@pytest.mark.parametrize(("code", "how"), [("os.abort()", "signal 6"), ("sys.exit(3)", "code 3")])
def test_a_model_that_kills_its_process_takes_no_agent_with_it(tmp_path, monkeypatch, code, how):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\nexec /usr/bin/env python3 -c 'import os, sys; {code}'\n")
    fake.chmod(0o755)
    monkeypatch.setattr(selftest.sys, "executable", str(fake))
    with pytest.raises(GateError, match=how):
        child(Device(tmp_path / "device"))


def replayed(golden):
    model = dense_model()
    with Runtime.open(make_bundle(model=model, golden=golden), trust=trust()) as runtime:
        return replay(runtime)


def changed(change):
    golden = golden_set(dense_model())
    output = from_blob(golden.outputs[0])
    return type(golden)(
        precision="float32",
        inputs=golden.inputs,
        outputs=(to_blob(change(output)),),
        tolerance=golden.tolerance,
    )


def test_one_wrong_value_among_many_is_found():
    def spoil(output):
        output[-1, -1] += 2e-4
        return output

    with pytest.raises(GateError, match="deviates"):
        replayed(changed(spoil))


def test_another_shape_is_found():
    with pytest.raises(GateError, match="shape"):
        replayed(changed(lambda output: output[:, :1]))


def test_nan_where_a_number_belongs_is_found():
    def spoil(output):
        output[0, 0] = float("nan")
        return output

    with pytest.raises(GateError, match="inf"):
        replayed(changed(spoil))


def test_the_child_gets_no_more_threads_than_it_needs():
    assert selftest.child_environment()["OPENBLAS_NUM_THREADS"] == "1"
    assert selftest.child_environment()["PATH"] == os.environ["PATH"]
