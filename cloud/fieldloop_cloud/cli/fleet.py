"""`fieldloop fleet`: status, devices, drift."""

import time
from typing import Any

import click
from rich.console import Console

from fieldloop.errors import ConfigError
from fieldloop.manifest import BundleContent
from fieldloop_cloud.cli.output import DURATION, emit, home_option, json_option, plain, table
from fieldloop_cloud.fleet.agreement import agreements
from fieldloop_cloud.fleet.condition import Condition, conditions
from fieldloop_cloud.fleet.counts import FieldWindow
from fieldloop_cloud.fleet.drift import DriftPolicy, DriftVerdict, explained, verdicts
from fieldloop_cloud.fleet.estimate import EstimatedAccuracy, estimated_accuracy
from fieldloop_cloud.fleet.rollout import Rollout
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.provision import provisioned
from fieldloop_cloud.release.releases import published


@click.group("fleet")
def fleet_group() -> None:
    """See what the devices are, run and say."""


@fleet_group.command("status")
@home_option
@json_option
def status(*, home: Home, as_json: bool) -> None:
    """Sum up the fleet: devices, messages, the rollout, what runs where."""
    with Store(home.opened().store_file) as store:
        counts, presence, reported = store.counts(), store.presence(), store.reported()
        rollout = Rollout(store).current()
        compared = agreements(store.shadowed_windows())
        states = _conditions(home, store)
    running: dict[str, int] = {}
    for state in reported.values():
        running[state.running_sha256] = running.get(state.running_sha256, 0) + 1
    result: dict[str, Any] = {
        "provisioned": len(provisioned(home)),
        "online": sum(item.online for item in presence.values()),
        "stored": sum(item.stored for item in counts),
        "duplicates": sum(item.duplicates for item in counts),
        "dead_letters": sum(item.dead_letters for item in counts),
        "missing": sum(item.missing for item in counts),
        "running": running,
        "shadows": compared,
        "warnings": {name: item.warnings for name, item in states.items() if item.warnings},
        "rollout": None
        if rollout is None
        else {"id": rollout.rollout_id, "stage": rollout.stage, "reason": rollout.reason},
    }

    def text(console: Console) -> None:
        rows = [(name, value) for name, value in result.items() if isinstance(value, int)]
        console.print(table(str(home.path), ("what", "count"), rows))
        for sha256, count in running.items():
            console.print(f"{count} devices run {sha256[:16] or 'nothing'}", markup=False)
        for item in compared:
            console.print(item.sentence, markup=False)
        for name, warnings in result["warnings"].items():
            console.print(f"{name}: {', '.join(warnings)}", markup=False)
        if rollout is not None:
            console.print(f"rollout {rollout.rollout_id}: {rollout.stage} {rollout.reason}")

    emit(result, as_json=as_json, text=text)


@fleet_group.command("devices")
@home_option
@json_option
def devices(*, home: Home, as_json: bool) -> None:
    """List every device with what it last reported and how much of it is stored."""
    known = provisioned(home.opened())
    with Store(home.store_file) as store:
        presence, reported = store.presence(), store.reported()
        counts = {item.device: item for item in store.counts()}
        states = _conditions(home, store)
    names = sorted({*known, *presence, *reported, *counts})
    result: list[dict[str, Any]] = [
        {
            "device": name,
            "device_class": known.get(name, ""),
            "online": name in presence and presence[name].online,
            "running_sha256": reported[name].running_sha256 if name in reported else "",
            "release": reported[name].release if name in reported else None,
            "phase": reported[name].phase if name in reported else "",
            "error": reported[name].error if name in reported else "",
            "shadow_sha256": reported[name].shadow_sha256 if name in reported else "",
            "shadow_error": reported[name].shadow_error if name in reported else "",
            "backend": reported[name].backend if name in reported else "",
            "counts": plain(counts[name]) if name in counts else None,
            "condition": plain(states[name]) if name in states else None,
            "warnings": states[name].warnings if name in states else (),
        }
        for name in names
    ]

    def text(console: Console) -> None:
        rows = [
            (
                item["device"],
                item["device_class"],
                item["online"],
                str(item["running_sha256"])[:16],
                item["release"],
                item["phase"],
                counts[str(item["device"])].windows if item["counts"] else 0,
                "; ".join(filter(None, (item["error"], *item["warnings"]))),
            )
            for item in result
        ]
        columns = ("device", "class", "online", "runs", "release", "phase", "windows", "look at")
        console.print(table("devices", columns, rows))

    emit(result, as_json=as_json, text=text)


@fleet_group.command("drift")
@click.option(
    "--model", default="", help="First digits of the release's hash; by default all that report."
)
@click.option(
    "--false-alarms",
    type=click.FloatRange(min=0, min_open=True),
    help="False alarms per fleet-month; by default as in fleet.toml.",
)
@click.option("--period", type=DURATION, help="Length of one cycle; by default as in fleet.toml.")
@click.option("--all", "show_all", is_flag=True, help="Show every test, not only drift.")
@home_option
@json_option
def drift(
    *,
    model: str,
    false_alarms: float | None,
    period: float | None,
    show_all: bool,
    home: Home,
    as_json: bool,
) -> None:
    """Compare the newest telemetry with each running model's reference."""
    alarms = home.opened().settings().alarms
    policy = DriftPolicy(
        false_alarms_per_fleet_month=false_alarms or alarms.false_alarms_per_fleet_month,
        period_s=period or alarms.period_s,
    )
    since_ms = int((time.time() - policy.cycle_count * policy.period_s) * 1000)
    result: list[dict[str, Any]] = []
    with Store(home.store_file) as store:
        for content in _watched(home, store, model):
            windows = store.windows(model=content.sha256, since_ms=since_ms)
            result.append(_of_model(content, windows, policy))

    def text(console: Console) -> None:
        for item in result:
            _show(item, console, show_all=show_all)
        if not result:
            console.print("no device has reported a model of this home yet")

    emit(result, as_json=as_json, text=text)


def _conditions(home: Home, store: Store) -> dict[str, Condition]:
    profiles = {sha256[:16]: content.profile for sha256, content in published(home).items()}
    return conditions(store.last_windows(), profiles)


def _watched(home: Home, store: Store, model: str) -> list[BundleContent]:
    """Return the releases to look at: the one named, or all that some device runs."""
    releases = published(home)
    if model:
        found = [item for sha256, item in releases.items() if sha256.startswith(model.lower())]
        if not found:
            raise ConfigError(
                f"there is no release {model!r}",
                where=str(home.releases),
                advice="`fieldloop fleet devices` shows what runs.",
            )
        return found
    running = {state.running_sha256 for state in store.reported().values()}
    return [content for sha256, content in releases.items() if sha256 in running]


def _of_model(
    content: BundleContent, windows: list[FieldWindow], policy: DriftPolicy
) -> dict[str, Any]:
    found = verdicts(content.profile, windows, policy=policy)
    predicted = any(item.window.prediction_count for item in windows)
    can_estimate = predicted and content.profile.confidence_accuracy
    return {
        "sha256": content.sha256,
        "name": content.manifest.name,
        "release": content.manifest.release,
        "window_count": len(windows),
        "alpha": policy.alpha,
        "estimated_accuracy": estimated_accuracy(content.profile, windows)
        if can_estimate
        else None,
        "drifted": any(item.drifted for item in found),
        "explained": explained(found),
        "verdicts": found,
    }


def _show(item: dict[str, Any], console: Console, *, show_all: bool) -> None:
    console.print(
        f"{item['name']} release {item['release']} ({item['sha256'][:16]}), "
        f"{item['window_count']} windows, level {item['alpha']:.2g} a cycle",
        markup=False,
    )
    guess: EstimatedAccuracy | None = item["estimated_accuracy"]
    if guess is not None:
        caveat = (
            "inputs have drifted, so confidence may not mean the same: check with labels"
            if item["drifted"]
            else "if confidence still means the same"
        )
        console.print(
            f"estimated accuracy {guess.accuracy:.1%} [{guess.low:.1%}, {guess.high:.1%}] from "
            f"{guess.row_count} confidences ({caveat})",
            markup=False,
        )
    found: list[DriftVerdict] = [v for v in item["verdicts"] if show_all or v.drifted]
    if not found:
        console.print("no drift" if item["verdicts"] else "too little telemetry for a verdict")
        return
    console.print(item["explained"], markup=False)
    rows = [
        (
            v.quantity,
            v.device or "(fleet)",
            v.row_count,
            v.effect,
            v.p_value,
            f"{v.persisted}",
            v.drifted,
        )
        for v in found
    ]
    columns = ("quantity", "device", "values", "effect (PSI)", "p", "cycles", "drift")
    console.print(table("drift", columns, rows))
