"""Model files with bytes changed, signed by mistake: whatever they do, the agent lives.

A mutant that passes its golden replay is loaded by the agent itself, so it must be harmless there.
FIELDLOOP_MUTANTS says how many are tried.
"""

import contextlib
import io
import os
import random
import signal
import struct
import time
from collections import Counter

import numpy as np
import pytest
from tests.support.devices import Device, dense_model, golden_set, make_bundle

from fieldloop.errors import FieldloopError
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_device import selftest
from fieldloop_device.agent import Agent

COUNT = int(os.environ.get("FIELDLOOP_MUTANTS", "300"))
WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HUNG_AFTER_S = 20.0


def table_model():
    """A model whose answers are looked up: indices into memory, as forests have them."""
    graph = Graph(Model())
    x = graph.input("x", (-1, 2), "float32")
    hidden = graph.fully_connected(x, np.arange(16, dtype=np.float32).reshape(8, 2))
    best = graph.arg_max(hidden)
    table = np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)
    graph.output("probabilities", graph.softmax(graph.add(graph.gather(table, best), x)))
    return graph.finish()


def _flip(model, chance):
    for _ in range(chance.choice((1, 2, 8, 64))):
        model[chance.randrange(len(model))] ^= 1 << chance.randrange(8)


def _overwrite_words(model, chance):
    """Offsets, lengths, counts and indices of a flatbuffer are little-endian words."""
    for _ in range(chance.choice((1, 1, 4))):
        struct.pack_into("<I", model, 4 * chance.randrange(len(model) // 4), chance.choice(WORDS))


def _nudge_a_word(model, chance):
    at = 4 * chance.randrange(len(model) // 4)
    value = struct.unpack_from("<I", model, at)[0] + chance.choice((-4, -1, 1, 4, 64))
    struct.pack_into("<I", model, at, value % (1 << 32))


def _truncate(model, chance):
    del model[chance.randrange(8, len(model)) :]


def _swap(model, chance):
    size = chance.choice((4, 16, 64))
    first, second = (chance.randrange(len(model) - size) for _ in range(2))
    kept = model[first : first + size]
    model[first : first + size] = model[second : second + size]
    model[second : second + size] = kept


MUTATIONS = (_flip, _overwrite_words, _nudge_a_word, _truncate, _swap)


def mutant(model, chance):
    changed = bytearray(model)
    chance.choice(MUTATIONS)(changed, chance)
    return bytes(changed)


def replay_in_a_fork(device):
    """Run what the self-test's process runs, in a fork: a hundredth of a new Python's price."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = 3
        try:
            # In memory: the child may not write files.
            with contextlib.redirect_stdout(io.StringIO()):
                code = selftest.main([str(device.path), "b"])
        finally:
            os._exit(code)
    deadline = time.monotonic() + HUNG_AFTER_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


@pytest.mark.slow
def test_a_mutated_model_never_ends_the_agent(tmp_path, record_property):
    chance = random.Random(20)
    models = {name: build() for name, build in (("dense", dense_model), ("table", table_model))}
    golden = {name: golden_set(model) for name, model in models.items()}
    device = Device(tmp_path / "device")
    ends = Counter()
    with Agent(device.path) as agent:
        sound = agent.serving.runtime
        for _ in range(COUNT):
            name = chance.choice(sorted(models))
            changed = mutant(models[name], chance)
            bundle = make_bundle(2, model=changed, golden=golden[name])
            device.root.slot("b").write_bytes(bundle)
            end = replay_in_a_fork(device)
            ends[end] += 1
            assert end != 3, "the self-test let an exception through that is none of ours"
            if end == 0:
                runtime = agent._opener.open_slot(device.root.slot("b"))
                for row in np.random.default_rng(0).normal(size=(8, 2)):
                    try:
                        runtime.predict(row)
                    except FieldloopError:
                        ends["refused later"] += 1
                runtime.close()
        assert agent.serving.runtime is sound
        assert agent.predict([1.0, 2.0]).label == "bad"
    # Every way out was met: what is refused, what is harmless, and what kills a process.
    assert ends[1] > 0
    assert ends[0] > 0
    assert sum(count for end, count in ends.items() if isinstance(end, int)) == COUNT
    record_property("mutants by exit code of their self-test", dict(ends))
