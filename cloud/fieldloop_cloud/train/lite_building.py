"""The Lite variant of a saved net, seen from outside: one `.keras` file in, another out."""

import shutil
import tempfile
import zipfile
from pathlib import Path

import msgspec

from fieldloop.errors import DataError, EnvironmentFaultError, ModelRuntimeError, UnsupportedError
from fieldloop_cloud.compile.conversion import INSTALL_DEEP, missing_packages
from fieldloop_cloud.compile.worker import last_line, run_worker
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.job import told_error

WORKER = "fieldloop_cloud.train.lite_worker"
_TIMEOUT_S = 600.0


def build_lite(model: Path | str, out: Path | str) -> tuple[str, ...]:
    """Write the Lite variant of a net: ReLU6 for swish and its like, no squeeze-and-excite.

    It keeps the weights of what stays, and answers worse than the net until it is trained further.

    Args:
        model: The `.keras` file of a functional or Sequential net.
        out: The `.keras` file to write.

    Returns:
        What was changed, one sentence a layer.

    Raises:
        DataError: No `.keras` file.
        UnsupportedError: There is nothing to change, a subclassed model, or a file that Keras does
            not load in safe mode.
        ModelRuntimeError: The process that builds it died.
        EnvironmentFaultError: The packages for nets are not installed.
    """
    path = Path(model)
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a net cannot be rebuilt here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise DataError(
            "this is no .keras file, or a damaged one",
            where=str(path),
            advice="Save the net with model.save('name.keras').",
        )
    job = Path(tempfile.mkdtemp(prefix="fieldloop-lite-"))
    try:
        shutil.copy(path, job / "model.keras")
        end = run_worker(WORKER, job, timeout_s=_TIMEOUT_S)
        error = told_error(job)
        if error is not None:
            raise error
        if not (job / "changes.json").exists():
            raise ModelRuntimeError(
                f"the net could not be rebuilt: {last_line(end.tail)}",
                where=str(path),
                advice="Check the installation of TensorFlow with `fieldloop doctor`.",
            )
        changes = msgspec.json.decode((job / "changes.json").read_bytes(), type=tuple[str, ...])
        if not changes:
            raise UnsupportedError(
                "the net has neither open activations nor squeeze-and-excite: it is Lite already",
                where=str(path),
                advice="Compile it as it is.",
            )
        write_file(Path(out), (job / "lite.keras").read_bytes())
        return changes
    finally:
        shutil.rmtree(job, ignore_errors=True)
