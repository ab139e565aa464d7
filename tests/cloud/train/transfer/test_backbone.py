"""Backbones: what is one, what is none, and what their hash says."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from tests.support.backbones import backbone_directory

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.train.transfer.backbone import Backbone


def test_a_directory_of_ones_own_says_everything(tmp_path):
    found = Backbone.load(backbone_directory(tmp_path / "letters", cut="stage3"))
    assert (found.name, found.member, found.alpha, found.cut) == (
        "letters",
        "MobileNetV2",
        0.35,
        "stage3",
    )
    assert found.files.keys() == {"letters/backbone.keras", "letters/backbone.json"}
    assert found.parameters == {
        "weights": "letters",
        "weights_sha256": found.sha256,
        "pretrained_on": "glyphs",
    }
    assert found.loading == "'letters'"


@pytest.mark.parametrize("changed", ["backbone.keras", "backbone.json"])
def test_any_change_of_its_files_changes_the_hash(changed, tmp_path):
    path = backbone_directory(tmp_path / "letters")
    before = Backbone.load(path).sha256
    if changed.endswith("json"):
        facts = json.loads((path / changed).read_text())
        (path / changed).write_text(json.dumps(facts | {"cut": "stage2"}))
    else:
        with zipfile.ZipFile(path / changed, "a") as archive:
            archive.writestr("more", "weights")
    assert Backbone.load(path).sha256 != before


def test_a_file_has_the_hash_that_sha256sum_says_and_needs_a_name(tmp_path):
    path = tmp_path / "own.weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\nrest")
    with pytest.raises(ConfigError, match="do not say which net they are of"):
        Backbone.load(path)
    found = Backbone.load(path, member="MobileNetV2", alpha=0.5)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    again = "fl.Backbone.load('own.weights.h5', member='MobileNetV2', alpha=0.5)"
    assert found.loading == again
    part = Backbone.load(path, member="MobileNetV2", cut="stage3")
    assert part.loading.endswith("alpha=1, cut='stage3')")


def test_a_saved_model_is_its_variables(tmp_path):
    path = tmp_path / "saved"
    (path / "variables").mkdir(parents=True)
    (path / "assets").mkdir()
    for name in ("saved_model.pb", "variables/variables.index", "assets/labels.txt"):
        (path / name).write_text(name)
    found = Backbone.load(path, member="MobileNet")
    assert set(found.files) == {"saved/saved_model.pb", "saved/variables/variables.index"}


@pytest.mark.parametrize("name", ["nowhere", "empty", "text.txt"])
def test_what_is_no_backbone_is_refused_with_a_way_out(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no weights")
    with pytest.raises(ConfigError) as refused:
        Backbone.load(tmp_path / name, member="MobileNetV2")
    assert name in refused.value.where
    assert "pretrain" in refused.value.advice


@pytest.mark.parametrize("name", ["half.keras", "half.h5"])
def test_a_damaged_file_is_noticed_without_tensorflow(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK half")
    with pytest.raises(DataError, match="weights file is damaged"):
        Backbone.load(tmp_path / name, member="MobileNetV2")


def test_what_it_says_itself_is_not_to_be_said_again(tmp_path):
    path = backbone_directory(tmp_path / "letters")
    with pytest.raises(ConfigError, match="says itself which net"):
        Backbone.load(path, member="MobileNetV2")


def test_imagenet_leaves_the_net_open_and_moves_nowhere():
    found = Backbone.load("imagenet")
    assert found.member is None
    assert found.parameters == {"weights": "imagenet"}
    assert found.inside(Path("elsewhere")) == found
    assert found.loading == "'imagenet'"
