"""Thresholds moved in front of a scaler answer as scikit-learn does, for every float32 number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import preprocessing as pp
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.input_tensor import input_spec, root_value
from fieldloop_cloud.compile.lowering import Context
from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.compile.thresholds import floor32

SCALERS = {
    "standard": pp.StandardScaler(),
    "min-max": pp.MinMaxScaler(),
    "clipped": pp.MinMaxScaler(clip=True),
    "robust": pp.RobustScaler(),
    "max-abs": pp.MaxAbsScaler(),
    "power": pp.PowerTransformer(),
    "bins": pp.KBinsDiscretizer(n_bins=5, encode="ordinal", strategy="uniform"),
    "quantile": pp.QuantileTransformer(n_quantiles=10),
    "two": make_pipeline(pp.StandardScaler(), pp.MinMaxScaler((-3, 1))),
}


def folded(model, X, columns, limits, precision="float32", **how):
    rows = Rows.of(X)
    value = root_value(Graph(Model()), rows, input_spec(rows, precision))
    context = Context(value.graph, precision)
    return context.thresholds(context.transform(model, value)).fold(columns, limits, **how)


@pytest.mark.parametrize("name", SCALERS)
@settings(max_examples=12, deadline=None, database=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1e4, -3.0]),
    compared_as=st.sampled_from(["float32", "float64"]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_the_neighbours_of_a_moved_threshold_fall_on_both_sides(
    name, seed, offset, compared_as, dtype
):
    if name == "power" and offset:
        return  # the fitted exponent is beyond float64 there
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(40, 2)) * [1, 50] + offset).astype(np.float32).astype(dtype)
    model = SCALERS[name].fit(X)
    image = np.asarray(model.transform(X), np.float64)
    limits = np.quantile(image, [0.1, 0.5, 0.9], axis=0).ravel()
    columns = np.tile([0, 1], 3)
    found = folded(model, X, columns, limits, compared_as=compared_as)
    assert found.columns.tolist() == columns.tolist()
    for column, limit, threshold in zip(columns, limits, found.thresholds, strict=True):
        with np.errstate(over="ignore"):
            above = np.nextafter(threshold, np.float32(np.inf))
        for number, wanted in ((threshold, True), (above, False)):
            if np.abs(number) > 1e30:
                continue  # the limit is the end of the scale: everything passes
            row = X[:1].copy()
            row[0, column] = number
            got = model.transform(row)[0, column]
            got = np.float64(np.float32(got) if compared_as == "float32" else got)
            assert (got <= limit) == wanted, (number, got, limit)


@pytest.mark.parametrize("code", range(-129, 128, 16))
def test_int8_thresholds_are_whole_codes(code):
    X = np.linspace(-3, 5, 50)[:, None]
    rows = Rows.of(X)
    spec = input_spec(rows, "int8")
    limit = (code + 0.5 - spec.zero_point[0]) * spec.scale[0]
    scaler = pp.StandardScaler(with_mean=False, with_std=False).fit(X)
    found = folded(scaler, X, [0], [limit], "int8")
    assert found.thresholds.tolist() == [code]


def test_an_imputed_value_says_what_it_becomes():
    X = np.array([[1.0], [np.nan], [3.0]])
    model = make_pipeline(SimpleImputer(), pp.StandardScaler()).fit(X)
    found = folded(model, X, [0], [0.25])
    assert found.nan_image.tolist() == [0.0]
    assert np.isnan(folded(pp.StandardScaler().fit(X), X, [0], [0.25]).nan_image[0])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floor32_is_the_largest_float32_not_above(number):
    low = floor32(np.array([number]))[0]
    top = float(np.finfo(np.float32).max)
    assert np.float64(low) <= number or number < -top
    if abs(number) < top:
        assert np.float64(np.nextafter(low, np.float32(np.inf))) > number
