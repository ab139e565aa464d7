"""`fieldloop serve`: broker, ingest, release files and rollouts in the foreground."""

import json
import logging

import click

from fieldloop_cloud.cli.output import home_option, json_option, note
from fieldloop_cloud.cli.release import network_options, with_network
from fieldloop_cloud.release.home import Home


@click.command("serve")
@home_option
@network_options
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
@json_option
def serve_command(
    *,
    home: Home,
    host: str | None,
    broker_port: int | None,
    http_port: int | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Store what devices say, serve releases and carry out rollouts until Ctrl-C.

    Starts mosquitto if it is installed, else the embedded broker; an external broker is named in
    fleet.toml. With --json one line is written when everything runs.
    """
    from fieldloop_cloud.fleet.server import Server, serve  # noqa: PLC0415 - slow to load

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    home = with_network(home, host, broker_port, http_port)
    settings = home.settings()

    def ready(server: Server) -> None:
        kind = server.broker.kind if server.broker else "external"
        broker = f"{settings.broker.host}:{settings.broker.port}"
        releases = f"http://{settings.http.host}:{server.http.port}/releases/"
        if as_json:
            ready_line = {"ready": True, "broker": broker, "kind": kind, "releases": releases}
            click.echo(json.dumps(ready_line))
        note(f"serving {home.path}: MQTT at {broker} ({kind}), releases at {releases}")

    serve(home, on_ready=ready)
