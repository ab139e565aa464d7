"""The training report and the model card: whole, honest about refusals, and safe to open."""

import json

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.report.card import ModelCard, card_text, model_card
from fieldloop_cloud.report.explain import criteria, split_words, what_would_change
from fieldloop_cloud.report.plots import Point, _unbeaten
from fieldloop_cloud.report.training import run_report
from fieldloop_cloud.train.run import Run
from fieldloop_cloud.train.trainer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 10)
    X = random.normal(size=(600, 4))
    y = (X[:, 0] + 0.7 * random.normal(size=600) > 0).astype(int)
    data = related(from_arrays(X, y, name="pumps"), groups=groups)
    return train(
        data,
        candidates=["logistic", "random-forest"],
        strategy="80-20",
        out=tmp_path_factory.mktemp("run") / "pumps",
        budget_s=120,
    )


def test_the_report_holds_every_chapter(run):
    page = (run.path / "report.html").read_text()
    for chapter in (
        "The choice",
        "What would change the choice",
        "Data and split",
        "What the data ask for",
        "Every variant that was measured",
        "The precision ladder",
        "On the sealed test set",
        "Can its confidence be believed",
        "Part by part",
        "Where it was wrong",
        "Criteria",
        "How to get the same again",
    ):
        assert f"<h2>{chapter}</h2>" in page
    assert "5-fold cross-validation" in page
    assert "Groups stay whole" in page
    assert page.count("data:image/svg+xml;base64,") == 5
    assert "<script" not in page


def test_what_is_told_survives_saving(run):
    again = Run.load(run.path)
    assert (again.sealed, again.advice, again.split) == (run.sealed, run.advice, run.split)
    assert [item.criteria for item in again.front] == [item.criteria for item in run.front]
    assert run_report(again) == run_report(run)


def test_criteria_stand_family_by_family_with_their_refusals(run):
    families = {item.family: item for item in criteria(run)}
    logistic = families["LogisticRegression"]
    assert logistic.criteria[:3] == ("AIC", "BIC", "TIC")
    assert any(names == "AICc" for names, _ in logistic.refusals)
    forest = families["RandomForestClassifier"]
    assert forest.criteria == ("CV",)  # with folds; without them the hold-out bound
    once = replace(run, split=replace(run.split, fold_count=0))
    families_once = {item.family: item for item in criteria(once)}
    assert families_once["RandomForestClassifier"].criteria == ("hold-out bound",)
    assert any("leaves are not" in reason for _, reason in forest.refusals)
    assert any("Akaike" in source for source in logistic.sources)


def test_what_would_change_the_choice_names_models_and_numbers(run):
    chosen = run.chosen
    better = replace(chosen, candidate="mlp", score=min(1.0, chosen.score + 0.01), size_bytes=9999)
    small = replace(chosen, candidate="tree", score=chosen.score - 0.1, size_bytes=10)
    large = replace(chosen, candidate="cnn", score=0.999, over_budget="9 MB of 1 MB")
    said = what_would_change(replace(run, front=(chosen, better, small, large)))
    text = " ".join(said)
    assert f"If only the score counted: {better.name}" in text
    assert f"If only bytes counted: {small.name} with 0.0 KB" in text
    assert f"On a larger device: {large.name} reaches 0.999" in text
    assert "rows to choose by would tell the two apart" in text
    assert "With more labels" in text


def test_the_card_says_the_same_to_machines_and_people(run):
    card = msgspec.json.decode((run.path / "model-card.json").read_bytes(), type=ModelCard)
    assert card == model_card(run)
    assert json.loads((run.path / "model-card.json").read_text())["format"] == 1
    text = (run.path / "model-card.md").read_text()
    for said in (card.model, card.data_sha256, f"{card.scores[0].value:.4f}", "## Limits"):
        assert said in text
    assert card.parts == run.sealed.parts


def test_the_card_names_weak_parts_and_allowed_leaks(run):
    final = run.test[run.chosen.precision][0]
    part = run.sealed.parts[0]
    weak = replace(part, name="night", score=replace(part.score, value=0.1, low=0.0, high=0.2))
    told = replace(
        run,
        sealed=replace(run.sealed, parts=(weak,)),
        leakage_allowed="it is a limit switch",
    )
    assert final.low > 0.2
    card = model_card(told)
    assert any("Weaker for class night" in text for text in card.limits)
    assert any("it is a limit switch" in text for text in card.limits)


def test_names_from_the_data_stay_text(run):
    hostile = replace(run, data="<img src=x> | `x`\n```\nrm")
    page = run_report(hostile)
    assert "<img src=x>" not in page
    card = card_text(model_card(hostile), split_words(hostile))
    assert "\\<img src=x\\>" in card
    assert card.count("```") == 2


def test_the_front_joins_what_nothing_beats():
    def point(cost, score):
        return Point(series="", name="", cost=cost, score=score, low=0, high=1, counts=True)

    points = [point(3, 0.9), point(1, 0.5), point(2, 0.4), point(2, 0.7), point(4, 0.8)]
    assert [(item.cost, item.score) for item in _unbeaten(points)] == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_a_run_of_an_older_version_still_has_a_report(run):
    old = replace(run, sealed=None, advice=None, search=None, leaks=())
    old = replace(old, front=tuple(replace(item, criteria=()) for item in old.front))
    page = run_report(replace(old, chosen=old.front[0]))
    assert "Criteria" not in page
    assert "What the data ask for" not in page
