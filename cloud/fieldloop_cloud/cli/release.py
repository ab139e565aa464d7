"""`fieldloop bundle`, `provision` and `flash`."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from fieldloop.errors import ConfigError
from fieldloop_cloud.cli.output import Command, emit, home_option, json_option
from fieldloop_cloud.cli.rows import load_reference
from fieldloop_cloud.release.home import FleetSettings, Home


@click.command("bundle")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--name", help="The model's name: lower-case letters, digits, -. By default the RUN's."
)
@home_option
@click.option(
    "--device-class",
    "device_classes",
    multiple=True,
    help="Target that may run it; may be repeated. By default the run's; a .tflite has none.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="For a .tflite: ordinary rows (.csv, .parquet, .npz with X), best ones that it was not "
    "fitted on. Drift is measured against them.",
)
@click.option(
    "--target", help="The reference's column with the truth; gives the score. In an .npz it is y."
)
@click.option("--replaces", default="", help="Hash of the bundle that this one replaces.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="A second place to write the bundle to."
)
@json_option
def bundle_command(
    *,
    run: Path,
    name: str | None,
    home: Home,
    device_classes: tuple[str, ...],
    reference: Path | None,
    target: str | None,
    replaces: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Sign the chosen model of a RUN and publish it in the fleet's home.

    RUN is the directory that `train` wrote, or a .tflite that `compile` wrote, for a model of your
    own: then --device-class and --reference are needed.
    """
    from fieldloop_cloud.release.builder import bundle  # noqa: PLC0415 - slow to load

    model, rows, truth = _model(run, reference, target)
    made = bundle(
        model,
        name=name or run.resolve().name.removesuffix(".tflite"),
        home=home,
        device_classes=device_classes,
        reference=rows,
        truth=truth,
        parent_sha256=replaces,
        out=out,
    )

    def text(console: Console) -> None:
        console.print(
            f"release {made.release} of {made.name}: {made.path}, {made.size_bytes} bytes, "
            f"{', '.join(made.precisions)} for {', '.join(made.device_classes)}",
            markup=False,
        )
        console.print(f"sha256 {made.sha256}", markup=False)
        for precision, reason in made.left_out.items():
            console.print(f"left out {precision}: {reason}", markup=False)

    emit(made, as_json=as_json, text=text)


def _model(path: Path, reference: Path | None, target: str | None) -> tuple[Any, Any, Any]:
    """Load a run or a compiled model, with its reference rows and the truth about them."""
    from fieldloop_cloud.compile.saved import SUFFIX, load_compiled  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.train.run import Run  # noqa: PLC0415 - the same

    if path.suffix == SUFFIX and not path.is_dir():
        compiled = load_compiled(path)
        if reference is None:
            return compiled, None, None
        return compiled, *load_reference(reference, compiled.signature, target)
    if reference is not None or target is not None:
        raise ConfigError(
            "a run brings its own reference rows",
            where=str(path),
            advice="Leave --reference and --target out; they are for a .tflite of your own.",
        )
    return Run.load(path), None, None


def network_options(command: Command) -> Command:
    """Add the options that change `fleet.toml`."""
    options = [
        click.option("--host", help="How devices reach this machine; kept in fleet.toml."),
        click.option("--broker-port", type=int, help="MQTT port; kept in fleet.toml."),
        click.option("--http-port", type=int, help="Port of the release files; kept there too."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def with_network(
    home: Home, host: str | None, broker_port: int | None, http_port: int | None
) -> Home:
    """Make the home if it is missing and keep changed network settings in it."""
    home.create()
    settings = home.settings()
    replace = msgspec.structs.replace
    changed: FleetSettings = replace(
        settings,
        broker=replace(
            settings.broker,
            host=settings.broker.host if host is None else host,
            port=settings.broker.port if broker_port is None else broker_port,
        ),
        http=replace(
            settings.http,
            host=settings.http.host if host is None else host,
            port=settings.http.port if http_port is None else http_port,
        ),
    )
    return home if changed == settings else home.create(changed)


@click.command("provision")
@click.argument("device")
@click.option(
    "--class",
    "device_class",
    default="x86",
    show_default=True,
    help="Target: a name or a .toml file.",
)
@click.option(
    "--to", "root", type=click.Path(path_type=Path), help="Device root; default in the home."
)
@home_option
@network_options
@click.option("--window-s", type=float, help="Length of a telemetry window in seconds.")
@click.option(
    "--samples/--no-samples",
    default=None,
    help="Whether raw inputs may be sent home for labelling; by default all but images.",
)
@json_option
def provision_command(
    *,
    device: str,
    device_class: str,
    root: Path | None,
    home: Home,
    host: str | None,
    broker_port: int | None,
    http_port: int | None,
    window_s: float | None,
    samples: bool | None,
    as_json: bool,
) -> None:
    """Give a DEVICE its identity: certificate, trusted key and settings."""
    from fieldloop_cloud.release.provision import check_request, provision  # noqa: PLC0415

    telemetry = {} if window_s is None else {"window_s": window_s}
    check_request(device, device_class, telemetry)
    identity = provision(
        with_network(home, host, broker_port, http_port),
        device,
        device_class,
        root,
        telemetry=telemetry,
        samples=samples,
    )

    def text(console: Console) -> None:
        console.print(
            f"{identity.device_id} ({identity.device_class}) trusts key "
            f"{identity.trusted_key_id}; copy {identity.root} to the device",
            markup=False,
        )

    emit(identity, as_json=as_json, text=text)


@click.command("flash")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", "root", required=True, help="The device root: a directory.")
@click.option(
    "--shadow", is_flag=True, help="As a challenger that answers beside the active one, unheard."
)
@json_option
def flash_command(*, bundle: Path, root: str, shadow: bool, as_json: bool) -> None:
    """Verify a BUNDLE as the device will and put it into a device root."""
    from fieldloop_cloud.release.flash import flash  # noqa: PLC0415 - slow to load

    done = flash(bundle, root, shadow=shadow)
    place = f"active in slot {done.slot}" if done.slot else "in the active one's shadow"

    def text(console: Console) -> None:
        console.print(
            f"{done.device_id}: release {done.release} is {place}\n"
            f"start it with: fieldloop-device run --root {done.root}",
            markup=False,
        )

    emit(done, as_json=as_json, text=text)
