"""The release counter: every bundle of a home gets a number of its own, and they only grow.

Devices refuse a number below the highest they have accepted, so a number must never be given to
two bundles. It is therefore written down before it is used: a crash skips a number, at worst.
"""

from collections.abc import Iterator

from fieldloop.bundle import unpack
from fieldloop.errors import BundleError, ConfigError
from fieldloop.integrity import TrustPolicy
from fieldloop_cloud.files import write_file
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key


def next_release(home: Home) -> int:
    """Take the next release number.

    Raises:
        ConfigError: The counter file holds no number.
        EnvironmentFaultError: It cannot be written.
    """
    trust = TrustPolicy(keys=(public_key(home),))
    with home.locked():
        release = _last(home, trust) + 1
        write_file(home.counter_file, f"{release}\n".encode())
    return release


def _last(home: Home, trust: TrustPolicy) -> int:
    if not home.counter_file.exists():
        # A counter that was lost must not start over below what devices have seen.
        return max(_published(home, trust), default=0)
    text = home.counter_file.read_text(encoding="ascii", errors="replace").strip()
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(
            "the release counter holds no number",
            where=str(home.counter_file),
            advice="Write the highest release number that was ever published into it.",
        )
    return int(text)


def _published(home: Home, trust: TrustPolicy) -> Iterator[int]:
    for path in home.releases.glob("*.flb"):
        try:
            yield unpack(path.read_bytes(), trust=trust).manifest.release
        except BundleError:
            # Signed with another key or damaged: no device of this home accepts it.
            continue
