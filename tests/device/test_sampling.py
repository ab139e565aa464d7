import numpy as np
import pytest
from tests.support.devices import dense_signature

from fieldloop.codec import Codec, Prediction
from fieldloop.signature import ImageSpec
from fieldloop.telemetry import Clock
from fieldloop_device.sampling import Sampler

DAY = 86_400_000
ROW = np.array([[1.0, 2.0]], dtype=np.float32)


def make(signature=None, **options):
    values = {"budget_per_day": 100, "random_rate": 0.1, "uncertain_below": 0.6, "seed": 1}
    return Sampler(signature or dense_signature(), **{**values, **options})


def choose(sampler, raw=(1.0, 2.0), rows=ROW, *, confidence=0.9, outside=(), wall_ms=0, name="i"):
    prediction = Prediction(
        label="good", confidence=confidence, outputs={}, out_of_range=tuple(outside)
    )
    draw = sampler.draw(prediction)
    if draw is None:
        return None
    return sampler.choose(
        draw,
        raw,
        rows,
        prediction,
        sample_id=lambda: name,
        model="m",
        now=lambda: Clock(mono_ms=0, wall_ms=wall_ms),
    )


def test_a_random_sample_is_weighted_rightly():
    """The Horvitz-Thompson total over a day of inputs is unbiased, even as the budget shrinks."""
    inputs, totals = 2_000, []
    for seed in range(60):
        sampler = make(budget_per_day=200, random_rate=0.2, seed=seed)
        drawn = [choose(sampler) for _ in range(inputs)]
        totals.append(sum(1 / item.inclusion_probability for item in drawn if item))
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - inputs) < 4 * error
    assert error < inputs / 20


@pytest.mark.parametrize("confidence", [0.3, 0.99])
def test_the_budget_of_a_day_is_a_hard_limit(confidence):
    sampler = make(budget_per_day=20, random_rate=1.0)
    for day in range(3):
        chosen = [choose(sampler, confidence=confidence, wall_ms=day * DAY) for _ in range(5_000)]
        count = sum(item is not None for item in chosen)
        assert 5 < count <= 20


def test_what_was_spent_before_a_restart_counts():
    assert not any(choose(make(budget_per_day=20, spent=20, random_rate=1.0)) for _ in range(500))


def test_no_budget_and_no_permission_send_nothing():
    for options in ({"budget_per_day": 0}, {"allowed": False}):
        sampler = make(random_rate=1.0, **options)
        assert choose(sampler, confidence=0.1, outside=("current",)) is None


def test_images_stay_on_the_device_unless_allowed():
    signature = dense_signature(image=ImageSpec(height=1, width=2, channels=1), count=2)
    assert choose(make(signature, random_rate=1.0)) is None
    assert choose(make(signature, random_rate=1.0, allowed=True)) is not None


def test_interesting_inputs_say_why():
    sampler = make(random_rate=0.0)
    assert choose(sampler, confidence=0.95) is None
    assert choose(sampler, confidence=0.59).policy == "uncertain"
    assert choose(sampler, outside=("current",)).policy == "novel"
    assert choose(sampler, confidence=0.61) is None


def test_a_certain_input_is_only_drawn_at_random():
    sampler = make(random_rate=1.0)
    first = choose(sampler)
    assert (first.policy, first.inclusion_probability) == ("random", 1.0)


def test_the_sample_carries_the_input_in_the_users_words():
    sampler = make(random_rate=1.0)
    sample = choose(sampler, {"voltage": np.float64(2.5), "current": "x"}, name="pump-7")
    assert sample.raw == ["x", 2.5]
    assert (sample.sample_id, sample.predicted, sample.confidence) == ("pump-7", "good", 0.9)
    assert choose(sampler, np.array([1.5, 2.5])).raw == [1.5, 2.5]
    assert choose(sampler, [1, None]).raw == [1, None]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_comes_back_in_the_users_range(channels):
    spec = ImageSpec(height=2, width=3, channels=channels, scale=1 / 255, offset=-0.5)
    signature = dense_signature(image=spec, count=6 * channels)
    shape = (2, 3) if channels == 1 else (2, 3, 3)
    image = np.random.default_rng(0).integers(0, 256, size=shape).astype(np.uint8)
    rows = Codec(signature).encode_row(image)
    sample = choose(make(signature, random_rate=1.0, allowed=True), image, rows)
    np.testing.assert_allclose(np.array(sample.raw), image, atol=1e-3)
    assert np.array(sample.raw).shape == shape


def test_redaction_sees_every_sample_and_may_keep_it_back():
    hide = make(random_rate=1.0, redact=lambda raw: [None, *raw[1:]])
    assert choose(hide).raw == [None, 2.0]
    keep = make(random_rate=1.0, redact=lambda _raw: None)
    assert choose(keep) is None


def test_a_redaction_that_fails_lets_nothing_out(caplog):
    def broken(_raw):
        raise ValueError("a bug")

    assert choose(make(random_rate=1.0, redact=broken)) is None
    assert "not sent" in caplog.text


def test_nearly_every_input_is_passed_over_by_the_draw():
    sampler = make(random_rate=0.01)
    prediction = Prediction(label="good", confidence=0.99, outputs={})
    assert sum(sampler.draw(prediction) is not None for _ in range(2_000)) < 60
    assert make(random_rate=0.0).draw(prediction) is None
