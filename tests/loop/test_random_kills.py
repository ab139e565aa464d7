"""kill -9 of devices and of everything at home, at random moments, for a minute."""

import random
import time
from collections import Counter, defaultdict

import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.homes import ServerProcess, make_home
from tests.support.waiting import wait_until

import fieldloop_cloud as fl
from fieldloop_cloud.fleet.simulate import DeviceProcess
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.flash import flash
from fieldloop_cloud.release.provision import provision

DURATION_S = 60.0
DEVICES = ("pump-1", "pump-2")


@pytest.fixture
def site(tmp_path):
    data = fl.Dataset.load("sklearn:iris")
    run = fl.train(data, candidates=["logistic"], seed=1)
    home = make_home(tmp_path / "fleet")
    release = fl.bundle(run, name="iris", home=home)
    for name in DEVICES:
        provision(
            home,
            name,
            "x86",
            tmp_path / name,
            telemetry={"window_s": 0.2, "sample_random_rate": 0.2, "sample_budget_per_day": 10_000},
        )
        flash(release.path, tmp_path / name)
    return home, data, {name: DeviceProcess(tmp_path / name, name=name) for name in DEVICES}


@pytest.mark.slow
@pytest.mark.timeout(240)
@needs_mosquitto
def test_a_minute_of_random_kills_loses_nothing_and_counts_nothing_twice(site):
    home, data, devices = site
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    answered: dict[str, Counter[int]] = defaultdict(Counter)
    lives = Counter()
    kills = Counter()
    server = ServerProcess(home)
    server.start()
    server.wait_ready()
    try:
        for device in devices.values():
            device.start()
        end = time.monotonic() + DURATION_S
        number = 0
        while time.monotonic() < end:
            pause = time.monotonic() + chance.uniform(0.5, 3.0)
            while time.monotonic() < pause:
                for device in devices.values():
                    device.feed([(f"{number}", data.raw(number % len(data)))])
                number += 1
                time.sleep(0.02)
            victim = chance.choice(["home", *DEVICES])
            kills[victim] += 1
            if victim == "home":
                server.kill()
                time.sleep(chance.uniform(0.0, 1.0))
                server.start()
                server.wait_ready()
            else:
                devices[victim].kill()
                lives[victim] += 1
                answered[victim][lives[victim]] = devices[victim].answer_count
                devices[victim].start()
        # A quiet end: whatever is left must come home by itself.
        with Store(home.store_file) as store:
            for name, device in devices.items():
                wait_until(
                    lambda name=name, device=device: is_home(store, name, device),
                    what=f"the rest of {name} (seed {seed})",
                    timeout_s=60,
                )
                lives[name] += 1
                answered[name][lives[name]] = device.answer_count
            check_books(store, answered, seed)
    finally:
        for device in devices.values():
            device.kill()
        server.terminate()
    assert kills["home"] > 0
    assert kills["pump-1"] + kills["pump-2"] > 0


def is_home(store, name, device):
    status = device.status()
    if not status or status["outbox_count"] or status["prediction_count"] < device.answer_count:
        return False
    return not any(item.missing for item in store.counts() if item.device == name)


def check_books(store, answered, seed):
    """Nothing lost: no number is missing. Nothing twice: no life counts more than it answered."""
    counts = {item.device: item for item in store.counts()}
    for name in DEVICES:
        assert counts[name].missing == 0, f"seed {seed}"
        windows = [item.window for item in store.windows(device=name)]
        numbers = [(window.boot, window.seq) for window in windows]
        assert len(set(numbers)) == len(numbers), f"seed {seed}"
        by_boot: Counter[int] = Counter()
        for window in windows:
            by_boot[window.boot] += window.prediction_count
        last = max(answered[name])
        for life, answers in answered[name].items():
            # One boot a life. A killed process may have counted an answer that the pipe did not
            # bring any more, and takes the window under way with it; the last life loses none.
            assert by_boot[life] <= answers + 1, f"{name} life {life}, seed {seed}"
        assert by_boot[last] == answered[name][last], f"{name}, seed {seed}"
