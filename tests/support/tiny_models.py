"""Tiny flatbuffers for the engine battery and the tests of the interpreter."""

import functools

import numpy as np
from tests.support.engine_battery import BIAS, WEIGHTS

from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph

PICTURE_WEIGHTS = np.random.default_rng(0).normal(size=(3, 8))
WEATHER_WEIGHTS = np.array([[2.0, -1.0]])


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


def _several(graph):
    """Two inputs, a picture and a row; two targets, a class and a number."""
    picture = graph.reshape(graph.input("picture", (-1, 4, 2, 1), "float32"), (-1, 8))
    weather = graph.input("weather", (-1, 2), "float32")
    graph.output("fault", graph.softmax(graph.fully_connected(picture, PICTURE_WEIGHTS)))
    graph.output("wear", graph.fully_connected(weather, WEATHER_WEIGHTS, [0.5]))


BUILDERS = {
    "affine": _affine,
    "sum": _sum,
    "static": _static,
    "int8": _int8,
    "several": _several,
}


@functools.cache
def build(name: str) -> bytes:
    """Return the flatbuffer of one model."""
    model = Model()
    graph = Graph(model)
    BUILDERS[name](graph)
    return graph.finish()
