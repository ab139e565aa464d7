"""Rows of the battery's table: machines, neighbours, Bayes, clusters, perceptrons, ensembles."""

from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, NuSVR, OneClassSVM
from tests.support.compile_cases import Case


def scaled(make):
    """Put a scaler in front, without which offsets and scales mean nothing to most of these."""
    return lambda **parameters: make_pipeline(StandardScaler(), make(**parameters))


def plain(**members):
    return st.fixed_dictionaries(members)


def logistic():
    return LogisticRegression(max_iter=50)


KERNELS = st.sampled_from(["linear", "rbf", "poly", "sigmoid"])
SOME = ("binary", "multiclass", "strings", "one-feature", "offset-1e4")
FEW = ("multiclass", "strings", "booleans")
NUMBERS = ("binary", "many-features", "scales")
MACHINE = {"kernel": KERNELS, "C": st.floats(0.1, 20), "coef0": st.floats(-1, 1)}

CASES = [
    Case(
        "svc",
        scaled(SVC),
        plain(
            **MACHINE,
            gamma=st.sampled_from(["scale", "auto"]),
            decision_function_shape=st.sampled_from(["ovr", "ovo"]),
        ),
    ),
    Case("svc-rbf-unscaled", SVC, plain(C=st.floats(0.1, 10))),
    Case(
        "svc-probability",
        scaled(SVC),
        plain(C=st.floats(0.1, 10), probability=st.just(True), random_state=st.just(0)),
        data_sets=SOME,
    ),
    Case("nu-svc", scaled(NuSVC), plain(kernel=KERNELS, nu=st.floats(0.1, 0.3)), data_sets=SOME),
    Case("svr", scaled(SVR), plain(**MACHINE), target="number", tolerance={"value": 5e-5}),
    Case("nu-svr", scaled(NuSVR), plain(nu=st.floats(0.2, 0.8)), target="number"),
    Case("one-class-svm", scaled(OneClassSVM), plain(nu=st.floats(0.1, 0.5)), target="none"),
    Case(
        "calibrated-svc",
        lambda **p: CalibratedClassifierCV(scaled(SVC)(), cv=2, **p),
        plain(method=st.sampled_from(["sigmoid", "temperature"]), ensemble=st.booleans()),
    ),
    Case(
        "k-neighbours",
        scaled(KNeighborsClassifier),
        plain(
            n_neighbors=st.integers(1, 9),
            weights=st.sampled_from(["uniform", "distance"]),
            p=st.sampled_from([1, 2, 1.5, 3]),
            algorithm=st.sampled_from(["auto", "brute", "kd_tree"]),
        ),
    ),
    Case("k-neighbours-unscaled", KNeighborsClassifier, plain(n_neighbors=st.integers(1, 9))),
    Case(
        "k-neighbours-regressor",
        scaled(KNeighborsRegressor),
        plain(
            n_neighbors=st.integers(1, 9),
            weights=st.sampled_from(["uniform", "distance"]),
            metric=st.sampled_from(["euclidean", "manhattan", "chebyshev"]),
        ),
        target="number",
    ),
    Case(
        "nearest-centroid",
        scaled(NearestCentroid),
        plain(
            priors=st.sampled_from(["uniform", "empirical"]),
            shrink_threshold=st.sampled_from([None, 0.2]),
        ),
    ),
    Case("gaussian-nb", GaussianNB, plain(var_smoothing=st.floats(1e-9, 1e-2))),
    Case("bernoulli-nb", scaled(BernoulliNB), plain(binarize=st.floats(0, 0.5))),
    Case("multinomial-nb", MultinomialNB, plain(alpha=st.floats(0.1, 2)), positive=True),
    Case(
        "complement-nb",
        ComplementNB,
        plain(norm=st.booleans()),
        positive=True,
        skip=frozenset({"one-feature"}),  # normalised, its only weight is NaN in scikit-learn too
    ),
    Case(
        "k-means",
        KMeans,
        plain(n_clusters=st.integers(1, 5), n_init=st.just(1), random_state=st.just(0)),
        target="none",
    ),
    Case(
        "mini-batch-k-means",
        scaled(MiniBatchKMeans),
        plain(n_clusters=st.integers(1, 5), n_init=st.just(1), random_state=st.just(0)),
        target="none",
    ),
    Case(
        "gaussian-mixture",
        scaled(GaussianMixture),
        plain(
            covariance_type=st.sampled_from(["full", "tied", "diag", "spherical"]),
            n_components=st.integers(1, 3),
            reg_covar=st.just(1e-2),
            random_state=st.just(0),
        ),
        target="none",
    ),
    Case(
        "mlp",
        scaled(MLPClassifier),
        plain(
            activation=st.sampled_from(["relu", "tanh", "logistic", "identity"]),
            hidden_layer_sizes=st.sampled_from([(), (5,), (8, 4)]),
            max_iter=st.just(20),
            random_state=st.just(0),
        ),
    ),
    Case(
        "mlp-regressor",
        scaled(MLPRegressor),
        plain(
            activation=st.sampled_from(["relu", "tanh"]),
            max_iter=st.just(20),
            random_state=st.just(0),
            hidden_layer_sizes=st.sampled_from([(5,), (8, 4)]),
        ),
        target="number",
    ),
    Case(
        "bagging",
        lambda **p: BaggingClassifier(scaled(SVC)(), n_estimators=3, random_state=0, **p),
        plain(max_samples=st.floats(0.5, 1.0), bootstrap_features=st.booleans()),
        data_sets=FEW,
    ),
    Case(
        "bagging-regressor",
        lambda **p: BaggingRegressor(Ridge(), n_estimators=3, random_state=0, **p),
        plain(max_features=st.floats(0.5, 1.0)),
        target="number",
        data_sets=NUMBERS,
    ),
    Case(
        "voting",
        lambda **p: scaled(VotingClassifier)(
            estimators=[("a", logistic()), ("b", GaussianNB()), ("c", KNeighborsClassifier(3))], **p
        ),
        plain(
            voting=st.sampled_from(["hard", "soft"]), weights=st.sampled_from([None, [1, 2.5, 0.5]])
        ),
        data_sets=FEW,
    ),
    Case(
        "voting-regressor",
        lambda **p: scaled(VotingRegressor)(estimators=[("a", Ridge()), ("b", SVR())], **p),
        plain(weights=st.sampled_from([None, [1, 3]])),
        target="number",
        data_sets=NUMBERS,
    ),
    Case(
        "stacking",
        lambda **p: scaled(StackingClassifier)(
            estimators=[("a", logistic()), ("b", LinearSVC()), ("c", GaussianNB())], cv=2, **p
        ),
        plain(passthrough=st.booleans()),
        data_sets=FEW,
    ),
    Case(
        "stacking-regressor",
        lambda **p: scaled(StackingRegressor)(
            estimators=[("a", Ridge()), ("b", SVR())], final_estimator=Ridge(), cv=2, **p
        ),
        plain(passthrough=st.booleans()),
        target="number",
        data_sets=NUMBERS,
    ),
    Case(
        "one-vs-rest",
        lambda estimator: scaled(OneVsRestClassifier)(estimator=estimator),
        plain(estimator=st.sampled_from([SVC(), logistic(), LinearSVC()])),
        data_sets=FEW,
    ),
    Case(
        "one-vs-one",
        lambda estimator: scaled(OneVsOneClassifier)(estimator=estimator),
        plain(estimator=st.sampled_from([SVC(), logistic(), GaussianNB()])),
        data_sets=FEW,
    ),
    Case(
        "output-code",
        lambda **p: scaled(OutputCodeClassifier)(estimator=logistic(), random_state=0, **p),
        plain(code_size=st.sampled_from([1.5, 3])),
        data_sets=("multiclass", "strings"),
    ),
]
