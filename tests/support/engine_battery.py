"""What every engine must do: plain functions, so that they run in any environment.

sdk/test_engine_battery.py runs them over the fake and the installed runtimes. An environment that
has a runtime but neither pytest nor a compiler runs them as a script:

    python engine_battery.py DIRECTORY_OF_MODELS

It prints one JSON object: check name to error text, empty if it passed.
"""

import json
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fieldloop.errors import ModelRuntimeError, SignatureError
from fieldloop.interpreter import Engine, open_engine

WEIGHTS = np.array([[1.0, 2.0, -1.0], [0.5, -2.0, 3.0]], dtype=np.float32)
BIAS = np.array([0.25, -0.5], dtype=np.float32)

Open = Callable[[str], Engine]
"""Opens the model of this name: `affine`, `sum`, `static` or `int8`."""


def affine(x):
    """What the model `affine` computes: x (n, 3) to value (n, 2) and label (n,)."""
    value = x @ WEIGHTS.T + BIAS
    return value, value.argmax(axis=1).astype(np.int32)


def rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def refuses(engine, *tensors, error=SignatureError):
    try:
        engine.run(tensors)
    except error:
        return
    shapes = [(tensor.shape, str(tensor.dtype)) for tensor in tensors]
    raise AssertionError(f"{shapes} were not refused with {error.__name__}")


def check_describes_its_tensors(open_model: Open):
    engine = open_model("affine")
    assert [(i.name, i.shape, i.dtype) for i in engine.inputs] == [("x", (-1, 3), "float32")]
    assert [(i.name, i.shape, i.dtype) for i in engine.outputs] == [
        ("value", (-1, 2), "float32"),
        ("label", (-1,), "int32"),
    ]
    assert len(engine.backend.split(" ")) == 2


def check_answers_every_batch_size(open_model: Open):
    engine = open_model("affine")
    for count in (1, 1, 7, 2, 1000, 1, 0, 3, 0, 0, 1):
        x = rows(count, seed=count)
        value, label = engine.run([x])
        expected_value, expected_label = affine(x)
        assert value.shape == (count, 2)
        assert label.shape == (count,)
        assert (value.dtype, label.dtype) == (np.float32, np.int32)
        np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(label, expected_label)


def check_outputs_are_copies(open_model: Open):
    engine = open_model("affine")
    first = engine.run([rows(2, seed=1)])[0]
    kept = first.copy()
    second = engine.run([rows(2, seed=2)])[0]
    np.testing.assert_array_equal(first, kept)
    assert (first != second).any()
    first[:] = 0.0
    np.testing.assert_allclose(engine.run([rows(2, seed=1)])[0], kept)


def check_inputs_stay_as_they_are(open_model: Open):
    engine = open_model("affine")
    x = rows(4)
    x.flags.writeable = False
    before = x.copy()
    engine.run([x])
    np.testing.assert_array_equal(x, before)


def check_takes_any_memory_layout(open_model: Open):
    engine = open_model("affine")
    x = rows(6)
    for view in (np.asfortranarray(x), x[::2], x[::-1], np.repeat(x, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(engine.run([view])[0], affine(view)[0], rtol=1e-5, atol=1e-5)


def check_refuses_what_does_not_fit(open_model: Open):
    engine = open_model("affine")
    for bad in (
        np.zeros((1, 4), np.float32),
        np.zeros((1, 2), np.float32),
        np.zeros((3,), np.float32),
        np.zeros((1, 3, 1), np.float32),
        np.zeros((3, 1), np.float32),
        np.zeros((0, 4), np.float32),
        np.zeros((1, 3), np.float64),
        np.zeros((1, 3), np.int8),
        np.zeros((1, 3), ">f4"),
    ):
        refuses(engine, bad)
        # A refused call leaves no trace.
        x = rows(2)
        np.testing.assert_allclose(engine.run([x])[0], affine(x)[0], rtol=1e-5, atol=1e-5)
    refuses(engine)
    refuses(engine, rows(1), rows(1))


def check_two_inputs_share_the_batch(open_model: Open):
    engine = open_model("sum")
    a, b = rows(4, seed=3), rows(4, seed=4)
    np.testing.assert_allclose(engine.run([a, b])[0], a + b)
    refuses(engine, rows(2), rows(3))
    refuses(engine, rows(1), rows(3))
    refuses(engine, rows(0), rows(3))
    assert engine.run([rows(0), rows(0)])[0].shape == (0, 3)
    np.testing.assert_allclose(engine.run([a, b])[0], a + b)


def check_a_static_shape_stays(open_model: Open):
    engine = open_model("static")
    assert engine.inputs[0].shape == (1, 3)
    x = rows(1)
    np.testing.assert_allclose(engine.run([x])[0], x * 2)
    refuses(engine, rows(2))
    refuses(engine, rows(0))


def check_integers_go_through(open_model: Open):
    engine = open_model("int8")
    assert engine.inputs[0].dtype == "int8"
    x = np.array([[-128, 0, 127]], dtype=np.int8)
    np.testing.assert_allclose(engine.run([x])[0], x.astype(np.float32) * 2)
    refuses(engine, x.astype(np.float32))
    refuses(engine, x.view(np.uint8))


def check_threads_do_not_mix(open_model: Open):
    engine = open_model("affine")
    errors = []

    def work(seed):
        for step in range(100):
            x = rows(1 + (seed + step) % 3, seed=seed)
            value = engine.run([x])[0]
            if not np.allclose(value, affine(x)[0], rtol=1e-5, atol=1e-5):
                errors.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def check_closed_is_closed(open_model: Open):
    engine = open_model("affine")
    x = rows(1)
    engine.run([x])
    engine.close()
    engine.close()
    refuses(engine, x, error=ModelRuntimeError)
    refuses(engine, rows(0), error=ModelRuntimeError)


CHECKS = {name: check for name, check in list(globals().items()) if name.startswith("check_")}


def main(directory: Path) -> None:
    def open_model(name: str) -> Engine:
        return open_engine((directory / f"{name}.tflite").read_bytes())

    report = {"backend": open_model("affine").backend}
    for name, check in CHECKS.items():
        try:
            check(open_model)
            report[name] = ""
        except Exception:  # noqa: BLE001 - one failure must not hide the other checks
            report[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
