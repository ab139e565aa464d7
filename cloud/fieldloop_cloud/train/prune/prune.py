"""`prune` and `prune_magnitude`: a trained net with fewer channels, or with many zeros.

Only the first makes the flatbuffer smaller and faster. Zeros scattered over a kernel take as much
room and time as any other weight; they only compress well on the way to a device.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fieldloop.errors import ConfigError, ModelRuntimeError
from fieldloop_cloud.compile.quantize import EPSILON, check_epsilon
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker
from fieldloop_cloud.train.nets.job import told_error
from fieldloop_cloud.train.prune.finetune import Task
from fieldloop_cloud.train.prune.given import job_arrays, place_model
from fieldloop_cloud.train.prune.importance import Importance
from fieldloop_cloud.train.prune.job import PruneJob, Scope
from fieldloop_cloud.train.prune.outcome import Pruned, collected

_WORKER = "fieldloop_cloud.train.prune.worker"
_GRACE_S = 60.0
"""Beside the budget, for TensorFlow's start and the conversions."""


def prune(
    model: Any,
    X: Any,
    y: Any,
    *,
    share: float = 0.5,
    importance: Importance = "l2",
    scope: Scope = "global",
    held_out: tuple[Any, Any] | None = None,
    epsilon: float = EPSILON,
    steps: int = 3,
    epochs: int = 10,
    multiple_of: int = 1,
    batch: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    budget_s: float = 600.0,
    progress: Progress = quiet,
) -> Pruned:
    """Take out a share of a net's channels and fine-tune what is left.

    In each of `steps` rounds the least important channels go and the net is trained on for at most
    `epochs`. The rounds end when one loses more than `epsilon` of the score on the held-out rows;
    the round before it is returned. Half of the channels is about three quarters of the weights.
    Channels that are tied together by Add or Multiply go together.

    Measured on a CNN for letters of 32 x 32 pixels (14.6M multiplications), no accuracy lost: with
    half of its channels gone float32 went from 1,198 kB and 158 µs to 289 kB and 71 µs, int8 from
    310 kB and 48 µs to 80 kB and 27 µs; with 65 % gone to 151 kB and 38 µs, 45 kB and 16 µs
    (`tools/bench/sparse.md`). The smaller a net, the less of its latency is arithmetic to spare.

    Args:
        model: A functional or sequential Keras model, or the path of a `.keras` file, with layers
            of `roles.PASSES` and the like: convolutions, dense, BatchNormalization, pooling, …
        X: Encoded training rows, float32 (n, *input shape).
        y: Class numbers (n,), integers from 0 in the order of the outputs; or values (n,), floats.
        share: Of the channels of all layers but the last.
        importance: `l2`, `l1`, `bn` or `taylor`; see `Importance`.
        scope: `global` takes channels wherever they matter least, `layer` the same share of each
            layer, `sensitivity` where a sweep over the layers shows that it costs least.
        held_out: X and y to compare on, not trained on; None: a fifth of the rows.
        epsilon: Largest loss of accuracy or R² allowed. It is what was seen; the gate says whether
            the rows were enough to prove it.
        steps: Rounds.
        epochs: Most epochs of a round.
        multiple_of: Each layer keeps a multiple of this; 4 or 8 suits SIMD kernels.
        batch: Rows of a training step.
        learning_rate: Of Adam.
        seed: Of the split and the order of rows.
        budget_s: For all rounds.
        progress: Receives the rounds.

    Raises:
        UnsupportedError: A layer whose channels cannot be followed, by name.
        GateError: Not even the first round stays within epsilon.
        DataError: Rows that do not fit.
        ConfigError: A share, a number of steps or a criterion that makes no sense.
        ModelRuntimeError: The process ended or ran out of time.
        EnvironmentFaultError: The packages for nets are not installed.

    Example:
        >>> pruned = prune("net.keras", X, y, share=0.5)  # doctest: +SKIP
        >>> pruned.before.size_bytes, pruned.after.size_bytes  # doctest: +SKIP
        (88436, 30076)
        >>> compiled = fl.to_tflite(pruned.save("small.keras"), example=X)  # doctest: +SKIP
    """
    if importance not in {"l1", "l2", "bn", "taylor"}:
        raise ConfigError(
            f"there is no importance {importance!r}", advice="Use l1, l2, bn or taylor."
        )
    if scope not in {"global", "layer", "sensitivity"}:
        raise ConfigError(
            f"there is no scope {scope!r}", advice="Use global, layer or sensitivity."
        )
    order = PruneJob(
        method="channels",
        share=share,
        task=_task(y),
        importance=importance,
        scope=scope,
        steps=steps,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        multiple_of=multiple_of,
        epsilon=epsilon,
        seed=seed,
        budget_s=budget_s,
    )
    return _run(order, model, (X, y), held_out, progress)


def prune_magnitude(
    model: Any,
    X: Any,
    y: Any,
    *,
    share: float = 0.8,
    held_out: tuple[Any, Any] | None = None,
    epsilon: float = EPSILON,
    steps: int = 3,
    epochs: int = 10,
    batch: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    budget_s: float = 600.0,
    progress: Progress = quiet,
) -> Pruned:
    """Set the smallest weights of every kernel to zero and fine-tune the others.

    It is for the download alone: the flatbuffer keeps its size and its latency, and
    `download_bytes` says what a deflated one has. For a smaller and faster net use `prune`.
    Arguments and errors are those of `prune`.

    Measured on a CNN for digits of 21k parameters, bytes of the file / of the deflated file, with
    the accuracy within half a point throughout: as trained float32 88k / 79k, int8 31k / 24k; 80 %
    zeros 88k / 25k, 31k / 11k; half of the channels gone 29k / 24k, 14k / 9k. Weight clustering is
    left out, for it does not pay beyond these: 16 values a kernel gave 88k / 20k and 31k / 17k, and
    who minds the download quantizes first (`tools/bench/sparse.py`).

    Args:
        model: As for `prune`; any layers.
        X: As for `prune`.
        y: As for `prune`.
        share: Of each kernel's weights.
        held_out: As for `prune`.
        epsilon: As for `prune`.
        steps: Rounds.
        epochs: Most epochs of a round.
        batch: Rows of a training step.
        learning_rate: Of Adam.
        seed: Of the split and the order of rows.
        budget_s: For all rounds.
        progress: Receives the rounds.
    """
    order = PruneJob(
        method="weights",
        share=share,
        task=_task(y),
        steps=steps,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        epsilon=epsilon,
        seed=seed,
        budget_s=budget_s,
    )
    return _run(order, model, (X, y), held_out, progress)


def _task(y: Any) -> Task:
    return "regression" if np.asarray(y).dtype.kind == "f" else "classification"


def _run(
    order: PruneJob,
    model: Any,
    rows: tuple[Any, Any],
    held_out: tuple[Any, Any] | None,
    progress: Progress,
) -> Pruned:
    _check(order)
    arrays = job_arrays(order, *rows, held_out)
    job = Path(tempfile.mkdtemp(prefix="fieldloop-prune-"))
    try:
        place_model(model, job)
        for name, array in arrays.items():
            np.save(job / f"{name}.npy", array)
        (job / "job.json").write_bytes(msgspec.json.encode(order))
        end = run_worker(_WORKER, job, timeout_s=order.budget_s + _GRACE_S, progress=progress)
        if (error := told_error(job)) is not None:
            raise error
        if not (job / "result.json").exists():
            how = "ran out of time" if end.timed_out else last_line(end.tail)
            raise ModelRuntimeError(
                f"the pruning process ended: {how}",
                where="prune",
                advice="Raise the budget, or check memory and TensorFlow with `fieldloop doctor`.",
            )
        return collected(job, arrays["x_held_out"])
    finally:
        shutil.rmtree(job, ignore_errors=True)


def _check(order: PruneJob) -> None:
    check_epsilon(order.epsilon)
    problems = {
        "share": not 0 < order.share < 1,
        "steps": order.steps < 1,
        "epochs": order.epochs < 0,
        "multiple_of": order.multiple_of < 1,
        "batch": order.batch < 1,
        "learning_rate": not order.learning_rate > 0,
        "budget_s": not order.budget_s > 0,
    }
    if wrong := [name for name, failed in problems.items() if failed]:
        raise ConfigError(
            f"{', '.join(wrong)} cannot be right",
            where="prune",
            advice="Give a share between 0 and 1 and positive numbers.",
        )
