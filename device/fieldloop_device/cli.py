"""`fieldloop-device`: run, predict, measure, status, doctor."""

import contextlib
import io
import json
import logging
import math
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

import fieldloop_device
from fieldloop.device_root import DeviceRoot, write_atomic
from fieldloop.errors import ConfigError, DataError, FieldloopError, InputError
from fieldloop.integrity import TrustPolicy
from fieldloop_device.agent import Agent
from fieldloop_device.answering import answer, shown
from fieldloop_device.config import load_config, read_trust
from fieldloop_device.doctor import examine
from fieldloop_device.endpoint import Endpoint
from fieldloop_device.inputs import read_many
from fieldloop_device.logs import set_up_logs
from fieldloop_device.measure import measure as measure_bundle
from fieldloop_device.runtime import Runtime, active_bundle
from fieldloop_device.sources.opening import KINDS, open_source
from fieldloop_device.sources.source import rest
from fieldloop_device.status import read_status

_log = logging.getLogger(__name__)

_USAGE = 2

_ROOT = click.option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    help="The device's root directory.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON for machines.")


class _Commands(click.Group):
    """Turns every error into words and an exit code: 1 failed, 2 wrong input, 130 interrupted.

    An error is one paragraph on stderr; with `--json` it is an object on stdout as well.
    """

    def main(  # type: ignore[override] # what click's own returns is never reached
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        _spell_out_unknown_characters()
        try:
            # In standalone mode click would exit by itself, with its own words.
            code = super().main(words, prog_name, **{**extra, "standalone_mode": False})
        except FieldloopError as error:
            code = _said(error.as_dict(), str(error), error.exit_code, words)
        except click.ClickException as error:
            code = _said(*_usage(error), _USAGE, words)
        except (KeyboardInterrupt, click.Abort):
            code = _said({"error": "Interrupted", "what": "interrupted"}, "interrupted", 130, words)
        except BrokenPipeError:
            # The reader went away; there is nobody left to tell.
            sys.stderr.close()
            code = 1
        except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for users
            _log.info("unexpected error", exc_info=error)
            code = _said(*_unexpected(error), 1, words)
        sys.exit(code if isinstance(code, int) else 0)


def _spell_out_unknown_characters() -> None:
    """Let a terminal or a pipe that is not UTF-8 get escapes instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _usage(error: click.ClickException) -> tuple[dict[str, str], str]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fieldloop-device"
    what, advice = error.format_message().rstrip("."), f"See `{path} --help`."
    fields = {"error": "UsageError", "what": what, "where": path, "advice": advice}
    return fields, f"{what}. {advice}"


def _unexpected(error: Exception) -> tuple[dict[str, str], str]:
    what = f"internal error: {type(error).__name__}: {error}".splitlines()[0]
    advice = "This is a fault of fieldloop; run it as `fieldloop-device -v …` and report it."
    fields = {"error": "InternalError", "what": what, "where": "", "advice": advice}
    return fields, f"{what}. {advice}"


def _said(fields: dict[str, str], text: str, code: int, words: Sequence[str]) -> int:
    if "--json" in words:
        click.echo(json.dumps(fields))
    click.echo(f"error: {' '.join(text.split())}", err=True)
    return code


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fieldloop_device.__version__, prog_name="fieldloop-device")
@click.option("-v", "--verbose", is_flag=True, help="Log what the agent does to stderr.")
def main(*, verbose: bool) -> None:
    """Run a signed model on this device."""
    set_up_logs(sys.stderr, verbose=verbose)


@main.command()
@_ROOT
@click.option("--source", default="stdin", show_default=True, help=f"One of: {KINDS}.")
@click.option("--once", is_flag=True, help="End when the source has nothing more.")
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="Answer other programs over HTTP on 127.0.0.1:PORT or unix:PATH; may be repeated. "
    "Without it, what [endpoint] listen in device.toml says.",
)
def run(*, root: Path, source: str, once: bool, listen: tuple[str, ...]) -> None:
    """Run the agent: one JSON line out for each input.

    Inputs on stdin are JSON lines: {"id": "…", "x": [1, 2, 3]} or {"x": {"name": 1}}. A wrong one
    gives an error line. SIGTERM and Ctrl-C flush what was counted and end the agent with code 0.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    agent = Agent(root)
    inputs = open_source(source, once=once, name=agent.config.device.id)
    with agent, contextlib.ExitStack() as stack:
        for address in listen or agent.config.endpoint.listen:
            endpoint = stack.enter_context(Endpoint(agent, address))
            click.echo(f"listening on {endpoint.address}", err=True)
        if inputs is None:
            rest(stop, math.inf)
            return
        for item in inputs.items(stop):
            sys.stdout.write(json.dumps(answer(agent, item)) + "\n")
            sys.stdout.flush()


@main.command()
@click.argument("paths", nargs=-1, required=True, metavar="[BUNDLE] INPUT")
@click.option("--root", type=click.Path(path_type=Path), help="Take the active slot of a root.")
@click.option(
    "--trusted", type=click.Path(path_type=Path), help="Trusted public keys (PEM) for BUNDLE."
)
@_JSON
def predict(
    *, paths: tuple[str, ...], root: Path | None, trusted: Path | None, as_json: bool
) -> None:
    """Answer the rows of INPUT (.csv, .json, .jsonl, .npy or an image) and leave."""
    with _open_for_predict(paths, root, trusted) as runtime:
        rows = read_many(Path(paths[-1]))
        try:
            answers = runtime.predict_batch(rows)
        except InputError as error:
            error.where = ", ".join(filter(None, (paths[-1], error.where)))
            raise
    for row, prediction in enumerate(answers):
        if as_json:
            click.echo(json.dumps({"row": row, **shown(prediction)}))
        else:
            answer = prediction.answer
            if isinstance(answer, tuple):
                answer = ", ".join(map(str, answer))
            sure = "" if prediction.confidence is None else f"  {prediction.confidence:.3f}"
            click.echo(f"{row}  {answer}{sure}")


def _open_for_predict(paths: tuple[str, ...], root: Path | None, trusted: Path | None) -> Runtime:
    if root is not None and len(paths) == 1:
        return Runtime.open_root(root)
    if root is None and len(paths) == 2:  # noqa: PLR2004 - bundle and input
        if trusted is None:
            raise ConfigError(
                "a bundle is only opened with trusted keys",
                advice="Add --trusted keys/release.pub.pem.",
            )
        return Runtime.open(_existing(Path(paths[0])), trust=read_trust(trusted))
    raise ConfigError(
        "give a bundle and an input, or --root and an input",
        advice="See fieldloop-device predict --help.",
    )


def _existing(bundle: Path) -> Path:
    if not bundle.is_file():
        raise DataError("there is no such bundle", where=str(bundle), advice="Check the path.")
    return bundle


@main.command()
@_ROOT
@_JSON
def status(*, root: Path, as_json: bool) -> None:
    """Show what the agent on this root said last."""
    document = msgspec.to_builtins(read_status(DeviceRoot(root)))
    if as_json:
        click.echo(json.dumps(document))
        return
    width = max(map(len, document))
    for name, value in document.items():
        click.echo(f"{name:<{width}}  {value}")


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--root", type=click.Path(path_type=Path), help="Measure the active slot of a root.")
@click.option(
    "--trusted", type=click.Path(path_type=Path), help="Trusted public keys (PEM) for BUNDLE."
)
@click.option("--threads", default="1", show_default=True, help="Thread counts, as 1,2,4.")
@click.option(
    "--delegate",
    "delegates",
    multiple=True,
    default=("xnnpack",),
    show_default=True,
    help="What does the work: xnnpack, none, or a delegate's library; may be repeated.",
)
@click.option("--interval-ms", default=100.0, show_default=True, help="Idle gap of the duty cycle.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the JSON here too.")
@_JSON
def measure(
    *,
    bundle: Path | None,
    root: Path | None,
    trusted: Path | None,
    threads: str,
    delegates: tuple[str, ...],
    interval_ms: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure every variant of a bundle on this device.

    With --root the result is kept there, and from its next start the agent runs the variant that
    is fastest here. On the workstation `fieldloop train --device RESULT.json` takes it as the
    truth about this class of devices.
    """
    if not interval_ms >= 0 or math.isinf(interval_ms):
        raise ConfigError(
            f"a gap of {interval_ms} ms cannot be kept", advice="Give --interval-ms from 0 up."
        )
    path, trust = _what_to_measure(bundle, root, trusted)
    result = measure_bundle(
        path,
        trust=trust,
        thread_counts=_thread_counts(threads),
        delegates=delegates,
        interval_ms=interval_ms,
        progress=lambda text: click.echo(f"measuring {text} …", err=True),
    )
    document = msgspec.json.encode(result)
    for target in filter(None, (out, DeviceRoot(root).measured if root else None)):
        write_atomic(target, document)
    if as_json:
        click.echo(document.decode())
        return
    for item in result.variants:
        arena = "" if item.arena_bytes is None else f"  arena {item.arena_bytes / 1024:.4g} KiB"
        click.echo(
            f"{item.precision:<9} {item.num_threads} threads {item.delegate}  full speed p50 "
            f"{item.full_speed.p50_ms:.4g} ms p99 {item.full_speed.p99_ms:.4g} ms  every "
            f"{item.interval_ms:g} ms p50 {item.duty_cycle.p50_ms:.4g} ms  "
            f"cold start {item.cold_start_ms:.3g} ms  {item.rss_bytes / 2**20:.1f} MiB{arena}"
        )
    for precision, reason in result.failures.items():
        click.echo(f"{precision:<9} does not run here: {reason}")


def _what_to_measure(
    bundle: Path | None, root: Path | None, trusted: Path | None
) -> tuple[Path, TrustPolicy]:
    if root is not None and bundle is None:
        device = DeviceRoot(root)
        config = load_config(device)
        return active_bundle(device), read_trust(
            device.trusted, device_class=config.device.device_class
        )
    if bundle is None or trusted is None or root is not None:
        raise ConfigError(
            "give --root, or a bundle and --trusted",
            advice="See fieldloop-device measure --help.",
        )
    return _existing(bundle), read_trust(trusted)


def _thread_counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise ConfigError(f"'{text}' are no thread counts", advice="Write them as 1,2,4.")
    return counts


@main.command()
@click.option("--root", type=click.Path(path_type=Path), help="The device's root directory.")
@_JSON
def doctor(*, root: Path | None, as_json: bool) -> None:
    """Check this machine and device; exit code 1 if something needs a hand."""
    findings = examine(root)
    for finding in findings:
        if as_json:
            fields = ("check", "is_fine", "detail", "remedy")
            click.echo(json.dumps({name: getattr(finding, name) for name in fields}))
            continue
        click.echo(f"{'ok' if finding.is_fine else 'PROBLEM':<8} {finding.check}: {finding.detail}")
        if not finding.is_fine:
            click.echo(f"{'':<8} {finding.remedy}")
    sys.exit(0 if all(finding.is_fine for finding in findings) else 1)


if __name__ == "__main__":
    main()
