"""What the parent and the training process tell each other, through files in the job's directory.

net.json          the order; the same order again resumes the job
X.npy, y.npy …    rows, opened as memory maps
amended.json      settings that had to be changed meanwhile
checkpoint.npz    after every epoch
model.keras       the best epoch, float32
answers.npy       its answers on the validation rows
result.json       last: the training is whole
error.json        instead: what went wrong, typed
"""

from pathlib import Path

import msgspec

from fieldloop import errors
from fieldloop.errors import FieldloopError, ModelRuntimeError
from fieldloop.manifest import Precision
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.plans import NetPlan
from fieldloop_cloud.train.nets.scaling import Scaling
from fieldloop_cloud.train.nets.settings import NetSettings


class NetJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `net.json` says.

    Attributes:
        plan: The net.
        settings: How it is trained, nothing left open.
        scaling: Statistics of the rows that are fitted on.
        seed: Of weights, order, augmentation and dropout.
        train_s: Training stops after this many seconds, keeping the best epoch so far.
        precisions: What to convert to afterwards.
        rows_sha256: Of the rows and their parts; another training is no continuation.
    """

    plan: NetPlan
    settings: NetSettings
    scaling: Scaling
    seed: int
    train_s: float
    precisions: tuple[Precision, ...]
    rows_sha256: str


class Amended(msgspec.Struct, frozen=True, kw_only=True):
    """What `amended.json` says; it lasts over a kill.

    Attributes:
        settings: They take the place of the order's.
        notes: Why, one sentence a change.
        is_calmed: Whether the steps were made shorter after the training had diverged.
    """

    settings: NetSettings
    notes: tuple[str, ...] = ()
    is_calmed: bool = False

    def write(self, job: Path) -> None:
        """Leave it in the job's directory."""
        write_file(job / "amended.json", msgspec.json.encode(self))


def amended(job: Path, order: NetJob) -> Amended:
    """Return the settings that a job has now."""
    path = job / "amended.json"
    if not path.exists():
        return Amended(settings=order.settings)
    return msgspec.json.decode(path.read_bytes(), type=Amended)


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch of the history; losses are means over rows, values in standard deviations.

    Attributes:
        number: From 1, over all phases.
        phase: The phase's name.
        loss: On the training rows, while they were learned.
        held_out_loss: On the rows that early stopping watches.
        held_out_score: Accuracy of classes, or R² of values, on the same rows.
        learning_rate: At the epoch's end.
        gradient_norm: Mean length of the gradient before clipping.
    """

    number: int
    phase: str
    loss: float
    held_out_loss: float
    held_out_score: float
    learning_rate: float
    gradient_norm: float


class NetResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `result.json` says.

    Attributes:
        parameter_count: Trainable parameters, as Keras counts them.
        history: Every epoch.
        best_epoch: The one whose weights were kept, from 1.
        train_s: Seconds of training, over all processes that had a part in it.
        stopped_by_time: Whether the time was up.
        settings: As they were in the end.
        notes: What was done otherwise than ordered, one sentence each.
    """

    parameter_count: int
    history: tuple[Epoch, ...]
    best_epoch: int
    train_s: float
    stopped_by_time: bool
    settings: NetSettings
    notes: tuple[str, ...] = ()


class OutOfMemoryError(ModelRuntimeError):
    """Training took more memory than there is; a smaller batch may do."""


class _Told(msgspec.Struct, frozen=True):
    error: str
    what: str
    where: str = ""
    advice: str = ""


def tell_error(job: Path, error: FieldloopError) -> None:
    """Leave an error for the parent."""
    write_file(job / "error.json", msgspec.json.encode(error.as_dict()))


def told_error(job: Path) -> FieldloopError | None:
    """Return the error that the worker left, and take it away; None if there is none."""
    path = job / "error.json"
    if not path.exists():
        return None
    told = msgspec.json.decode(path.read_bytes(), type=_Told)
    path.unlink()
    if told.error == OutOfMemoryError.__name__:
        return OutOfMemoryError(told.what, where=told.where, advice=told.advice)
    kind: type[FieldloopError] = getattr(errors, told.error, ModelRuntimeError)
    return kind(told.what, where=told.where, advice=told.advice)
