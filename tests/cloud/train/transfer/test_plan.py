"""Plans are checked before a process is started."""

import msgspec
import pytest

from fieldloop.errors import ConfigError, DataError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.train.transfer.families import FAMILIES, MEMBERS, family_of
from fieldloop_cloud.train.transfer.plan import TransferPlan, plan_transfer

GREY = ImageSpec(height=8, width=8, channels=1, max_value=16.0, scale=1 / 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"member": "ResNet5"}, "no net of Keras Applications"),
        ({"member": "ResNet50", "alpha": 0.5}, "has no width"),
        ({"alpha": 0.6}, r"do not exist for alpha=0\.6"),
        ({"alpha": 0.0, "weights": None}, "a width is positive"),
        ({"member": "Xception", "side": 64}, "needs images of 71 x 71"),
        ({"minimalistic": True}, "no minimalistic form"),
        ({"weights": "nowhere.keras"}, "not there"),
        ({"dropout": 1.0}, "dropout is out of its range"),
        ({"fine_tune_rate": 0.0}, "fine_tune_rate is out of its range"),
        ({"stage_decay": 2.0}, "stage_decay is out of its range"),
        ({"pooling": "median"}, "not valid"),
        ({"depth": 3}, "has no depth"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        plan_transfer(GREY, 10, **options)


def test_small_images_are_enlarged_to_what_the_family_needs():
    for family in FAMILIES:
        plan = plan_transfer(GREY, 10, member=family.members[0], weights=None)
        assert plan.seen_shape == (family.min_side, family.min_side, 3)
        assert plan.input_shape == (8, 8, 1)


def test_black_and_white_are_the_codecs():
    image = ImageSpec(height=64, width=48, channels=3, scale=2 / 255, offset=-1.0)
    plan = plan_transfer(image, 2, weights=None)
    assert (plan.black, plan.white) == (-1.0, pytest.approx(1.0))
    assert plan.seen_shape == (64, 48, 3)


def test_plans_survive_the_way_to_the_worker():
    plan = plan_transfer(GREY, 10, member="NASNetMobile", weights=None)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=TransferPlan) == plan


def test_members_are_in_one_family_each():
    assert len(set(MEMBERS)) == len(MEMBERS)
    assert all(member in family_of(member).members for member in MEMBERS)


def test_a_damaged_backbone_directory_is_refused(tmp_path):
    (tmp_path / "backbone.json").write_text('{"member": "MobileNetV2"')
    with pytest.raises(DataError, match="damaged"):
        plan_transfer(GREY, 10, weights=str(tmp_path))
