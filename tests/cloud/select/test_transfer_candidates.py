"""Transfer as a candidate: tried where a backbone is named, and the same one everywhere."""

import dataclasses
import json
import shlex
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.support.backbones import backbone_directory

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.cli.advise import next_command
from fieldloop_cloud.cli.train import train_command
from fieldloop_cloud.cli.weights import backbone_of
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.split import split
from fieldloop_cloud.fleet import retrain as fleet_retrain
from fieldloop_cloud.release.targets import load_target
from fieldloop_cloud.select.candidates import CANDIDATES, portfolio
from fieldloop_cloud.select.candidates.space import Among
from fieldloop_cloud.select.route import Route
from fieldloop_cloud.select.search.files import load_bench, save_bench
from fieldloop_cloud.select.search.search import SearchPlan, search
from fieldloop_cloud.train import trainer
from fieldloop_cloud.train.bench import bench_of
from fieldloop_cloud.train.transfer.backbone import Backbone

TRANSFER = [candidate for candidate in CANDIDATES if candidate.transfer is not None]
NAMES = ["transfer-features", "transfer"]


@pytest.fixture(scope="module")
def digits():
    data = Dataset.load("sklearn:digits")
    return data.take(np.arange(200))


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return backbone_directory(tmp_path_factory.mktemp("backbones") / "letters")


def bench_for(data, backbone):
    return bench_of(
        data,
        split(data),
        target=load_target("x86"),
        metric="accuracy",
        epsilon=0.02,
        seed=0,
        backbone=backbone,
        deadline=time.monotonic() + 60,
    )


class ReachedError(Exception):
    """Everything was checked: now something would be trained."""


@pytest.fixture
def wanted(monkeypatch):
    """What `train` would search, and on which bench."""
    found = SimpleNamespace(names=None, bench=None)

    def stop(candidates, bench, plan, *, out):
        del plan, out
        found.names, found.bench = [candidate.name for candidate in candidates], bench
        raise ReachedError

    monkeypatch.setattr(trainer, "search", stop)
    return found


# --- which candidates there are -----------------------------------------------------------------


def test_without_a_backbone_transfer_is_no_part_of_the_portfolio(digits, wanted):
    with pytest.raises(ReachedError):
        trainer.train(digits)
    assert "cnn" in wanted.names
    assert not set(NAMES) & set(wanted.names)


def test_with_a_backbone_both_ways_join_the_portfolio(digits, letters, wanted):
    with pytest.raises(ReachedError):
        trainer.train(digits, weights=letters)
    assert {"cnn", "logistic", *NAMES} <= set(wanted.names)
    assert wanted.bench.backbone == Backbone.load(letters)


@pytest.mark.parametrize("name", NAMES)
def test_named_without_a_backbone_it_says_how_to_get_one(name, digits, wanted, tmp_path):
    with pytest.raises(ConfigError, match=f"{name} starts from a backbone") as refused:
        trainer.train(digits, candidates=["logistic", name], out=tmp_path / "run")
    assert "fieldloop pretrain" in refused.value.advice
    assert "imagenet" in refused.value.advice
    assert wanted.names is None
    assert not (tmp_path / "run").exists()


def test_a_backbone_that_nobody_starts_from_is_no_silent_option(digits, letters, wanted):
    with pytest.raises(ConfigError, match="none of the named candidates starts"):
        trainer.train(digits, candidates=["logistic"], weights=letters)
    with pytest.raises(DataError, match="takes images"):
        trainer.train(Dataset.load("sklearn:iris"), weights=letters)
    assert wanted.names is None


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ("nowhere", ConfigError, "not there"),
        (Backbone(name="imagenet", weights="imagenet", member="ResNet5"), ConfigError, "no net"),
        (
            Backbone(name="imagenet", weights="imagenet", member="MobileNetV2", alpha=0.6),
            ConfigError,
            "do not exist for alpha",
        ),
    ],
)
def test_a_wrong_backbone_is_found_out_before_anything_is_trained(
    weights, error, words, digits, wanted
):
    with pytest.raises(error, match=words):
        trainer.train(digits, candidates=NAMES, weights=weights)
    assert wanted.names is None


def test_a_bench_without_a_backbone_leaves_it_out_with_the_reason(digits):
    found = search(portfolio(("transfer",)), bench_for(digits, None), SearchPlan(), out=None)
    assert [item.name for item in found.skipped] == ["transfer"]
    assert "none is named" in found.skipped[0].reason


def test_options_that_describe_no_backbone_are_refused(letters):
    assert backbone_of(None, None, None) is None
    assert backbone_of(str(letters), None, None).cut == "stage3"
    assert backbone_of("imagenet", "MobileNetV2", 0.35).alpha == 0.35
    with pytest.raises(ConfigError, match="no backbone that it describes") as refused:
        backbone_of(None, None, 0.35)
    assert refused.value.where == "--alpha"


def test_the_command_takes_a_backbone(letters, wanted, tmp_path):
    words = ["sklearn:digits", "-o", str(tmp_path / "run"), "--weights", str(letters)]
    with pytest.raises(ReachedError):
        CliRunner().invoke(train_command, words, catch_exceptions=False)
    assert set(NAMES) <= set(wanted.names)
    with pytest.raises(ConfigError, match="says itself which net"):
        CliRunner().invoke(
            train_command, [*words, "--member", "MobileNetV2"], catch_exceptions=False
        )


def test_retraining_a_transferred_champion_takes_a_backbone_too(digits, letters, wanted):
    champion = SimpleNamespace(
        chosen=SimpleNamespace(candidate="transfer"), device="x86", metric="accuracy"
    )
    with pytest.MonkeyPatch.context() as patch:
        parts = SimpleNamespace(train=digits.take(np.arange(5)), audit=digits, note="")
        patch.setattr(fleet_retrain, "field_data", lambda *_: parts)
        with pytest.raises(ConfigError, match="transfer starts from a backbone"):
            fleet_retrain.retrain(champion, digits, [])
        with pytest.raises(ReachedError):
            fleet_retrain.retrain(champion, digits, [], weights=letters)
    assert wanted.names == ["transfer"]


def test_the_advice_names_the_command():
    def following(name):
        advice = SimpleNamespace(route=Route(name=name, reasons=()), budget_s=600.0)
        return shlex.split(next_command(advice, "photos/", {"target": None}))

    words = following("transfer")
    assert words[words.index("--weights") + 1] == "backbones/NAME"
    assert "--weights" not in following("deep")


# --- what is planned ----------------------------------------------------------------------------


def settings_of(space):
    ways = {
        name: st.sampled_from(dimension.choices)
        if isinstance(dimension, Among)
        else st.sampled_from([dimension.low, dimension.high])
        for name, dimension in space.items()
    }
    return st.fixed_dictionaries(ways)


@pytest.mark.parametrize("candidate", TRANSFER, ids=lambda item: item.name)
@given(data=st.data())
def test_every_point_of_a_space_is_a_plan_within_the_backbone(candidate, letters, digits, data):
    settings = data.draw(settings_of(candidate.space))
    own = Backbone.load(letters)
    plan = candidate.transfer(digits, settings, own)
    assert (plan.member, plan.alpha, plan.weights) == ("MobileNetV2", 0.35, own.weights)
    assert plan.cut in ("stage2", "stage3")
    assert plan.pooling == ("flatten" if settings["pooling"] == "own" else settings["pooling"])
    # No stage behind the cut can be thawed.
    assert plan.fine_tune in ("all", "nothing") or plan.fine_tune <= plan.cut
    whole = candidate.transfer(digits, settings, Backbone.load("imagenet"))
    assert f"{whole.member} {whole.alpha:g}" == settings["architecture"]
    assert whole.cut == ("" if settings["cut"] == "own" else settings["cut"])
    if candidate.net_settings is not None:
        candidate.net_settings(settings).resolved(len(digits.labels))


def test_a_cut_at_a_layer_stays_where_it_is(digits, tmp_path):
    own = Backbone.load(backbone_directory(tmp_path / "letters", cut="block_3_add"))
    candidate = portfolio(("transfer",))[0]
    drawn = {**candidate.portfolio[0], "cut": "stage2", "fine_tune": "stage4"}
    plan = candidate.transfer(digits, drawn, own)
    assert (plan.cut, plan.fine_tune) == ("block_3_add", "all")


def test_a_file_that_ends_within_a_net_fits_that_cut_only(digits, letters):
    file = letters / "backbone.keras"
    part = Backbone.load(file, member="MobileNetV2", alpha=0.35, cut="stage3")
    candidate = portfolio(("transfer",))[0]
    plan = candidate.transfer(digits, {**candidate.portfolio[0], "cut": "stage2"}, part)
    assert plan.cut == "stage3"


# --- the same backbone for every worker ---------------------------------------------------------


def test_a_backbone_travels_with_the_rows_and_not_by_its_path(digits, letters, tmp_path):
    bench = bench_for(digits, Backbone.load(letters))
    sha256 = save_bench(bench, tmp_path / "bench")
    (tmp_path / "bench").rename(tmp_path / "elsewhere")  # as another machine calls it
    loaded = load_bench(tmp_path / "elsewhere", sha256, deadline=0.0).backbone
    assert loaded.weights == str(tmp_path / "elsewhere" / "weights" / "letters")
    assert Backbone.load(loaded.weights).sha256 == bench.backbone.sha256
    assert str(letters.parent) not in (tmp_path / "elsewhere" / "bench.json").read_text()
    assert save_bench(bench_for(digits, loaded), tmp_path / "again") == sha256


def test_a_changed_copy_is_refused(digits, letters, tmp_path):
    sha256 = save_bench(bench_for(digits, Backbone.load(letters)), tmp_path)
    facts = tmp_path / "weights" / "letters" / "backbone.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"cut": "stage2"}))
    with pytest.raises(DataError, match="does not have the hash"):
        load_bench(tmp_path, sha256, deadline=0.0)


def test_a_study_refuses_a_backbone_that_has_changed_since(digits, tmp_path):
    """No time is left for a trial, so that nothing is trained here."""
    path = backbone_directory(tmp_path / "letters")
    candidates, out = portfolio(("transfer-features",)), tmp_path / "run"

    def begin(*, resume):
        bench = bench_for(digits, Backbone.load(path) if path.exists() else None)
        late = dataclasses.replace(bench, deadline=time.monotonic())
        return search(candidates, late, SearchPlan(trials=1, resume=resume), out=out)

    begin(resume=False)
    begin(resume=True)  # the same backbone goes on
    with zipfile.ZipFile(path / "backbone.keras", "a") as archive:
        archive.writestr("more", "weights")
    with pytest.raises(ConfigError, match="another backbone, or its files have changed"):
        begin(resume=True)
