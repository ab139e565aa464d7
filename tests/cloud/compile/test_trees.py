"""Trees and forests: the very leaf that scikit-learn reaches, for every float32 row."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import (
    ExtraTreesClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.traversal import dense

FORESTS = (RandomForestClassifier, ExtraTreesClassifier)


def beside(numbers):
    """Each number as float32 with both of its float32 neighbours."""
    exact = np.asarray(numbers, np.float64).astype(np.float32)
    steps = [exact, *(np.nextafter(exact, np.float32(s)) for s in (-np.inf, np.inf))]
    return np.concatenate(steps)


def rows_on_thresholds(trees, X, *, limit=400):
    """Rows in which one column lies on, just below or just above a threshold of the trees."""
    questions = [
        (int(c), t)
        for tree in trees
        for c, t in zip(tree.tree_.feature, tree.tree_.threshold, strict=True)
        if c >= 0 and np.isfinite(t)
    ]
    rows = []
    for number, (column, threshold) in enumerate(questions[:limit]):
        for value in beside([threshold]):
            row = X[number % len(X)].copy()
            row[column] = value
            rows.append(row)
    return np.array(rows, np.float32)


@pytest.fixture(params=["dense", "rows"])
def walk(request, monkeypatch):
    """Both ways down: all questions in advance, or node by node, as if the forest were large."""
    if request.param == "rows":
        monkeypatch.setattr(dense, "MOST_STATES", 0)
    return request.param


def operators(tflite):
    """Names of the main graph's ops, in order."""
    model = schema.ModelT.InitFromPackedBuf(tflite, 0)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items()}
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    return [codes[op.opcodeIndex] for op in model.subgraphs[0].operators]


def numbers(tflite):
    """All float32 constants, and the thresholds in the int32 table of a forest's nodes."""
    model = schema.ModelT.InitFromPackedBuf(tflite, 0)
    found = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type == schema.TensorType.FLOAT32:
            found.append(np.asarray(data, np.uint8).view(np.float32))
        elif data is not None and tensor.type == schema.TensorType.INT32 and len(tensor.shape) == 2:
            rows = np.asarray(data, np.uint8).view(np.int32).reshape(tensor.shape)
            found.append(np.ascontiguousarray(rows[:, 1]).view(np.float32))
    return found


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    cells=st.lists(
        st.floats(
            width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**99), max_value=2.0**99
        ),
        min_size=4,
        max_size=40,
        unique=True,
    ),
    seed=st.integers(0, 99),
    most_states=st.sampled_from([0, dense.MOST_STATES]),
)
def test_every_float32_row_reaches_the_leaf_it_reaches_in_scikit_learn(cells, seed, most_states):
    X = np.array(cells, np.float32)[:, None]
    tree = DecisionTreeRegressor(random_state=seed).fit(X, np.arange(len(X), dtype=float))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "MOST_STATES", most_states)
        compiled = to_tflite(tree, example=X)
    rows = np.concatenate([X[:, 0], beside(tree.tree_.threshold), beside(X[:, 0])])[:, None]
    assert np.array_equal(compiled.run(rows)["value"], tree.predict(rows).astype(np.float32))


def test_thresholds_between_adjacent_floats_are_rounded_down_not_to_nearest():
    start = np.float32(1000.0)
    grid = [start]
    for _ in range(799):
        grid.append(np.nextafter(grid[-1], np.float32(np.inf)))
    X = np.array(grid, np.float32)[:, None]
    tree = DecisionTreeClassifier().fit(X, np.arange(800) % 2)
    assert (to_tflite(tree, example=X).run(X)["label"] == tree.predict(X)).all()


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), RobustScaler()])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_scaler_is_folded_into_the_thresholds_without_an_op_or_a_changed_row(scaler, kind):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(300, 3)) * [1e-3, 1, 1e3] + [0, 100, -5]).astype(np.float32).astype(kind)
    y = rng.integers(0, 3, 300)
    model = make_pipeline(scaler, DecisionTreeClassifier(random_state=0)).fit(X, y)
    compiled = to_tflite(model, example=X)
    bare = to_tflite(DecisionTreeClassifier(random_state=0).fit(X, y), example=X)
    assert set(operators(compiled.tflite)) == set(operators(bare.tflite))
    assert "SUB" not in operators(compiled.tflite)
    asked, tree = model[0], model[-1].tree_
    inner = np.flatnonzero(tree.feature >= 0)
    images = np.zeros((len(inner), 3))
    images[np.arange(len(inner)), tree.feature[inner]] = tree.threshold[inner]
    rows = []
    for i, (row, column) in enumerate(
        zip(asked.inverse_transform(images), tree.feature[inner], strict=True)
    ):
        for value in beside(row[column] + np.spacing(np.float32(row[column])) * np.arange(-3, 4)):
            rows.append(X[i % len(X)].copy())
            rows[-1][column] = value
    rows = np.array(rows, np.float32).astype(kind)
    assert np.array_equal(compiled.run(rows)["label"], model.predict(rows))
    assert np.abs(compiled.run(rows)["probabilities"] - model.predict_proba(rows)).max() <= 1e-6


def test_small_forests_take_one_gather_a_level_and_large_ones_two(walk):
    X, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(9, max_depth=6, random_state=0).fit(X, y)
    ops = operators(to_tflite(forest, example=X).tflite)
    roots_leaves = 2
    levels = 6 if walk == "dense" else 2 * 5
    assert ops.count("GATHER") == levels + roots_leaves
    assert ("TRANSPOSE" in ops) == (walk == "rows")


def test_trees_that_end_early_are_not_walked_further(monkeypatch):
    monkeypatch.setattr(dense, "MOST_STATES", 0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    shallow = [DecisionTreeClassifier(max_depth=2, random_state=i).fit(X, y) for i in range(30)]
    deep = [DecisionTreeClassifier(max_depth=12, random_state=i).fit(X, y) for i in range(3)]
    forest = RandomForestClassifier(33, max_depth=2).fit(X, y)
    forest.estimators_ = [*shallow[:20], *deep, *shallow[20:]]
    compiled = to_tflite(forest, example=X)
    assert operators(compiled.tflite).count("SLICE") == 2
    made = compiled.run(X)
    assert np.array_equal(made["label"], forest.predict(X))
    assert np.abs(made["probabilities"] - forest.predict_proba(X)).max() <= 1e-6


@pytest.mark.usefixtures("walk")
@pytest.mark.parametrize("kind", FORESTS)
def test_forests_agree_on_rows_that_lie_on_thresholds(kind, tflite214):
    X, y = load_breast_cancer(return_X_y=True)
    forest = kind(15, random_state=0).fit(X, y)
    compiled = to_tflite(forest, example=X)
    rows = rows_on_thresholds(forest.estimators_, X)
    made = compiled.run(rows)
    assert np.array_equal(made["label"], forest.predict(rows))
    assert np.abs(made["probabilities"] - forest.predict_proba(rows)).max() <= 1e-6
    (label, _), *_ = tflite214.run(compiled.tflite, [rows])
    assert np.array_equal(label, made["label"])


@pytest.mark.usefixtures("walk")
@pytest.mark.parametrize("trained_with_missing", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: DecisionTreeClassifier(max_depth=6, random_state=0),
        lambda: RandomForestClassifier(12, random_state=0),
        lambda: ExtraTreesClassifier(12, random_state=0),
        lambda: RandomForestRegressor(12, random_state=0),
    ],
)
def test_missing_values_go_where_scikit_learn_sends_them(make, trained_with_missing, tflite214):
    X, y = load_breast_cancer(return_X_y=True)
    X = X.astype(np.float32)
    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X).astype(np.float32)
    model = make().fit(holes if trained_with_missing else X, y)
    compiled = to_tflite(model, example=X)
    expected = model.predict(holes)
    made = compiled.run(holes)
    name = "label" if "label" in made else "value"
    assert np.abs(made[name] - expected).max() <= 1e-6
    there = tflite214.run(compiled.tflite, [holes])[0][0]
    assert np.abs(there - made[name]).max() <= 1e-6
    assert all(f.missing_allowed for f in compiled.signature.features)


def test_missing_values_that_are_imputed_on_the_way_are_compared_as_their_replacement():
    X, y = load_breast_cancer(return_X_y=True)
    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    model = make_pipeline(SimpleImputer(), RandomForestClassifier(10, random_state=0))
    model.fit(holes, y)
    compiled = to_tflite(model, example=holes)
    rows = holes.astype(np.float32).astype(np.float64)
    assert np.array_equal(compiled.run(rows)["label"], model.predict(rows))


@pytest.mark.usefixtures("walk")
def test_no_constant_is_a_sentinel():
    X, y = load_breast_cancer(return_X_y=True)
    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    forest = RandomForestClassifier(10, random_state=0).fit(holes, y)
    assert any(np.isinf(tree.tree_.threshold).any() for tree in forest.estimators_)
    constants = numbers(to_tflite(forest, example=holes).tflite)
    states = max(constants, key=len)
    finite = np.concatenate([tree.tree_.threshold for tree in forest.estimators_])
    finite = finite[np.isfinite(finite)]
    assert np.abs(states).max() == pytest.approx(np.abs(finite).max(), rel=1e-6)
    assert np.abs(np.concatenate(constants)).max() < 1e5


def test_sums_of_a_thousand_trees_keep_their_precision():
    X, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(1000, max_depth=4, random_state=0).fit(X[:300], y[:300])
    made = to_tflite(forest, example=X[:50]).run(X[300:500])
    expected = forest.predict_proba(X[300:500])
    assert np.abs(made["probabilities"] - expected).max() <= 2e-7
    assert np.array_equal(made["label"], forest.classes_[expected.argmax(axis=1)])


def test_equal_votes_go_to_the_first_class():
    X = np.array([[0.0], [1.0]])
    votes = [DecisionTreeClassifier().fit(X, y) for y in ([0, 1], [1, 0], [0, 1], [1, 0])]
    forest = RandomForestClassifier(4, bootstrap=False).fit(X, [0, 1])
    forest.estimators_ = votes
    assert to_tflite(forest, example=X).run(X)["label"].tolist() == [0, 0]
    assert forest.predict(X).tolist() == [0, 0]


def test_a_single_tree_picks_the_largest_probability_however_close():
    X = np.zeros((4, 1))
    tree = DecisionTreeClassifier().fit(X, [0, 0, 1, 1], sample_weight=[1, 1, 1, 1 + 1e-12])
    assert tree.predict(X[:1])[0] == 1
    assert to_tflite(tree, example=X).run(X)["label"].tolist() == [1] * 4


@pytest.mark.usefixtures("walk")
def test_a_tree_of_one_leaf(tflite214):
    tree = DecisionTreeRegressor().fit(np.zeros((5, 2)), np.full(5, 3.25))
    compiled = to_tflite(tree, example=np.zeros((5, 2)))
    assert compiled.run(np.ones((3, 2)))["value"].tolist() == [3.25] * 3
    outputs = tflite214.run(compiled.tflite, [np.ones((n, 2), np.float32) for n in (0, 1, 7)])
    assert [list(output[0]) for output in outputs] == [[], [3.25], [3.25] * 7]


@pytest.mark.usefixtures("walk")
def test_deep_trees_agree_in_any_batch(tflite214):
    X = np.arange(40.0)[:, None]
    chain = DecisionTreeRegressor().fit(X, 4.0 ** np.arange(40))
    alone = to_tflite(chain, example=X)
    np.testing.assert_allclose(alone.run(X)["value"], chain.predict(X), rtol=1e-7)
    shallow = DecisionTreeRegressor(max_depth=3).fit(X, X[:, 0])
    forest = RandomForestRegressor(2, bootstrap=False).fit(X, X[:, 0])
    forest.estimators_ = [chain, shallow]
    assert chain.get_depth() == 39
    compiled = to_tflite(forest, example=X)
    expected = forest.predict(X)
    np.testing.assert_allclose(compiled.run(X)["value"], expected, atol=1e-7 * expected.max())
    batches = [X[:n].astype(np.float32) for n in (0, 1, 7, 40)]
    for batch, (value,) in zip(batches, tflite214.run(compiled.tflite, batches), strict=True):
        limit = 1e-7 * expected.max()
        np.testing.assert_allclose(value, expected[: len(batch)], rtol=0, atol=limit)


def test_regressors_of_several_targets():
    X = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    Y = np.stack([X[:, 0], 1e6 * X[:, 1], X.sum(axis=1)], axis=1)
    forest = RandomForestRegressor(8, random_state=0).fit(X, Y)
    made = to_tflite(forest, example=X).run(X)["value"]
    assert (np.abs(made - forest.predict(X)) <= 1e-7 * np.abs(Y).max(axis=0)).all()


@pytest.mark.usefixtures("walk")
@pytest.mark.parametrize("kind", [DecisionTreeClassifier, RandomForestClassifier])
def test_int8_labels_are_scikit_learns_on_the_dequantized_input(kind, tflite214):
    # Features from 1e-3 to 4e3: one scale for all of them costs a third of the labels here.
    X, y = load_breast_cancer(return_X_y=True)
    model = kind(random_state=0).fit(X[::2], y[::2])
    compiled = to_tflite(model, example=X[::2], precision="int8")
    assert compiled.evidence.label_changes == 0
    spec = compiled.signature.inputs[0]
    assert spec.dtype == "int8"
    codes = np.random.default_rng(0).integers(-128, 128, (2000, X.shape[1])).astype(np.int8)
    real = (codes.astype(float) - spec.zero_point) * np.array(spec.scale)
    for label, probabilities in (tflite214.run(compiled.tflite, [codes])[0],):
        assert np.array_equal(model.classes_[label], model.predict(real))
        assert np.abs(probabilities - model.predict_proba(real)).max() <= 1e-4
    accuracy = (compiled.run(X[1::2])["label"] == y[1::2]).mean()
    assert accuracy >= model.score(X[1::2], y[1::2]) - 0.02


def test_float16_stores_values_small_and_leaves_thresholds_exact():
    X, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestRegressor(20, random_state=0).fit(X, y * 100.0 + X[:, 0])
    whole = to_tflite(forest, example=X)
    half = to_tflite(forest, example=X, precision="float16")
    assert len(half.tflite) < len(whole.tflite)
    rows = rows_on_thresholds(forest.estimators_, X)
    assert np.abs(half.run(rows)["value"] - forest.predict(rows)).max() <= 0.01


def test_a_forest_takes_few_bytes_for_each_node():
    X, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(100, max_depth=10, random_state=0).fit(X, y)
    nodes = sum(int((tree.tree_.feature >= 0).sum()) for tree in forest.estimators_)
    # skl2onnx takes about 190 bytes for each inner node and its share of leaves.
    assert len(to_tflite(forest, example=X[:50]).tflite) < 0.5 * 190 * nodes
    assert len(to_tflite(forest, example=X[:50], precision="int8").tflite) < 0.15 * 190 * nodes


def test_the_same_forest_gives_the_same_bytes():
    X, y = load_digits(return_X_y=True)
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    assert to_tflite(forest, example=X).tflite == to_tflite(forest, example=X).tflite


def test_an_unknown_subclass_is_refused():
    class Boosted(RandomForestClassifier):
        pass

    X, y = load_digits(return_X_y=True)
    with pytest.raises(UnsupportedError, match=r"Boosted.*RandomForestClassifier"):
        to_tflite(Boosted(2).fit(X, y), example=X)
