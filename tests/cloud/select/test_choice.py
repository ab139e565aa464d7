"""The choice among measured variants, with numbers where the right answer is plain."""

import msgspec
import pytest

from fieldloop.errors import GateError
from fieldloop_cloud.compile.quantize import Gate
from fieldloop_cloud.release.targets import load_target
from fieldloop_cloud.select.choice import choose, cost, overruns
from fieldloop_cloud.select.scored import Measured, Skipped
from fieldloop_cloud.train.metrics import Estimate, wilson

TARGET = msgspec.structs.replace(
    load_target("x86"),
    precisions=("float32", "int8"),
    max_model_bytes=100_000,
    latency_budget_ms=1.0,
    relative_latency=1.0,
    runtime_version="2.14.0",
)
GUESSING = Estimate(metric="accuracy", value=0.1, low=0.08, high=0.12, row_count=400)


def variant(candidate, right, *, size=10_000, p90=0.1, verdict="reference", **other):
    low, high = wilson(right, 400)
    fields = {
        "candidate": candidate,
        "parameters": {},
        "precision": "float32",
        "metric": "accuracy",
        "score": right / 400,
        "score_low": low,
        "score_high": high,
        "size_bytes": size,
        "latency_p50_ms": p90,
        "latency_p90_ms": p90,
        "train_s": 1.0,
        "gate": Gate(verdict=verdict, reason=verdict),
        **other,
    }
    measured = Measured(**fields)
    broken = "; ".join(over.text for over in overruns(measured, TARGET))
    return msgspec.structs.replace(measured, over_budget=broken)


def chosen(*front):
    choice = choose(front, TARGET, GUESSING)
    return front[choice.index].name, choice.why


def test_a_clearly_better_model_wins_whatever_it_costs():
    name, why = chosen(variant("big", 396, size=90_000), variant("small", 340, size=1_000))
    assert name == "big.float32"
    assert "no other variant" in why


def test_of_the_tied_the_cheapest_is_taken():
    name, why = chosen(
        variant("big", 396, size=90_000), variant("small", 395, size=1_000), variant("poor", 300)
    )
    assert name == "small.float32"
    assert "2 variants that fit x86 are within one standard error" in why


def test_latency_counts_in_the_cost_as_bytes_do():
    slow, fast = variant("slow", 390, p90=0.9), variant("fast", 390, p90=0.1)
    assert cost(slow, TARGET) > cost(fast, TARGET)
    assert chosen(slow, fast)[0] == "fast.float32"


@pytest.mark.parametrize("noise", [0.0001, 0.009])
def test_the_noise_of_the_clock_does_not_choose(noise):
    small = variant("small", 390, size=10_000, p90=noise)
    large = variant("large", 390, size=10_100, p90=0.0095 - noise)
    assert chosen(small, large)[0] == chosen(large, small)[0] == "small.float32"


@pytest.mark.parametrize("verdict", ["refused", "not proven"])
def test_what_did_not_pass_the_gate_is_never_chosen(verdict):
    quantized = variant("net", 400, size=100, precision="int8", verdict=verdict)
    assert chosen(variant("net", 350), quantized)[0] == "net.float32"


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ({"size": 100_001}, "100,001 bytes of 100,000"),
        ({"p90": 1.5}, "1.5 ms (90th percentile, estimated) of 1 ms"),
        ({"precision": "float16"}, "float16 where the device runs float32, int8"),
        ({"min_runtime": "2.16.0"}, "runtime 2.16.0 where the device has 2.14.0"),
    ],
)
def test_what_breaks_a_limit_is_named_and_not_chosen(broken, text):
    over = variant("over", 400, **broken)
    assert over.over_budget == text
    assert chosen(over, variant("fits", 300))[0] == "fits.float32"


def test_a_slower_device_counts_its_own_latency():
    slow = msgspec.structs.replace(TARGET, relative_latency=20.0)
    assert overruns(variant("a", 390, p90=0.1), TARGET) == ()
    assert overruns(variant("a", 390, p90=0.1), slow)[0].factor == pytest.approx(2.0)


def test_nothing_fits_says_by_how_much_the_nearest_misses():
    front = (variant("huge", 396, size=900_000), variant("near", 390, size=120_000))
    with pytest.raises(GateError, match=r"nearest, near\.float32.*120,000 bytes of 100,000"):
        choose(front, TARGET, GUESSING)


def test_what_fits_but_is_not_proven_is_named_with_its_reason():
    front = (
        variant("net", 396, precision="float16"),
        variant("net", 395, precision="int8", verdict="not proven"),
    )
    with pytest.raises(GateError, match=r"net\.int8 with .* fits, but is not proven"):
        choose(front, TARGET, GUESSING)


def test_a_model_no_better_than_guessing_goes_nowhere():
    guessing = msgspec.structs.replace(GUESSING, value=0.97)
    with pytest.raises(GateError, match=r"no model beats guessing.*0\.970"):
        choose((variant("best", 392),), TARGET, guessing)


def test_an_empty_front_is_an_error_with_advice():
    with pytest.raises(GateError, match="no candidate could be trained"):
        choose((), TARGET, GUESSING)


def test_candidates_that_are_out_for_the_same_reason_are_named_together():
    reasons = {"cnn": "for images.", "svm-rbf": "no time", "cnn1d": "for images", "mlp": "no time"}
    skipped = [Skipped(name=name, reason=reason) for name, reason in reasons.items()]
    with pytest.raises(GateError) as caught:
        choose((), TARGET, GUESSING, skipped=skipped)
    assert caught.value.what.endswith("compiled: cnn, cnn1d: for images; svm-rbf, mlp: no time")
