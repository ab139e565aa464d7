"""Distillation: with a teacher and rows without labels a small student learns more."""

import joblib
import numpy as np
import pytest
from scipy.stats import t as student_t
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from tests.support.commands import fieldloop

import fieldloop_cloud as fl
from fieldloop.errors import ConfigError, DataError, UnsupportedError
from fieldloop_cloud.train.distill import distill as distilling
from fieldloop_cloud.train.distill.teachers import Lesson
from fieldloop_cloud.train.distill.worker import DistillJob

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]


def parts(y, seed, labels_a_class=10, unlabelled=700):
    """Return rows with a label, rows without, and rows to score on."""
    order = np.random.default_rng(seed).permutation(len(y))
    labelled = np.concatenate([order[y[order] == c][:labels_a_class] for c in np.unique(y)])
    rest = np.setdiff1d(order, labelled, assume_unique=True)
    return labelled, rest[:unlabelled], rest[unlabelled:]


def teacher_of(rows, y):
    """An ensemble that has seen the same few labels, and no others."""
    members = [
        ("trees", ExtraTreesClassifier(60, random_state=0)),
        ("logistic", LogisticRegression(max_iter=1000)),
    ]
    return VotingClassifier(members, voting="soft").fit(rows.reshape(len(rows), -1), y)


def low_end(gains):
    """Lower end of the 95 % interval of the mean gain over seeds."""
    gains = np.asarray(gains)
    spread = gains.std(ddof=1) / np.sqrt(len(gains))
    return gains.mean() - student_t.ppf(0.975, len(gains) - 1) * spread


def test_a_tree_learns_more_from_a_teacher_than_from_labels_alone():
    rows, y = load_digits(return_X_y=True)
    gains = []
    for seed in range(6):
        labelled, unlabelled, scored = parts(y, seed)
        tree = DecisionTreeClassifier(max_depth=8, random_state=0)
        few = (rows[labelled], y[labelled])
        distilled = fl.distill(teacher_of(*few), tree, *few, unlabeled=rows[unlabelled])
        alone = clone(tree).fit(*few)
        scores = [model.score(rows[scored], y[scored]) for model in (distilled.estimator, alone)]
        gains.append(scores[0] - scores[1])
    assert low_end(gains) > 0.05


def accuracy(distilled, rows, y, folder):
    path = distilled.save(folder / "net.keras")
    return float((distilling._ask(path, rows, DistillJob()).argmax(axis=1) == y).mean())


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_small_net_learns_more_from_a_teacher_than_from_labels_alone(
    sparse_nets, digits, tmp_path
):
    gains = []
    for seed in range(4):
        labelled, unlabelled, scored = parts(digits.y, seed)
        few = (digits.X[labelled], digits.y[labelled])
        teacher, student = teacher_of(*few), sparse_nets / "student.keras"
        settings = {"seed": seed, "learning_rate": 1e-2}
        more = {"unlabeled": digits.X[unlabelled], "epochs": 15}
        distilled = fl.distill(teacher, student, *few, **more, **settings)
        alone = fl.distill(teacher, student, *few, alpha=0.0, epochs=40, **settings)
        scores = [
            accuracy(model, digits.X[scored], digits.y[scored], tmp_path)
            for model in (distilled, alone)
        ]
        gains.append(scores[0] - scores[1])
    assert low_end(gains) > 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_net_teaches_a_tree(sparse_nets, digits):
    tree = DecisionTreeClassifier(max_depth=10, random_state=0)
    distilled = fl.distill(sparse_nets / "cnn.keras", tree, digits.X)
    assert distilled.agreement > 0.85
    assert distilled.estimator.n_features_in_ == 64
    with pytest.raises(DataError, match="do not fit the net's input"):
        fl.distill(sparse_nets / "cnn.keras", tree, X)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_student_of_another_width_is_refused(sparse_nets, digits):
    answers = np.full((50, 3), 1 / 3)
    with pytest.raises(DataError, match="answers 10 values, the teacher 3"):
        fl.distill(answers, sparse_nets / "student.keras", digits.X[:50])


def test_names_of_classes_survive_and_a_pipeline_stays_one():
    forest = RandomForestClassifier(30, random_state=0).fit(X, NAMES)
    student = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    distilled = fl.distill(forest, student, X[:100], NAMES[:100], unlabeled=X[100:])
    assert list(distilled.estimator.classes_) == sorted(set(NAMES))
    assert [name for name, _ in distilled.estimator.steps] == [name for name, _ in student.steps]
    # The scaler has seen every row once.
    np.testing.assert_allclose(distilled.estimator[0].mean_, X.mean(axis=0), rtol=1e-5)
    assert distilled.agreement > 0.9
    assert not hasattr(student[-1], "coef_")


def test_a_weightless_teacher_leaves_the_labels_and_a_lone_teacher_leaves_itself():
    wrong = np.roll(np.eye(3)[Y], 1, axis=1)
    tree = DecisionTreeClassifier(random_state=0)
    by_labels = fl.distill(wrong, tree, X, Y, alpha=0.0).estimator
    by_teacher = fl.distill(wrong, tree, X, Y, alpha=1.0).estimator
    unlabelled = fl.distill(wrong, tree, X).estimator
    assert by_labels.score(X, Y) == 1.0
    assert by_teacher.score(X, (Y + 1) % 3) == 1.0
    assert unlabelled.score(X, (Y + 1) % 3) == 1.0


def test_soft_labels_are_cross_entropy_for_a_logistic_regression():
    """Where every row has its own soft label, the mean probability is the mean soft label."""
    random = np.random.default_rng(0)
    soft = random.dirichlet([1.0, 2.0, 3.0], size=len(X))
    student = LogisticRegression(C=1e6, max_iter=5000)
    fitted = fl.distill(soft, student, X).estimator
    np.testing.assert_allclose(fitted.predict_proba(X).mean(axis=0), soft.mean(axis=0), atol=2e-3)


def test_a_regressor_learns_the_mixture():
    rows, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(30, random_state=0).fit(rows, y)
    tree = DecisionTreeRegressor(max_depth=4, random_state=0)
    distilled = fl.distill(forest, tree, rows, y, alpha=0.5)
    mixture = 0.5 * forest.predict(rows.astype(np.float32)) + 0.5 * y
    wanted = clone(tree).fit(rows.astype(np.float32), mixture)
    np.testing.assert_allclose(distilled.estimator.predict(rows), wanted.predict(rows), rtol=1e-6)


def test_teachers_are_averaged_and_may_be_compiled():
    forest = RandomForestClassifier(10, random_state=0).fit(X, NAMES)
    logistic = LogisticRegression(max_iter=500).fit(X, NAMES)
    compiled = fl.to_tflite(logistic, example=X)
    tree = DecisionTreeClassifier(random_state=0)
    one = fl.distill([forest, compiled], tree, X).estimator
    mean = (forest.predict_proba(X) + logistic.predict_proba(X)) / 2
    two = fl.distill(mean, tree, X).estimator
    agreed = one.predict(X) == forest.classes_[two.predict(X)]
    assert agreed.mean() > 0.98
    with pytest.raises(DataError, match="differently"):
        fl.distill([forest, RandomForestClassifier(5).fit(X, Y)], tree, X)


def test_temperature_softens_and_keeps_the_order():
    said = Lesson(np.array([[0.9, 0.09, 0.01]]), None)
    np.testing.assert_allclose(said.softened(1.0), said.answers)
    soft = said.softened(4.0)
    assert soft.argmax() == 0
    assert soft.max() < 0.6
    assert soft.sum() == pytest.approx(1.0)


def test_who_cannot_teach_or_learn_is_refused():
    tree = DecisionTreeClassifier()
    with pytest.raises(UnsupportedError, match="no probabilities"):
        fl.distill(LinearSVC().fit(X, Y), tree, X)
    forest = RandomForestClassifier(5).fit(X, Y)
    with pytest.raises(UnsupportedError, match="no sample weights"):
        fl.distill(forest, KNeighborsClassifier(), X)
    with pytest.raises(DataError, match="none of the teacher's classes"):
        fl.distill(forest, tree, X, NAMES)
    with pytest.raises(DataError, match="151 labels came for 150 rows"):
        fl.distill(forest, tree, X, [0] * 151)
    with pytest.raises(DataError, match="missing or infinite"):
        fl.distill(forest, tree, X * np.nan)
    with pytest.raises(DataError, match="149 answers for 150 rows"):
        fl.distill(np.eye(3)[Y][:149], tree, X)
    with pytest.raises(ConfigError, match="alpha"):
        fl.distill(forest, tree, X, alpha=1.5)
    with pytest.raises(ConfigError, match="temperature"):
        fl.distill(forest, tree, X, temperature=0.0)


def test_the_command_writes_a_student_that_can_be_loaded(tmp_path):
    data, out = tmp_path / "iris.csv", tmp_path / "small.joblib"
    lines = [",".join(map(str, row)) + f",{name}" for row, name in zip(X, NAMES, strict=True)]
    data.write_text("\n".join(["a,b,c,d,kind", *lines]))
    joblib.dump(RandomForestClassifier(20, random_state=0).fit(X, NAMES), tmp_path / "big.joblib")
    joblib.dump(DecisionTreeClassifier(max_depth=3), tmp_path / "tree.joblib")
    words = ["distill", tmp_path / "big.joblib", tmp_path / "tree.joblib", data, "-o", out]
    refused = fieldloop(*words, "--target", "kind")
    assert refused.code == 2
    assert "any code" in refused.err
    done = fieldloop(*words, "--target", "kind", "--trust", "--json")
    assert done.code == 0, done.err
    assert done.result["agreement"] > 0.9
    assert joblib.load(out).score(X, NAMES) > 0.9
    assert fieldloop(*words[:-1], tmp_path / "small.keras", "--trust").code == 2


def test_rows_that_the_teacher_does_not_take_are_refused():
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    teacher = DecisionTreeClassifier().fit(X, y)
    with pytest.raises(DataError, match="expecting 3 features") as caught:
        fl.distill(teacher, DecisionTreeClassifier(), X[:, :2], y)
    assert caught.value.where == "DecisionTreeClassifier"
