"""A signature whose parts do not fit together is refused."""

import msgspec
import pytest

from fieldloop.errors import SignatureError
from fieldloop.signature import FeatureSpec, ImageSpec, Signature, TensorSpec, one_target

X = TensorSpec(name="x", shape=(-1, 1), dtype="float32")
Y = TensorSpec(name="y", shape=(-1, 2), dtype="float32", role="probabilities")
LABEL = TensorSpec(name="label", shape=(-1,), dtype="int32", role="label")
IMAGE = ImageSpec(height=8, width=8, channels=1)


def signature(**changes):
    return Signature(**{"task": "classification", "inputs": (X,), "outputs": (Y, LABEL)} | changes)


def test_a_sound_signature_is_returned_and_survives_json():
    sound = signature(
        features=(FeatureSpec(name="fuel", categories=("b", 1, 2.5, False)),),
        targets=one_target(("no", 1)),
    )
    assert sound.checked() is sound
    again = msgspec.json.decode(msgspec.json.encode(sound), type=Signature)
    assert again == sound
    assert [type(item) for item in again.features[0].categories] == [str, int, float, bool]
    assert hash(again) == hash(sound)


def test_outputs_are_found_by_role():
    assert signature().output("label") == LABEL
    assert signature().output("value") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": ()},
        {"outputs": ()},
        {"inputs": (X, X)},
        {"outputs": (Y, Y)},
        {"features": (FeatureSpec(name="a"), FeatureSpec(name="a"))},
        {"features": (FeatureSpec(name="a", categories=("p", "q", "p")),)},
        {"features": (FeatureSpec(name="a", categories=(1, True)),)},
        {"targets": one_target(("ok", "ok"))},
        {"inputs": (msgspec.structs.replace(X, scale=(1.0,)),)},
        {"outputs": (msgspec.structs.replace(Y, zero_point=(1,)),)},
        {"image": IMAGE, "features": (FeatureSpec(name="a"),)},
        {"image": msgspec.structs.replace(IMAGE, height=0)},
        {"image": msgspec.structs.replace(IMAGE, max_value=0.0)},
    ],
    ids=range(13),
)
def test_contradictions_are_refused_with_advice(changes):
    with pytest.raises(SignatureError) as caught:
        signature(**changes).checked()
    assert caught.value.advice
