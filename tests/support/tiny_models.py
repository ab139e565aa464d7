"""Tiny flatbuffers for the engine battery and the tests of the interpreter."""

import functools

from tests.support.engine_battery import BIAS, WEIGHTS

from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph


def _affine(graph):
    value = graph.fully_connected(graph.input("x", (-1, 3), "float32"), WEIGHTS, BIAS)
    graph.output("value", value)
    graph.output("label", graph.arg_max(value))


def _sum(graph):
    first = graph.input("x", (-1, 3), "float32")
    graph.output("y", graph.add(first, graph.input("x2", (-1, 3), "float32")))


def _static(graph):
    graph.output("y", graph.mul(graph.input("x", (1, 3), "float32"), 2.0))


def _int8(graph):
    x = graph.input("x", (-1, 3), "int8", scale=0.5)
    graph.output("y", graph.mul(graph.cast(x, "float32"), 2.0))


BUILDERS = {"affine": _affine, "sum": _sum, "static": _static, "int8": _int8}


@functools.cache
def build(name: str) -> bytes:
    """Return the flatbuffer of one model."""
    model = Model()
    graph = Graph(model)
    BUILDERS[name](graph)
    return graph.finish()
