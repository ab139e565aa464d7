"""Advice: right where the answer is known, bounded for odd data, and blind to the test rows."""

from dataclasses import replace

import numpy as np
import pytest

import fieldloop_cloud as fl
from fieldloop.errors import ConfigError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.split import split
from fieldloop_cloud.report.advice import advice_report, headline, purchases
from fieldloop_cloud.select.advice import advise
from fieldloop_cloud.select.machine import Machine, this_machine
from fieldloop_cloud.select.probes import noise, probe
from fieldloop_cloud.select.route import aim, route

EQUIPPED = Machine(core_count=4, memory_bytes=8 << 30, gpu="", deep_missing="")
BARE = Machine(core_count=1, memory_bytes=1 << 30, gpu="", deep_missing="tensorflow not installed")


def images(count, side, classes=2):
    random = np.random.default_rng(0)
    return from_arrays(random.random((count, side, side)), np.arange(count) % classes)


def windows(count):
    random = np.random.default_rng(0)
    flat = from_arrays(random.normal(size=(count, 60)), np.arange(count) % 2)
    return replace(flat, kind="series", X=flat.X.reshape(count, 20, 3), features=())


def decided(data, machine=EQUIPPED, budget_s=600.0):
    return route(data, probe(data, metric="accuracy"), machine, budget_s=budget_s)


# --- the route ----------------------------------------------------------------------------------


def test_tables_and_tiny_images_go_the_classical_way():
    assert decided(Dataset.load("sklearn:wine")).name == "classical"
    assert decided(Dataset.load("sklearn:digits")).name == "classical"


def test_images_go_deep_where_they_are_many_and_transfer_where_they_are_few():
    assert decided(images(620, 24)).name == "deep"
    few = decided(images(80, 24))
    assert few.name == "transfer"
    assert "40 images" in few.reasons[0]


def test_windows_go_deep_where_they_are_many():
    assert decided(windows(1000)).name == "deep"
    assert decided(windows(200)).name == "classical"


def test_a_machine_without_nets_or_time_says_what_it_lacks():
    without = decided(images(80, 24), BARE)
    assert without.name == "classical"
    assert "pip install 'fieldloop-cloud[deep]'" in without.reasons[-1]
    hurried = decided(images(80, 24), EQUIPPED, budget_s=20)
    assert hurried.name == "classical"
    assert "20 s without a GPU are too short" in hurried.reasons[-1]


def test_a_straight_answer_and_a_bent_one_are_told_apart():
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 4))
    straight = from_arrays(X, (X[:, 0] + X[:, 1] > 0).astype(int))
    bent = from_arrays(X, (X[:, 0] * X[:, 1] > 0).astype(int))
    assert "A straight line does as well" in decided(straight).reasons[-1]
    assert "The answer bends" in decided(bent).reasons[-1]


# --- the aim ------------------------------------------------------------------------------------


def test_the_metric_suits_the_target():
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 2))
    assert aim(from_arrays(X, np.arange(200) % 2)).metric == "accuracy"
    rare = aim(from_arrays(X, (np.arange(200) % 20 == 0).astype(int)))
    assert rare.metric == "balanced_accuracy"
    assert "class weights" in rare.objective
    assert aim(from_arrays(X, X[:, 0], task="regression")).objective == "squared error"
    heavy = from_arrays(X, random.standard_t(1.5, 200), task="regression")
    assert "Huber" in aim(heavy).objective


# --- the noise ----------------------------------------------------------------------------------


def test_the_noise_of_flipped_labels_is_found():
    random = np.random.default_rng(0)
    X = random.normal(size=(2500, 2))
    clean = (X[:, 0] > 0).astype(int)
    for share in (0.0, 0.2):
        flipped = np.where(random.random(2500) < share, 1 - clean, clean)
        data = from_arrays(X, flipped)
        found = noise(data, probe(data, metric="accuracy"))
        assert found.low - 0.03 <= share <= found.high + 0.03


def test_the_noise_of_a_number_is_found():
    random = np.random.default_rng(0)
    X = random.normal(size=(2000, 1))
    y = X[:, 0] + random.normal(size=2000) * 0.5  # a fifth of the variance
    data = from_arrays(X, y, task="regression")
    found = noise(data, probe(data, metric="r2"))
    assert found.high == pytest.approx(0.2, abs=0.04)


# --- the whole ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wine():
    return advise(Dataset.load("sklearn:wine"))


def test_the_advice_is_whole_and_repeatable(wine):
    assert [item.name for item in wine.probes] == ["guess", "line", "neighbours", "forest"]
    assert wine.best.score > 0.95
    assert wine.split.fold_count == 5
    assert [item.row_count for item in wine.test_sizes] == sorted(
        (item.row_count for item in wine.test_sizes), reverse=True
    )
    again = advise(Dataset.load("sklearn:wine"))
    assert (again.curve, again.route, again.noise) == (wine.curve, wine.route, wine.noise)
    assert fl.advise is advise


def test_the_page_tells_it_all_in_one_file(wine):
    page = advice_report(wine)
    assert headline(wine) in page
    for text in (*wine.route.reasons, *purchases(wine.curve), wine.noise.sentence):
        assert text.replace("'", "&#39;") in page
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "<script" not in page
    assert 'src="http' not in page


def test_nothing_that_learns_sees_the_test_rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(150, 2))
    y = (X[:, 0] + random.normal(size=150) > 0).astype(int)
    data = related(from_arrays(X, y), times=np.arange(150))  # then targets do not move the split
    test = split(data, strategy="auto").test
    swapped = data.y.copy()
    swapped[test] = 1 - swapped[test]
    one, other = advise(data), advise(replace(data, y=swapped))
    assert (one.curve, one.noise, one.route) == (other.curve, other.noise, other.route)
    assert [item.score for item in one.probes] == [item.score for item in other.probes]


def test_groups_are_heeded_and_told():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 4)
    X = random.normal(size=(120, 3))
    data = related(from_arrays(X, (X[:, 0] > 0).astype(int)), groups=groups)
    found = advise(data)
    assert found.kept == "groups"
    assert "what a new group will give" in advice_report(found)


def test_leaks_are_told_and_do_not_stop_the_advice():
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 3))
    y = (X[:, 0] + random.normal(size=300) > 0).astype(int)
    X[:, 2] = y * 5 + random.normal(size=300) * 0.1
    found = advise(from_arrays(X, y))
    assert [leak.kind for leak in found.leaks] == ["disguise"]
    assert any("'x2'" in text for text in found.warnings)


def test_few_rows_get_advice_without_a_curve():
    random = np.random.default_rng(0)
    found = advise(from_arrays(random.normal(size=(40, 3)), np.arange(40) % 2))
    assert found.curve is None
    assert "too few" in advice_report(found)


def test_many_features_and_many_classes_stay_affordable():
    random = np.random.default_rng(0)
    wide = from_arrays(random.normal(size=(60, 1500)), np.arange(60) % 2)
    assert advise(wide).route.name == "classical"
    many = from_arrays(random.normal(size=(5000, 3)), np.arange(5000) % 1000, task="classification")
    found = advise(many)
    assert "forest" not in {item.name for item in found.probes}
    assert (
        advice_report(found).count("data:image/svg+xml") == 1
    )  # bars of 1,000 classes say nothing


def test_an_impossible_interval_is_refused():
    with pytest.raises(ConfigError, match="does not exist"):
        advise(Dataset.load("sklearn:iris"), width=1.5)


def test_this_machine_is_looked_at():
    here = this_machine()
    assert here.core_count >= 1
    assert str(here.core_count) in here.sentence
