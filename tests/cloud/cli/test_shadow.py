"""`rollout shadow`, and what `fleet status` and `fleet devices` say about challengers."""

import pytest
from tests.support.commands import fieldloop
from tests.support.releases import publish

from fieldloop.bundle import sha256_hex
from fieldloop.state import ReportedState
from fieldloop.telemetry import Clock, ShadowCounts, TelemetryWindow
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.provision import provision


@pytest.fixture
def fleet(tmp_path):
    home = Home(tmp_path / "fleet")
    home.create()
    running, challenger = publish(home, release=1), publish(home, release=2)
    provision(home, "pi-1", "x86")
    with Store(home.store_file) as store:
        state = ReportedState(boot=1, running_sha256=sha256_hex(running.read_bytes()))
        store.put_reported("pi-1", state)
    return home, sha256_hex(running.read_bytes()), sha256_hex(challenger.read_bytes())


def test_a_challenger_is_wished_for_and_taken_away(fleet):
    home, running, challenger = fleet
    done = fieldloop("rollout", "shadow", challenger[:12], "--home", home.path, "--json")
    assert done.code == 0, done.err
    wish = done.result["pi-1"]
    assert (wish["sha256"], wish["shadow"]["sha256"]) == (running, challenger)
    assert wish["shadow"]["url"] == home.release_url(challenger)
    assert wish["shadow"]["size_bytes"] == home.release_file(challenger).stat().st_size
    ended = fieldloop("rollout", "shadow", "--stop", "--home", home.path, "--json").result
    assert (ended["pi-1"]["ver"], ended["pi-1"]["shadow"]) == (2, None)
    text = fieldloop("rollout", "shadow", "--stop", "--home", home.path)
    assert "no device has a challenger" in text.out


@pytest.mark.parametrize("words", [(), ("abc", "--stop")])
def test_a_bundle_or_its_end(fleet, words):
    assert fieldloop("rollout", "shadow", *words, "--home", fleet[0].path).code == 2


def test_the_status_says_how_they_agree(fleet):
    home, running, challenger = fleet
    at = Clock(mono_ms=1, wall_ms=1)
    counts = ShadowCounts(
        model=challenger[:16], row_count=4, agreed_counts=(2, 1), differed_counts=(0, 1)
    )
    window = TelemetryWindow(
        boot=1, seq=1, model=running[:16], start=at, end=at, prediction_count=9, shadow=counts
    )
    with Store(home.store_file) as store:
        store.record("pi-1", "tel", window)
    (pair,) = fieldloop("fleet", "status", "--home", home.path, "--json").result["shadows"]
    assert (pair["challenger"], pair["share"]) == (challenger[:16], 0.75)
    assert "the same label for 75.0%" in fieldloop("fleet", "status", "--home", home.path).out
    begun = fieldloop("rollout", "start", challenger, "--home", home.path, "--json")
    assert [item["share"] for item in begun.result["shadow_evidence"]] == [0.75]
