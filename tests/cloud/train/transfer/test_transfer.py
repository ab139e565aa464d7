"""Transfer, end to end: trained by phases, put behind features, converted, run on both runtimes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fieldloop.errors import ConfigError, DataError
from fieldloop.interpreter import open_engine
from fieldloop_cloud.cli.pretrain import pretrain_command
from fieldloop_cloud.compile.keras import compiler
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets import NetSettings, estimate, train_net
from fieldloop_cloud.train.transfer.feature_head import train_on_features
from fieldloop_cloud.train.transfer.plan import plan_transfer
from fieldloop_cloud.train.transfer.pretrain import pretrain

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
CONVERTED = ["MobileNet", "MobileNetV3Small", "EfficientNetB0"]
"""The whole table is `tools/bench/families.md`."""


def few(data, count):
    """`count` rows a class, and 300 of the others."""
    order = np.random.default_rng(0).permutation(len(data))
    train = np.concatenate([order[data.y[order] == c][:count] for c in range(len(data.labels))])
    return data.take(train), data.take(np.setdiff1d(order, train)[:300])


@pytest.fixture(scope="module")
def plan(digits, letters):
    return plan_transfer(digits.image, len(digits.labels), weights=letters.path)


def test_a_backbone_of_ones_own_says_what_it_is(plan, letters):
    assert (plan.member, plan.alpha, plan.cut, plan.side) == ("MobileNetV2", 0.35, "stage3", 32)
    assert letters.score.value > 5 / 37
    facts = json.loads((Path(letters.path) / "backbone.json").read_text())
    assert facts["source"] == "glyphs"


def test_a_transfer_net_is_trained_in_two_phases(plan, digits):
    train, test = few(digits, 10)
    net = train_net(
        plan,
        train,
        validation=test,
        settings=NetSettings(epochs=6, learning_rate=3e-3, batch_size=16),
        precisions=("float32", "int8"),
    )
    assert [epoch.phase for epoch in net.history] == sorted(
        (epoch.phase for epoch in net.history), key=["head", "fine-tune"].index
    )
    assert {epoch.phase for epoch in net.history} == {"head", "fine-tune"}
    assert net.score.low > 0.3
    compiled = net.compile_to("float32")
    assert compiled.evidence.deviation["probabilities"] < 1e-4
    # Raw pixels, as the device gives them: 0 … 16, eight by eight, grey.
    raw = np.round(16 * test.X[:5]).astype(int).tolist()
    said = compiled.run(raw)["probabilities"]
    np.testing.assert_allclose(said, net.answers[:5], atol=1e-3)
    assert net.compile_to("int8").signature.image == digits.image


def test_the_cost_is_known_before_the_weights_are_there(plan):
    cost = estimate(plan)
    assert cost.mac_count > 100_000
    assert cost.weight_bytes > 4 * 20_000


@pytest.mark.parametrize("head", ["logistic", "svm"])
def test_features_and_a_classical_head_become_one_flatbuffer(head, plan, digits, tflite214):
    train, test = few(digits, 5)
    model = train_on_features(plan, train, probes=test.X, head=head, precisions=("float32", "int8"))
    compiled = model.compile_to("float32")
    assert compiled.evidence.label_changes == 0
    said = compiled.run_encoded(test.X)
    assert (said["label"] == test.y).mean() > 0.5
    for precision in ("float32", "int8"):
        made = model.compile_to(precision)
        engine = open_engine(made.tflite)
        here = engine.run([test.X])[0]
        engine.close()
        there = tflite214.run(made.tflite, [test.X])[0][0]
        assert (here == there).mean() > 0.97, precision
        assert (here == said["label"]).mean() > 0.9, precision


def test_features_need_weights_images_and_a_known_head(plan, digits):
    train, test = few(digits, 3)
    with pytest.raises(ConfigError, match="learned nothing"):
        train_on_features(plan.drawn(), train, probes=test.X)
    with pytest.raises(ConfigError, match="no head 'tree'"):
        train_on_features(plan, train, probes=test.X, head="tree")
    iris = Dataset.load("sklearn:iris")
    with pytest.raises(DataError, match="takes images"):
        train_on_features(plan, iris, probes=iris.X)


def test_a_fault_in_the_worker_comes_back_typed(plan, digits, tmp_path):
    train, test = few(digits, 3)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"PK not really")
    with pytest.raises(DataError, match="weights file is damaged"):
        train_on_features(
            plan_transfer(digits.image, 10, weights=str(broken), alpha=0.35),
            train,
            probes=test.X,
        )
    wrong = plan_transfer(digits.image, 10, weights=plan.weights, fine_tune="stage9")
    with pytest.raises(ConfigError, match="no stage 'stage9'"):
        train_net(wrong, train, validation=test, settings=NetSettings(epochs=1))


def test_the_command_pretrains_on_ones_own_pictures(tmp_path):
    out = tmp_path / "backbone"
    told = CliRunner().invoke(
        pretrain_command,
        ["sklearn:digits", "-o", str(out), "--epochs", "5", "--cut", "stage2", "--json"],
        catch_exceptions=False,
    )
    assert told.exit_code == 0
    said = json.loads(told.stdout.splitlines()[-1])
    assert said["facts"]["source"] == "digits"
    assert (out / "backbone.keras").exists()
    with pytest.raises(ConfigError, match="a backbone already"):
        CliRunner().invoke(pretrain_command, ["-o", str(out)], catch_exceptions=False)


def test_a_source_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="classes of images"):
        pretrain(tmp_path / "backbone", Dataset.load("sklearn:iris"))
    assert not (tmp_path / "backbone").exists()


@pytest.fixture(scope="module")
def saved(ask):
    members, job = ask(
        "untrained_nets", members=["MobileNet", "MobileNetV3Small", "EfficientNetB0"]
    )
    return {member: job / f"{member}.keras" for member in members}


@pytest.mark.parametrize("member", CONVERTED)
def test_families_convert_and_load_in_both_runtimes(member, saved, tflite214):
    X = np.random.default_rng(0).random((4, 32, 32, 3)).astype(np.float32)
    compile_to = compiler(saved[member], ("float32", "dynamic", "int8"), example=X)
    reference = compile_to("float32")
    assert reference.evidence.deviation["probabilities"] < 1e-4
    sizes = []
    for precision in ("float32", "dynamic", "int8"):
        made = compile_to(precision).tflite
        sizes.append(len(made))
        there = tflite214.run(made, [X])[0][0]
        np.testing.assert_allclose(there.sum(axis=1), 1.0, atol=0.05)
        if precision == "float32":
            expected = reference.run_encoded(X)["probabilities"]
            np.testing.assert_allclose(there, expected, atol=1e-3)
    assert max(sizes[1:]) < 0.45 * sizes[0]


@pytest.mark.timeout(900)  # a busy machine is not a failure
def test_transfer_beats_scratch_with_five_labels_a_class(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, str(ROOT / "tools/bench/transfer.py"), "--quick", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=840)
    found = json.loads(out.read_text())["5"]
    for way in ("fine-tuned", "features"):
        (_, low, _), (_, _, high) = found[way], found["scratch"]
        assert low > high, (way, found)
