"""Wish challengers into the shadow of what devices run, or away from it.

The wish keeps what the device runs: it names the running release again, under a higher version,
and the challenger beside it. The server publishes it like any other.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from fieldloop.errors import ConfigError
from fieldloop.state import DesiredState, ReportedState, ShadowWish
from fieldloop_cloud.fleet.rollout import Published, Rollout
from fieldloop_cloud.fleet.store import Store

Find = Callable[[str], tuple[int, str] | None]
"""Gives size and url of the release with this hash; None if home has not published it."""


def shadow(
    store: Store, devices: Sequence[str], challenger: Published | None, *, url: str = "", find: Find
) -> dict[str, DesiredState]:
    """Give devices a challenger, or take it away.

    Args:
        store: Keeps desired and reported states.
        devices: Whose.
        challenger: The bundle; None ends what is there.
        url: Where it is fetched.
        find: Looks up the releases that run.

    Returns:
        The new wish of every device.

    Raises:
        ConfigError: A rollout is under way, or a device runs nothing that home knows.
    """
    current = Rollout(store).current()
    if current is not None and current.is_active:
        raise ConfigError(
            f"rollout {current.rollout_id} is {current.stage}",
            advice="Wait until it is done, or run `fieldloop rollout abort` first.",
        )
    wish = None
    if challenger is not None:
        wish = ShadowWish(sha256=challenger.sha256, size_bytes=challenger.size_bytes, url=url)
    reported, known = store.reported(), store.desired()
    wishes = {name: _wish(name, reported, known, wish, find) for name in devices}
    with store.transaction():
        for name, desired in wishes.items():
            store.put_desired(name, desired)
    return wishes


def _wish(
    device: str,
    reported: Mapping[str, ReportedState],
    known: Mapping[str, DesiredState],
    challenger: ShadowWish | None,
    find: Find,
) -> DesiredState:
    running = reported[device].running_sha256 if device in reported else ""
    before = known.get(device)
    if challenger is not None and challenger.sha256 == running:
        raise ConfigError(
            "the challenger is what the device runs already",
            where=f"device {device}",
            advice="Name another release.",
        )
    if before is not None and before.sha256 == running:
        return replace(before, ver=before.ver + 1, shadow=challenger)
    release = find(running) if running else None
    if release is None:
        raise ConfigError(
            "the device has not reported that it runs a release of this home",
            where=f"device {device}",
            advice="Wait for its report, or roll out a release to it first.",
        )
    size_bytes, url = release
    return DesiredState(
        ver=(before.ver if before is not None else reported[device].desired_ver) + 1,
        sha256=running,
        size_bytes=size_bytes,
        url=url,
        shadow=challenger,
    )
