"""A trial's model keeps the data's names."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import fieldloop_cloud as fl
from fieldloop.errors import UnsupportedError
from fieldloop_cloud.train.meaning import named as named_by


def test_a_class_without_training_rows_does_not_shift_the_names_of_the_others():
    data = fl.Dataset.load("sklearn:iris")
    seen = data.y != 1
    model = LogisticRegression(max_iter=500).fit(data.X[seen], data.y[seen])
    compiled = fl.to_tflite(model, example=data.X[seen], labels=data.labels)
    assert set(compiled.run(data.X[seen])["label"]) == {"setosa", "virginica"}
    with pytest.raises(UnsupportedError, match="versicolor"):
        named_by(compiled, data)


def test_the_datas_own_columns_are_named():
    data = fl.Dataset.load("sklearn:iris")
    model = LogisticRegression(max_iter=500).fit(data.X, data.y)
    done = named_by(fl.to_tflite(model, example=data.X, labels=data.labels), data)
    assert done.signature.feature_names == tuple(spec.name for spec in data.features)
    np.testing.assert_array_equal(
        done.run(data.X)["label"], np.asarray(data.labels)[model.predict(data.X)]
    )
