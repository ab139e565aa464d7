"""What is inside a transfer net: pixels, cuts, weights, and what each phase trains."""

import pytest

pytestmark = pytest.mark.slow


def test_the_graph_preprocesses_as_each_family_wants(ask):
    found, _ = ask("preprocessing")
    assert len(found) == 30
    # Colours minus a mean lie around 100: float32's rounding there is 1e-5.
    assert {name: error for name, error in found.items() if error > 5e-5} == {}


def test_every_family_can_be_cut_at_its_stages(ask):
    found, _ = ask("cuts")
    assert len(found) == 13
    for name, facts in found.items():
        heights = [end[2] for end in facts["ends"]]
        assert heights == sorted(heights, reverse=True), name
        assert len(set(heights)) == len(heights) >= 4, name
        assert facts["cut"], name
        assert facts["prefix"], name
    assert [end[1] for end in found["resnet"]["ends"]] == [
        "conv1_relu",
        "conv2_block3_out",
        "conv3_block4_out",
        "conv4_block6_out",
        "conv5_block3_out",
    ]
    assert [end[1] for end in found["mobilenet_v2"]["ends"]][2:4] == [
        "block_6_expand_relu",
        "block_13_expand_relu",
    ]
    assert found["nasnet"]["ends"][3][1] == "normal_concat_8"


def test_weights_come_from_their_own_files_only(ask):
    found, _ = ask("sources")
    same = {name for name, said in found.items() if said == "the same"}
    assert same == {"full.keras", "full.weights.h5", "exported", "own-cut.keras"}
    begins = {
        "other.keras": "DataError: these are not the weights of MobileNetV2 (alpha 0.35)",
        "other.weights.h5": "DataError: these are not the weights of MobileNetV2 (alpha 0.35)",
        "too-short.keras": "DataError: these are not the weights of MobileNetV2 (alpha 0.35) up to",
        "lambda.keras": "UnsupportedError: the file cannot be loaded in safe mode",
        "odd.keras": "UnsupportedError: the file cannot be loaded in safe mode",
        "cut-off.keras": "DataError: the weights file is damaged",
        "cut-off.weights.h5": "DataError: the weights file is damaged",
        "text.keras": "DataError: the weights file is damaged",
        "empty.keras": "DataError: the weights file is damaged",
        "weights.bin": "ConfigError: this is no file with weights",
        "folder": "ConfigError: this directory holds neither",
    }
    for name, begin in begins.items():
        assert found[name].startswith(begin), (name, found[name])
    assert found.keys() == same | begins.keys() | {"imagenet"}
    # Where there is a network or a cache, ImageNet's weights are others than ours.
    assert found["imagenet"] == "others" or found["imagenet"].startswith(
        "EnvironmentFaultError: ImageNet weights of MobileNetV2 are neither"
    )


def test_phases_train_the_head_then_the_upper_stages_more_slowly(ask, letters):
    (head, tune), _ = ask("training", weights=letters.path)
    assert (head["name"], tune["name"]) == ("head", "fine-tune")
    assert {path.split("/")[0] for path in head["steps"]} == {"probabilities"}
    assert tune["rate"] == pytest.approx(0.1 * head["rate"])
    steps = tune["steps"]
    assert steps["probabilities/kernel"] == pytest.approx(1.0, abs=1e-3)
    assert steps["block_6_expand/kernel"] == pytest.approx(1.0, abs=1e-3)
    assert steps["block_2_project/kernel"] == pytest.approx(0.5, abs=1e-3)
    assert not [path for path in steps if path.startswith(("Conv1", "pixels", "expanded_conv"))]
    assert not [path for path in steps if "gamma" in path or "beta" in path]
    assert head["kept"]
    assert tune["kept"]
