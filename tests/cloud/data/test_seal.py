"""The sealed test set opens once, and every opening is logged."""

import pytest

from fieldloop.errors import GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.seal import SealedTest


def test_the_test_set_opens_once_and_every_opening_is_logged():
    sealed = SealedTest(Dataset.load("sklearn:iris"))
    assert len(sealed.open("the final evaluation")) == 150
    with pytest.raises(GateError, match=r"opened already.*the final evaluation"):
        sealed.open("one more look")
    sealed.open("one more look", force=True)
    assert [(item.purpose, item.forced) for item in sealed.openings] == [
        ("the final evaluation", False),
        ("one more look", True),
    ]


def test_an_opened_set_stays_opened_after_a_restart():
    data = Dataset.load("sklearn:iris")
    first = SealedTest(data)
    first.open("the final evaluation")
    with pytest.raises(GateError):
        SealedTest(data, openings=first.openings).open("again")
