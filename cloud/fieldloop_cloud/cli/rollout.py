"""`fieldloop rollout`: start, status, pause, resume, abort."""

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from fieldloop.errors import CompatibilityError, ConfigError
from fieldloop.manifest import BundleContent
from fieldloop.state import HealthPolicy
from fieldloop_cloud.cli.output import DURATION, emit, home_option, json_option, plain, table
from fieldloop_cloud.fleet.agreement import Agreement, agreements
from fieldloop_cloud.fleet.rollout import Rollout
from fieldloop_cloud.fleet.rollout_state import RolloutState
from fieldloop_cloud.fleet.shadowing import shadow
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.provision import provisioned
from fieldloop_cloud.release.releases import resolve


@click.group("rollout")
def rollout_group() -> None:
    """Bring a release to the fleet: one device first, then all."""


@rollout_group.command("start")
@click.argument("bundle")
@click.option("--device", "devices", multiple=True, help="Only this device; may be repeated.")
@click.option("--canary", type=int, default=1, show_default=True, help="Devices that go first.")
@click.option(
    "--deadline", type=DURATION, default="1h", show_default=True, help="Time for each device."
)
@click.option(
    "--min-predictions",
    type=click.IntRange(min=1),
    default=HealthPolicy().min_predictions,
    show_default=True,
    help="Answers that a model on trial must give before it is committed.",
)
@home_option
@json_option
def start(
    *,
    bundle: str,
    devices: tuple[str, ...],
    canary: int,
    deadline: float,
    min_predictions: int,
    home: Home,
    as_json: bool,
) -> None:
    """Begin a rollout of BUNDLE (a file, or the first digits of a release's hash).

    `fieldloop serve` carries it out; without --device it goes to every provisioned device of the
    bundle's classes. If it has been a challenger in the shadow, how it agreed is shown.
    """
    content = resolve(home.opened(), bundle)
    chosen = _chosen(home, content, devices)
    path = home.release_file(content.sha256)
    with Store(home.store_file) as store:
        state = Rollout(store).start(
            _Release(content.sha256, path.stat().st_size),
            chosen,
            url=home.release_url(content.sha256),
            canary=canary,
            deadline_s=deadline,
            health=HealthPolicy(min_predictions=min_predictions),
        )
        model = content.sha256[:16]  # as telemetry names it
        evidence = [x for x in agreements(store.shadowed_windows()) if x.challenger == model]
    _emit(state, evidence, as_json=as_json)


def _chosen(home: Home, content: BundleContent, devices: tuple[str, ...]) -> list[str]:
    """Return the devices that are named, or all of the bundle's classes."""
    classes = content.manifest.device_classes
    known = provisioned(home)
    chosen = list(devices) or [name for name, kind in known.items() if kind in classes]
    unfit = [name for name in chosen if known.get(name) not in classes]
    if unfit:
        raise CompatibilityError(
            f"the bundle is for {', '.join(classes)}; {', '.join(unfit)} is not provisioned as one",
            where=content.manifest.name,
            advice="Choose other devices, or build a bundle for their class.",
        )
    return chosen


@rollout_group.command("shadow")
@click.argument("bundle", required=False)
@click.option("--stop", is_flag=True, help="Take the challenger away again.")
@click.option("--device", "devices", multiple=True, help="Only this device; may be repeated.")
@home_option
@json_option
def shadow_command(
    *, bundle: str | None, stop: bool, devices: tuple[str, ...], home: Home, as_json: bool
) -> None:
    """Let BUNDLE answer beside the running model, unheard; `fleet status` shows how they agree.

    `fieldloop serve` carries it out. Devices keep what they run.
    """
    if (bundle is None) != stop:
        raise ConfigError(
            "give a bundle, or --stop", advice="See `fieldloop rollout shadow --help`."
        )
    opened = home.opened()

    def find(sha256: str) -> tuple[int, str] | None:
        path = opened.release_file(sha256)
        return (path.stat().st_size, opened.release_url(sha256)) if path.is_file() else None

    with Store(opened.store_file) as store:
        if bundle is None:
            chosen = list(devices) or [
                name for name, wish in store.desired().items() if wish.shadow is not None
            ]
            wishes = shadow(store, chosen, None, find=find)
        else:
            content = resolve(opened, bundle)
            size_bytes = opened.release_file(content.sha256).stat().st_size
            wishes = shadow(
                store,
                _chosen(opened, content, devices),
                _Release(content.sha256, size_bytes),
                url=opened.release_url(content.sha256),
                find=find,
            )

    def text(console: Console) -> None:
        for name, wish in wishes.items():
            beside = f"{wish.shadow.sha256[:16]} beside" if wish.shadow else "nothing beside"
            console.print(f"{name}: {beside} {wish.sha256[:16]}", markup=False)
        if not wishes:
            console.print("no device has a challenger")

    emit({name: plain(wish) for name, wish in wishes.items()}, as_json=as_json, text=text)


class _Release:
    """Hash and size of a published bundle."""

    def __init__(self, sha256: str, size_bytes: int) -> None:
        self.sha256 = sha256
        self.size_bytes = size_bytes


@rollout_group.command("status")
@home_option
@json_option
def status(*, home: Home, as_json: bool) -> None:
    """Show where the newest rollout stands."""
    with Store(home.opened().store_file) as store:
        _emit(Rollout(store).status(), as_json=as_json)


@rollout_group.command("pause")
@click.option("--reason", default="paused by hand", help="Kept with the rollout.")
@home_option
@json_option
def pause(*, reason: str, home: Home, as_json: bool) -> None:
    """Ask no further device; those that were asked go on."""
    with Store(home.opened().store_file) as store:
        _emit(Rollout(store).pause(reason), as_json=as_json)


@rollout_group.command("resume")
@home_option
@json_option
def resume(*, home: Home, as_json: bool) -> None:
    """Go on; devices that failed are asked again."""
    with Store(home.opened().store_file) as store:
        _emit(Rollout(store).resume(), as_json=as_json)


@rollout_group.command("abort")
@click.option("--reason", default="aborted by hand", help="Kept with the rollout.")
@home_option
@json_option
def abort(*, reason: str, home: Home, as_json: bool) -> None:
    """End it; devices keep what they run."""
    with Store(home.opened().store_file) as store:
        _emit(Rollout(store).abort(reason), as_json=as_json)


def _emit(state: RolloutState, evidence: Sequence[Agreement] = (), *, as_json: bool) -> None:
    result: dict[str, Any] = plain(state)
    if evidence:
        result["shadow_evidence"] = plain(list(evidence))

    def text(console: Console) -> None:
        console.print(
            f"rollout {state.rollout_id} of {state.sha256[:16]}: {state.stage}"
            + (f", {state.reason}" if state.reason else ""),
            markup=False,
        )
        for agreement in evidence:
            console.print(agreement.sentence, markup=False)
        rows = [
            (name, item.state, item.ver or None, item.reason)
            for name, item in state.devices.items()
        ]
        console.print(table("devices", ("device", "state", "desired ver", "reason"), rows))

    emit(result, as_json=as_json, text=text)
