import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from fieldloop.errors import UnsupportedError
from fieldloop.interpreter import open_engine
from fieldloop_cloud.compile.flatbuffer import BUFFER_ALIGNMENT, Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.tensor import broadcast

RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 3)).astype(np.float32)


def run(build, array, worker=None):
    """Build a graph over an input like the array (rows dynamic) and return its outputs."""
    g = Graph(Model())
    made = build(g, g.input("x", (-1, *array.shape[1:]), array.dtype.name))
    for i, tensor in enumerate(made if isinstance(made, (list, tuple)) else [made]):
        g.output(f"y{i}", tensor)
    data = g.finish()
    outputs = open_engine(data).run([array])
    if worker:
        for here, there in zip(outputs, worker.run(data, [array])[0], strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-6)
    return outputs


UNARY = {
    "exp": np.exp,
    "neg": np.negative,
    "abs": np.abs,
    "square": np.square,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True)),
}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "squared_difference": lambda a, b: (a - b) ** 2,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_tensor(name, tflite214):
    (got,) = run(lambda g, x: getattr(g, name)(x), A, worker=tflite214)
    np.testing.assert_allclose(got, UNARY[name](A), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["log", "sqrt", "rsqrt"])
def test_functions_of_positive_numbers(name, tflite214):
    wanted = {"log": np.log, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x)}[name]
    (got,) = run(lambda g, x: getattr(g, name)(x), np.abs(A), worker=tflite214)
    np.testing.assert_allclose(got, wanted(np.abs(A)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("other", [A[::-1].copy(), np.float32(0.5), A[:1], A[:, :1].copy()])
def test_functions_of_two_operands_broadcast(name, other, tflite214):
    wanted = BINARY[name](A, other)
    if np.ndim(other) == 2 and len(other) == len(A):

        def build(g, x):
            right = g.columns(x, 3, 3 + other.shape[1])
            return getattr(g, name)(g.columns(x, 0, 3), right)

        (got,) = run(build, np.hstack([A, other]), worker=tflite214)
    else:
        (got,) = run(lambda g, x: getattr(g, name)(x, other), A, worker=tflite214)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_reductions_and_searches(tflite214):
    def build(g, x):
        top, where = g.topk(x, 2)
        return [
            g.sum(x, 1),
            g.mean(x, 1, keepdims=True),
            g.reduce_max(x, 1),
            g.reduce_min(x, -1),
            g.arg_max(x),
            g.arg_min(x),
            top,
            where,
            g.cumsum(x),
            g.reduce_any(g.greater(x, 1.0), 1),
        ]

    got = run(build, A, worker=tflite214)
    order = np.argsort(-A, axis=1)
    wanted = [
        A.sum(1),
        A.mean(1, keepdims=True),
        A.max(1),
        A.min(1),
        A.argmax(1),
        A.argmin(1),
        np.take_along_axis(A, order[:, :2], 1),
        order[:, :2],
        A.cumsum(1),
        (A > 1).any(1),
    ]
    for here, there in zip(got, wanted, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-6)


def test_shapes_and_indexing(tflite214):
    def build(g, x):
        rows = g.strided_slice(g.shape(x), [0], [1])
        return [
            g.reshape(x, (-1, 1, 3)),
            g.squeeze(g.expand_dims(x, 1), 1),
            g.transpose(x, (1, 0)),
            g.concat([x, g.mul(x, 2.0)], axis=1),
            g.pack([x, x], axis=1),
            g.pack(g.unpack(g.transpose(x, (1, 0)))),
            g.bitcast(x, "int32"),
            g.gather(x, np.array([2, 0], np.int32), axis=1),
            g.gather(x, g.arg_max(x), axis=1, batch_dims=1),
            g.columns(x, 1, 3),
            g.tile(x, np.array([1, 2], np.int32)),
            g.one_hot(g.arg_max(x), 3),
            g.select(g.greater(x, 0.0), x, 0.0),
            g.cast(g.greater(x, 0.0), "int32"),
            g.fill(rows, np.float32(7), (-1,)),
            g.range(0, g.squeeze(rows, 0)),
            g.broadcast_to(np.float32([[1, 2, 3]]), g.shape(x), (-1, 3)),
            g.gather_nd(x, np.array([[0, 1], [2, 2]], np.int32)),
        ]

    got = run(build, A, worker=tflite214)
    best = A.argmax(1)
    wanted = [
        A[:, None],
        A,
        A.T,
        np.hstack([A, A * 2]),
        np.stack([A, A], axis=1),
        A.T,
        A.view(np.int32),
        A[:, [2, 0]],
        A[np.arange(5), best],
        A[:, 1:],
        np.hstack([A, A]),
        np.eye(3)[best],
        np.where(A > 0, A, 0),
        (A > 0).astype(int),
        np.full(5, 7),
        np.arange(5),
        np.tile([[1, 2, 3]], (5, 1)),
        A[[0, 2], [1, 2]],
    ]
    for here, there in zip(got, wanted, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-6)


def test_a_loop_runs_until_its_condition_fails(tflite214):
    def build(g, x):
        def body(inner, variables):
            turn, value = variables
            return inner.add(turn, 1), inner.mul(value, 2.0)

        return g.while_(lambda inner, v: inner.less(v[0], 5), body, (g.constant(0), x))[1]

    (got,) = run(build, A, worker=tflite214)
    np.testing.assert_allclose(got, A * 32, rtol=1e-6)


def test_a_body_may_not_use_tensors_from_outside():
    g = Graph(Model())
    x = g.input("x", (-1, 3), "float32")
    with pytest.raises(ValueError, match="loop variable"):
        g.while_(lambda inner, v: inner.less(v[0], 5), lambda inner, v: [inner.add(v[0], x)], (x,))


def test_the_same_constant_is_stored_once():
    def size(count):
        g = Graph(Model())
        x = g.input("x", (-1, 1000), "float32")
        for _ in range(count):
            x = g.add(x, np.arange(1000.0))
        g.output("y", x)
        return len(g.finish())

    assert size(4) - size(2) < 1000


def test_buffers_lie_on_16_byte_borders():
    g = Graph(Model())
    x = g.input("x", (-1, 3), "float32")
    constants = [RNG.normal(size=size).astype(np.float32) for size in (3, 30, 300)]
    y = g.add(x, constants[0])
    for table in constants[1:]:
        y = g.add(y, table.reshape(-1, 3)[:1])
        g.output(f"z{len(table)}", g.add(g.columns(y, 0, 1), table))
    data = g.finish()
    model = schema.Model.GetRootAs(data, 0)
    for i in range(model.BuffersLength()):
        if model.Buffers(i).DataLength():
            table = model.Buffers(i)._tab
            start = table.Vector(table.Offset(4))
            assert start % BUFFER_ALIGNMENT == 0


def test_an_input_or_a_constant_can_be_an_output():
    (same, fixed) = run(lambda g, x: [x, g.constant(np.float32([1, 2]))], A)
    np.testing.assert_array_equal(same, A)
    assert fixed.tolist() == [1, 2]


def test_infinite_constants_are_refused():
    with pytest.raises(UnsupportedError, match="infinity"):
        Graph(Model()).constant([1.0, np.inf])


def test_operands_of_two_dtypes_are_an_error():
    g = Graph(Model())
    with pytest.raises(ValueError, match="cast"):
        g.add(g.input("x", (-1,), "float32"), g.input("y", (-1,), "int32"))


@pytest.mark.parametrize("pair", [((2, 3), (3, 2)), ((4,), (-1, 5))])
def test_shapes_that_do_not_broadcast_are_an_error(pair):
    with pytest.raises(ValueError, match="broadcast"):
        broadcast(*pair)


def test_the_file_names_the_oldest_runtime_that_runs_it():
    g = Graph(Model())
    g.output("y", g.softmax(g.input("x", (-1, 3), "float32")))
    data = g.finish()
    facts = inspect(data)
    assert facts.min_runtime <= "2.14.0"
    assert facts.min_runtime.encode() in data
    assert not facts.custom_ops
    assert facts.inputs[0].shape == (-1, 3)


def test_what_is_equal_in_the_graph_is_written_once(tflite214):
    def chain(length):
        g = Graph(Model())
        x = g.input("x", (-1, 3), "float32")
        for _ in range(length):
            x = g.relu(x)
        g.output("y", x)
        return g.finish()

    # An op takes its table, its tensor's table and the numbers of its input and output.
    assert (len(chain(101)) - len(chain(1))) / 100 <= 90
    rows = np.array([[1, -2, 3]], np.float32)
    assert tflite214.run(chain(40), [rows])[0][0].tolist() == [[1, 0, 3]]
