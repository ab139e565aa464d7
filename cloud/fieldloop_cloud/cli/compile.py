"""`fieldloop compile` and `fieldloop inspect`."""

import importlib
import warnings
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console

from fieldloop.bundle import MAGIC, unpack
from fieldloop.errors import ConfigError, DataError, FieldloopError, UnsupportedError
from fieldloop.integrity import PublicKey, TrustPolicy
from fieldloop.manifest import BundleContent, Precision
from fieldloop.signature import Signature
from fieldloop_cloud.cli.output import emit, home_option, json_option, plain, table, vacant
from fieldloop_cloud.cli.rows import load_rows
from fieldloop_cloud.cli.train import epsilon_option
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.releases import read_bundle

_PICKLED = frozenset({".joblib", ".pkl", ".pickle"})


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--example",
    type=click.Path(path_type=Path),
    required=True,
    help="Rows like those it was fitted on: .csv, .parquet, or .npz with an array X.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The .tflite to write."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "float16", "dynamic", "int8"]),
    default="float32",
    show_default=True,
    help="auto takes the smallest that is proven to answer as the original.",
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path),
    help="Rows to compare on, best ones that it was not fitted on; by default the example.",
)
@epsilon_option
@click.option("--trust", is_flag=True, help="Load a pickled model; it may run any code.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@json_option
def compile_command(
    *,
    model: Path,
    example: Path,
    out: Path,
    precision: str,
    held_out: Path | None,
    epsilon: float,
    trust: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compile a fitted MODEL to a TFLite flatbuffer of builtin ops.

    MODEL is a Keras model (.keras) or a scikit-learn estimator saved with joblib or pickle. The
    latter is code, not data: --trust says that you know where it comes from. Beside the flatbuffer
    its signature is written as <name>.signature.json, and how it was compared with the original as
    <name>.evidence.json; `fieldloop bundle` takes all three.
    """
    from fieldloop_cloud.compile.api import to_tflite  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.compile.saved import save_compiled  # noqa: PLC0415 - the same

    vacant(out, force=force)
    fitted = load_fitted(model, trust=trust)
    compiled = to_tflite(
        fitted,
        example=_rows(example, model),
        precision=cast("Precision", precision),
        held_out=None if held_out is None else _rows(held_out, model),
        epsilon=epsilon,
    )
    written = save_compiled(compiled, out)
    result = {
        "tflite": out,
        "signature": written.signature,
        "precision": compiled.precision,
        "size_bytes": len(compiled.tflite),
        "evidence": compiled.evidence,
    }

    def text(console: Console) -> None:
        if compiled.evidence.rungs:
            _show_rungs(compiled, console)
        console.print(
            f"{out}: {len(compiled.tflite)} bytes, {compiled.precision}\n"
            f"{compiled.evidence.sentence}",
            markup=False,
        )

    emit(result, as_json=as_json, text=text)


def _show_rungs(compiled: Compiled, console: Console) -> None:
    rows = [
        (
            ("→ " if rung.precision == compiled.precision else "") + rung.precision,
            rung.size_bytes,
            rung.gate.agreement if rung.gate else None,
            rung.gate.verdict if rung.gate else "not possible",
        )
        for rung in compiled.evidence.rungs
    ]
    console.print(table("precisions", ("precision", "bytes", "same labels", "verdict"), rows))
    for rung in compiled.evidence.rungs:
        console.print(f"{rung.precision}: {rung.reason}", markup=False)


def _rows(path: Path, model: Path) -> Any:
    rows = load_rows(path)
    return _numbers(rows, where=str(path)) if model.suffix == ".keras" else rows


def _numbers(rows: Any, *, where: str) -> Any:
    """Return rows as float32, as a net takes them."""
    numpy = importlib.import_module("numpy")
    try:
        return numpy.asarray(rows, dtype="float32")
    except ValueError as error:
        raise DataError(
            f"the example holds text where a net takes numbers: {error}",
            where=where,
            advice="Give encoded rows, for instance as .npz.",
        ) from error


def load_fitted(path: Path, *, trust: bool) -> Any:
    """Load what a file holds: the path of a `.keras` file, or an unpickled estimator.

    Raises:
        DataError: The file is missing, damaged or of another version.
        ConfigError: A pickle without trust.
        UnsupportedError: Another kind of file.
    """
    if not path.is_file():
        raise DataError("the model file does not exist", where=str(path), advice="Check the path.")
    if path.suffix == ".keras":
        return path
    if path.suffix not in _PICKLED:
        raise UnsupportedError(
            f"a model file ends with .keras, {', '.join(sorted(_PICKLED))}",
            where=str(path),
            advice="Save it as such, or call fieldloop_cloud.to_tflite in Python.",
        )
    if not trust:
        raise ConfigError(
            "a pickled model can run any code while it is loaded",
            where=str(path),
            advice="Add --trust if you know who made it.",
        )
    joblib = importlib.import_module("joblib")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted = joblib.load(path)
    except Exception as error:
        raise DataError(
            f"the model cannot be loaded: {type(error).__name__}: {error}",
            where=str(path),
            advice="Load it in Python to see more; versions of scikit-learn may differ.",
        ) from error
    stale = [str(item.message) for item in caught if "version" in str(item.message)]
    if stale:
        raise DataError(
            f"the model was saved by another version: {' '.join(stale[0].split())[:200]}",
            where=str(path),
            advice="Install that version of scikit-learn or fit the model again.",
        )
    return fitted


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
    try:
        facts = plain(inspect(data))
    except FieldloopError as error:
        error.where = error.where or str(file)
        raise
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
        return TrustPolicy(keys=PublicKey.all_from_pem(path.read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"there is no public key to check the bundle with: {error.strerror}",
            where=str(path),
            advice="Name the signer's key with --trusted, or its home with --home.",
        ) from error
    except DataError as error:
        error.where = error.where or str(path)
        raise


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
