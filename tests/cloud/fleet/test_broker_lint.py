"""The lint of broker configurations (tools/broker/lint.py), as it is run."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.brokers import DEVICES, Site, needs_mosquitto

from fieldloop_cloud.fleet.broker import MosquittoBroker

LINT = Path(__file__).parents[3] / "tools" / "broker" / "lint.py"

GOOD = """
plugin /usr/lib/mosquitto_dynamic_security.so
allow_anonymous false
persistence true
max_queued_messages 100000
max_inflight_messages 500
listener 8883
cafile /ca.pem
certfile /server.pem
keyfile /server.key
require_certificate true
use_identity_as_username true
use_username_as_clientid true
"""


def lint(path: Path) -> tuple[int, list[str]]:
    result = subprocess.run(
        [sys.executable, str(LINT), str(path)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout.splitlines()


@needs_mosquitto
def test_our_own_configuration_has_no_findings(tmp_path: Path, site: Site):
    with MosquittoBroker(tmp_path, tls=site.server, devices=DEVICES):
        assert lint(tmp_path / "mosquitto.conf") == (0, [])


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("max_queued_messages 100000", "max_queued_messages 0", "stalls QoS 0"),
        ("max_queued_messages 100000", "", "drops telemetry"),
        ("max_inflight_messages 500", "", "3.1.1"),
        ("persistence true", "", "persistence is off"),
        ("allow_anonymous false", "allow_anonymous true", "anybody"),
        ("cafile /ca.pem", "# cafile /ca.pem", "without TLS"),
        ("require_certificate true", "require_certificate false", "require_certificate"),
        ("use_identity_as_username true", "", "common name"),
        ("use_username_as_clientid true", "", "take over"),
        ("plugin /usr/lib/mosquitto_dynamic_security.so", "acl_file /acl", "$share"),
        ("plugin /usr/lib/mosquitto_dynamic_security.so", "", "own topics"),
    ],
)
def test_each_known_trap_is_found_alone(tmp_path: Path, before: str, after: str, words: str):
    path = tmp_path / "mosquitto.conf"
    path.write_text(GOOD.replace(before, after))
    code, found = lint(path)
    assert code == 1
    assert len(found) == 1
    assert words in found[0]


def test_included_files_count(tmp_path: Path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "queue.conf").write_text("max_queued_messages 0\n")
    path = tmp_path / "mosquitto.conf"
    path.write_text(f"{GOOD}include_dir {tmp_path}/conf.d\n")
    assert lint(path)[0] == 1


def test_a_file_that_is_not_there_is_told(tmp_path: Path):
    assert lint(tmp_path / "none.conf") == (2, [])
