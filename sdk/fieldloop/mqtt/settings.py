"""How a broker is reached, and by whom."""

import dataclasses
import ssl
from pathlib import Path

from fieldloop.errors import ConfigError
from fieldloop.transport import Will


class _TidySocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which paho forgets."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as the base
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


@dataclasses.dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files of a TLS connection, PEM.

    Attributes:
        ca_file: The authority that the broker's certificate must come from.
        cert_file: Our own certificate; None where the broker asks for none.
        key_file: Its private key.
    """

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a client context that takes TLS 1.2 or newer and checks the host name.

        Raises:
            ConfigError: A file is missing or not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _TidySocket
        try:
            context.load_verify_locations(self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the TLS files cannot be used: {error}",
                where=", ".join(str(file) for file in dataclasses.astuple(self) if file),
                advice="Provision the device again.",
            ) from error
        return context


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Everything that describes one connection.

    Attributes:
        host: The broker's name or address; with TLS it must stand in its certificate.
        port: The broker's port.
        client_id: Names the session; one connection at a time.
        tls: None for a plain connection, which is for trying out on one machine.
        will: Said by the broker when the connection breaks.
        clean_start: Forget the session at each connection.
        session_expiry_s: How long the broker keeps messages for us while we are away (MQTT 5).
        receive_maximum: Messages we take unacknowledged (MQTT 5).
        send_window: Messages we send unacknowledged before `publish` waits.
        keepalive_s: A silent broker is given up after one and a half of these.
        backoff_base_s: Upper end of the first reconnect delay; it doubles with each failure.
        backoff_cap_s: Upper end of all delays.
    """

    host: str
    port: int
    client_id: str
    tls: TlsSettings | None = None
    will: Will | None = None
    clean_start: bool = False
    session_expiry_s: int = 86_400
    receive_maximum: int = 500
    send_window: int = 200
    keepalive_s: int = 30
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0

    @property
    def address(self) -> str:
        """For messages to people."""
        return f"{self.host}:{self.port}"
