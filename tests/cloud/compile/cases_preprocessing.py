"""Rows of the battery's table: numeric transformers, alone and in front of a model."""

import numpy as np
from hypothesis import strategies as st
from sklearn import decomposition as dc
from sklearn import feature_selection as fs
from sklearn import preprocessing as pp
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier
from tests.support.compile_cases import Case

FLAGS = st.booleans()


def _case(name, make, *, skip=(), positive=False, **parameters):
    return Case(
        name,
        make,
        st.fixed_dictionaries(parameters),
        target="classes" if issubclass(make, fs.SelectorMixin) else "none",
        skip=frozenset({*skip, "strings", "booleans"}),
        positive=positive,
    )


TRANSFORMERS = [
    _case("standard-scaler", pp.StandardScaler, with_mean=FLAGS, with_std=FLAGS),
    _case("min-max-scaler", pp.MinMaxScaler, clip=FLAGS, feature_range=st.just((-2, 3))),
    _case("max-abs-scaler", pp.MaxAbsScaler),
    _case("robust-scaler", pp.RobustScaler, with_centering=FLAGS, with_scaling=FLAGS),
    _case("normalizer", pp.Normalizer, norm=st.sampled_from(["l1", "l2", "max"])),
    _case("binarizer", pp.Binarizer, threshold=st.floats(-3.0, 3.0)),
    _case(
        "k-bins",
        pp.KBinsDiscretizer,
        n_bins=st.integers(2, 6),
        encode=st.sampled_from(["ordinal", "onehot", "onehot-dense"]),
        strategy=st.sampled_from(["uniform", "kmeans"]),
        skip={"constant-feature"},
    ),
    _case(
        "polynomial",
        pp.PolynomialFeatures,
        degree=st.integers(1, 3),
        interaction_only=FLAGS,
        include_bias=st.just(True),
        skip={"many-features"},
    ),
    # At an offset of 1e4 the fitted exponents are beyond float64 itself.
    _case("power-yeo-johnson", pp.PowerTransformer, standardize=FLAGS, skip={"offset-1e4"}),
    _case(
        "power-box-cox",
        pp.PowerTransformer,
        method=st.just("box-cox"),
        standardize=FLAGS,
        positive=True,
        skip={"constant-feature", "offset-1e4"},
    ),
    _case(
        "quantile",
        pp.QuantileTransformer,
        n_quantiles=st.sampled_from([2, 7, 60]),
        output_distribution=st.sampled_from(["uniform", "normal"]),
    ),
    _case("variance-threshold", fs.VarianceThreshold),
    _case("select-k-best", fs.SelectKBest, k=st.just(1)),
    _case(
        "select-from-model",
        fs.SelectFromModel,
        estimator=st.just(DecisionTreeClassifier(random_state=0)),
    ),
    _case("pca", dc.PCA, n_components=st.just(1), whiten=FLAGS),
    _case("truncated-svd", dc.TruncatedSVD, n_components=st.just(1), skip={"one-feature"}),
    _case(
        "function",
        pp.FunctionTransformer,
        func=st.sampled_from([None, np.abs, np.square, np.tanh]),
    ),
]

STEPS = {
    "quantile-normal": lambda: pp.QuantileTransformer(n_quantiles=20, output_distribution="normal"),
    "power": pp.PowerTransformer,
    "k-bins": lambda: pp.KBinsDiscretizer(n_bins=4, encode="ordinal", strategy="uniform"),
    "min-max": lambda: pp.MinMaxScaler(clip=True),
    "binarizer": pp.Binarizer,
    "standard": pp.StandardScaler,
}

PIPELINES = [
    Case(
        f"{name}-then-{kind}",
        lambda step=step, last=last: make_pipeline(step(), last()),
        skip=frozenset({"offset-1e4"} if name == "power" else {"constant-feature"}),
        data_sets=("binary", "multiclass", "scales", "offset-1e4", "float32"),
    )
    for name, step in STEPS.items()
    for kind, last in (
        ("logistic", LogisticRegression),
        ("tree", lambda: DecisionTreeClassifier(random_state=0)),
    )
]

CASES = TRANSFORMERS + PIPELINES
