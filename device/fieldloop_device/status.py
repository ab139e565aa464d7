"""What the agent says about itself on its own disk, and how it is read back."""

import msgspec

from fieldloop.device_root import DeviceRoot, write_atomic
from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop.state import Phase


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot.

    Attributes:
        device: The device's id.
        boot: This start of the agent.
        pid: The agent's process.
        updated_wall_ms: When this was written.
        running_sha256: The bundle that answers; empty without one.
        release: Its release counter.
        precision: How the running variant is quantized.
        backend: Runtime and version.
        phase: Where the last update stands.
        error: What went wrong with it.
        is_connected: Whether the broker can be reached.
        prediction_count: Answers since the start.
        rejected_count: Inputs that did not fit the signature.
        failed_count: Predictions that failed.
        window_count: Windows cut since the start.
        outbox_count: Messages that the cloud has not acknowledged.
        outbox_bytes: Their size.
        dropped_count: Messages lost for want of space since the start.
        unreadable_count: Messages from home that could not be read.
        shadow_sha256: The challenger that runs in the shadow; empty without one.
        shadow_error: Why the wanted one does not run; empty if it does.
        fault: What is wrong with this machine, such as a full disk; empty if nothing.
    """

    device: str
    boot: int
    pid: int
    updated_wall_ms: int
    running_sha256: str = ""
    release: int = 0
    precision: str = ""
    backend: str = ""
    phase: Phase = "idle"
    error: str = ""
    is_connected: bool = False
    prediction_count: int = 0
    rejected_count: int = 0
    failed_count: int = 0
    window_count: int = 0
    outbox_count: int = 0
    outbox_bytes: int = 0
    dropped_count: int = 0
    unreadable_count: int = 0
    shadow_sha256: str = ""
    shadow_error: str = ""
    fault: str = ""


def write_status(root: DeviceRoot, status: Status) -> None:
    """Write the snapshot.

    Raises:
        EnvironmentFaultError: The root cannot be written.
    """
    write_atomic(root.status, msgspec.json.encode(status))


def read_status(root: DeviceRoot) -> Status:
    """Read the last snapshot.

    Raises:
        ConfigError: The agent has never run here.
        EnvironmentFaultError: The file is damaged.
    """
    try:
        return msgspec.json.decode(root.status.read_bytes(), type=Status)
    except OSError as error:
        raise ConfigError(
            f"there is no status: {error.strerror}",
            where=str(root.status),
            advice="Start the agent: fieldloop-device run --root DIR.",
        ) from error
    except msgspec.DecodeError as error:
        raise EnvironmentFaultError(
            "the status file is damaged", where=str(root.status), advice="Restart the agent."
        ) from error
