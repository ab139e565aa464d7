"""Rows of the battery's table: linear models."""

from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.compile_cases import Case

CASES = [
    Case(
        "logistic-regression",
        LogisticRegression,
        st.fixed_dictionaries(
            {"C": st.floats(1e-3, 1e3), "fit_intercept": st.booleans(), "max_iter": st.just(50)}
        ),
    ),
    Case(
        "scaler-logistic-regression",
        lambda **p: make_pipeline(StandardScaler(), LogisticRegression(**p)),
        st.fixed_dictionaries({"C": st.floats(1e-3, 1e3)}),
    ),
    Case(
        "linear-regression",
        LinearRegression,
        st.fixed_dictionaries({"fit_intercept": st.booleans()}),
        target="number",
    ),
]
