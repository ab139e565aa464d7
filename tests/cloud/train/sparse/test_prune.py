"""Pruning: fewer channels are a smaller and cheaper net with the same answers, or an error."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.commands import fieldloop

import fieldloop_cloud as fl
from fieldloop.errors import ConfigError, DataError, GateError
from fieldloop_cloud.compile.quantize import classification_gate
from fieldloop_cloud.train.nets.macs import mac_count
from fieldloop_cloud.train.prune.channels import Trace
from fieldloop_cloud.train.prune.selection import allotted, least_important, least_of_each


@pytest.mark.slow
def test_channels_of_zeros_go_without_a_trace_in_the_answers(pruned_nets):
    nets = json.loads(pruned_nets)["pruned"]
    assert {net["net"] for net in nets} == {
        "residual",
        "nested",
        "upsampling",
        "shared",
        "two_ends",
    }
    for net in nets:
        assert net["moved"] < 1e-6, net
        assert net["after"] < net["before"], net


@pytest.mark.slow
def test_norms_find_the_channels_of_zeros_and_gradients_those_that_nobody_reads(pruned_nets):
    result = json.loads(pruned_nets)
    assert all(net["found"] == {"l1": True, "l2": True} for net in result["pruned"])
    assert result["taylor"]


@pytest.mark.slow
def test_a_layer_whose_channels_cannot_be_followed_is_refused_by_name(pruned_nets):
    refused = json.loads(pruned_nets)["refused"]
    assert [name for name, _ in refused] == ["grouped", "mean", "turned", "spread", "memory"]
    assert all(f"'{name}'" in said for name, said in refused)


def families(*sizes):
    """A graph in which layer n makes `sizes[n]` channels, and the last one's must stay."""
    starts = np.cumsum([0, *sizes])

    class Maker:
        makes = True

        def __init__(self, number):
            self.outputs = np.arange(starts[number], starts[number + 1])

    return Trace(
        layers={f"layer{number}": Maker(number) for number in range(len(sizes))},
        reshapes={},
        group=np.arange(starts[-1]),
        fixed=frozenset(range(starts[-2], starts[-1])),
    )


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.floats(0.05, 0.95),
    st.sampled_from([1, 2, 4]),
    st.randoms(use_true_random=False),
)
def test_every_layer_keeps_some_channels_and_the_outputs_keep_all(sizes, share, multiple, random):
    graph = families(*sizes)
    scores = {number: random.random() for number in range(sum(sizes))}
    shares = dict.fromkeys(graph.families(), share)
    for gone in (
        least_important(graph, scores, share, multiple_of=multiple),
        least_of_each(graph, scores, shares, multiple_of=multiple),
    ):
        assert not gone & graph.fixed
        assert len(gone) <= round(share * sum(sizes)) + len(sizes)
        for groups in graph.families().values():
            left = len(set(groups) - gone)
            assert left >= min(len(groups), multiple, 1)
            assert left % multiple == 0 or left == len(groups)
            lost = [scores[group] for group in groups if group in gone]
            kept = [scores[group] for group in groups if group not in gone]
            assert not lost or max(lost) <= min(kept)


def test_a_sweep_sends_the_cut_where_it_costs_least():
    curves = {("a",): ((0.25, 0.0), (0.5, 0.1)), ("b",): ((0.25, 0.5), (0.5, 2.0))}
    shares = allotted(curves, {("a",): 40, ("b",): 40}, 0.25)
    assert shares == {("a",): 0.5, ("b",): 0.0}
    assert allotted(curves, {("a",): 40, ("b",): 40}, 0.35)["b",] == pytest.approx(0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_half_of_the_channels_halve_bytes_and_work_at_a_point_of_accuracy(
    sparse_nets, letters, tmp_path
):
    source = sparse_nets / "letters.keras"
    pruned = fl.prune(
        source,
        *letters.train,
        held_out=letters.held_out,
        share=0.5,
        steps=1,
        epochs=4,
        learning_rate=2e-3,
    )
    before, after = pruned.before, pruned.after
    assert pruned.share == 0.5
    assert after.size_bytes < before.size_bytes / 2
    assert after.mac_count < before.mac_count / 2
    assert after.parameter_count < before.parameter_count / 2
    assert pruned.gate.drop <= 0.01
    assert pruned.gate.row_count == len(letters.held_out[0])
    assert all(new < old for old, new in pruned.channels.values())
    # The same holds where both are quantized, and for the net that is handed out.
    small = pruned.save(tmp_path / "small.keras")
    old, new = (
        fl.to_tflite(net, example=letters.X[:100], precision="int8") for net in (source, small)
    )
    assert len(new.tflite) < len(old.tflite) / 2
    assert mac_count(new.tflite) == after.mac_count
    rows, truth = letters.held_out
    said = [model.run_encoded(rows)["probabilities"].argmax(axis=1) for model in (old, new)]
    gate = classification_gate(truth, *said)
    assert gate.drop <= 0.01
    assert gate.drop_high <= 0.03
    assert (said[0] == truth).mean() > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_zeros_are_a_smaller_download_and_nothing_else(sparse_nets, digits):
    pruned = fl.prune_magnitude(
        sparse_nets / "cnn.keras",
        *digits.train,
        held_out=digits.held_out,
        share=0.7,
        steps=1,
        epochs=4,
        epsilon=0.02,
    )
    before, after = pruned.before, pruned.after
    assert abs(after.size_bytes - before.size_bytes) < 0.01 * before.size_bytes
    assert after.mac_count == before.mac_count
    assert after.download_bytes < before.download_bytes / 2
    assert after.parameter_count < 0.35 * before.parameter_count


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_sweep_by_command_names_the_layers(sparse_nets, digits, tmp_path):
    data, out = tmp_path / "rows.npz", tmp_path / "small.keras"
    np.savez(data, X=digits.X[:400], y=digits.y[:400])
    words = ["prune", sparse_nets / "cnn.keras", data, "-o", out, "--share", "0.3", "--json"]
    settings = ["--scope", "sensitivity", "--steps", "1", "--epochs", "2", "--epsilon", "0.3"]
    done = fieldloop(*words, *settings)
    assert done.code == 0, done.err
    assert out.exists()
    assert done.result["after"]["size_bytes"] < done.result["before"]["size_bytes"]
    assert set(done.result["sensitivity"]) == {"conv2d", "conv2d_1", "dense"}
    assert fieldloop(*words, *settings).code == 2  # the output is there already


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_what_cannot_be_pruned_within_epsilon_is_refused_with_numbers(sparse_nets, digits):
    with pytest.raises(GateError, match="already in the first round") as caught:
        fl.prune(
            sparse_nets / "cnn.keras",
            *digits.train,
            held_out=digits.held_out,
            share=0.9,
            steps=1,
            epochs=0,
        )
    assert "rows lost" in caught.value.what


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_classes_that_the_net_does_not_have_are_refused(sparse_nets, digits):
    with pytest.raises(DataError, match="class 12, and the net answers 10"):
        fl.prune(sparse_nets / "cnn.keras", digits.X[:20], digits.y[:20] * 0 + 12)


ROWS = np.zeros((10, 4), dtype=np.float32)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 0.0}, "share"),
        ({"share": 1.0}, "share"),
        ({"steps": 0}, "steps"),
        ({"importance": "luck"}, "importance 'luck'"),
        ({"scope": "moon"}, "scope 'moon'"),
        ({"epsilon": 2.0}, "epsilon"),
        ({"budget_s": float("nan")}, "budget_s"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        fl.prune("net.keras", ROWS, np.zeros(10, dtype=np.int64), **settings)


@pytest.mark.parametrize(
    ("rows", "truth", "said"),
    [
        (ROWS, np.array(["a"] * 10), "no numbers from 0"),
        (ROWS, np.full(10, -1), "no numbers from 0"),
        (ROWS[:5], np.zeros(10, dtype=int), "5 rows and 10 answers"),
        (ROWS * np.nan, np.zeros(10, dtype=int), "missing or infinite"),
        ([["x"]], np.zeros(1, dtype=int), "no numbers"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, truth, said):
    with pytest.raises(DataError, match=said):
        fl.prune("net.keras", rows, truth)


def test_what_is_no_keras_file_is_refused(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"not a \.keras file"):
        fl.prune(tmp_path / "net.keras", ROWS, np.zeros(10, dtype=np.int64))
