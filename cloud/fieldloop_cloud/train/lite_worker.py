"""A Lite variant's own process: load a saved net, rebuild it, save it.

Run as `python -m fieldloop_cloud.train.lite_worker JOB_DIR`.
"""

import sys
from pathlib import Path

import msgspec

from fieldloop.errors import FieldloopError, UnsupportedError
from fieldloop_cloud.compile.worker import die_with_parent, last_line
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.lite import lite_variant
from fieldloop_cloud.train.nets.job import tell_error


def main(job: Path) -> None:
    """Make `lite.keras` and `changes.json` of `model.keras`; safely loaded."""
    die_with_parent()
    import keras  # noqa: PLC0415 - only workers import Keras

    try:
        model = keras.models.load_model(job / "model.keras", compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 - whatever Keras says of a file is for the parent
        refusal = UnsupportedError(
            f"the saved model cannot be loaded: {last_line(str(error))}",
            where="model.keras",
            advice="Use layers that Keras loads in safe mode.",
        )
        tell_error(job, refusal)
        return
    try:
        made = lite_variant(model)
    except FieldloopError as error:
        tell_error(job, error)
        return
    made.model.save(job / "lite.keras")
    write_file(job / "changes.json", msgspec.json.encode(made.changes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
