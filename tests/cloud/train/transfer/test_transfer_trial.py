"""Transfer among the candidates, trained for real: chosen, resumed, refused, and on the record."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from fieldloop.errors import ConfigError, GateError, UnsupportedError
from fieldloop_cloud.data.split import split
from fieldloop_cloud.release.targets import load_target
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.train import feature_trial, net_trial
from fieldloop_cloud.train.bench import bench_of
from fieldloop_cloud.train.nets import estimate
from fieldloop_cloud.train.run import Run
from fieldloop_cloud.train.trainer import train
from fieldloop_cloud.train.transfer.backbone import Backbone
from fieldloop_cloud.train.trial import run_trial

pytestmark = pytest.mark.slow

ROWS = 200
FLOAT = replace(load_target("x86"), precisions=("float32",))
CANDIDATES = ["tree", "transfer-features"]


@pytest.fixture(scope="module")
def few(digits):
    """About twelve labels a class to learn from."""
    return digits.take(np.sort(np.random.default_rng(0).permutation(len(digits))[:ROWS]))


@pytest.fixture(scope="module")
def bench(few, letters):
    return bench_of(
        few,
        split(few),
        target=FLOAT,
        metric="accuracy",
        epsilon=0.02,
        seed=0,
        backbone=Backbone.load(letters.path),
        deadline=time.monotonic() + 300,
    )


@pytest.fixture(scope="module")
def searched(few, letters, tmp_path_factory):
    """A search in processes of its own, as users have it; the study stays."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    return train(few, device=FLOAT, candidates=CANDIDATES, weights=letters.path, trials=0, out=out)


def test_with_few_labels_a_backbone_is_chosen_among_the_candidates(searched):
    assert {item.candidate for item in searched.front} == set(CANDIDATES)
    assert searched.chosen.candidate == "transfer-features"


def test_the_run_says_what_it_started_from(searched, letters):
    own = Backbone.load(letters.path)
    told = searched.lineage.parameters
    assert (told["weights"], told["weights_sha256"]) == ("letters", own.sha256)
    assert told["pretrained_on"] == "glyphs"
    assert Run.load(searched.path).backbone == own.named
    assert own.sha256[:16] in searched.report.read_text()
    card = json.loads((searched.path / "model-card.json").read_text())
    assert card["parameters"]["weights_sha256"] == own.sha256
    assert "weights='letters'" in card["reproduce"]
    # Nobody needs to know where it lay on this machine.
    assert str(Path(letters.path).parent) not in (searched.path / "run.json").read_text()


def test_resume_goes_on_with_the_backbone_and_with_no_other(searched, few, letters, tmp_path):
    options = {"candidates": CANDIDATES, "trials": 0, "out": searched.path, "resume": True}
    options["device"] = FLOAT
    again = train(few, weights=letters.path, **options)
    assert again.chosen.compiled.tflite == searched.chosen.compiled.tflite
    other = tmp_path / "letters"
    other.mkdir()
    for path in Path(letters.path).iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    facts = json.loads((other / "backbone.json").read_text())
    (other / "backbone.json").write_text(json.dumps(facts | {"cut": "stage2"}))
    with pytest.raises(ConfigError, match="another backbone, or its files have changed"):
        train(few, weights=other, **options)


def test_fine_tuning_is_measured_like_any_other_net(bench):
    candidate = portfolio(("transfer",))[0]
    settings = {**candidate.portfolio[0], "epochs": 5, "fine_tune": "stage3", "cut": "stage3"}
    end = run_trial(candidate, settings, bench)
    (scored,) = end.scored
    assert scored.score_low > 0.2
    assert {epoch.phase for epoch in scored.history} == {"head", "fine-tune"}
    assert scored.parameters["weights_sha256"] == bench.backbone.sha256
    assert scored.parameters["fine_tune"] == "stage3"
    assert scored.compiled.signature.image == bench.train.image


def test_a_backbone_can_be_cut_before_its_own_end(bench):
    candidate = portfolio(("transfer-features",))[0]
    settings = {**candidate.portfolio[0], "cut": "stage2", "pooling": "average"}
    (scored,) = run_trial(candidate, settings, bench).scored
    assert (scored.parameters["cut"], scored.parameters["features"]) == ("stage2", "48")
    # What the head is conditional on its features, it is not among models of pixels.
    families = {item.family for item in scored.criteria}
    assert families == {f"LogisticRegression on a backbone's features, {len(bench.train)} rows"}
    refused = next(item for item in scored.criteria if item.name == "AIC")
    assert "parameters" in refused.reason


@pytest.fixture(scope="module")
def cost(bench):
    candidate = portfolio(("transfer",))[0]
    return estimate(candidate.transfer(bench.train, candidate.portfolio[0], bench.backbone))


@pytest.mark.parametrize("name", ["transfer", "transfer-features"])
def test_what_cannot_fit_the_device_is_refused_before_training(name, bench, cost, monkeypatch):
    def never(*_, **__):
        pytest.fail("it was trained")

    monkeypatch.setattr(net_trial, "estimate", lambda _: cost)
    monkeypatch.setattr(net_trial, "train_net", never)
    monkeypatch.setattr(feature_trial, "train_on_features", never)
    candidate = portfolio((name,))[0]
    small = dataclasses.replace(bench, target=replace(bench.target, max_model_bytes=20_000))
    with pytest.raises(GateError, match="would take about") as refused:
        run_trial(candidate, candidate.portfolio[0], small)
    assert "20,000" in refused.value.where


def test_a_head_in_float_is_not_offered_where_only_integers_run(bench):
    candidate = portfolio(("transfer-features",))[0]
    chip = dataclasses.replace(bench, target=load_target("mcu"))
    with pytest.raises(UnsupportedError, match="computes in float") as refused:
        run_trial(candidate, candidate.portfolio[0], chip)
    assert "candidate transfer" in refused.value.advice
