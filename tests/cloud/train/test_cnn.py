"""The net's plan: its size is known before anything is built."""

import pytest

from fieldloop.errors import GateError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.train.cnn import plan_cnn


def image(height, width, channels=1):
    return ImageSpec(height=height, width=width, channels=channels)


def test_the_plan_knows_the_size_of_the_built_net(digits_run):
    run, _ = digits_run
    net = next(item for item in run.front if item.name == "cnn.float32")
    plan = plan_cnn(image(8, 8), 10, max_model_bytes=1_000_000)
    assert net.parameters["parameters"] == str(plan.parameter_count)
    assert net.size_bytes == pytest.approx(plan.float32_bytes, rel=0.1)


@pytest.mark.parametrize(("side", "convolutions"), [(4, 2), (8, 2), (28, 3), (96, 5), (224, 6)])
def test_larger_images_are_pooled_deeper(side, convolutions):
    plan = plan_cnn(image(side, side, 3), 5, max_model_bytes=10_000_000)
    assert len(plan.filters) == convolutions
    assert plan.parameter_count < 400_000


def test_a_small_device_gets_a_small_net():
    large = plan_cnn(image(32, 32), 10, max_model_bytes=1_000_000)
    small = plan_cnn(image(32, 32), 10, max_model_bytes=30_000)
    assert small.parameter_count + 8_192 <= 30_000
    assert small.filters < large.filters


@pytest.mark.parametrize(
    ("size", "max_model_bytes", "said"),
    [
        ((3, 40), 1_000_000, "too small for a convolutional net"),
        ((64, 64), 9_000, "needs .* bytes"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_training(size, max_model_bytes, said):
    with pytest.raises(GateError, match=said):
        plan_cnn(image(*size), 10, max_model_bytes=max_model_bytes)
