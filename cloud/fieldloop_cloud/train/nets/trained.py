"""What training brings home: the net, its flatbuffers, its history and its scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.conversion import Converted, failure
from fieldloop_cloud.compile.net_proof import proven
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.metrics import Estimate
from fieldloop_cloud.train.nets.job import Epoch
from fieldloop_cloud.train.nets.plans import NetPlan
from fieldloop_cloud.train.nets.settings import NetSettings


@dataclass(frozen=True, slots=True, eq=False)
class TrainedNet:
    """A trained net.

    Attributes:
        plan: What was built.
        settings: How it was trained, as it was in the end.
        keras_bytes: The `.keras` file, float32.
        converted: Flatbuffers and failures by precision.
        validation: The rows that scores and answers are taken on.
        answers: The Keras model's own answers on them, (n, classes), or (n, 1) values.
        scores: Every metric of the task with its interval.
        baseline: Score of the model that always says the commonest class, or the mean.
        history: Every epoch.
        best_epoch: The one whose weights were kept, from 1.
        parameters: Settings as text.
        train_s: Seconds of training, TensorFlow's start included.
        notes: What the reader of a report should know, one sentence each.
    """

    plan: NetPlan
    settings: NetSettings
    keras_bytes: bytes
    converted: Converted
    validation: Dataset
    answers: NDArray[np.float32]
    scores: tuple[Estimate, ...]
    baseline: Estimate
    history: tuple[Epoch, ...]
    best_epoch: int
    parameters: dict[str, str]
    train_s: float
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> Estimate:
        """The score that was compared with the baseline and the floor."""
        return next(one for one in self.scores if one.metric == self.baseline.metric)

    def compile_to(self, precision: Precision) -> Compiled:
        """Return the flatbuffer of a precision, compared with the net on the validation rows.

        Raises:
            UnsupportedError: It does not convert, or was not asked for.
            GateError: Its answers deviate from the net's.
            ModelRuntimeError: The converter aborted.
        """
        if precision not in self.converted.models:
            reason = self.converted.failures.get(precision)
            if reason is None:
                raise UnsupportedError(
                    f"the net was not converted to {precision}",
                    where="train_net",
                    advice=f"Name it among precisions: {', '.join(self.converted.models)} are.",
                )
            raise failure(reason, precision)
        return proven(
            self.converted.models[precision],
            precision,
            probes=np.asarray(self.validation.X),
            answers=self.answers,
            labels=self.validation.labels or None,
            features=self.validation.features or None,
            image=self.validation.image,
        )

    def save(self, path: Path | str) -> Path:
        """Write the `.keras` file, whole or not at all, and return its path.

        Raises:
            EnvironmentFaultError: The place cannot be written.
        """
        write_file(Path(path), self.keras_bytes)
        return Path(path)
