"""A model trained elsewhere becomes a bundle that answers as the original does."""

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import fieldloop_cloud as fl
from fieldloop.bundle import from_blob, unpack
from fieldloop.errors import ConfigError, DataError, InputError, SignatureError
from fieldloop.integrity import TrustPolicy
from fieldloop.signature import ImageSpec
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key
from fieldloop_device import Runtime

X, Y = load_iris(return_X_y=True)
WORDS = np.array(["setosa", "versicolor", "virginica"])[Y]


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "fleet")


@pytest.fixture(scope="module")
def forest():
    return RandomForestClassifier(20, random_state=0).fit(X[::2], WORDS[::2])


@pytest.fixture(scope="module")
def compiled(forest):
    return fl.to_tflite(forest, example=X[::2])


def bundled(compiled, home, **options):
    made = fl.bundle(compiled, name="own", home=home, device_classes=["x86"], **options)
    trust = TrustPolicy(keys=(public_key(home),))
    return made, unpack(made.path.read_bytes(), trust=trust), trust


def test_the_device_answers_as_scikit_learn_does(forest, compiled, home):
    made, content, trust = bundled(compiled, home, reference=X[1::2], truth=WORDS[1::2])
    with Runtime.open(made.path, trust=trust) as runtime:
        said = [runtime.predict(row.tolist()) for row in X]
    assert [answer.label for answer in said] == forest.predict(X).tolist()
    np.testing.assert_allclose(
        [answer.probabilities for answer in said], forest.predict_proba(X), atol=1e-5
    )
    assert content.models["float32"] == compiled.tflite
    assert content.manifest.device_classes == ("x86",)


def test_the_profile_and_the_score_are_those_of_the_reference_rows(forest, compiled, home):
    rows, words = X[1::2], WORDS[1::2]
    _, content, _ = bundled(compiled, home, reference=rows, truth=words)
    profile, said = content.profile, forest.predict(rows)
    assert profile.row_count == len(rows)
    assert profile.class_counts == tuple(int((said == word).sum()) for word in np.unique(WORDS))
    assert np.sum(profile.confidence_counts) == len(rows)
    assert len(profile.confidence_accuracy) == 3
    for quantity, column in zip(profile.quantities, rows.T, strict=True):
        assert (quantity.low, quantity.high) == pytest.approx((column.min(), column.max()))
        assert sum(quantity.counts) == len(rows)
    accuracy = float(np.mean(said == words))
    assert content.manifest.variants[0].score == pytest.approx(accuracy)
    assert f"accuracy {accuracy:.4f} [" in content.lineage.gate["reference"]
    assert "compared with its original (sklearn RandomForest" in content.lineage.gate["parity"]
    assert (content.lineage.candidate, content.lineage.metric) == (
        "RandomForestClassifier",
        "accuracy",
    )
    assert len(content.lineage.data_sha256) == 64
    assert "scikit-learn" in content.lineage.tools


def test_ranges_cover_the_example_and_the_reference(compiled, home):
    _, content, _ = bundled(compiled, home, reference=X[1::2] + np.array([0.0, 5.0, 0.0, 0.0]))
    low, high = X[::2].min(axis=0), X.max(axis=0)
    high[1] = X[1::2, 1].max() + 5.0
    spec = content.signature.features[1]
    assert (spec.low, spec.high) == pytest.approx((low[1], high[1]))


def test_golden_answers_cover_the_labels_and_avoid_near_ties(compiled, home):
    _, content, _ = bundled(compiled, home, reference=X)
    golden = content.golden[0]
    outputs = dict(
        zip(
            [o.role for o in content.signature.outputs], map(from_blob, golden.outputs), strict=True
        )
    )
    assert set(outputs["label"].tolist()) == {0, 1, 2}
    best = np.sort(outputs["probabilities"], axis=1)
    assert (best[:, -1] - best[:, -2]).min() > 2e-3
    assert len(from_blob(golden.inputs[0])) == 16


def test_without_truth_nothing_is_claimed_about_accuracy(compiled, home):
    _, content, _ = bundled(compiled, home, reference=X)
    assert content.profile.confidence_accuracy == ()
    assert content.profile.confidence_counts
    assert content.manifest.variants[0].score is None
    assert content.lineage.metric == ""
    assert "no truth was given" in content.lineage.gate["reference"]


def test_the_same_model_and_rows_give_the_same_bytes(compiled, home):
    first, _, _ = bundled(compiled, home, reference=X, truth=WORDS)
    home.counter_file.write_text("0\n")
    assert (
        bundled(compiled, home, reference=X.tolist(), truth=list(WORDS))[0].sha256 == first.sha256
    )


def test_class_numbers_are_taken_where_the_labels_are_text(home):
    model = LogisticRegression(max_iter=500).fit(X, Y)
    compiled = fl.to_tflite(model, example=X, labels=("a", "b", "c"))
    _, content, _ = bundled(compiled, home, reference=X, truth=Y)
    assert content.manifest.variants[0].score == pytest.approx(model.score(X, Y))


def test_raw_rows_with_categories_and_encoded_ones_are_the_same_reference(home):
    frame = pd.DataFrame({"fuel": ["gas", "oil", "oil", "gas"] * 10, "speed": np.arange(40.0)})
    fuel = ColumnTransformer([("fuel", OneHotEncoder(), ["fuel"])], remainder="passthrough")
    model = make_pipeline(fuel, LogisticRegression()).fit(frame, frame["fuel"] == "oil")
    compiled = fl.to_tflite(model, example=frame)
    raw, content, _ = bundled(compiled, home, reference=frame, truth=frame["fuel"] == "oil")
    assert sum(content.profile.quantities[0].counts) == 40
    home.counter_file.write_text("0\n")
    encoded = compiled.encode(frame)
    again, _, _ = bundled(compiled, home, reference=encoded, truth=frame["fuel"] == "oil")
    assert again.sha256 == raw.sha256
    with pytest.raises(DataError, match="no number that the model"):
        bundled(compiled, home, reference=encoded + np.float32(0.5))


def test_a_regression_is_scored_by_r2_and_a_transformer_not_at_all(home):
    rows, values = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(rows, values)
    _, content, _ = bundled(fl.to_tflite(model, example=rows), home, reference=rows, truth=values)
    assert content.lineage.metric == "r2"
    assert content.manifest.variants[0].score == pytest.approx(model.score(rows, values), abs=1e-4)
    several = LinearRegression().fit(rows, np.column_stack([values, -values]))
    for other, said in ((several, "for each target"), (PCA(2).fit(rows), "no single answer")):
        compiled = fl.to_tflite(other, example=rows)
        made, content, trust = bundled(compiled, home, reference=rows)
        with Runtime.open(made.path, trust=trust) as runtime:
            assert runtime.predict(rows[0].tolist()).label is None
        assert len(content.profile.quantities) == rows.shape[1]
        with pytest.raises(InputError, match=said):
            bundled(compiled, home, reference=rows, truth=values)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({}, ConfigError, "needs reference rows"),
        ({"reference": X[:0]}, DataError, "no reference rows"),
        ({"reference": X[:, :3]}, SignatureError, "array of shape"),
        ({"reference": [["a", 1, 2, 3]]}, SignatureError, "where a number belongs"),
        ({"reference": X, "truth": WORDS[1:]}, DataError, "149 true answers for 150"),
        ({"reference": X, "truth": ["rose", *WORDS[1:]]}, DataError, "'rose' is no label"),
        ({"reference": X, "truth": WORDS[:, None]}, DataError, "no label"),
        ({"reference": X, "truth": 5}, DataError, "no list of answers but int"),
        ({"reference": X, "truth": "setosa"}, DataError, "no list of answers but str"),
        ({"reference": X, "device_classes": ()}, ConfigError, "which devices"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(compiled, home, options, kind, said):
    with pytest.raises(kind, match=said) as caught:
        fl.bundle(compiled, **{"name": "own", "home": home, "device_classes": ["x86"], **options})
    assert isinstance(caught.value, InputError)
    assert caught.value.advice
    assert not home.path.exists()


@pytest.mark.parametrize(
    "model", [KMeans(3, n_init=1, random_state=0), IsolationForest(n_estimators=9, random_state=0)]
)
def test_clusters_and_anomalies_are_bundled_too(model, home):
    model.fit(X)
    made, content, trust = bundled(fl.to_tflite(model, example=X), home, reference=X)
    with Runtime.open(made.path, trust=trust) as runtime:
        assert [runtime.predict(row.tolist()).label for row in X] == model.predict(X).tolist()
    labels = content.signature.labels
    assert content.profile.class_counts == tuple((model.predict(X) == k).sum() for k in labels)


def test_raw_pictures_and_encoded_ones_are_the_same_reference(home):
    pixels, digit = load_digits(return_X_y=True)
    image = ImageSpec(height=8, width=8, channels=1, max_value=16.0, scale=1 / 16)
    model = RandomForestClassifier(5, random_state=0).fit(pixels / 16, digit)
    compiled = fl.to_tflite(model, example=pixels / 16, image=image)
    pictures = pixels.reshape(-1, 8, 8).astype(np.uint8)
    made = set()
    for rows in (pixels / 16, (pixels / 16).reshape(-1, 8, 8, 1), pictures):
        one, content, _ = bundled(compiled, home, reference=rows, truth=digit)
        made.add(one.sha256)
        home.counter_file.write_text("0\n")
    assert len(made) == 1
    assert content.profile.quantities[0].name == "image.mean"
    with pytest.raises(DataError, match="64 numbers a row"):
        bundled(compiled, home, reference=pixels[:, :60] / 16)


def test_a_model_that_is_not_compiled_is_refused(forest, home):
    with pytest.raises(ConfigError, match="not from RandomForestClassifier"):
        fl.bundle(forest, name="own", home=home, device_classes=["x86"], reference=X)


def test_a_run_with_reference_rows_is_refused(home):
    run = fl.train(fl.Dataset.load("sklearn:iris"), candidates=["logistic"])
    with pytest.raises(ConfigError, match="its own reference rows"):
        fl.bundle(run, name="iris", home=home, reference=X)
