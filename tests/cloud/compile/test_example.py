"""An example that the model itself does not take is the user's mistake, and is called so."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from fieldloop.errors import DataError
from fieldloop_cloud.compile.api import to_tflite


@pytest.fixture(scope="module")
def fitted():
    frame = pd.DataFrame({"grade": ["1", "2", "1", "2"] * 5, "size": np.arange(20.0)})
    columns = make_column_transformer((OneHotEncoder(), ["grade"]), remainder="passthrough")
    return frame, make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1] * 10)


def test_text_categories_given_as_numbers(fitted):
    frame, model = fitted
    with pytest.raises(DataError, match="same types"):
        to_tflite(model, example=frame.assign(grade=frame["grade"].astype(int)))


def test_an_array_where_columns_have_names(fitted):
    frame, model = fitted
    with pytest.raises(DataError, match="only supported for dataframes"):
        to_tflite(model, example=frame.to_numpy())


def test_the_frame_that_it_was_fitted_on(fitted):
    frame, model = fitted
    compiled = to_tflite(model, example=frame)
    np.testing.assert_array_equal(compiled.run(frame)["label"], model.predict(frame))
