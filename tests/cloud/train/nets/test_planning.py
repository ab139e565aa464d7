"""A net's plan: its size is known before anything is built."""

import msgspec
import pytest

from fieldloop.errors import ConfigError, DataError, GateError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.release.targets import load_target
from fieldloop_cloud.train.nets import NetPlan, estimate_all, plan_net
from fieldloop_cloud.train.nets.planning import plan_cnn, plan_cnn1d, plan_gru, plan_mlp


def image(height, width, channels=1):
    return ImageSpec(height=height, width=width, channels=channels)


PLANS = (
    plan_cnn(image(8, 8), 10, max_model_bytes=1_000_000),
    plan_mlp((0, 0, 4, 0, 2), 3, max_model_bytes=1_000_000),
    plan_cnn1d(64, 3, 0, max_model_bytes=1_000_000),
    plan_gru(64, 3, 4, max_model_bytes=1_000_000),
)


def test_the_plan_knows_what_the_built_net_has(warm):
    for plan, cost in zip(PLANS, estimate_all(PLANS), strict=True):
        assert plan.parameter_count == cost.parameter_count
        # Biases may be folded away, statistics are added; nothing else is constant.
        assert cost.weight_bytes == pytest.approx(4 * plan.parameter_count, rel=0.05)
        assert 0 < cost.arena_bytes < 200_000
        assert cost.int8_size_bytes < cost.size_bytes


def test_multiplications_are_counted_as_the_layers_say(warm):
    net = plan_mlp((0, 0), 3, max_model_bytes=1_000_000)
    images = plan_cnn(image(4, 4), 2, max_model_bytes=1_000_000)
    dense, convolved = estimate_all((net, images))
    a, b = net.hidden
    assert dense.mac_count == 2 * a + a * b + b * 3
    one, two = images.filters
    flat = 2 * 2 * two
    expected = 16 * 9 * one + 16 * 9 * one * two + flat * images.dense + images.dense * 2
    assert convolved.mac_count == expected


def test_a_net_too_large_for_a_device_is_refused_before_training(warm):
    (cost,) = estimate_all((PLANS[0],))
    small = msgspec.structs.replace(load_target("mcu"), max_model_bytes=10_000)
    with pytest.raises(GateError, match="the flatbuffer would take"):
        cost.check(small)
    with pytest.raises(GateError, match="in memory"):
        cost.check(msgspec.structs.replace(load_target("x86"), ram_bytes=20_000))
    hurried = msgspec.structs.replace(load_target("x86"), latency_budget_ms=1e-4)
    with pytest.raises(GateError, match="multiplications a row would take") as refused:
        msgspec.structs.replace(cost, mac_count=1_000_000).check(hurried)
    assert "0.0001 ms" in refused.value.where
    assert cost.check(load_target("x86")) is cost


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: type(plan).__name__)
def test_a_plan_survives_the_way_to_a_worker(plan):
    assert msgspec.json.decode(msgspec.json.encode(plan), type=NetPlan) == plan


@pytest.mark.parametrize(("side", "convolutions"), [(4, 2), (8, 2), (28, 3), (96, 5), (224, 6)])
def test_larger_images_are_pooled_deeper(side, convolutions):
    plan = plan_cnn(image(side, side, 3), 5, max_model_bytes=10_000_000)
    assert len(plan.filters) == convolutions
    assert plan.parameter_count < 400_000


@pytest.mark.parametrize(
    ("plan", "argument", "max_model_bytes"),
    [
        (plan_cnn, (image(32, 32), 10), 30_000),
        (plan_mlp, ((0,) * 20, 3), 10_000),
        (plan_cnn1d, (128, 3, 4), 50_000),
        (plan_gru, (64, 3, 4), 55_000),
    ],
)
def test_a_small_device_gets_a_small_net(plan, argument, max_model_bytes):
    large = plan(*argument, max_model_bytes=1_000_000)
    small = plan(*argument, max_model_bytes=max_model_bytes)
    assert small.parameter_count < large.parameter_count
    assert small.parameter_count + 8_192 <= max_model_bytes


def test_a_long_window_is_unrolled_into_few_steps():
    assert [plan_gru(n, 1, 2, max_model_bytes=10**6).unrolled_steps for n in (8, 32, 500)] == [
        8,
        32,
        32,
    ]


@pytest.mark.parametrize(
    ("plan", "argument", "max_model_bytes", "said"),
    [
        (plan_cnn, (image(3, 40), 10), 1_000_000, "too small for a convolutional net"),
        (plan_cnn, (image(64, 64), 10), 9_000, "needs .* bytes"),
        (plan_cnn1d, (3, 1, 2), 1_000_000, "too short"),
        (plan_mlp, ((0,) * 1000, 2), 9_000, "needs .* bytes"),
    ],
)
def test_what_cannot_be_planned_is_refused(plan, argument, max_model_bytes, said):
    with pytest.raises(GateError, match=said):
        plan(*argument, max_model_bytes=max_model_bytes)


def test_a_kind_for_other_data_names_the_fitting_one():
    with pytest.raises(DataError, match="Use mlp"):
        plan_net("cnn", Dataset.load("sklearn:iris"))
    with pytest.raises(ConfigError, match="there is no net 'transformer'"):
        plan_net("transformer", Dataset.load("sklearn:iris"))
