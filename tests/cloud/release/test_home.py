"""The home directory: paths, settings, and writes that are whole or not at all."""

import errno
import math
import os
import stat
import tomllib

import pytest

from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop_cloud.files import to_toml, write_file
from fieldloop_cloud.release.home import (
    BrokerSettings,
    FleetSettings,
    Home,
    HttpSettings,
)


def test_settings_come_back_as_they_were_written(tmp_path):
    settings = FleetSettings(
        broker=BrokerSettings(host="pi.lan", port=1883, tls=False), http=HttpSettings(port=81)
    )
    assert Home(tmp_path / "fleet").create(settings).settings() == settings


def test_any_text_survives_toml_and_a_number_that_is_none_is_refused():
    texts = {"host": 'pi\'s "host"', "path": "a\\b\tü\n"}
    assert tomllib.loads(to_toml({"device": texts})) == {"device": texts}
    for number in (math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"\[device\] window_s"):
            to_toml({"device": {"window_s": number}})


@pytest.mark.parametrize("host", ["", "my host", "pi's", "http://pi"])
def test_a_host_that_is_none_is_refused(tmp_path, host):
    with pytest.raises(ConfigError, match="host"):
        Home(tmp_path / "fleet").create(FleetSettings(broker=BrokerSettings(host=host)))


def test_making_a_home_again_keeps_its_settings_and_secrets_are_for_the_owner(tmp_path):
    home = Home(tmp_path).create(FleetSettings(broker=BrokerSettings(port=1234)))
    assert home.create().settings().broker.port == 1234
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.ca.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[broker]\nport = 0\n", "no TCP port"),
        ("[broker]\nport = 'x'\n", "Expected `int`"),
        ("[broker]\nhost = ''\n", "host is empty"),
        ("[brokers]\n", "brokers"),
        ("broker = [", "not valid"),
        ("[alarms]\nfalse_alarms_per_fleet_month = 0\n", "above zero"),
    ],
)
def test_wrong_settings_are_named(tmp_path, text, said):
    home = Home(tmp_path)
    home.settings_file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        home.settings()
    assert caught.value.where


def test_a_missing_home_and_a_file_in_its_place_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no fleet home"):
        Home(tmp_path / "none").opened()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        Home(tmp_path / "file").create()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.flb"
    write_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFaultError, match="No space left"):
        write_file(path, b"new")
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("a.flb", b"old")]
