"""Models of several targets or inputs: from the bundle to the device's telemetry, and back."""

import json

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from tests.support import tiny_models
from tests.support.devices import Device

import fieldloop_cloud as fl
from fieldloop import wire
from fieldloop.bundle import from_blob, unpack
from fieldloop.clock import SystemClock
from fieldloop.errors import ConfigError, DataError, SignatureError, UnsupportedError
from fieldloop.integrity import TrustPolicy
from fieldloop.signature import FeatureSpec, ImageSpec, Signature, TargetSpec, TensorSpec
from fieldloop.telemetry import FieldSample, TelemetryWindow
from fieldloop_cloud.cli.app import fieldloop as commands
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.fleet.counts import FieldWindow, count_windows, references_of
from fieldloop_cloud.fleet.estimate import estimated_accuracy
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key
from fieldloop_device import Runtime
from fieldloop_device.cli import main as device_commands
from fieldloop_device.config import load_config
from fieldloop_device.sampling import Sampler
from fieldloop_device.selftest import replay, run_in_child
from fieldloop_device.serving import Serving

X, Y = load_iris(return_X_y=True)
TRUTH = np.column_stack([Y, (X[:, 0] > 5.8).astype(int)])
LABELS = {"species": ["setosa", "versicolor", "virginica"], "is_long": [False, True]}
WORDS = np.array(
    [[LABELS["species"][a], LABELS["is_long"][b]] for a, b in TRUTH.tolist()], dtype=object
)


@pytest.fixture(scope="module")
def model():
    return MultiOutputClassifier(LogisticRegression(max_iter=300, C=0.05)).fit(X[::2], TRUTH[::2])


@pytest.fixture(scope="module")
def compiled(model):
    return fl.to_tflite(model, example=X[::2], labels=LABELS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home") / "fleet")


@pytest.fixture(scope="module")
def released(compiled, home):
    return bundled(compiled, home, reference=X[1::2], truth=WORDS[1::2])


def bundled(compiled, home, **options):
    made = fl.bundle(compiled, name="own", home=home, device_classes=["x86"], **options)
    trust = TrustPolicy(keys=(public_key(home),))
    return made, unpack(made.path.read_bytes(), trust=trust), trust


def named(numbers):
    return [(LABELS["species"][a], LABELS["is_long"][b]) for a, b in numbers.tolist()]


def test_the_device_answers_every_target(model, compiled, released):
    assert [tuple(row) for row in compiled.run(X)["label"].tolist()] == named(model.predict(X))
    made, content, trust = released
    with Runtime.open(made.path, trust=trust) as runtime:
        said = [runtime.predict(row.tolist()) for row in X]
        assert runtime.predict_batch(X)[7].answer == said[7].answer
        assert replay(runtime).golden_count == 16
    assert [answer.answer for answer in said] == named(model.predict(X))
    for place, expected in enumerate(model.predict_proba(X)):
        got = [answer.targets[place].probabilities for answer in said]
        np.testing.assert_allclose(got, expected, atol=1e-5)
    golden = from_blob(content.golden[0].outputs[0])
    assert len(np.unique(golden, axis=0)) > 3  # every combination that there is takes its turn


def test_the_profile_and_the_scores_are_of_each_target(model, released):
    _, content, _ = released
    profile = content.profile
    assert [(item.name, item.class_count) for item in profile.targets] == [
        ("species", 3),
        ("is_long", 2),
    ]
    said = model.predict(X[1::2])
    assert profile.class_counts == (*np.bincount(said[:, 0]), *np.bincount(said[:, 1]))
    right = (said == TRUTH[1::2]).mean(axis=0)
    told = content.lineage.gate["reference"]
    assert f"species: accuracy {right[0]:.4f}" in told
    assert f"is_long: accuracy {right[1]:.4f}" in told
    assert content.manifest.variants[0].score is None


def test_telemetry_counts_every_target(model, released):
    made, content, trust = released
    serving = Serving(SystemClock(), sampler)
    serving.activate(Runtime.open(made.path, trust=trust))
    rows = X[1::2]
    for row in rows:
        serving.predict(row.tolist())
    (window,) = serving.cut()
    window = wire.decode(TelemetryWindow, wire.encode(window))
    item = FieldWindow(device="d", at_ms=0, window=window)
    references = references_of(content.profile)
    counted = count_windows(references, [item])
    for place, name in enumerate(LABELS):
        expected = np.bincount(model.predict(rows)[:, place])
        assert counted[f"prediction.class.{name}"].tolist() == [expected.tolist()]
        quantity = f"prediction.confidence.{name}"
        np.testing.assert_array_equal(counted[quantity][0], references[quantity])
    guess = estimated_accuracy(content.profile, [item])
    assert guess.row_count == len(rows)
    assert guess.low < (model.predict(rows) == TRUTH[1::2]).mean() < guess.high
    assert guess.low < guess.accuracy < guess.high


def test_feedback_is_right_when_every_target_is(released):
    made, _, trust = released
    serving = Serving(SystemClock(), sampler)
    serving.activate(Runtime.open(made.path, trust=trust))
    species, is_long = serving.predict(X[0].tolist(), input_id="a").answer
    for wrong in ("setosa", ["setosa"], True):
        with pytest.raises(ConfigError, match="2 targets"):
            serving.feedback("a", wrong)
    assert serving.feedback("a", [species, is_long])
    serving.predict(X[0].tolist(), input_id="b")
    assert not serving.feedback("b", [species, not is_long])
    (sample,) = serving.take_samples()[:1]
    assert sample.predicted == (species, is_long)
    again = wire.decode(FieldSample, wire.encode(sample))
    assert again.predicted == (species, is_long)
    serving.activate(None)


def test_the_commands_show_every_target(released, home, tmp_path):
    made, _, _ = released
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(X[:2].tolist()))
    keys = tmp_path / "keys.pem"
    keys.write_bytes(public_key(home).to_pem())
    arguments = ["predict", str(made.path), str(rows), "--trusted", str(keys)]
    text = CliRunner().invoke(device_commands, arguments).output.splitlines()
    assert text[0].startswith("0  setosa, False  0.")
    line = CliRunner().invoke(device_commands, [*arguments, "--json"]).output.splitlines()[1]
    answer = json.loads(line)
    assert (answer["label"], len(answer["targets"][0]["probabilities"])) == (None, 3)
    assert [each["label"] for each in answer["targets"]] == ["setosa", False]
    shown = CliRunner().invoke(commands, ["inspect", str(made.path), "--trusted", str(keys)]).output
    assert "target species" in shown
    assert "setosa, versicolor, virginica" in shown


def test_labels_of_several_targets_cannot_come_back_yet(released, home, tmp_path):
    made, content, trust = released
    with pytest.raises(UnsupportedError, match="one target, and this one has 2"):
        _ = content.signature.labels
    serving = Serving(SystemClock(), sampler)
    serving.activate(Runtime.open(made.path, trust=trust))
    serving.predict(X[0].tolist())
    (sample,) = serving.take_samples()
    with Store(home.store_file) as store:
        store.record("d", "smp", msgspec.structs.replace(sample, seq=1))
    out, table = tmp_path / "out.csv", tmp_path / "samples.csv"
    table.write_text(f"device,sample_id,label\nd,{sample.sample_id},1\n")
    for arguments in (["export", "-o", str(out)], ["import", str(table)]):
        result = CliRunner().invoke(commands, ["label", *arguments, "--home", str(home.path)])
        assert isinstance(result.exception, UnsupportedError), result.output
    assert not out.exists()
    serving.activate(None)


def test_values_of_several_targets(home):
    model = LinearRegression().fit(X, np.column_stack([X[:, 0], 2 * X[:, 1]]))
    compiled = fl.to_tflite(model, example=X)
    truth = np.column_stack([X[:, 0], 2 * X[:, 1]])
    made, content, trust = bundled(compiled, home, reference=X, truth=truth)
    assert content.profile.targets == ()
    assert "target_1: r2 1.0000" in content.lineage.gate["reference"]
    with Runtime.open(made.path, trust=trust) as runtime:
        assert runtime.predict(X[3].tolist()).answer == pytest.approx(tuple(truth[3]), abs=1e-4)


@pytest.mark.parametrize(
    ("truth", "said"),
    [(WORDS[:, 0], "one column for each target"), (WORDS[:9], r"\(150, 2\)"), (X[:, :2], "label")],
)
def test_a_truth_that_does_not_fit_is_refused(compiled, home, truth, said):
    with pytest.raises(DataError, match=said):
        bundled(compiled, home, reference=X, truth=truth)


@pytest.mark.parametrize(
    "labels",
    [["a", "b"], {"species": LABELS["species"]}, [["a", "b", "c"], ["only"]], ["abc", "ab"]],
)
def test_names_that_do_not_fit_the_targets_are_refused(model, labels):
    with pytest.raises(ConfigError, match=r"labels|classes"):
        fl.to_tflite(model, example=X, labels=labels)


PICTURES = np.random.default_rng(1).uniform(0, 255, size=(40, 4, 2)).round()
WEATHER = np.random.default_rng(2).normal(size=(40, 2)).round(3)


@pytest.fixture(scope="module")
def two_inputs():
    """A picture and a row go in, a class and a number come out."""
    signature = Signature(
        task="classification",
        inputs=(
            TensorSpec(name="picture", shape=(-1, 4, 2, 1), dtype="float32"),
            TensorSpec(name="weather", shape=(-1, 2), dtype="float32"),
        ),
        outputs=(
            TensorSpec(
                name="fault", shape=(-1, 3), dtype="float32", role="probabilities", target=0
            ),
            TensorSpec(name="wear", shape=(-1, 1), dtype="float32", role="value", target=1),
        ),
        features=(FeatureSpec(name="t"), FeatureSpec(name="wind")),
        image=ImageSpec(height=4, width=2, channels=1, scale=1 / 255),
        targets=(TargetSpec(name="fault", labels=("no", "crack", "rust")), TargetSpec(name="wear")),
    )
    evidence = Evidence(original="by hand", row_count=0)
    return Compiled(tiny_models.build("several"), signature, evidence, "float32")


def expected_of_two_inputs():
    logits = PICTURES.reshape(-1, 8) / 255 @ tiny_models.PICTURE_WEIGHTS.T
    wear = WEATHER @ tiny_models.WEATHER_WEIGHTS.T + 0.5
    return np.array(["no", "crack", "rust"])[logits.argmax(axis=1)], wear[:, 0]


def test_a_model_with_two_inputs_goes_the_whole_way(two_inputs, home, tmp_path):
    faults, wear = expected_of_two_inputs()
    batch = {"picture": PICTURES, "weather": WEATHER}
    np.testing.assert_allclose(two_inputs.run(batch)["wear"][:, 0], wear, atol=1e-5)
    truth = np.column_stack([faults.astype(object), wear])
    made, content, trust = bundled(two_inputs, home, reference=batch, truth=truth)
    assert [blob.shape for blob in content.golden[0].inputs] == [(16, 4, 2, 1), (16, 2)]
    assert len(content.profile.quantities) == 5 + 2
    assert "fault: accuracy 1.0000" in content.lineage.gate["reference"]
    with Runtime.open(made.path, trust=trust) as runtime:
        for row in range(5):
            raw = {
                "picture": PICTURES[row],
                "weather": {"wind": WEATHER[row, 1], "t": WEATHER[row, 0]},
            }
            assert runtime.predict(raw).answer == (faults[row], pytest.approx(wear[row], abs=1e-5))
        assert [each.targets[0].label for each in runtime.predict_batch(batch)] == faults.tolist()
        outside = {"picture": PICTURES[0], "weather": [99.0, 0.0]}
        assert runtime.predict(outside).out_of_range == ("t",)
        with pytest.raises(SignatureError, match="picture"):
            runtime.predict({"weather": [1, 2]})
        assert replay(runtime).golden_count == 16
    device = Device(tmp_path / "device", bundle=made.path.read_bytes())
    device.root.trusted.write_bytes(public_key(home).to_pem())
    assert run_in_child(device.root, "a", load_config(device.root)).max_deviation <= 1e-4


def test_the_command_takes_two_inputs(two_inputs, home, tmp_path):
    made, _, _ = bundled(two_inputs, home, reference={"picture": PICTURES, "weather": WEATHER})
    row = {"picture": PICTURES[3].tolist(), "weather": {"t": WEATHER[3, 0], "wind": WEATHER[3, 1]}}
    rows, keys = tmp_path / "rows.jsonl", tmp_path / "keys.pem"
    rows.write_text(json.dumps(row) + "\n" + json.dumps({"id": "a", "x": row}) + "\n")
    keys.write_bytes(public_key(home).to_pem())
    arguments = ["predict", str(made.path), str(rows), "--trusted", str(keys)]
    first, second = CliRunner().invoke(device_commands, arguments).output.splitlines()
    assert first[1:] == second[1:]
    assert first.startswith(f"0  {expected_of_two_inputs()[0][3]}, ")


def test_a_sample_of_two_inputs_can_be_answered_again(two_inputs, home):
    batch = {"picture": PICTURES, "weather": WEATHER}
    made, _, trust = bundled(two_inputs, home, reference=batch)
    serving = Serving(SystemClock(), sampler)
    serving.activate(Runtime.open(made.path, trust=trust))
    raw = {"picture": PICTURES[0], "weather": {"t": WEATHER[0, 0], "wind": WEATHER[0, 1]}}
    said = serving.predict(raw)
    (sample,) = serving.take_samples()
    sent = wire.decode(FieldSample, wire.encode(sample))
    assert two_inputs.codec.encode_row(sent.raw) == pytest.approx(two_inputs.codec.encode_row(raw))
    assert sent.predicted == said.answer
    serving.activate(None)


def sampler(runtime):
    return Sampler(
        runtime.signature,
        budget_per_day=1000,
        random_rate=1.0,
        uncertain_below=0.5,
        allowed=True,
        seed=0,
    )
