"""`fieldloop inspect`."""

import importlib
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fieldloop.bundle import MAGIC, unpack
from fieldloop.errors import ConfigError
from fieldloop.integrity import PublicKey, TrustPolicy
from fieldloop.manifest import BundleContent
from fieldloop.signature import Signature
from fieldloop_cloud.cli.output import emit, home_option, json_option, naming, plain, table
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.releases import read_bundle


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@home_option
@click.option(
    "--trusted",
    type=click.Path(path_type=Path),
    help="Public keys (PEM) to check a bundle with; by default the home's.",
)
@json_option
def inspect_command(*, file: Path, home: Home, trusted: Path | None, as_json: bool) -> None:
    """Say what is in a .tflite FILE or a signed bundle."""
    data = read_bundle(file)
    if data.startswith(MAGIC):
        content = unpack(data, trust=bundle_trust(home, trusted), where=str(file))
        emit(
            _bundle_summary(content),
            as_json=as_json,
            text=lambda console: _show_bundle(content, console),
        )
        return
    inspect = importlib.import_module("fieldloop_cloud.compile.inspect").inspect
    with naming(file):
        facts = plain(inspect(data))
    emit(
        facts,
        as_json=as_json,
        text=lambda console: console.print(
            table(str(file), ("fact", "value"), [(k, _cell(v)) for k, v in facts.items()])
        ),
    )


def bundle_trust(home: Home, trusted: Path | None) -> TrustPolicy:
    """Return whom to trust about a bundle: the keys named, or else the home's."""
    path = trusted or home.public_key_file
    try:
        with naming(path):
            return TrustPolicy(keys=PublicKey.all_from_pem(path.read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"there is no public key to check the bundle with: {error.strerror}",
            where=str(path),
            advice="Name the signer's key with --trusted, or its home with --home.",
        ) from error


def _cell(value: Any) -> str:
    if isinstance(value, dict) and "dtype" in value:
        shape = "x".join("?" if size < 0 else str(size) for size in value["shape"])
        return f"{value['name']} {value['dtype']} {shape or 'scalar'}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value)


def _bundle_summary(content: BundleContent) -> dict[str, Any]:
    return {
        "sha256": content.sha256,
        "manifest": plain(content.manifest),
        "signature": plain(content.signature),
        "lineage": plain(content.lineage),
        "golden_count": len(content.golden),
    }


def _inputs_shown(signature: Signature) -> str:
    if len(signature.inputs) > 1:
        return ", ".join(spec.name for spec in signature.inputs)
    return ", ".join(signature.feature_names) or ("image" if signature.image else "array")


def _labels_shown(signature: Signature) -> list[tuple[str, str | None]]:
    if len(signature.targets) <= 1:
        return [("labels", ", ".join(map(str, signature.labels)) or None)]
    return [
        (f"target {target.name}", ", ".join(map(str, target.labels)) or "a value")
        for target in signature.targets
    ]


def _show_bundle(content: BundleContent, console: Console) -> None:
    manifest = content.manifest
    rows = [
        ("sha256", content.sha256),
        ("name and release", f"{manifest.name} {manifest.release}"),
        ("device classes", ", ".join(manifest.device_classes)),
        ("task", content.signature.task),
        ("inputs", _inputs_shown(content.signature)),
        *_labels_shown(content.signature),
        ("candidate", content.lineage.candidate),
        ("data", content.lineage.data_sha256),
        ("replaces", content.lineage.parent_sha256 or None),
        *((f"gate: {name}", text) for name, text in content.lineage.gate.items()),
    ]
    console.print(table("bundle", ("what", "value"), rows))
    columns = ("variant", "bytes", "min runtime", "score", "p50 ms", "p90 ms")
    variants = [
        (
            item.precision,
            len(content.models[item.precision]),
            item.min_runtime,
            item.score,
            item.latency_p50_ms,
            item.latency_p90_ms,
        )
        for item in manifest.variants
    ]
    console.print(table("variants", columns, variants))
