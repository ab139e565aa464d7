"""The converter's process, seen from outside: what came back, and what it died of.

The converter can abort the whole process (LLVM ERROR); then only the precision it was working on
is lost, with a typed reason, and the others are converted by a fresh process.
"""

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from fieldloop.errors import DataError, ModelRuntimeError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.keras_worker import MISFIT, UNLOADABLE, ConvertJob
from fieldloop_cloud.compile.lint import Finding
from fieldloop_cloud.compile.worker import (
    Progress,
    WorkerEnd,
    last_line,
    quiet,
    run_worker,
)
from fieldloop_cloud.files import write_file

WORKER = "fieldloop_cloud.compile.keras_worker"
"""Module that converts; its argument is the job's directory."""

_ABORTED = "the converter"

_Step = TypeVar("_Step", bound=str)


@dataclass(frozen=True, slots=True)
class Converted:
    """Flatbuffers by precision, and the reasons of those that failed."""

    models: dict[Precision, bytes]
    failures: dict[Precision, str]


INSTALL_DEEP = "pip install 'fieldloop-cloud[deep]'"


def missing_packages() -> str:
    """Say which packages for nets are not installed; empty if none."""
    missing = [name for name in ("tensorflow", "keras") if not importlib.util.find_spec(name)]
    return f"{' and '.join(missing)} not installed" if missing else ""


def write_job(
    job: Path, model: str, precisions: tuple[Precision, ...], *, trust: bool = False
) -> None:
    """Write `job.json` for the worker."""
    order = ConvertJob(model=model, precisions=precisions, trust=trust)
    write_file(job / "job.json", msgspec.json.encode(order))


def collect(
    job: Path,
    precisions: tuple[Precision, ...],
    *,
    first: WorkerEnd,
    timeout_s: float,
    progress: Progress = quiet,
) -> Converted:
    """Gather what a worker converted; restart it for what an abort left undone.

    Args:
        job: The job's directory, with `model.keras` or `saved_model`.
        precisions: What was asked for, in the worker's order.
        first: How the worker ended.
        timeout_s: Limit for each further process.
        progress: Receives their reports.
    """

    def restart(undone: tuple[Precision, ...]) -> WorkerEnd:
        saved = "model.keras" if (job / "model.keras").exists() else "saved_model"
        write_job(job, saved, undone, trust=_is_trusted(job))
        return run_worker(WORKER, job, timeout_s=timeout_s, progress=progress)

    return Converted(*gather(job, precisions, who=_ABORTED, first=first, restart=restart))


def _is_trusted(job: Path) -> bool:
    order = job / "job.json"
    if not order.exists():
        return False
    return msgspec.json.decode(order.read_bytes(), type=ConvertJob).trust


def gather(
    job: Path,
    steps: tuple[_Step, ...],
    *,
    who: str,
    first: WorkerEnd,
    restart: Callable[[tuple[_Step, ...]], WorkerEnd],
) -> tuple[dict[_Step, bytes], dict[_Step, str]]:
    """Gather `<step>.tflite` and `<step>.error`; a process that died is started again.

    Args:
        job: The job's directory.
        steps: What was asked for, in the worker's order.
        who: What died if the process did, as the failure's first words.
        first: How the worker ended.
        restart: Runs another worker for the steps after the one that took the first down.

    Returns:
        Flatbuffers and reasons of failure, by step.
    """
    end = first
    while True:
        models = {s: path.read_bytes() for s in steps if (path := job / f"{s}.tflite").exists()}
        failures = {
            s: path.read_text(errors="replace")
            for s in steps
            if (path := job / f"{s}.error").exists()
        }
        undone = tuple(s for s in steps if s not in models and s not in failures)
        if not undone:
            return models, failures
        # The worker goes in order, so the first undone one is what it died of.
        how = "ran out of time" if end.timed_out else "took its process down"
        reason = f"{who} {how}: {last_line(end.tail)}"
        write_file(job / f"{undone[0]}.error", reason.encode())
        if len(undone) > 1:
            end = restart(undone[1:])


def failure(
    reason: str, precision: Precision, findings: Sequence[Finding] = ()
) -> DataError | UnsupportedError | ModelRuntimeError:
    """Return the error for a conversion that failed.

    Args:
        reason: What the worker left.
        precision: What was asked for.
        findings: What the lint found in the net before.
    """
    hints = "".join(f" {str(finding)[:1].upper()}{str(finding)[1:]}." for finding in findings)
    if reason.startswith(_ABORTED):
        return ModelRuntimeError(
            reason, where=precision, advice=f"Try another precision, or a simpler layer.{hints}"
        )
    if reason.startswith(UNLOADABLE):
        return UnsupportedError(
            f"the saved model {UNLOADABLE}: {last_line(reason.removeprefix(UNLOADABLE + ': '))}",
            where="compile_keras",
            advice="Use layers that Keras loads in safe mode, trust the file (--trust) if you know "
            "who made it, or give the live model or its SavedModel.",
        )
    if reason.startswith(MISFIT):
        return DataError(
            f"the net {MISFIT}: {_misfit(reason.removeprefix(MISFIT + ': '))}",
            where="compile_keras",
            advice="Give rows of its input's shape; for several inputs a dict by their names.",
        )
    return UnsupportedError(
        f"the model does not convert to builtin TFLite ops: {_blamed(reason)}",
        where=precision,
        advice="Replace the named layer or op; what is not builtin does not run on a device."
        f"{hints}",
    )


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _misfit(text: str) -> str:
    """Return what Keras says of the rows, without the list of arguments that follows."""
    said, _, _ = _COLOURS.sub("", text).partition("Arguments received by")
    return last_line(said)


_FOREIGN_OPS = re.compile(r"^(?:Custom|TF Select|Flex) ops: (.+)$", re.MULTILINE)
_PLACE = re.compile(r'"(\w+):", "([^"@]+)@')
_EXPORTED = re.compile(r"_\d+$")


def _blamed(reason: str) -> str:
    """Name the op and the layer in the converter's long report, else give its first line."""
    foreign = _FOREIGN_OPS.search(reason)
    if foreign is None:
        return " ".join(reason.split("\n", maxsplit=1)[0].split())[:300]
    places = dict(reversed(_PLACE.findall(reason)))
    named = [
        f"{op} (in layer {_layer(places[op])})" if op in places else op
        for op in foreign[1].split(", ")
    ]
    return f"it needs {', '.join(named)}"


def _layer(place: str) -> str:
    """Return the layer of `net_1/block_1/layer_1/Op`, without the numbers of exporting."""
    parts = place.split("/")
    return "/".join(_EXPORTED.sub("", part) for part in (parts[1:-1] or parts))
