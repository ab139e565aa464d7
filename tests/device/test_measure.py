import itertools
import json

import msgspec
import pytest
from click.testing import CliRunner
from tests.support.devices import (
    OTHER_KEY,
    Device,
    make_bundle,
    sha256_hex,
    trust,
    two_variants,
)

from fieldloop.errors import ModelRuntimeError, TrustError
from fieldloop.measured import Latency, Measured, VariantMeasurement
from fieldloop.native import core_count
from fieldloop_device.agent import Agent
from fieldloop_device.cli import main
from fieldloop_device.config import RuntimeSection
from fieldloop_device.measure import measure
from fieldloop_device.measured import read_latencies

BROKEN = b"\x1c\0\0\0TFL3" + b"\0" * 64


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "model.flb"
    path.write_bytes(two_variants())
    return path


def quick(path, **options):
    return measure(path, trust=trust(), interval_ms=1, run_count=50, **options)


def test_every_variant_is_measured_with_every_number_of_threads(bundle):
    seen = []
    result = quick(bundle, thread_counts=(1, 2, 10_000), progress=seen.append)
    combinations = [(item.precision, item.num_threads) for item in result.variants]
    threads = range(1, min(2, core_count()) + 1)
    assert combinations == list(itertools.product(("float16", "float32"), threads))
    assert len(seen) == len(combinations)
    assert result.backend.startswith("ai-edge-litert")
    assert result.device_class == "x86"
    assert result.sha256 == sha256_hex(bundle.read_bytes())
    for item in result.variants:
        assert item.arena_bytes == {"float16": 96, "float32": 64}[item.precision]
        assert 0 < item.full_speed.p50_ms <= item.full_speed.p90_ms <= item.full_speed.p99_ms
        assert item.cold_start_ms > item.open_ms > 0
        assert item.peak_rss_bytes > max(item.rss_bytes, 1 << 20)
        assert item.first_ms > 0
        assert (item.full_speed.run_count, item.duty_cycle.run_count) == (50, 50)


def test_every_delegate_is_measured(bundle):
    result = quick(bundle, delegates=("xnnpack", "none"))
    found = [(item.precision, item.delegate) for item in result.variants]
    assert found == [(p, d) for p in ("float16", "float32") for d in ("xnnpack", "none")]
    refused = quick(bundle, delegates=("none", "/missing/delegate.so"))
    assert [item.delegate for item in refused.variants] == ["none", "none"]
    assert "delegate cannot be loaded" in refused.failures["float32"]


def test_a_variant_that_does_not_run_is_a_result(tmp_path):
    path = tmp_path / "model.flb"
    path.write_bytes(two_variants(BROKEN))
    result = quick(path)
    assert [item.precision for item in result.variants] == ["float32"]
    assert set(result.failures) == {"float16"}


def test_nothing_that_runs_is_an_error(tmp_path):
    path = tmp_path / "model.flb"
    path.write_bytes(make_bundle())
    with pytest.raises(ModelRuntimeError, match="no variant runs here"):
        quick(path, backend="tflite-runtime")


def test_an_untrusted_bundle_is_not_even_run(tmp_path):
    path = tmp_path / "model.flb"
    path.write_bytes(make_bundle(key=OTHER_KEY))
    with pytest.raises(TrustError):
        quick(path)


def document(sha256, **latencies):
    def item(precision, p50):
        latency = Latency(p50_ms=p50, p90_ms=p50, p99_ms=p50, run_count=1)
        return VariantMeasurement(
            precision=precision,
            num_threads=1,
            open_ms=1,
            first_ms=1,
            full_speed=latency,
            duty_cycle=latency,
            interval_ms=1,
            rss_bytes=1,
        )

    return Measured(
        sha256=sha256, variants=tuple(item(name, value) for name, value in latencies.items())
    )


def test_measurements_count_only_for_their_own_bundle_and_settings(tmp_path):
    path, here = tmp_path / "measured.json", RuntimeSection()
    assert read_latencies(path, "a" * 64, here) == {}
    path.write_bytes(msgspec.json.encode(document("a" * 64, float32=2.0, int8=1.0)))
    assert read_latencies(path, "a" * 64, here) == {"float32": 2.0, "int8": 1.0}
    assert read_latencies(path, "b" * 64, here) == {}
    for other in ({"num_threads": 2}, {"xnnpack": False}, {"delegate": "/lib/edgetpu.so"}):
        assert read_latencies(path, "a" * 64, RuntimeSection(**other)) == {}
    path.write_text("{")
    assert read_latencies(path, "a" * 64, here) == {}


@pytest.mark.parametrize("fastest", ["float16", "float32"])
def test_the_agent_runs_what_was_measured_fastest_here(tmp_path, fastest):
    device = Device(tmp_path / "device", bundle=two_variants())
    slow = {"float16": 2.0, "float32": 2.0, fastest: 1.0}
    device.root.measured.write_bytes(msgspec.json.encode(document(device.sha256, **slow)))
    with Agent(device.path) as agent:
        assert agent.status.precision == fastest


def invoke(*arguments):
    return CliRunner().invoke(main, ["measure", *map(str, arguments)])


def test_the_command_keeps_the_result_in_the_root(tmp_path):
    device = Device(tmp_path / "device")
    out = tmp_path / "pi4.json"
    result = invoke("--root", device.path, "--interval-ms", 1, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(out.read_bytes())
    assert set(read_latencies(device.root.measured, device.sha256, RuntimeSection())) == {"float32"}


def test_the_command_needs_trust_and_sense(bundle, tmp_path):
    assert invoke(bundle).exit_code == 2
    assert invoke().exit_code == 2
    device = Device(tmp_path / "device")
    assert invoke("--root", device.path, "--threads", "many").exit_code == 2
    assert invoke("--root", device.path, "--threads", "0").exit_code == 2
