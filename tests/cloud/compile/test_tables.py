"""Tables with text, numbers and missing values: ColumnTransformer, encoders, imputers."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
    TargetEncoder,
)
from tests.support.compile_cases import check_outputs

from fieldloop.errors import SignatureError, UnsupportedError
from fieldloop_cloud.compile.api import to_tflite

RNG = np.random.default_rng(0)
COUNT = 80
FUELS = np.array(["diesel", "petrol", "electric", "gas"])


def frame(*, missing=False):
    table = pd.DataFrame(
        {
            "temperature": RNG.normal(20, 5, COUNT).astype(np.float32).astype(float),
            "fuel": FUELS[RNG.choice(4, COUNT, p=[0.5, 0.3, 0.15, 0.05])],
            "doors": RNG.choice([2, 3, 5], COUNT),
            "pressure": RNG.normal(1e4, 1, COUNT).astype(np.float32).astype(float),
            "towbar": RNG.random(COUNT) > 0.5,
        }
    )
    if missing:
        table.loc[RNG.random(COUNT) < 0.2, "temperature"] = np.nan
        table["fuel"] = table["fuel"].astype(object)
        table.loc[RNG.random(COUNT) < 0.2, "fuel"] = np.nan
    return table


def target(table):
    heat = table["temperature"].fillna(20) > 20
    return np.where(heat ^ (table["fuel"] == "diesel"), "fault", "fine")


def encoded(encoder, *, text=("fuel", "doors"), last=None):
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["temperature", "pressure"]),
            ("text", encoder, list(text)),
        ]
    )
    return make_pipeline(columns, LogisticRegression() if last is None else last)


ENCODERS = {
    "one-hot": OneHotEncoder(),
    "dense": OneHotEncoder(sparse_output=False),
    "ignore": OneHotEncoder(handle_unknown="ignore"),
    "drop-first": OneHotEncoder(drop="first"),
    "drop-if-binary": OneHotEncoder(drop="if_binary", handle_unknown="ignore"),
    "infrequent": OneHotEncoder(min_frequency=12, handle_unknown="infrequent_if_exist"),
    "infrequent-dropped": OneHotEncoder(
        max_categories=3, drop="first", handle_unknown="infrequent_if_exist"
    ),
    "warn": OneHotEncoder(min_frequency=12, handle_unknown="warn"),
    "ordinal": OrdinalEncoder(),
    "ordinal-unknown": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    "ordinal-infrequent": OrdinalEncoder(
        min_frequency=12, handle_unknown="use_encoded_value", unknown_value=-7
    ),
    "target": TargetEncoder(cv=StratifiedKFold(3)),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "last", [LogisticRegression(), RandomForestClassifier(5, random_state=0)], ids=["linear", "rf"]
)
def test_encoders_behind_named_columns(name, last, tflite214):
    table = frame()
    model = encoded(ENCODERS[name], last=last).fit(table, target(table))
    compiled = to_tflite(model, example=table)
    check_outputs(compiled, model, table, tflite214)


@pytest.mark.parametrize("name", ["ignore", "infrequent", "ordinal-unknown", "target", "warn"])
def test_an_unknown_category_is_treated_as_the_encoder_says(name):
    table = frame()
    model = encoded(ENCODERS[name]).fit(table, target(table))
    compiled = to_tflite(model, example=table)
    strange = table.head(7).copy()
    strange["fuel"] = "hydrogen"
    strange["doors"] = 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = model.predict_proba(strange)
    np.testing.assert_allclose(compiled.run(strange)["probabilities"], wanted, atol=1e-5)


def test_an_unknown_category_is_an_error_where_the_encoder_raises():
    table = frame()
    model = encoded(OneHotEncoder()).fit(table, target(table))
    compiled = to_tflite(model, example=table)
    strange = table.head(2).copy()
    strange["fuel"] = "hydrogen"
    with pytest.raises(SignatureError, match="hydrogen"):
        compiled.run(strange)


def test_an_unknown_number_is_nan_where_the_encoder_raises():
    table = frame()
    model = encoded(OneHotEncoder(), text=["doors"]).fit(table, target(table))
    compiled = to_tflite(model, example=table)
    strange = table.head(2).copy()
    strange["doors"] = 4
    assert np.isnan(compiled.run(strange)["probabilities"]).all()
    assert np.isfinite(compiled.run(table)["probabilities"]).all()


def test_the_encoder_knows_more_categories_than_the_example():
    table = frame()
    model = encoded(OneHotEncoder()).fit(table, target(table))
    few = table[table["fuel"] == "diesel"].head(10)
    compiled = to_tflite(model, example=few)
    np.testing.assert_allclose(
        compiled.run(table)["probabilities"], model.predict_proba(table), atol=1e-5
    )


def test_the_signature_lets_a_device_feed_dicts():
    table = frame()
    model = encoded(OneHotEncoder(handle_unknown="ignore"), text=["fuel", "towbar"])
    model.fit(table, target(table))
    compiled = to_tflite(model, example=table)
    fuel = compiled.signature.features[1]
    assert set(fuel.categories) == set(FUELS)
    assert fuel.unknown == "encode"
    row = table.iloc[3].to_dict()
    assert compiled.run([row])["label"][0] == model.predict(table.iloc[[3]])[0]


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@pytest.mark.parametrize("indicator", [False, True])
def test_missing_values_are_filled_in(strategy, indicator, tflite214):
    table = frame(missing=True)
    numbers = make_pipeline(
        SimpleImputer(strategy=strategy, add_indicator=indicator), StandardScaler()
    )
    text = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder())
    model = make_pipeline(
        ColumnTransformer(
            [("numbers", numbers, ["temperature", "doors"]), ("text", text, ["fuel"])],
            remainder=MinMaxScaler(),
        ),
        LogisticRegression(),
    ).fit(table, target(table))
    compiled = to_tflite(model, example=table)
    assert compiled.signature.features[0].missing_allowed
    assert compiled.signature.features[1].missing_allowed
    check_outputs(compiled, model, table, tflite214)


def test_an_imputer_in_front_of_trees_needs_no_op(tflite214):
    table = frame(missing=True)[["temperature", "pressure"]]
    y = target(frame())
    model = make_pipeline(
        SimpleImputer(), StandardScaler(), RandomForestClassifier(10, random_state=0)
    ).fit(table, y)
    compiled = to_tflite(model, example=table)
    check_outputs(compiled, model, table, tflite214, tolerance={"probabilities": 1e-6})


def test_a_marker_for_missing_numbers():
    X = RNG.integers(0, 4, (40, 3)).astype(float)
    model = make_pipeline(SimpleImputer(missing_values=0.0, strategy="median"), StandardScaler())
    compiled = to_tflite(model.fit(X), example=X)
    np.testing.assert_allclose(compiled.run(X)["transformed"], model.transform(X), atol=1e-5)


@pytest.mark.parametrize("features", ["missing-only", "all"])
def test_missing_indicator(features):
    X = RNG.normal(size=(30, 3))
    X[::3, 1] = np.nan
    indicator = MissingIndicator(features=features).fit(X)
    compiled = to_tflite(indicator, example=X)
    assert (compiled.run(X)["transformed"] == indicator.transform(X)).all()


def test_missing_categories_are_a_category(tflite214):
    table = frame(missing=True)
    for encoder in (OneHotEncoder(), OrdinalEncoder(encoded_missing_value=-5)):
        model = ColumnTransformer([("text", encoder, ["fuel"])]).fit(table)
        compiled = to_tflite(model, example=table)
        check_outputs(compiled, model, table, tflite214)


def test_unknown_categories_may_become_nan():
    table = frame(missing=True)[["fuel"]]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan).fit(table)
    compiled = to_tflite(encoder, example=table)
    wanted = encoder.transform(table)
    np.testing.assert_array_equal(compiled.run(table)["transformed"], wanted)
    assert np.isnan(wanted).any()


def test_feature_union_and_selection(tflite214):
    whole = frame()
    table, y = whole[["temperature", "pressure", "doors"]], target(whole)
    union = FeatureUnion(
        [("scaled", StandardScaler()), ("best", SelectKBest(k=2)), ("gone", "drop")],
        transformer_weights={"scaled": 3.0},
    )
    for last in (LogisticRegression(), RandomForestClassifier(5, random_state=0)):
        model = make_pipeline(union, last).fit(table, y)
        check_outputs(to_tflite(model, example=table), model, table, tflite214)


def test_arrays_of_objects(tflite214):
    table = frame()
    X = table[["temperature", "fuel"]].to_numpy(dtype=object)
    columns = ColumnTransformer(
        [("text", OneHotEncoder(), [1])], remainder=StandardScaler(), sparse_threshold=0
    )
    model = make_pipeline(columns, LogisticRegression()).fit(X, target(table))
    check_outputs(to_tflite(model, example=X), model, X, tflite214)


def test_a_number_that_float32_cannot_hold_is_refused_as_a_category():
    X = np.array([[0.1], [0.2], [0.3]])
    with pytest.raises(UnsupportedError, match="32-bit"):
        to_tflite(OneHotEncoder().fit(X), example=X)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(
    categories=st.integers(1, 9),
    drop=st.sampled_from([None, "first", "if_binary"]),
    frequency=st.sampled_from([None, 5, 15]),
    unknown=st.sampled_from(["error", "ignore", "infrequent_if_exist"]),
    seed=st.integers(0, 99),
)
def test_any_one_hot_encoder(categories, drop, frequency, unknown, seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, categories, (50, 2)).astype(np.float64)
    encoder = OneHotEncoder(drop=drop, min_frequency=frequency, handle_unknown=unknown).fit(X)
    if not encoder.get_feature_names_out().size:
        return
    compiled = to_tflite(encoder, example=X)
    rows = X if unknown == "error" else np.concatenate([X, [[99.0, 0.0]]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = encoder.transform(rows).toarray()
    np.testing.assert_array_equal(compiled.run(rows)["transformed"], wanted)
