"""A run becomes a signed release: reproducible, readable, and only where it can run."""

import dataclasses

import msgspec
import pytest

import fieldloop_cloud as fl
from fieldloop.bundle import unpack
from fieldloop.errors import CompatibilityError, ConfigError, EnvironmentFaultError
from fieldloop.integrity import TrustPolicy
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.release import builder
from fieldloop_cloud.release.builder import bundle, incompatibilities
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key
from fieldloop_cloud.release.targets import load_target


@pytest.fixture(scope="module")
def run():
    return fl.train(fl.Dataset.load("sklearn:iris"), candidates=["logistic"])


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "fleet")


def test_the_bundle_holds_what_the_run_chose(run, home, tmp_path):
    made = bundle(run, name="iris", home=home, parent_sha256="ab" * 32, out=tmp_path / "m.flb")
    assert (tmp_path / "m.flb").read_bytes() == home.release_file(made.sha256).read_bytes()
    content = unpack(made.path.read_bytes(), trust=TrustPolicy(keys=(public_key(home),)))
    assert content.sha256 == made.sha256
    assert (content.manifest.name, content.manifest.release) == ("iris", 1)
    assert content.manifest.device_classes == ("x86",)
    assert content.models["float32"] == run.chosen.compiled.tflite
    assert content.signature == run.signature
    assert content.profile == run.profile
    assert content.lineage.parent_sha256 == "ab" * 32
    assert content.lineage.data_sha256 == run.data_sha256
    variant = content.manifest.variants[0]
    facts = inspect(run.chosen.compiled.tflite)
    assert variant.op_versions == dict(facts.op_versions)
    assert variant.arena_bytes == facts.arena_bytes > 0
    assert variant.score == run.score("float32")
    assert {item.precision for item in content.golden} == {"float32"}


def test_a_saved_run_gives_the_same_bytes_but_the_number(run, tmp_path):
    home = Home(tmp_path / "fleet")
    first = bundle(run, name="iris", home=home)
    second = bundle(fl.Run.load(run.save(tmp_path / "run").path), name="iris", home=home)
    assert (first.release, second.release) == (1, 2)
    assert first.sha256 != second.sha256
    home.counter_file.write_text("0\n")
    assert bundle(run, name="iris", home=home).sha256 == first.sha256


def _with(run, **changes):
    """Return the run with a changed chosen variant; its flatbuffer stays."""
    chosen = msgspec.structs.replace(run.chosen, **changes)
    front = tuple(chosen if item.name == run.chosen.name else item for item in run.front)
    return msgspec.structs.replace(run, chosen=chosen, front=front)


OLD = """
name = "old"
runtime = "tflite-runtime"
runtime_version = "2.5.0"
precisions = ["float32"]
ram_bytes = 100_000_000
flash_bytes = 100_000_000
max_model_bytes = 10_000_000
latency_budget_ms = 50.0
"""


def test_an_op_that_is_too_new_is_named_with_runtime_and_remedy(run, home, tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(OLD)
    with pytest.raises(CompatibilityError) as caught:
        bundle(run, name="iris", home=home, device_classes=("x86", path))
    assert "FULLY_CONNECTED version" in caught.value.what
    assert "tflite-runtime with the ops of 2.5.0" in caught.value.what
    assert "device class" in caught.value.advice
    assert not home.path.exists()


def test_every_reason_against_a_device_class_is_said(run):
    facts = inspect(run.chosen.compiled.tflite)
    assert incompatibilities("float32", facts, load_target("x86")) == []
    tiny = msgspec.structs.replace(load_target("mcu"), max_model_bytes=10)
    problems = incompatibilities("float32", facts, tiny)
    assert ["not float32" in problems[0], "bytes are more than the 10" in problems[1]] == [True] * 2


def test_a_variant_that_one_class_cannot_run_is_left_out_with_the_reason(run, home):
    compiled = dataclasses.replace(run.chosen.compiled, precision="int8")
    eight = msgspec.structs.replace(run.chosen, precision="int8", compiled=compiled)
    both = msgspec.structs.replace(
        run,
        front=(*run.front[:1], eight),
        golden=(*run.golden, msgspec.structs.replace(run.golden[0], precision="int8")),
    )
    made = bundle(both, name="iris", home=home, device_classes=("pi4", "mcu"))
    assert made.precisions == ("int8",)
    assert made.left_out == {"float32": "mcu runs int8, not float32"}


@pytest.mark.parametrize("name", ["", "Iris", "a b", "../x", "a" * 65])
def test_a_wrong_name_or_class_is_refused_before_anything_is_made(run, home, name):
    with pytest.raises(ConfigError):
        bundle(run, name=name, home=home)
    with pytest.raises(ConfigError, match="no target"):
        bundle(run, name="iris", home=home, device_classes=("pi9",))
    assert not home.path.exists()


def test_what_else_is_wrong_is_found_before_a_release_is_published(run, home, tmp_path):
    (tmp_path / "file").touch()
    for options, error in (
        ({"parent_sha256": "abc"}, ConfigError),
        ({"out": tmp_path}, ConfigError),
        ({"out": tmp_path / "file" / "m.flb"}, EnvironmentFaultError),
    ):
        with pytest.raises(error):
            bundle(run, name="iris", home=home, **options)
    assert not home.path.exists()


def test_a_failed_write_publishes_nothing_and_its_number_is_never_used_again(
    run, home, monkeypatch
):
    def full(*_: object) -> None:
        raise EnvironmentFaultError("cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(builder, "write_file", full)
        with pytest.raises(EnvironmentFaultError):
            bundle(run, name="iris", home=home)
    assert list(home.releases.iterdir()) == []
    assert bundle(run, name="iris", home=home).release == 2
