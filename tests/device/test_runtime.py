import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from tests.support.devices import (
    KEY,
    OTHER_KEY,
    Device,
    make_bundle,
    sha256_hex,
    trust,
    two_variants,
)

from fieldloop.errors import (
    BundleError,
    CompatibilityError,
    ConfigError,
    ModelRuntimeError,
    SignatureError,
    TrustError,
)
from fieldloop.integrity import TrustPolicy
from fieldloop_device.runtime import Runtime


@pytest.fixture
def runtime():
    with Runtime.open(make_bundle(), trust=trust()) as opened:
        yield opened


def test_it_answers_raw_rows_of_every_kind(runtime):
    for raw in (
        {"voltage": 2.0, "current": 1.0},
        [1.0, 2.0],
        (1, 2),
        np.array([1.0, 2.0]),
    ):
        prediction = runtime.predict(raw)
        assert prediction.label == "bad"
        assert prediction.confidence == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
        assert prediction.latency_ms > 0
    assert runtime.predict([9.0, 0.0]).out_of_range == ("current",)


def test_a_batch_gives_the_same_answers_as_single_rows(runtime):
    rows = np.random.default_rng(0).normal(size=(17, 2)).tolist()
    batch = runtime.predict_batch(rows)
    single = [runtime.predict(row).probabilities for row in rows]
    np.testing.assert_allclose([item.probabilities for item in batch], single, rtol=1e-6)


def test_it_knows_what_it_runs(runtime):
    assert runtime.sha256 == sha256_hex(make_bundle())
    assert (runtime.release, runtime.precision) == (1, "float32")
    assert runtime.backend.startswith("ai-edge-litert")


def test_a_wrong_row_is_the_users_error_and_the_next_one_is_answered(runtime):
    with pytest.raises(SignatureError, match="2"):
        runtime.predict([1.0])
    assert runtime.predict([1.0, 2.0]).label == "bad"


def test_threads_share_it_without_mixing_rows(runtime):
    wrong = []

    def ask(sign):
        answers = [runtime.predict([-sign, sign]).label for _ in range(300)]
        wrong.extend(answer for answer in answers if answer != ("bad" if sign > 0 else "good"))

    threads = [threading.Thread(target=ask, args=(sign,)) for sign in (1.0, -1.0, 2.0, -2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_closed_runtime_says_so(runtime):
    runtime.close()
    runtime.close()
    with pytest.raises(ModelRuntimeError, match="closed"):
        runtime.predict([1.0, 2.0])


def test_nobody_is_trusted_by_default(tmp_path):
    path = tmp_path / "model.flb"
    path.write_bytes(make_bundle())
    with pytest.raises(ConfigError, match="trusted keys"):
        Runtime.open(path)


def test_a_root_brings_its_own_trust(tmp_path):
    device = Device(tmp_path / "device")
    other = tmp_path / "other.flb"
    other.write_bytes(make_bundle(device_classes=("mcu",)))
    with Runtime.open_root(device.path) as runtime:
        assert runtime.sha256 == device.sha256
    with pytest.raises(CompatibilityError, match="mcu"):
        Runtime.open(other, device_root=device.path)


def test_a_root_that_was_never_flashed_says_what_to_do(tmp_path):
    device = Device(tmp_path / "device", bundle=b"")
    with pytest.raises(ConfigError, match="fieldloop flash"):
        Runtime.open_root(device.path)


def damaged(data, kind):
    if kind == "truncated":
        return data[:-100]
    if kind == "flipped":
        return data[:-1] + bytes([data[-1] ^ 1])
    if kind == "empty":
        return b""
    return b"hello" * 1000


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_bundle_is_never_loaded(kind):
    with pytest.raises(BundleError):
        Runtime.open(damaged(make_bundle(), kind), trust=trust())


def test_another_signer_and_a_downgrade_are_refused():
    with pytest.raises(TrustError):
        Runtime.open(make_bundle(key=OTHER_KEY), trust=trust())
    with pytest.raises(TrustError):
        Runtime.open(make_bundle(1), trust=trust(release_floor=2))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"nowhere\.flb"):
        Runtime.open(tmp_path / "nowhere.flb", trust=trust())


def test_a_newer_runtime_is_asked_for():
    policy = TrustPolicy(keys=(KEY.public,), runtime_version="2.14.0")
    with pytest.raises(CompatibilityError, match=r"2\.19"):
        Runtime.open(make_bundle(min_runtime="2.19.0"), trust=policy)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (None, "float16"),
        ({"float32": 1.0, "float16": 2.0}, "float32"),
        ({"float32": 2.0, "float16": 1.0}, "float16"),
        ({"float32": 2.0}, "float32"),
    ],
)
def test_the_fastest_measured_variant_runs_or_else_the_first(measured, expected):
    with Runtime.open(two_variants(), trust=trust(), measured=measured) as runtime:
        assert runtime.precision == expected
        assert runtime.predict([1.0, 2.0]).label == ("bad" if expected == "float32" else "good")


def test_a_variant_that_does_not_load_leaves_the_next_one():
    broken = b"\x1c\0\0\0TFL3" + b"\0" * 64
    with Runtime.open(two_variants(broken), trust=trust()) as runtime:
        assert runtime.precision == "float32"


def test_one_variant_may_be_asked_for():
    with Runtime.open(two_variants(), trust=trust(), precision="float32") as runtime:
        assert runtime.precision == "float32"
    with pytest.raises(ConfigError, match="int8"):
        Runtime.open(two_variants(), trust=trust(), precision="int8")
    broken = b"\x1c\0\0\0TFL3" + b"\0" * 64
    with pytest.raises(ModelRuntimeError):
        Runtime.open(two_variants(broken), trust=trust(), precision="float16")


def test_opening_a_bundle_imports_neither_mqtt_nor_a_training_framework(tmp_path):
    device = Device(tmp_path / "device")
    code = (
        "import sys\n"
        "from fieldloop_device import Runtime\n"
        "with Runtime.open_root(sys.argv[1]) as runtime: runtime.predict([1.0, 2.0])\n"
        "loud = {'paho', 'tensorflow', 'keras', 'sklearn', 'PIL', 'click'} & set(sys.modules)\n"
        "print(sorted(loud))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(device.path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FIELDLOOP_BACKEND": "ai-edge-litert"},
    )
    assert done.stdout.strip() == "[]"


def test_values_out_of_range_are_flagged_rejected_or_clipped():
    bundle, far = make_bundle(), [9.0, 0.0]
    answers = {}
    for policy in ("flag", "clip"):
        with Runtime.open(bundle, trust=trust(), out_of_range=policy) as opened:
            answers[policy] = opened.predict(far)
            assert answers[policy].out_of_range == ("current",)
            assert opened.predict_batch([far])[0].probabilities == pytest.approx(
                answers[policy].probabilities
            )
            clipped = opened.predict([5.0, 0.0])
    assert answers["clip"].probabilities == clipped.probabilities
    assert answers["flag"].probabilities != clipped.probabilities
    with Runtime.open(bundle, trust=trust(), out_of_range="reject") as opened:
        assert opened.predict([1.0, 2.0]).label == "bad"
        with pytest.raises(SignatureError, match=r"9 lies outside -5 … 5.*'current'"):
            opened.predict(far)


@pytest.mark.parametrize("wrong", [{"out_of_range": "ignore"}, {"isolation": "container"}])
def test_an_unknown_way_to_run_is_refused(wrong):
    with pytest.raises(ConfigError, match="Use one of"):
        Runtime.open(make_bundle(), trust=trust(), **wrong)
