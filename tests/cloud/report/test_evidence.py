"""What the sealed rows show: calibration, mistakes and part scores, on answers that are known."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.tables import dataset_from_frame
from fieldloop_cloud.train.evidence import evidence_on
from fieldloop_cloud.train.measure import Answers


def answers(predicted, confidence=None):
    predicted = np.asarray(predicted)
    probabilities = None
    if confidence is not None:
        probabilities = np.stack([confidence, 1 - confidence], axis=1)
        swap = predicted == 1
        probabilities[swap] = probabilities[swap][:, ::-1]
    return Answers(predicted=predicted, probabilities=probabilities, outputs=())


def rows(count, **options):
    X = np.random.default_rng(0).normal(size=(count, 3))
    return from_arrays(X, np.arange(count) % 2, **options)


def test_honest_confidence_has_no_gap_and_boasting_has():
    random = np.random.default_rng(0)
    test = rows(4000)
    confidence = random.uniform(0.5, 1.0, 4000)
    right = random.random(4000) < confidence
    predicted = np.where(right, test.y, 1 - test.y)
    honest = evidence_on(test, answers(predicted, confidence), np.arange(4000))
    assert honest.calibration_error < 0.03
    assert len(honest.reliability) == 10
    assert sum(item.row_count for item in honest.reliability) == 4000
    assert all(item.low <= item.accuracy <= item.high for item in honest.reliability)
    boasting = evidence_on(test, answers(predicted, np.full(4000, 0.99)), np.arange(4000))
    assert boasting.calibration_error == pytest.approx(0.99 - right.mean(), abs=1e-6)


def test_the_surest_mistakes_come_first_with_their_row_in_the_data():
    test = rows(40)
    predicted = test.y.copy()
    predicted[[3, 7, 11]] = 1 - predicted[[3, 7, 11]]
    confidence = np.full(40, 0.6)
    confidence[7], confidence[11] = 0.99, 0.8
    found = evidence_on(test, answers(predicted, confidence), np.arange(100, 140))
    assert [item.row for item in found.mistakes] == [108, 112, 104]
    assert found.mistake_count == 3
    assert (found.mistakes[0].truth, found.mistakes[0].predicted) == ("1", "0")
    assert list(found.mistakes[0].values) == ["x0", "x1", "x2"]


def test_mistakes_on_images_are_shown_as_they_were_seen():
    images = np.zeros((20, 4, 6), dtype=np.uint8)
    images[5, 1, 2] = 255
    test = from_arrays(images, np.arange(20) % 2)
    predicted = test.y.copy()
    predicted[5] = 0
    (mistake,) = evidence_on(test, answers(predicted), np.arange(20)).mistakes
    picture = Image.open(io.BytesIO(base64.b64decode(mistake.picture)))
    assert picture.size == (96, 64)
    assert np.asarray(picture)[16:32, 32:48].min() == 255
    assert np.asarray(picture).sum() == 16 * 16 * 255


def test_numbers_show_their_largest_errors():
    X = np.random.default_rng(0).normal(size=(30, 2))
    test = from_arrays(X, X[:, 0], task="regression")
    said = test.y.copy()
    said[4] += 5
    found = evidence_on(test, answers(said), np.arange(30))
    assert found.mistakes[0].row == 5
    assert found.reliability == ()
    assert found.calibration_error is None


def test_parts_are_classes_groups_and_categories():
    frame = pd.DataFrame({"heat": np.arange(60.0), "site": ["north", "south", "south"] * 20})
    target = pd.Series(["hot", "cold"] * 30, name="state")
    test = dataset_from_frame(frame, target, name="t", where="t")
    test = related(test, groups=np.arange(60) // 30)
    predicted = test.y.copy()
    south = np.asarray(frame["site"] == "south")
    predicted[south] = 1 - predicted[south]
    found = evidence_on(test, answers(predicted), np.arange(60))
    scores = {(part.kind, part.name): part.score.value for part in found.parts}
    assert scores["site", "north"] == 1.0
    assert scores["site", "south"] == 0.0
    assert scores["class", "hot"] == pytest.approx(1 / 3)
    assert scores["group", "group 2"] == pytest.approx(1 / 3)
