"""kill -9 of the ingest (and of the broker) at random moments: nothing lost, nothing twice."""

import contextlib
import random
import time
from pathlib import Path

import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.homes import ServerProcess, enrol, make_home, server_process
from tests.support.senders import OutboxSender
from tests.support.waiting import wait_until

from fieldloop.mqtt import MqttSettings, MqttTransport
from fieldloop_cloud.fleet.broker import Broker, MosquittoBroker
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.certificates import CertificateAuthority
from fieldloop_cloud.release.home import Home

DURATION_S = 20.0
DEVICES = ("pump-1", "pump-2", "pump-3")


@pytest.mark.slow
@needs_mosquitto
def test_kill_9_at_random_moments_loses_nothing_and_counts_nothing_twice(tmp_path: Path):
    seed = random.SystemRandom().randrange(1 << 32)
    home = make_home(tmp_path / "home", external=True)
    authority = CertificateAuthority(home.ca)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(
            MosquittoBroker(
                home.broker,
                port=home.settings().broker.port,
                tls=authority.issue_server(home.broker, ["127.0.0.1", "localhost"]),
                devices=DEVICES,
            )
        )
        server = stack.enter_context(server_process(home))
        senders = [_sender(home, device, stack) for device in DEVICES]
        server.wait_ready()
        kill_count = _make_trouble(senders, server, broker, random.Random(seed))
        acknowledged_count = sum(sender.last_seq - sender.pending_count for sender in senders)

        def drained() -> bool:
            for sender in senders:
                sender.pump()
            return not any(sender.pending_count for sender in senders)

        wait_until(drained, what=f"all acknowledgements (seed {seed})", timeout_s=60)

    assert kill_count >= 5
    assert acknowledged_count > 100, "between the kills the ingest must have worked"
    with Store(home.store_file) as store:
        counts = {item.device: item for item in store.counts()}
        for sender in senders:
            found = counts[sender.device]
            assert found.windows == sender.last_seq, f"seed {seed}"
            assert (found.missing, found.dead_letters) == (0, 0)
            stored = sum(item.window.prediction_count for item in store.windows(sender.device))
            assert stored == sender.prediction_count, f"seed {seed}"


def _sender(home: Home, device: str, stack: contextlib.ExitStack) -> OutboxSender:
    settings = MqttSettings(
        host="localhost",
        port=home.settings().broker.port,
        client_id=device,
        tls=enrol(home, device).tls(),
        backoff_base_s=0.05,
        backoff_cap_s=0.5,
    )
    transport = MqttTransport(settings)
    sender = OutboxSender(device, transport)
    stack.enter_context(transport)
    return sender


def _make_trouble(
    senders: list[OutboxSender], server: ServerProcess, broker: Broker, chance: random.Random
) -> int:
    """Send all the time; kill the server again and again, and the broker once."""
    kill_count = 0
    end = time.monotonic() + DURATION_S
    next_kill = time.monotonic() + 0.5
    broker_kill_at = time.monotonic() + DURATION_S / 2
    while (now := time.monotonic()) < end:
        for sender in senders:
            for _ in range(chance.randrange(8)):
                sender.add(count=chance.randrange(1000))
            sender.pump()
        if now >= next_kill:
            # Anywhere in its life: starting, connecting, committing, acknowledging.
            server.kill()
            server.start()
            kill_count += 1
            next_kill = time.monotonic() + chance.uniform(0.2, 4.0)
        if now >= broker_kill_at:
            broker.kill()
            broker.start()
            broker_kill_at = end
        time.sleep(0.02)
    return kill_count
