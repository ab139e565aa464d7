"""The device's connection as `device.toml` describes it."""

from fieldloop.device_root import DeviceRoot
from fieldloop.errors import ConfigError
from fieldloop.mqtt import MqttSettings, TlsSettings
from fieldloop.transport import Will
from fieldloop_device.config import DeviceConfig


def mqtt_settings(root: DeviceRoot, config: DeviceConfig, *, will: Will | None) -> MqttSettings:
    """Return the connection's settings.

    Raises:
        ConfigError: The device has no broker.
    """
    broker = config.broker
    if broker is None:
        raise ConfigError(
            "this device has no broker", where=str(root.config), advice="Add a [broker] section."
        )
    tls = TlsSettings(root.ca_file, root.cert_file, root.key_file) if broker.tls else None
    return MqttSettings(
        host=broker.host,
        port=broker.port,
        client_id=config.device.id,
        tls=tls,
        will=will,
        keepalive_s=broker.keepalive_s,
    )
