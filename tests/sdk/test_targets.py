"""Several targets: labels of each, from outputs of one target or with a column for each."""

import msgspec
import numpy as np
import pytest

from fieldloop.codec import Codec
from fieldloop.errors import ModelRuntimeError, SignatureError, UnsupportedError
from fieldloop.signature import FeatureSpec, Signature, TargetSpec, TensorSpec
from fieldloop.targets import target_views

KIND, SICK = (
    TargetSpec(name="kind", labels=("a", 7, "c")),
    TargetSpec(name="sick", labels=(False, True)),
)


def output(role, shape, *, name="", dtype="float32", target=None):
    return TensorSpec(name=name or role, shape=shape, dtype=dtype, role=role, target=target)


LABEL = output("label", (-1, 2), dtype="int32")


def signature(*outputs, targets=(KIND, SICK), task="classification"):
    return Signature(
        task=task,
        inputs=(TensorSpec(name="x", shape=(-1, 1), dtype="float32"),),
        outputs=outputs,
        features=(FeatureSpec(name="a"),),
        targets=targets,
    )


def test_each_target_answers_in_its_own_labels():
    codec = Codec(
        signature(
            LABEL,
            output("probabilities", (-1, 3), name="p_0", target=0),
            output("probabilities", (-1, 2), name="p_1", target=1),
        )
    )
    first, second = codec.decode(
        [
            np.array([[1, 0], [2, 1]], np.int32),
            np.array([[0.1, 0.6, 0.3], [0.2, 0.3, 0.5]], np.float32),
            np.array([[0.75, 0.25], [0.125, 0.875]], np.float32),
        ],
        latency_ms=2.0,
    )
    assert [(each.name, each.label) for each in first.targets] == [("kind", 7), ("sick", False)]
    assert first.targets[1].probabilities == (0.75, 0.25)
    assert first.confidence == pytest.approx(0.6)
    assert (first.label, first.value, first.probabilities) == (None, None, None)
    assert (first.answer, second.answer) == ((7, False), ("c", True))
    assert second.confidence == pytest.approx(0.5)
    assert second.outputs["p_1"].tolist() == [0.125, 0.875]
    assert second.latency_ms == 2.0


@pytest.mark.parametrize(
    ("role", "values", "labels", "sure"),
    [
        ("probabilities", [[0.25, 0.875]], ("no", "yes"), 0.75),
        ("decision", [[-3.0, 0.5]], ("no", "yes"), None),
    ],
)
def test_a_column_for_each_target_speaks_of_its_second_class(role, values, labels, sure):
    targets = (TargetSpec(name="p", labels=labels), TargetSpec(name="q", labels=labels))
    codec = Codec(signature(output(role, (-1, 2)), targets=targets))
    answer = codec.decode([np.array(values, np.float32)])[0]
    assert answer.answer == ("no", "yes")
    assert answer.confidence == sure


def test_values_and_classes_may_stand_together():
    codec = Codec(
        signature(
            output("value", (-1, 1), name="load", target=0),
            output("probabilities", (-1, 1), name="sick", target=1),
            targets=(TargetSpec(name="load"), SICK),
        )
    )
    answer = codec.decode([np.array([[1.5]], np.float32), np.array([[0.9]], np.float32)])[0]
    assert answer.answer == (1.5, True)
    assert answer.confidence == pytest.approx(0.9)
    assert codec.decode([np.empty((0, 1), np.float32)] * 2) == []


def test_several_values_have_names():
    targets = (TargetSpec(name="x"), TargetSpec(name="y"))
    codec = Codec(signature(output("value", (-1, 2)), targets=targets, task="regression"))
    answer = codec.decode([np.array([[1.5, -2.0]], np.float32)])[0]
    assert [(each.name, each.value) for each in answer.targets] == [("x", 1.5), ("y", -2.0)]
    with pytest.raises(ModelRuntimeError, match="NaN"):
        codec.decode([np.array([[1.5, np.nan]], np.float32)])


def test_an_impossible_class_of_any_target_is_an_error():
    codec = Codec(signature(LABEL))
    with pytest.raises(ModelRuntimeError, match="class 2 of 2"):
        codec.decode([np.array([[2, 2]], np.int32)])


def test_who_can_work_with_one_target_only_refuses_several():
    several = signature(LABEL)
    with pytest.raises(UnsupportedError, match="one target, and this one has 2"):
        _ = several.labels
    assert signature(output("label", (-1,), dtype="int32"), targets=(KIND,)).labels == ("a", 7, "c")
    assert target_views(signature(LABEL, targets=())) == ()
    again = msgspec.json.decode(msgspec.json.encode(several), type=Signature)
    assert again == several


@pytest.mark.parametrize(
    "wrong",
    [
        signature(output("label", (-1,), dtype="int32")),
        signature(output("label", (-1, 3), dtype="int32")),
        signature(LABEL, output("probabilities", (-1, 2), target=2)),
        signature(LABEL, output("probabilities", (-1, 2), target=-1)),
        signature(output("probabilities", (-1, 3), target=0)),
        signature(LABEL, targets=(KIND, KIND)),
        signature(LABEL, targets=(KIND, TargetSpec(name="s", labels=(1, True)))),
        signature(output("probabilities", (-1, 2), target=0), targets=()),
    ],
    ids=range(8),
)
def test_outputs_that_do_not_fit_the_targets_are_refused(wrong):
    with pytest.raises(SignatureError):
        Codec(wrong)
