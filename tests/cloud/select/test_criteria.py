"""Criteria: statsmodels' values where they apply, refusals elsewhere, and what theory promises."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from statsmodels.tools import eval_measures

from fieldloop.errors import ConfigError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.split import folds
from fieldloop_cloud.select.criteria.assess import assess, assess_held_out, assess_net
from fieldloop_cloud.select.criteria.bounds import holdout_bound, srm_bound
from fieldloop_cloud.select.criteria.crossval import (
    CrossValidated,
    cross_validate,
    difference_p_value,
)
from fieldloop_cloud.select.criteria.gaussian import linear
from fieldloop_cloud.select.criteria.separation import is_separated
from fieldloop_cloud.select.criteria.verdicts import NotApplicable, Verdict, best
from fieldloop_cloud.train.metrics import Estimate


def by_name(found):
    return {item.name: item for item in found}


def values(found):
    return {item.name: item.value for item in found if isinstance(item, Verdict)}


def reasons(found):
    return {item.name: item.reason for item in found if isinstance(item, NotApplicable)}


def of(estimator, X, y, *, task=None):
    """Fit and assess."""
    data = from_arrays(X, y, task=task)
    return assess(estimator.fit(data.flat.astype(np.float64), data.y), data), data


def regression(count=300, columns=5, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(count, columns)).astype(np.float32)
    return X, X @ np.arange(columns) + random.normal(size=count) * (1 + 0.5 * X[:, 0] ** 2)


def classes(count=600, columns=4, kinds=2, seed=0):
    random = np.random.default_rng(seed)
    X = random.normal(size=(count, columns)).astype(np.float32)
    scores = X @ random.normal(size=(columns, kinds)) + random.gumbel(size=(count, kinds))
    return X, scores.argmax(axis=1)


# --- against statsmodels ------------------------------------------------------------------------


def test_least_squares_agrees_with_statsmodels():
    found, train = of(LinearRegression(), *regression())
    mine = values(found)
    design = sm.add_constant(train.flat.astype(np.float64))
    theirs = sm.OLS(train.y.astype(np.float64), design).fit()
    count, parameters = len(train), design.shape[1] + 1  # the variance is one
    assert mine["AIC"] == pytest.approx(eval_measures.aic(theirs.llf, count, parameters))
    assert mine["AICc"] == pytest.approx(eval_measures.aicc(theirs.llf, count, parameters))
    assert mine["BIC"] == pytest.approx(eval_measures.bic(theirs.llf, count, parameters))
    robust = theirs.get_robustcov_results("HC0").cov_params()
    information = design.T @ design / (theirs.ssr / count)
    standard = theirs.resid**2 / (theirs.ssr / count)
    penalty = np.trace(information @ robust) + ((standard - 1) ** 2).mean() / 2
    assert mine["TIC"] == pytest.approx(-2 * theirs.llf + 2 * penalty)


@pytest.mark.parametrize("kinds", [2, 3])
def test_logistic_regression_agrees_with_statsmodels(kinds):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10))
    found, train = of(model, *classes(kinds=kinds), task="classification")
    mine = values(found)
    design = sm.add_constant(StandardScaler().fit_transform(train.flat.astype(np.float64)))
    kind = sm.Logit if kinds == 2 else sm.MNLogit
    theirs = kind(train.y, design).fit(disp=False, tol=1e-12, maxiter=200)
    assert mine["AIC"] == pytest.approx(theirs.aic, rel=1e-6)
    assert mine["BIC"] == pytest.approx(theirs.bic, rel=1e-6)
    if kinds == 2:
        robust = sm.Logit(train.y, design).fit(disp=False, cov_type="HC0").cov_params()
        penalty = np.trace(-theirs.model.hessian(theirs.params) @ robust)
        assert mine["TIC"] == pytest.approx(-2 * theirs.llf + 2 * penalty, rel=1e-5)


def test_a_penalty_takes_degrees_of_freedom():
    X, y = regression()
    free = by_name(of(LinearRegression(), X, y)[0])["AIC"]
    freedom = []
    for alpha in (1e-9, 100.0, 1e9):
        note = by_name(of(Ridge(alpha=alpha), X, y)[0])["AIC"].note
        freedom.append(float(note.split()[0]))
    assert free.note == "6.0 degrees of freedom"
    assert freedom[0] == pytest.approx(6.0)
    assert 1.0 < freedom[1] < 6.0
    assert freedom[2] == pytest.approx(1.0, abs=0.01)
    X, y = classes(kinds=3)
    loose = by_name(of(LogisticRegression(C=1e6), X, y, task="classification")[0])["AIC"]
    tight = by_name(of(LogisticRegression(C=0.01), X, y, task="classification")[0])["AIC"]
    assert loose.note == "10.0 degrees of freedom"  # (3 - 1) (4 + 1), the common part is none
    assert float(tight.note.split()[0]) < 9


# --- by simulation ------------------------------------------------------------------------------


def nested_choices(count, columns, *, true_columns, trials, seed=0):
    """How many columns each criterion takes, over data sets whose first columns matter."""
    random = np.random.default_rng(seed)
    chosen = {name: [] for name in ("AIC", "AICc", "BIC")}
    for _ in range(trials):
        X = random.normal(size=(count, columns))
        y = X[:, :true_columns].sum(axis=1) + random.normal(size=count)
        found = {}
        for size in range(1, columns + 1):
            used = X[:, :size]
            predicted = LinearRegression().fit(used, y).predict(used)
            found[size] = values(linear(used, y, predicted, penalty=0.0, family="nested"))
        for name, sizes in chosen.items():
            sizes.append(min(found, key=lambda size: found[size][name]))
    return {name: np.asarray(sizes) for name, sizes in chosen.items()}


def test_bic_finds_the_true_model_and_aic_takes_too_much():
    chosen = nested_choices(1000, 8, true_columns=3, trials=60)
    assert (chosen["BIC"] == 3).mean() >= 0.95
    assert (chosen["AIC"] == 3).mean() < (chosen["BIC"] == 3).mean()
    assert (chosen["AIC"] >= 3).all()


def test_aicc_overfits_less_on_few_rows():
    chosen = nested_choices(30, 8, true_columns=2, trials=150)
    assert chosen["AICc"].mean() < chosen["AIC"].mean()
    assert (chosen["AICc"] == 2).mean() > (chosen["AIC"] == 2).mean()


def test_aicc_estimates_the_deviance_on_new_rows_without_bias():
    random = np.random.default_rng(0)
    count, columns = 30, 5
    said, true = {"AIC": [], "AICc": []}, []
    for _ in range(600):
        X = random.normal(size=(count, columns))
        y = X[:, 0] + random.normal(size=count)
        fitted = LinearRegression().fit(X, y)
        predicted = fitted.predict(X)
        found = values(linear(X, y, predicted, penalty=0.0, family="f"))
        for name, kept in said.items():
            kept.append(found[name])
        variance = ((y - predicted) ** 2).mean()
        again = X[:, 0] + random.normal(size=(200, count))  # new answers at the same places
        squares = ((again - predicted) ** 2).sum(axis=1).mean()
        true.append(count * np.log(2 * np.pi * variance) + squares / variance)
    error = {name: np.mean(kept) - np.mean(true) for name, kept in said.items()}
    assert abs(error["AICc"]) < 0.8
    assert error["AIC"] < -3


def test_tic_sees_a_wrong_noise_model():
    random = np.random.default_rng(0)
    X = random.normal(size=(3000, 3))
    honest = X.sum(axis=1) + random.normal(size=3000)
    heavy = X.sum(axis=1) + random.normal(size=3000) * X[:, 0] ** 2
    for y, low, high in ((honest, 4.5, 5.5), (heavy, 9.0, 100.0)):
        predicted = LinearRegression().fit(X, y).predict(X)
        note = by_name(linear(X, y, predicted, penalty=0.0, family="f"))["TIC"].note
        assert low < float(note.split()[1]) < high


# --- refusals -----------------------------------------------------------------------------------


def test_separated_classes_have_no_likelihood():
    X, y = classes(200)
    X[:, 0] = y * 3 + X[:, 0] * 0.1
    refused = reasons(of(LogisticRegression(), X, y, task="classification")[0])
    assert {"AIC", "AICc", "BIC", "TIC"} <= refused.keys()
    assert "separated" in refused["AIC"]


def test_quasi_separation_is_found():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(200, 2)), random.integers(0, 2, 200)
    assert is_separated(X, y) is False
    X[:, 0] = np.where(y == 1, random.integers(0, 2, 200), 0)  # 1 only in class 1, 0 in both
    assert is_separated(X, y) is True


def test_one_class_that_stands_apart_separates():
    X, y = classes(900, kinds=3)
    assert is_separated(X, y) is False
    X[y == 2, 1] += 50
    assert is_separated(X, y) is True


def test_many_rows_are_settled_by_some():
    X, y = classes(20_000, columns=10, kinds=4)
    assert is_separated(X, y) is False


def test_crowded_and_singular_models_are_refused():
    X, y = regression(90, 30)
    assert "too many" in reasons(of(Ridge(), X, y)[0])["AIC"]
    X, y = classes(80, columns=30)
    assert "too many" in reasons(of(LogisticRegression(), X, y, task="classification")[0])["BIC"]
    X, y = regression()
    X[:, 4] = X[:, 3] * 2
    assert "singular" in reasons(of(LinearRegression(), X, y)[0])["TIC"]
    assert "AIC" in values(of(Ridge(), X, y)[0])  # the penalty makes it a model again


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (RandomForestClassifier(5), "leaves are not degrees of freedom"),
        (CalibratedClassifierCV(SVC(), cv=3, ensemble=False), "hinge"),
        (MLPClassifier((4,), max_iter=20, solver="lbfgs"), "singular model"),
        (make_pipeline(SelectKBest(k=2), LogisticRegression()), "chosen by the target"),
        (LogisticRegression(class_weight="balanced"), "weighted"),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_models_without_a_counted_likelihood_are_refused(estimator, reason):
    found = reasons(of(estimator, *classes(), task="classification")[0])
    assert all(reason in found[name] for name in ("AIC", "AICc", "BIC", "TIC"))


def test_k_nn_regression_counts_its_neighbourhoods():
    X, y = regression()
    found, train = of(KNeighborsRegressor(10), X, y)
    assert by_name(found)["AIC"].note == f"{len(train) / 10:.1f} degrees of freedom"
    assert "no parameters" in reasons(found)["TIC"]
    assert "parameters for 300 rows" in reasons(of(KNeighborsRegressor(2), X, y)[0])["AIC"]


def test_preprocessing_without_the_target_is_no_obstacle():
    X, y = regression()
    assert "AIC" in values(of(make_pipeline(PCA(3), LinearRegression()), X, y)[0])


def test_a_net_has_no_criterion_of_its_own():
    found = assess_net()
    assert not values(found)
    assert "not identified" in reasons(found)["BIC"]


# --- bounds -------------------------------------------------------------------------------------


def test_bounds_hold_and_say_when_they_are_vacuous():
    found, train = of(LogisticRegression(), *classes(4000), task="classification")
    mine = values(found)
    error = 1 - LogisticRegression().fit(train.flat, train.y).score(train.flat, train.y)
    assert mine["SRM bound"] > error
    held_out = Estimate(metric="accuracy", value=1 - error, low=0, high=1, row_count=400)
    assert assess_held_out(held_out, model_count=9, family="f").value > error
    other = Estimate(metric="f1_macro", value=0.9, low=0, high=1, row_count=400)
    assert "not for f1_macro" in assess_held_out(other, model_count=9, family="f").reason
    wide = srm_bound(0.1, row_count=50, capacity=60, family="f")
    assert wide.value == 1.0
    assert "vacuous" in wide.note
    assert "vacuous" not in by_name(found)["SRM bound"].note


def test_the_holdout_bound_fails_no_more_often_than_promised():
    random = np.random.default_rng(0)
    true, rows, models, trials = 0.2, 100, 20, 2000
    errors = random.binomial(rows, true, size=(trials, models)) / rows
    best_errors = errors.min(axis=1)  # the choice's optimism
    bound = holdout_bound(0.0, row_count=rows, model_count=models, family="f").value
    assert (best_errors + bound < true).mean() <= 0.05
    assert (best_errors < true).mean() > 0.95  # without the bound it nearly always misleads


def test_more_rows_and_less_capacity_tighten_the_srm_bound():
    base = srm_bound(0.1, row_count=10_000, capacity=10, family="f").value
    assert srm_bound(0.1, row_count=20_000, capacity=10, family="f").value < base
    assert srm_bound(0.1, row_count=10_000, capacity=20, family="f").value > base


def test_the_radius_margin_bound_is_for_clean_margins():
    X, y = classes(200)
    X[:, 0] = y * 20 + X[:, 0] * 0.1
    clean = values(of(SVC(kernel="linear", C=1e6), X, y, task="classification")[0])
    assert 0 < clean["radius-margin bound"] < 1
    X, y = classes(200)
    dirty = reasons(of(SVC(), X, y, task="classification")[0])
    assert "inside the margin" in dirty["radius-margin bound"]


# --- cross-validation ---------------------------------------------------------------------------


def accuracy_of(estimator):
    def score(train, rest):
        return float(estimator.fit(train.flat, train.y).score(rest.flat, rest.y))

    return score


def test_cross_validation_scores_over_folds_with_a_wider_error():
    data = Dataset.load("sklearn:wine")
    turns = folds(data, count=5)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    found = cross_validate(accuracy_of(model), data, turns, metric="accuracy")
    assert found.mean > 0.95
    plain = np.std(found.scores, ddof=1) / np.sqrt(5)
    assert found.standard_error == pytest.approx(plain * np.sqrt(1 + 5 * 0.25), rel=0.02)
    assert found.verdict("any").name == "CV"


def test_the_corrected_test_keeps_its_level_where_the_plain_one_does_not():
    """Two equally useless models over 10 folds: the plain t-test finds differences too often."""
    random = np.random.default_rng(0)
    plain, corrected, trials = 0, 0, 400
    for _ in range(trials):
        shared = random.normal() * 0.7  # folds share rows, so their gaps share an error
        gaps = shared + random.normal(size=10)
        one = CrossValidated(metric="accuracy", scores=tuple(gaps), ratio=1 / 9)
        two = CrossValidated(metric="accuracy", scores=(0.0,) * 10, ratio=1 / 9)
        corrected += difference_p_value(one, two) < 0.05
        without = CrossValidated(metric="accuracy", scores=tuple(gaps), ratio=0.0)
        plain += difference_p_value(without, two) < 0.05
    assert corrected < 0.65 * plain


def test_what_cannot_be_compared_is_refused():
    one = CrossValidated(metric="accuracy", scores=(0.9, 0.8), ratio=0.25)
    with pytest.raises(ConfigError, match="cannot be compared"):
        difference_p_value(one, CrossValidated(metric="r2", scores=(0.9, 0.8), ratio=0.25))
    assert difference_p_value(one, one) == 1.0
    with pytest.raises(ConfigError, match="2 folds"):
        cross_validate(lambda *_: 1.0, Dataset.load("sklearn:iris"), (), metric="accuracy")


# --- one column a family ------------------------------------------------------------------------


def test_values_are_ranked_within_one_family_only():
    X, y = regression()
    ridge = by_name(of(Ridge(alpha=1.0), X, y)[0])["AIC"]
    tight = by_name(of(Ridge(alpha=1e6), X, y)[0])["AIC"]
    other = by_name(of(LinearRegression(), X, y)[0])["AIC"]
    assert best({"loose": ridge, "tight": tight}) == "loose"
    with pytest.raises(ConfigError, match="cannot be ranked together"):
        best({"ridge": ridge, "plain": other})
    assert "Akaike" in ridge.source


def test_every_criterion_answers():
    data = Dataset.load("sklearn:breast_cancer")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    found = assess(model.fit(data.flat, data.y), data)
    assert [item.name for item in found] == [
        "AIC", "AICc", "BIC", "TIC", "SRM bound", "radius-margin bound",
    ]  # fmt: skip
