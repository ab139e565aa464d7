"""Device classes: the packaged ones are sound, own ones are checked."""

import msgspec
import pytest

from fieldloop.errors import ConfigError
from fieldloop.measured import Latency, Measured, VariantMeasurement
from fieldloop_cloud.release.targets import load_target, target_names


def test_the_packaged_targets_load_under_their_own_names():
    assert target_names() == ("mcu", "pi3", "pi4", "x86")
    for name in target_names():
        assert load_target(name).name == name
    assert load_target("mcu").max_model_bytes < load_target("pi3").max_model_bytes


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="no target 'pi9'") as caught:
        load_target("pi9")
    assert "mcu, pi3, pi4, x86" in caught.value.advice


OWN = """
name = "gate-7"
runtime = "tflite-runtime"
runtime_version = "2.14.0"
precisions = ["int8"]
ram_bytes = 1000
flash_bytes = 1000
max_model_bytes = 500
latency_budget_ms = 5.0
"""


def test_an_own_target_is_taken_from_its_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    assert load_target(path).name == "gate-7"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"gate-7"', '"Gate 7"', "name"),
        ('"2.14.0"', '"new"', "runtime_version"),
        ('["int8"]', "[]", "precisions"),
        ('["int8"]', '["int4"]', "int4"),
        ("max_model_bytes = 500", "max_model_bytes = 5000", "max_model_bytes"),
        ("latency_budget_ms = 5.0", "latency_budget_ms = nan", "latency_budget_ms"),
        ("ram_bytes = 1000", "ram_bytes = -1", "ram_bytes"),
        ("ram_bytes = 1000", "", "ram_bytes"),
        ("name =", "nane =", "nane"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path, old, new, said):
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError, match=said) as caught:
        load_target(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_target(tmp_path / "none.toml")


def measurement(path, *, workstation_p90_ms=0.1, **changes):
    duty = Latency(p50_ms=0.3, p90_ms=0.5, p99_ms=1.0, run_count=50)
    variant = VariantMeasurement(
        precision="float32",
        num_threads=1,
        open_ms=1,
        first_ms=1,
        full_speed=Latency(p50_ms=0.1, p90_ms=0.1, p99_ms=0.1, run_count=500),
        duty_cycle=duty,
        interval_ms=100,
        rss_bytes=1,
        workstation_p90_ms=workstation_p90_ms,
    )
    values = {"sha256": "a" * 64, "device_class": "pi4", "variants": (variant,), **changes}
    path.write_bytes(msgspec.json.encode(Measured(**values)))
    return path


def test_a_measurement_on_the_device_corrects_its_class(tmp_path):
    path = measurement(tmp_path / "pi4.json", failures={"int16x8": "no such kernel"})
    found, base = load_target(path), load_target("pi4")
    assert found.relative_latency == pytest.approx(5.0)
    assert "int16x8" not in found.precisions
    assert found.name == "pi4"
    assert found.latency_budget_ms == base.latency_budget_ms


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workstation_p90_ms": None}, "how fast it was on the workstation"),
        ({"device_class": "toaster"}, "no target 'toaster'"),
        ({"variants": ()}, "how fast it was"),
    ],
)
def test_a_measurement_that_says_too_little_is_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        load_target(measurement(tmp_path / "pi4.json", **changes))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_file_that_is_no_measurement_is_refused(tmp_path, content):
    path = tmp_path / "pi4.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="no measurement"):
        load_target(path)
