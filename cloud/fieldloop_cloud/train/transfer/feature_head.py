"""The third way, for tiny data: a backbone's features and a classical model, in one flatbuffer.

images -> `feature_worker` (features, flatbuffers of the backbone) -> scikit-learn -> `join`

Nothing of the backbone is trained, so a handful of labels a class suffices, in seconds.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import (
    ConfigError,
    DataError,
    EnvironmentFaultError,
    GateError,
    ModelRuntimeError,
)
from fieldloop.manifest import Precision
from fieldloop.signature import TensorSpec
from fieldloop_cloud.compile.classical_model import compile_classical
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.compile.conversion import (
    INSTALL_DEEP,
    Converted,
    collect,
    failure,
    missing_packages,
)
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.joining import join
from fieldloop_cloud.compile.originals import ask
from fieldloop_cloud.compile.quantize import calibration_rows
from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets.job import told_error
from fieldloop_cloud.train.transfer.feature_worker import FeatureJob
from fieldloop_cloud.train.transfer.plan import TransferPlan

Head = Literal["logistic", "linear_svm", "svm"]

WORKER = "fieldloop_cloud.train.transfer.feature_worker"
"""Module that extracts; its argument is the job's directory."""

LIMIT = 1e-3
"""Largest deviation of float32 from backbone and head in a row, relative to the answers' size (at
least 1). All others deviate by design, an SVM's votes in jumps; the accuracy gate judges them."""

_STRENGTHS = (0.003, 0.03, 0.3)
_FOLDS = 3
_TOLERANCE = 1e-3
"""Far more features than rows separate the classes: the last digits take most of the time."""


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Rows of images and their features, by the Keras backbone."""

    train: Dataset
    features: NDArray[np.float32]
    probes: NDArray[np.float32]
    probe_features: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureModel:
    """A backbone with a classical head.

    Attributes:
        plan: The backbone; its own head is not used.
        head: The fitted scikit-learn pipeline; its labels are indices.
        converted: Flatbuffers of the backbone and failures, by precision.
        features: Of the training rows, float32 (n, width).
        parameters: Settings as text.
        train_s: Seconds, TensorFlow's start included.
        compile_to: Makes one flatbuffer of both, compared with the two in a row.
    """

    plan: TransferPlan
    head: Any
    converted: Converted
    features: NDArray[np.float32]
    parameters: dict[str, str]
    train_s: float
    compile_to: Callable[[Precision], Compiled]


def train_on_features(
    plan: TransferPlan,
    train: Dataset,
    *,
    probes: NDArray[np.float32],
    head: Head = "logistic",
    precisions: tuple[Precision, ...] = ("float32",),
    seed: int = 0,
    budget_s: float = 600.0,
    progress: Progress = quiet,
) -> FeatureModel:
    """Fit a classical head on a backbone's features; the strength is chosen by cross-validation.

    Args:
        plan: Backbone, cut and pooling; `weights` must be given.
        train: Training rows: images with classes.
        probes: Encoded images to compare the compiled model on, not empty.
        head: Logistic regression, a linear SVM or an SVM with RBF kernel, on scaled features.
        precisions: Of the backbone. The head stays float32, or float16 with the backbone.
        seed: Of the folds and the calibration rows.
        budget_s: Hard limit in seconds for the backbone's process.
        progress: Receives its reports.

    Raises:
        ConfigError: A plan without weights, or no such head.
        DataError: No images with classes, or a damaged weights file.
        UnsupportedError: A weights file with layers that are not loaded.
        EnvironmentFaultError: The packages for nets, or ImageNet's weights, are missing.
        GateError: The time was up.
        ModelRuntimeError: The process ended without a result.
    """
    started = time.monotonic()
    _check(plan, train, head)
    with tempfile.TemporaryDirectory(prefix="fieldloop-features-") as folder:
        job = Path(folder)
        calibration = train.X[calibration_rows(train.y, seed=seed)]
        for name, rows in (("train", train.X), ("probes", probes), ("calibration", calibration)):
            np.save(job / f"{name}.npy", rows)
        order = FeatureJob(plan=plan.checked(), precisions=precisions)
        (job / "features.json").write_bytes(msgspec.json.encode(order))
        end = run_worker(WORKER, job, timeout_s=budget_s, progress=progress)
        if error := told_error(job):
            raise error
        if not (job / "features.done").exists():
            raise _not_done(timed_out=end.timed_out, tail=end.tail, budget_s=budget_s)
        converted = collect(job, precisions, first=end, timeout_s=budget_s, progress=progress)
        made = [np.load(job / f"{name}_features.npy") for name in ("train", "probes")]
    seen = _Seen(train, made[0], probes, made[1])
    fitted, strength = fit_head(head, made[0], train.y, seed=seed)
    taken = time.monotonic() - started

    def compile_to(precision: Precision) -> Compiled:
        if precision not in converted.models:
            raise failure(converted.failures.get(precision, "it was not asked for"), precision)
        return _joined(converted.models[precision], fitted, precision, seen)

    return FeatureModel(
        plan=plan,
        head=fitted,
        converted=converted,
        features=made[0],
        parameters=_described(plan, head, strength, made[0].shape[1]),
        train_s=taken,
        compile_to=compile_to,
    )


def _check(plan: TransferPlan, train: Dataset, head: str) -> None:
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a backbone cannot be run here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    if plan.weights is None:
        raise ConfigError(
            "features of a backbone that has learned nothing say nothing",
            where="weights",
            advice="Give 'imagenet', a file, or a backbone of your own (fieldloop pretrain).",
        )
    if head not in get_args(Head):
        raise ConfigError(
            f"there is no head '{head}'", where="head", advice=f"Use {', '.join(get_args(Head))}."
        )
    if not train.labels or tuple(train.X.shape[1:]) != plan.input_shape:
        raise DataError(
            f"the backbone takes images of {plan.input_shape} with classes",
            where=train.name,
            advice="Plan it for these data with plan_transfer.",
        )


def _not_done(*, timed_out: bool, tail: str, budget_s: float) -> GateError | ModelRuntimeError:
    if timed_out:
        return GateError(
            f"the features were not there when {budget_s:.0f} s were used up",
            advice="Raise the time budget, or use a smaller backbone.",
        )
    return ModelRuntimeError(
        f"the backbone did not run: {last_line(tail)}",
        where="features",
        advice="Check memory and the installation of TensorFlow with `fieldloop doctor`.",
    )


def fit_head(
    head: Head, features: NDArray[np.float32], y: NDArray[Any], *, seed: int
) -> tuple[Any, float]:
    """Fit a head on features (n, width) and class indices; return it with its strength.

    The strength is the one with the best accuracy over folds, a middle one without folds.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow to import
    from sklearn.model_selection import StratifiedKFold, cross_val_score  # noqa: PLC0415 - the same
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - the same
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - the same
    from sklearn.svm import SVC  # noqa: PLC0415 - the same

    def make(strength: float) -> Any:
        last = {
            "logistic": lambda: LogisticRegression(C=strength, tol=_TOLERANCE, max_iter=1000),
            "linear_svm": lambda: SVC(C=strength, kernel="linear"),
            "svm": lambda: SVC(C=100 * strength),
        }[head]()
        return make_pipeline(StandardScaler(), last)

    folds = min(_FOLDS, int(np.bincount(y)[np.unique(y)].min()))
    strength = _STRENGTHS[len(_STRENGTHS) // 2]
    if folds > 1:
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
        scores = [cross_val_score(make(s), features, y, cv=parts).mean() for s in _STRENGTHS]
        strength = _STRENGTHS[int(np.argmax(scores))]
    return make(strength).fit(features, y), strength


def _joined(front: bytes, head: Any, precision: Precision, seen: _Seen) -> Compiled:
    """Join backbone and head, and compare with the two in a row."""
    back = compile_classical(
        head,
        Rows.of(seen.features),
        precision="float16" if precision == "float16" else "float32",
        labels=seen.train.labels,
        held_out=seen.probe_features,
    )
    tflite = join(front, back.tflite)
    entrance = inspect(front).inputs[0]
    signature = msgspec.structs.replace(
        back.signature,
        inputs=(TensorSpec(name="x", shape=entrance.shape, dtype=entrance.dtype),),
        features=(),
        image=seen.train.image,
    ).checked()
    made = Compiled(tflite, signature, Evidence(original="", row_count=0), precision)
    evidence = _compared(made, head, seen)
    return Compiled(tflite, signature, evidence, precision)


def _compared(made: Compiled, head: Any, seen: _Seen) -> Evidence:
    """Compare on the probes.

    Raises:
        GateError: float32 deviates beyond the limit.
    """
    answers = made.run_encoded(seen.probes)
    limit = LIMIT if made.precision == "float32" else None
    deviation: dict[str, float] = {}
    changes = 0
    for spec in made.signature.outputs:
        wanted = ask(head, str(spec.role), seen.probe_features)
        if wanted is None:
            continue
        if spec.role == "label":
            named = np.array([seen.train.labels[int(index)] for index in wanted])
            changes = int((np.asarray(answers[spec.name]) != named).sum())
            continue
        size = max(1.0, float(np.abs(wanted).max()))
        deviation[spec.name] = float(np.abs(answers[spec.name] - wanted).max()) / size
        if limit is not None and not deviation[spec.name] <= limit:  # NaN fails too
            raise GateError(
                f"the {made.precision} flatbuffer deviates from backbone and head by "
                f"{deviation[spec.name]:.2g}, allowed is {limit:g}",
                where=spec.name,
                advice="Use another head, or another cut.",
            )
    return Evidence(
        original=f"Keras backbone and sklearn {type(head[-1]).__name__}",
        row_count=len(seen.probes),
        label_changes=changes,
        deviation=deviation,
        limit=dict.fromkeys(deviation, limit) if limit is not None else {},
    )


def _described(plan: TransferPlan, head: Head, strength: float, width: int) -> dict[str, str]:
    return {
        "member": plan.member,
        "alpha": f"{plan.alpha:g}",
        "cut": plan.cut or "the end",
        "weights": str(plan.weights),
        "features": str(width),
        "head": head,
        "C": f"{strength * (100 if head == 'svm' else 1):g}",
    }
