"""`distill`: a small student learns from a large teacher, on labelled and on unlabelled rows."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, DataError, ModelRuntimeError
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.distill.classical import fit_soft, fit_values
from fieldloop_cloud.train.distill.teachers import Lesson, lesson
from fieldloop_cloud.train.distill.worker import DistillJob, DistillResult
from fieldloop_cloud.train.nets.job import told_error
from fieldloop_cloud.train.prune.finetune import are_probabilities
from fieldloop_cloud.train.prune.given import place_model

NET_TEMPERATURE = 3.0
"""Makes the teacher's second thoughts heard."""

CLASSICAL_TEMPERATURE = 1.0
"""The weights are the probabilities that the student itself will give."""

HELD_OUT_SHARE = 0.15
"""Of the rows, for a net's early stopping."""

_WORKER = "fieldloop_cloud.train.distill.worker"
_GRACE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distilled:
    """A student that has learned.

    Attributes:
        estimator: The fitted classical student; None for a net.
        keras_bytes: The `.keras` file of a net; None for a classical student.
        agreement: Share of all rows given on which student and teacher choose the same class; for
            values the R² of the student's against the teacher's.
        epochs: Epochs that a net was trained for; 0 for a classical student.
    """

    estimator: Any
    keras_bytes: bytes | None
    agreement: float
    epochs: int

    def save(self, path: Path | str) -> Path:
        """Write a net's `.keras` file, whole or not at all.

        Raises:
            ConfigError: The student is no net, or the name does not end with `.keras`.
            EnvironmentFaultError: The place cannot be written.
        """
        target = Path(path)
        if self.keras_bytes is None or target.suffix != ".keras":
            raise ConfigError(
                "only a net is saved so, as .keras",
                where=str(path),
                advice="Use joblib.dump(distilled.estimator, ...) for a classical student.",
            )
        write_file(target, self.keras_bytes)
        return target


def distill(
    teacher: Any,
    student: Any,
    X: Any,
    y: Any = None,
    *,
    unlabeled: Any = None,
    alpha: float = 0.7,
    temperature: float | None = None,
    epochs: int = 60,
    batch: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    budget_s: float = 600.0,
    progress: Progress = quiet,
) -> Distilled:
    """Let a student learn what a teacher answers, and the labels where there are any.

    The teacher's probabilities say more than labels do, and they are to be had for any row. So a
    small model that fits the device learns from few labels what a large one made of them.

    Args:
        teacher: A fitted estimator with `predict_proba` (or `predict`, for values), a Keras model
            or its `.keras` file, a `Compiled`, a list of these (averaged), or the answers
            themselves, (n, classes) or (n,), labelled rows first.
        student: A Keras model or its file, trained on from the weights that it has; or an
            estimator that takes sample weights (a pipeline may end with one), which is cloned.
        X: Labelled rows, (n, *shape); reshaped to what teacher and student take.
        y: Labels as the teacher's `classes_`, or class numbers; values for a regression; None: the
            rows are not labelled.
        unlabeled: More rows, (m, *shape), that only the teacher speaks of.
        alpha: Weight of the teacher, 0 … 1; the labels have the rest. Without labels it is 1.
        temperature: Above 1 the teacher's small probabilities count for more. None: 3 for a net,
            1 for a classical student.
        epochs: Most epochs of a net; it stops when the loss on held-out rows stops falling.
        batch: Rows of a training step.
        learning_rate: Of Adam.
        seed: Of the held-out rows and of the training.
        budget_s: Most seconds for a net.
        progress: Receives the epochs.

    Raises:
        UnsupportedError: A teacher without probabilities, or a student without sample weights.
        DataError: Rows, labels and answers that do not fit each other.
        ConfigError: An alpha or a temperature that makes no sense.
        ModelRuntimeError: The process ended or ran out of time.
        EnvironmentFaultError: The packages for nets are not installed.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> from sklearn.tree import DecisionTreeClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> forest = RandomForestClassifier(50, random_state=0).fit(X[::5], y[::5])
        >>> tree = DecisionTreeClassifier(max_depth=3, random_state=0)
        >>> distilled = distill(forest, tree, X[::5], y[::5], unlabeled=X[1::5])
        >>> distilled.agreement > 0.9
        True
    """
    is_net = isinstance(student, str | Path) or hasattr(student, "layers")
    if temperature is None:
        temperature = NET_TEMPERATURE if is_net else CLASSICAL_TEMPERATURE
    _check(alpha, temperature, epochs, batch)
    order = DistillJob(
        alpha=alpha if y is not None else 1.0,
        temperature=temperature,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        budget_s=budget_s,
    )
    rows = _rows(X, unlabeled)
    taught = lesson(teacher, rows, lambda path, asked: _ask(path, asked, order))
    table = _table(taught, y, len(rows), order)
    if is_net:
        return _train_net(student, rows, taught, table, order, progress=progress)
    flat = rows.reshape(len(rows), -1)
    if not taught.is_classifier:
        fitted = fit_values(student, flat, table[:, 0])
        said = np.asarray(fitted.predict(flat), dtype=np.float64)
    else:
        soft, hard = np.hsplit(table, 2)
        known = hard.any(axis=1, keepdims=True)
        weights = np.where(known, order.alpha * soft + (1 - order.alpha) * hard, soft)
        classes = np.asarray(_classes(taught))
        fitted = fit_soft(student, flat, weights, classes)
        said = _one_hot(np.asarray(fitted.predict(flat)).tolist(), _classes(taught))
    agreement = _agreement(taught, said)
    return Distilled(estimator=fitted, keras_bytes=None, agreement=agreement, epochs=0)


def _check(alpha: float, temperature: float, epochs: int, batch: int) -> None:
    problems = {
        "alpha": not 0 <= alpha <= 1,
        "temperature": not temperature > 0,
        "epochs": epochs < 1,
        "batch": batch < 1,
    }
    if wrong := [name for name, failed in problems.items() if failed]:
        raise ConfigError(
            f"{', '.join(wrong)} cannot be right",
            where="distill",
            advice="Give an alpha from 0 to 1 and positive numbers.",
        )


def _rows(X: Any, unlabeled: Any) -> NDArray[np.float32]:
    """Return all rows as numbers, the labelled ones first."""
    try:
        rows = np.asarray(X, dtype=np.float32)
        if unlabeled is not None:
            more = np.asarray(unlabeled, dtype=np.float32)
            rows = np.concatenate([rows, more.reshape(len(more), *rows.shape[1:])])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the rows are no numbers of one shape: {error}",
            where="X",
            advice="Encode them first, labelled and unlabelled ones alike.",
        ) from error
    if rows.ndim < 2 or len(rows) < 2:  # noqa: PLR2004 - rows, values; one to learn, one to check
        raise DataError("there are too few rows", where="X", advice="Give at least two.")
    if not np.isfinite(rows).all():
        raise DataError("a value is missing or infinite", where="X", advice="Fill it in.")
    return rows


def _classes(taught: Lesson) -> list[Any]:
    return list(taught.classes or range(taught.answers.shape[1]))


def _table(taught: Lesson, y: Any, row_count: int, order: DistillJob) -> NDArray[np.float64]:
    """Return what the student is to learn.

    For classes a row has the teacher's probabilities at the temperature, then the true class as
    zeros and a one (all zeros where it is not known); for values the mixture of both.
    """
    labels = [] if y is None else np.asarray(y).tolist()
    if y is not None and len(labels) > row_count:
        raise DataError(
            f"{len(labels)} labels came for {row_count} rows",
            where="y",
            advice="Give one label for each row of X.",
        )
    if not taught.is_classifier:
        values = taught.answers.copy()
        if labels:
            truth = np.asarray(labels, dtype=np.float64).reshape(len(labels))
            values[: len(labels)] *= order.alpha
            values[: len(labels)] += (1 - order.alpha) * truth
        return values[:, np.newaxis]
    hard = np.zeros(taught.answers.shape)
    hard[: len(labels)] = _one_hot(labels, _classes(taught))
    return np.hstack([taught.softened(order.temperature), hard])


def _one_hot(labels: list[Any], classes: list[Any]) -> NDArray[np.float64]:
    place = {name: number for number, name in enumerate(classes)}
    unknown = [label for label in labels if label not in place]
    if unknown:
        raise DataError(
            f"{unknown[0]!r} is none of the teacher's classes",
            where="y",
            advice=f"Use its classes: {', '.join(map(str, classes[:12]))}.",
        )
    return np.eye(len(classes))[[place[label] for label in labels]].reshape(-1, len(classes))


def _agreement(taught: Lesson, said: NDArray[np.float64]) -> float:
    """Compare the student's answers with the teacher's: the same class, or R²."""
    if taught.is_classifier:
        if said.shape[1] == 1:
            middle = 0.5 if are_probabilities(said.astype(np.float32)) else 0.0
            said = np.hstack([2 * middle - said, said])
        return float(np.mean(said.argmax(axis=1) == taught.answers.argmax(axis=1)))
    spread = float(((taught.answers - taught.answers.mean()) ** 2).sum())
    error = float(((taught.answers - said.reshape(-1)) ** 2).sum())
    return 1 - error / spread if spread > 0 else float(error == 0)


def _train_net(
    student: Any,
    rows: NDArray[np.float32],
    taught: Lesson,
    table: NDArray[np.float64],
    order: DistillJob,
    *,
    progress: Progress,
) -> Distilled:
    held_out = np.zeros(len(rows), dtype=np.bool_)
    count = max(1, round(HELD_OUT_SHARE * len(rows)))
    held_out[np.random.default_rng(order.seed).permutation(len(rows))[:count]] = True
    arrays = {"rows": rows, "lesson": table.astype(np.float32), "held_out": held_out}
    with _job(student, order, arrays, progress=progress) as job:
        result = msgspec.json.decode((job / "result.json").read_bytes(), type=DistillResult)
        said = np.load(job / "answers.npy", allow_pickle=False).astype(np.float64)
        return Distilled(
            estimator=None,
            keras_bytes=(job / "student.keras").read_bytes(),
            agreement=_agreement(taught, said.reshape(len(rows), -1)),
            epochs=result.epochs,
        )


def _ask(path: Path, rows: NDArray[np.float32], order: DistillJob) -> NDArray[np.float32]:
    """Return what a `.keras` file answers."""
    asking = msgspec.structs.replace(order, asks=True)
    with _job(path, asking, {"rows": rows}, progress=quiet) as job:
        said: NDArray[np.float32] = np.load(job / "answers.npy", allow_pickle=False)
        return said


@contextmanager
def _job(
    model: Any, order: DistillJob, arrays: dict[str, NDArray[Any]], *, progress: Progress
) -> Iterator[Path]:
    """Run the worker and yield its directory, with `answers.npy` in it."""
    job = Path(tempfile.mkdtemp(prefix="fieldloop-distill-"))
    try:
        place_model(model, job)
        for name, array in arrays.items():
            np.save(job / f"{name}.npy", array)
        (job / "job.json").write_bytes(msgspec.json.encode(order))
        end = run_worker(_WORKER, job, timeout_s=order.budget_s + _GRACE_S, progress=progress)
        if (error := told_error(job)) is not None:
            raise error
        last = "answers.npy" if order.asks else "result.json"
        if not (job / last).exists():
            how = "ran out of time" if end.timed_out else last_line(end.tail)
            raise ModelRuntimeError(
                f"the distilling process ended: {how}",
                where="distill",
                advice="Raise the budget, or check memory and TensorFlow with `fieldloop doctor`.",
            )
        yield job
    finally:
        shutil.rmtree(job, ignore_errors=True)
