"""A model in a process of its own: the children here really die."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.faults import test_mutated_models
from tests.support.devices import WEIGHTS, Device, dense_model, make_bundle, trust

from fieldloop.errors import ConfigError, ModelCrashError, ModelRuntimeError, SignatureError
from fieldloop.interpreter import open_engine
from fieldloop_device import isolation
from fieldloop_device.isolation import IsolatedEngine
from fieldloop_device.runtime import Runtime

ROW = np.array([[1.0, 2.0]], dtype=np.float32)


@pytest.fixture(scope="module")
def shared():
    with IsolatedEngine(dense_model()) as opened:
        yield opened


@pytest.fixture
def engine():
    with IsolatedEngine(dense_model()) as opened:
        yield opened


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def die_in_a_call(engine, how):
    """Stop the child, ask it, and only then kill it: it dies in the middle of the call."""
    pid = engine.pid
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.1, os.kill, (pid, how)).start()
    if how != signal.SIGKILL:
        threading.Timer(0.15, os.kill, (pid, signal.SIGCONT)).start()
    with pytest.raises(ModelCrashError, match=signal.Signals(how).name):
        engine.run([ROW])
    assert not is_alive(pid)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**32))
def test_it_answers_as_the_engine_here(shared, count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)
    with open_engine(dense_model()) as here:
        np.testing.assert_array_equal(shared.run([rows])[0], here.run([rows])[0])
    assert (shared.inputs, shared.outputs, shared.backend) == (
        here.inputs,
        here.outputs,
        here.backend,
    )


def test_an_answer_is_not_overwritten_by_the_next(shared):
    first = shared.run([ROW])[0]
    kept = first.copy()
    shared.run([-ROW])
    np.testing.assert_array_equal(first, kept)


def test_the_memory_grows_with_the_tensors(shared):
    rows = np.tile(ROW, (100_000, 1))
    assert shared.run([rows])[0].shape == (100_000, 2)
    assert shared.run([ROW])[0].shape == (1, 2)


def test_what_does_not_fit_is_refused_as_everywhere(shared):
    with pytest.raises(SignatureError, match="shape"):
        shared.run([np.zeros((1, 3), np.float32)])
    assert shared.run([ROW])[0].shape == (1, 2)


def test_errors_of_the_child_are_errors_here():
    with pytest.raises(ModelRuntimeError, match="not a TFLite model"):
        IsolatedEngine(b"no model at all")
    with pytest.raises(ConfigError, match="one thread"):
        IsolatedEngine(dense_model(), num_threads=0)
    with pytest.raises(ConfigError, match="no backend"):
        IsolatedEngine(dense_model(), backend="onnx")


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_dies_in_a_call_is_an_error_and_the_next_call_is_answered(engine, how):
    before = engine.run([ROW])[0]
    die_in_a_call(engine, how)
    np.testing.assert_array_equal(engine.run([ROW])[0], before)


def test_a_child_that_dies_again_and_again_is_started_less_and_less(engine):
    die_in_a_call(engine, signal.SIGKILL)
    assert engine.pid is None
    engine._start_again()
    die_in_a_call(engine, signal.SIGKILL)
    with pytest.raises(ModelCrashError, match="2 times in a row and is started again in 1 s"):
        engine.run([ROW])
    engine._not_before = time.monotonic()
    assert engine.run([ROW])[0].shape == (1, 2)
    assert engine._crash_count == 0


def test_a_child_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(isolation, "RUN_TIMEOUT_S", 1)
    with IsolatedEngine(dense_model()) as engine:
        pid = engine.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ModelCrashError, match="hung"):
            engine.run([ROW])
        assert not is_alive(pid)
        assert engine.run([ROW])[0].shape == (1, 2)


def test_closing_ends_the_child(engine):
    pid = engine.pid
    engine.close()
    engine.close()
    assert not is_alive(pid)
    with pytest.raises(ModelRuntimeError, match="closed"):
        engine.run([ROW])


def test_the_child_does_not_outlive_a_killed_parent():
    code = (
        "import sys, time; from fieldloop_device.isolation import IsolatedEngine; "
        "engine = IsolatedEngine(sys.stdin.buffer.read()); "
        "print(engine.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    parent.stdin.write(dense_model())
    parent.stdin.close()
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not is_alive(pid):
            break
        time.sleep(0.02)
    assert not is_alive(pid)


def test_the_agent_outlives_its_model_and_counts_the_crash(bench):
    settings = "[runtime]\nisolation = 'process'\n"
    made = bench(settings=settings)
    agent = made.start()
    assert agent.predict([1.0, 2.0]).label == "bad"
    die_in_a_call(agent.serving.runtime._engine, signal.SIGSEGV)
    os.kill(agent.serving.runtime._engine.pid or restarted(agent), signal.SIGKILL)
    with pytest.raises(ModelCrashError):
        agent.predict([1.0, 2.0])
    assert agent.predict([1.0, 2.0]).label == "bad"
    agent.record(cut=True)
    made.talk()
    windows = [item for item in made.cloud.messages if hasattr(item, "error_counts")]
    assert windows[-1].error_counts == {"ModelCrashError": 1}


def restarted(agent):
    agent.predict([1.0, 2.0])
    return agent.serving.runtime._engine.pid


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_model_is_exchanged_without_a_dropped_or_mixed_answer(bench, kind):
    agent = bench(settings=f"[runtime]\nisolation = '{kind}'\n").start()
    bundles = [make_bundle(), make_bundle(2, weights=-WEIGHTS)]
    seen, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            seen.append(agent.predict([1.0, 2.0]).label)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in (1, 0, 1):
        agent.activate(Runtime.open(bundles[turn], trust=trust(), isolation=kind))
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {"good", "bad"}
    assert agent.serving.answered_count == len(seen)
    assert agent.serving.failed_count == 0


def test_a_root_can_ask_for_it(tmp_path):
    device = Device(tmp_path, settings="[runtime]\nisolation = 'process'\nxnnpack = false\n")
    with Runtime.open_root(device.path) as runtime:
        assert runtime.predict([1.0, 2.0]).label == "bad"
        assert isinstance(runtime._engine, IsolatedEngine)


@pytest.mark.parametrize("seed", [1961, 2613])
def test_a_model_that_crashes_its_runtime_is_an_error(seed):
    """Mutants that end the process which loads or runs them, found by trying thousands."""
    with pytest.raises(ModelCrashError, match="SIG"), IsolatedEngine(mutant(seed)) as engine:
        engine.run([ROW])


def mutant(seed):
    chance = random.Random(seed)
    model = bytearray(chance.choice([dense_model(), test_mutated_models.table_model()]))
    names = ("_flip", "_overwrite_words", "_nudge_a_word", "_swap")
    getattr(test_mutated_models, chance.choice(names))(model, chance)
    model[4:8] = b"TFL3"
    return bytes(model)
