"""`fieldloop compile`."""

import importlib
import warnings
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console

from fieldloop.errors import ConfigError, DataError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.cli.output import emit, json_option, vacant
from fieldloop_cloud.cli.rows import load_arrays, load_rows
from fieldloop_cloud.cli.rungs import show_explanation, show_lite, show_rungs
from fieldloop_cloud.cli.train import epsilon_option
from fieldloop_cloud.compile.quantize import NET_LADDER

_PICKLED = frozenset({".joblib", ".pkl", ".pickle"})


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--example",
    "--calibration",
    type=click.Path(path_type=Path),
    required=True,
    help="Rows like those it was fitted on: .csv, .parquet, or .npz with an array X (or, for a "
    "net of several inputs, an array by the name of each). A net's integers get their ranges "
    "from them.",
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The .tflite to write."
)
@click.option(
    "--precision",
    type=click.Choice(["auto", *NET_LADDER]),
    default="float32",
    show_default=True,
    help="auto takes the smallest that is proven to answer as the original, or with --device the "
    "fastest. mixed is int8 with the worst layers of a net left in float.",
)
@click.option(
    "--device",
    help="The device class it is meant for: a name, a .toml file, or a measurement's .json.",
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path),
    help="Rows to compare on, best ones that it was not fitted on; by default the example.",
)
@click.option(
    "--target",
    help="Column of the held-out rows with the truth; in an .npz file it is the array y.",
)
@click.option("--labels", help="Names of a net's classes, with commas between them.")
@epsilon_option
@click.option(
    "--explain", is_flag=True, help="Say what int8 does to each layer of a net, and what to change."
)
@click.option(
    "--lite",
    type=click.Path(path_type=Path),
    help="Also write a net's Lite variant (.keras): ReLU6 for swish, no squeeze-and-excite. It "
    "must be trained further.",
)
@click.option("--trust", is_flag=True, help="Load a pickled model or Lambda layers: any code.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@json_option
def compile_command(
    *,
    model: Path,
    example: Path,
    out: Path,
    precision: str,
    device: str | None,
    held_out: Path | None,
    target: str | None,
    labels: str | None,
    epsilon: float,
    explain: bool,
    lite: Path | None,
    trust: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compile a fitted MODEL to a TFLite flatbuffer of builtin ops.

    MODEL is a Keras model (.keras, or the directory of a SavedModel), a float32 .tflite file, or a
    scikit-learn estimator saved with joblib or pickle. The latter is code, not data: --trust says
    that you know where it comes from. Beside the flatbuffer its signature is written as
    <name>.signature.json, and how it was compared with the original as <name>.evidence.json;
    `fieldloop bundle` takes all three.
    """
    from fieldloop_cloud.compile.api import to_tflite  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.compile.saved import save_compiled  # noqa: PLC0415 - the same

    for path in (out, lite):
        if path is not None:
            vacant(path, force=force)
    _check_options(model, explain=explain, lite=lite, labels=labels)
    fitted = _model(model, trust=trust)
    probes, truth = _compared(held_out, model, target)
    job: dict[str, Any] = {
        "example": _rows(example, model, target),
        "held_out": probes,
        "truth": truth,
        "labels": None if labels is None else [label.strip() for label in labels.split(",")],
        "trust": trust,
    }
    changes = () if lite is None else _lite(model, lite)
    wanted = cast("Precision", precision)
    compiled = to_tflite(fitted, precision=wanted, device=device, epsilon=epsilon, **job)
    explanation = _explanation(fitted, job) if explain else None
    written = save_compiled(compiled, out)
    result = {
        "tflite": out,
        "signature": written.signature,
        "precision": compiled.precision,
        "size_bytes": len(compiled.tflite),
        "evidence": compiled.evidence,
        "explanation": explanation,
        "lite": {"model": lite, "changes": changes} if lite else None,
    }

    def text(console: Console) -> None:
        show_rungs(compiled, console)
        if explanation is not None:
            show_explanation(explanation, console)
        if lite is not None:
            show_lite(lite, changes, console)
        console.print(
            f"{out}: {len(compiled.tflite)} bytes, {compiled.precision}\n"
            f"{compiled.evidence.sentence}",
            markup=False,
        )

    emit(result, as_json=as_json, text=text)


def _explanation(fitted: Any, job: dict[str, Any]) -> Any:
    return importlib.import_module("fieldloop_cloud.compile.explain").explain(fitted, **job)


def _lite(model: Path, out: Path) -> tuple[str, ...]:
    building = importlib.import_module("fieldloop_cloud.train.lite_building")
    changes: tuple[str, ...] = building.build_lite(model, out)
    return changes


def _check_options(model: Path, *, explain: bool, lite: Path | None, labels: str | None) -> None:
    given = {"--explain": explain, "--lite": lite is not None, "--labels": labels is not None}
    wrong = [option for option, is_given in given.items() if is_given]
    if model.suffix in _PICKLED and wrong:
        raise ConfigError(
            f"{', '.join(wrong)} is for nets; a scikit-learn model has its own names and no layers",
            where=str(model),
            advice="Leave the option out.",
        )


def _model(path: Path, *, trust: bool) -> Any:
    """Return the path of a net, or an unpickled estimator."""
    if (path / "saved_model.pb").is_file() or (path.suffix == ".tflite" and path.is_file()):
        return path
    return load_fitted(path, trust=trust)


def _compared(path: Path | None, model: Path, target: str | None) -> tuple[Any, Any]:
    """Return the rows to compare on and the truth about them; None where there is none."""
    if path is None:
        if target is not None:
            raise ConfigError(
                "the truth is a column of the held-out rows, and there are none",
                where="--target",
                advice="Give --held-out.",
            )
        return None, None
    if path.suffix == ".npz":
        if target is not None:
            raise ConfigError(
                "an .npz file has no columns", where=str(path), advice="Save the truth as array y."
            )
        truth = load_arrays(path).get("y")
        return _rows(path, model, None), None if truth is None else truth.tolist()
    if target is None:
        return _rows(path, model, None), None
    frame = load_rows(path)
    if target not in frame.columns:
        raise DataError(
            f"there is no column '{target}'",
            where=str(path),
            advice=f"Name one of {', '.join(map(str, frame.columns[:12]))}.",
        )
    return _rows(path, model, target), frame[target].tolist()


def _rows(path: Path, model: Path, target: str | None) -> Any:
    """Return rows without the truth; a net's are numbers."""
    is_net = model.suffix not in _PICKLED
    if is_net and path.suffix == ".npz":
        arrays = load_arrays(path)
        inputs = {name: array for name, array in arrays.items() if name not in ("X", "y")}
        return inputs if inputs and "X" not in arrays else load_rows(path)
    rows = load_rows(path)
    if target is not None and hasattr(rows, "columns") and target in rows.columns:
        rows = rows.drop(columns=target)
    if is_net:
        _numbers(rows, where=str(path))
    return rows


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
