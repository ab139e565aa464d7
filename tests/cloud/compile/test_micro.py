"""TFLite Micro: arenas packed without overlap, ops checked by type, integer ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.flat_model import read_model
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.micro.arena import ALIGNMENT, Buffer, estimate_arena, packed_bytes
from fieldloop_cloud.compile.micro.integer import integer_model
from fieldloop_cloud.compile.micro.ops import micro_ops


@st.composite
def buffers(draw):
    first = draw(st.integers(0, 12))
    return Buffer(draw(st.integers(1, 500)), first, first + draw(st.integers(0, 6)))


def aligned(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


@given(st.lists(buffers(), max_size=15))
def test_an_arena_holds_all_that_lives_at_once_and_never_more_than_everything(group):
    packed = packed_bytes(group)
    at_once = [
        sum(aligned(b.size_bytes) for b in group if b.first <= step <= b.last) for step in range(20)
    ]
    assert max(at_once, default=0) <= packed <= sum(aligned(b.size_bytes) for b in group)
    assert packed % ALIGNMENT == 0


def test_a_chain_needs_two_neighbours_and_not_the_sum():
    chain = [Buffer(1000, 0, 1), Buffer(2000, 1, 2), Buffer(500, 2, 3), Buffer(100, 3, 4)]
    assert packed_bytes(chain) == aligned(1000) + aligned(2000)


def test_two_that_never_meet_share_their_place_and_two_that_do_not_fit_a_gap_do_not():
    assert packed_bytes([Buffer(64, 0, 0), Buffer(64, 1, 1)]) == 64
    # The gap of 32 between the two large ones is too small for the 48.
    group = [Buffer(128, 0, 3), Buffer(96, 2, 3), Buffer(48, 0, 3)]
    assert packed_bytes(group) == 128 + 96 + 48


def made(build):
    model = Model()
    graph = Graph(model)
    build(graph)
    return graph.finish()


def test_the_arena_of_a_model_counts_what_is_computed_and_not_the_weights():
    def dense(width):
        def build(graph):
            x = graph.input("x", (-1, 64), "float32")
            weights = np.ones((width, 64), dtype=np.float32)
            graph.output("y", graph.fully_connected(x, weights, np.ones(width, np.float32)))

        return made(build)

    narrow, wide = estimate_arena(dense(32)), estimate_arena(dense(96))
    assert narrow.tensor_bytes == 64 * 4 + 32 * 4
    assert wide.tensor_bytes == 64 * 4 + 96 * 4
    assert narrow.total_bytes >= narrow.tensor_bytes + narrow.persistent_bytes


def test_ops_are_refused_by_type_and_counted():
    def build(graph):
        x = graph.input("x", (-1, 4), "float32")
        whole = graph.cast(x, "int32")
        graph.output("best", graph.arg_max(whole))
        graph.output("sum", graph.sum(whole, 1))
        graph.output("real", graph.arg_max(x))

    ops = micro_ops(read_model(made(build)))
    assert ops.lacking == ("ARG_MAX of int32 (once)", "SUM of int32 (once)")
    assert ops.floating == ("ARG_MAX of float32 (once)", "CAST of float32 (once)")
    assert ops.methods == ("AddArgMax", "AddCast", "AddSum")
    assert "tflite-micro" in ops.source


def test_what_is_no_model_is_refused():
    with pytest.raises(UnsupportedError, match="no TFLite model"):
        integer_model(b"nothing")
    with pytest.raises(UnsupportedError, match="no TFLite model"):
        estimate_arena(b"nothing")


def test_a_dimension_of_unknown_size_is_refused_and_the_batch_is_not():
    def build(shape):
        return lambda graph: graph.output("y", graph.mul(graph.input("x", shape, "float32"), 2.0))

    fixed = read_model(integer_model(made(build((-1, 3)))))
    assert [tensor.shape for tensor in fixed.graphs[0].tensors][:1] == [(1, 3)]
    with pytest.raises(UnsupportedError, match="dimension of unknown size"):
        integer_model(made(build((1, -1))))
