import pytest
from tests.support.devices import KEY, OTHER_KEY, Device

from fieldloop.errors import ConfigError
from fieldloop_device.config import load_config, read_trust
from fieldloop_device.connection import mqtt_settings

BROKER = "[broker]\nhost = 'home'\nport = 1884\ntls = false\n"


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device")


def test_a_small_file_is_enough(device):
    config = load_config(device.root)
    assert (config.device.id, config.device.device_class) == ("pump-1", "x86")
    assert config.broker is None
    assert config.telemetry.window_s == 60


def test_every_section_is_read(device):
    device.configure(
        BROKER + "[telemetry]\nwindow_s = 0.5\nsample_budget_per_day = 3\n"
        "sample_random_rate = 0.5\nsample_uncertain_below = 0.7\n[privacy]\nsamples = true\n"
    )
    config = load_config(device.root)
    assert (config.broker.host, config.broker.port, config.broker.tls) == ("home", 1884, False)
    assert (config.telemetry.window_s, config.telemetry.sample_budget_per_day) == (0.5, 3)
    assert config.privacy.samples is True


@pytest.mark.parametrize(
    "settings",
    [
        "[telemetry]\nwindow_s = 0\n",
        "[telemetry]\nwindow_s = 'often'\n",
        "[telemetry]\nsample_random_rate = 1.5\n",
        "[telemetry]\noutbox_max_bytes = 1\n",
        "[telemetry]\ntypo = 1\n",
        "[broker]\nport = 1\n",
        "[broker]\nhost = 'x'\nport = 70000\n",
        "[runtime]\nnum_threads = 0\n",
        "[update]\nmax_bundle_bytes = 0\n",
        "[unknown]\n",
        "not toml",
    ],
)
def test_a_wrong_setting_is_found_at_the_start(device, settings):
    device.configure(settings)
    with pytest.raises(ConfigError, match=r"device\.toml"):
        load_config(device.root)


def test_a_missing_or_binary_file_is_the_users_error(device):
    device.root.config.write_bytes(b"\xff\xff")
    with pytest.raises(ConfigError, match="not text"):
        load_config(device.root)
    device.root.config.unlink()
    with pytest.raises(ConfigError, match="fieldloop provision"):
        load_config(device.root)


def test_an_id_that_could_inject_into_topics_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="device id"):
        load_config(Device(tmp_path / "x", device_id="a/+").root)


def test_several_keys_may_be_trusted(device):
    device.root.trusted.write_bytes(KEY.public.to_pem() + OTHER_KEY.public.to_pem())
    assert read_trust(device.root.trusted).keys == (KEY.public, OTHER_KEY.public)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nx\n", b"\xff"])
def test_a_file_without_a_key_trusts_nobody(device, content):
    device.root.trusted.write_bytes(content)
    with pytest.raises(ConfigError, match=r"trusted\.pem"):
        read_trust(device.root.trusted)


def test_the_connection_follows_the_settings(device):
    with pytest.raises(ConfigError, match="no broker"):
        mqtt_settings(device.root, load_config(device.root), will=None)
    device.configure(BROKER)
    settings = mqtt_settings(device.root, load_config(device.root), will=None)
    assert (settings.address, settings.client_id, settings.tls) == ("home:1884", "pump-1", None)
    device.configure(BROKER.replace("false", "true"))
    settings = mqtt_settings(device.root, load_config(device.root), will=None)
    assert settings.tls.key_file == device.root.tls / "device.key"
