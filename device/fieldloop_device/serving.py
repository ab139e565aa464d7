"""The model that answers now, what is counted about it, and its exchange for another.

One lock covers a prediction with its counting. An exchange takes the same lock for one
assignment: the new model is loaded and warm before, the old one is closed after, so every request
is answered by exactly one model and none is dropped.
"""

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from fieldloop.clock import ClockSource
from fieldloop.codec import Prediction
from fieldloop.errors import (
    ConfigError,
    FieldloopError,
    InputError,
    ModelRuntimeError,
)
from fieldloop.signature import Category
from fieldloop.telemetry import FieldSample, TelemetryWindow
from fieldloop_device.monitor import MODEL_ID_DIGITS, Monitor
from fieldloop_device.runtime import Runtime
from fieldloop_device.sampling import Draw, Sampler
from fieldloop_device.shadow import Shadow

REMEMBERED_ANSWERS = 4096
"""Answers that `feedback` can still refer to."""
_WAITING_SAMPLES = 256


class Serving:
    """Predicts, counts and samples; threads may share it.

    Args:
        clock: Begins and ends windows.
        make_sampler: Makes the sampler of a model.
    """

    def __init__(self, clock: ClockSource, make_sampler: Callable[[Runtime], Sampler]) -> None:
        self._clock = clock
        self._make_sampler = make_sampler
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None
        self._monitor: Monitor | None = None
        self._sampler: Sampler | None = None
        self._ended: list[TelemetryWindow] = []
        self._samples: deque[FieldSample] = deque(maxlen=_WAITING_SAMPLES)
        self._answers: OrderedDict[str, Category | tuple[Category | None, ...] | None] = (
            OrderedDict()
        )
        self._numbers = itertools.count(1)
        self._label = "0"
        self.shadow: Shadow | None = None
        self.answered_count = 0
        self.rejected_count = 0
        self.failed_count = 0

    @property
    def runtime(self) -> Runtime | None:
        """The model that answers now."""
        return self._runtime

    def begin(self, boot: int) -> None:
        """Name inputs without a name after this boot."""
        self._label = str(boot)

    def activate(self, runtime: Runtime | None) -> None:
        """Let this model answer from now on; the old one is closed."""
        now = self._clock.read()
        monitor = sampler = None
        if runtime is not None:
            profile = runtime.content.profile
            monitor = Monitor(runtime.signature, profile, sha256=runtime.sha256, now=now)
            sampler = self._make_sampler(runtime)
        with self._lock:
            old, self._runtime = self._runtime, runtime
            self._end_window()
            self._monitor, self._sampler = monitor, sampler
            if self.shadow is not None:
                self.shadow.follow(runtime)
            self._answers.clear()
        if old is not None:
            old.close()

    def predict(self, raw: object, *, input_id: str | None = None) -> Prediction:
        """Answer one raw row and count it.

        Args:
            raw: As `Runtime.predict` takes it.
            input_id: Its name, unique on this device; `feedback` and labels refer to it.

        Raises:
            InputError: It does not fit the model's signature; counted as rejected.
            ModelRuntimeError: The model failed, or there is none; counted by type.
        """
        with self._lock:
            runtime, monitor, sampler = self._runtime, self._monitor, self._sampler
            if runtime is None or monitor is None or sampler is None:
                raise ModelRuntimeError(
                    "this device has no sound model",
                    advice="Flash a bundle, or wait for the next rollout.",
                )
            try:
                rows, prediction = runtime.answer(raw)
            except Exception as error:
                failure = self._failed(error, monitor)
                if failure is error:
                    raise
                raise failure from error
            monitor.record(rows, (prediction,))
            self.answered_count += 1
            if input_id is not None:
                self._remember(input_id, prediction)
            draw = sampler.draw(prediction)
            if draw is not None:
                self._sample(draw, raw, rows, prediction, input_id)
            if self.shadow is not None and self.shadow.is_hungry:
                self.shadow.offer(raw, prediction)
            return prediction

    def reject(self) -> None:
        """Count an input that could not even be read."""
        with self._lock:
            self.rejected_count += 1
            if self._monitor is not None:
                self._monitor.reject()

    def feedback(self, input_id: str, truth: Category | Sequence[Category]) -> bool:
        """Count whether an answer was right, now that the truth is known.

        Args:
            input_id: As given to `predict`.
            truth: The right label; for several targets that of each, and all must be right.

        Returns:
            Whether it was right.

        Raises:
            ConfigError: No such input was answered lately by the running model, or not one truth
                for each of its targets.
        """
        with self._lock:
            if input_id not in self._answers or self._monitor is None:
                raise ConfigError(
                    f"there is no recent answer called '{input_id}'",
                    advice=f"Give the truth before {REMEMBERED_ANSWERS} further answers.",
                )
            answer = self._answers[input_id]
            if isinstance(answer, tuple):
                truth = _of_each(truth, len(answer))
            del self._answers[input_id]
            correct = answer == truth
            self._monitor.feedback(correct=correct)
            return correct

    def totals(self) -> tuple[int, int]:
        """Return what the running model answered and failed since it was activated."""
        with self._lock:
            return self._monitor.totals if self._monitor is not None else (0, 0)

    def cut(self) -> list[TelemetryWindow]:
        """End the window; windows of models that were exchanged meanwhile come first."""
        with self._lock:
            self._end_window()
            windows, self._ended = self._ended, []
            return windows

    def take_samples(self) -> list[FieldSample]:
        """Return the field samples chosen since the last call."""
        with self._lock:
            samples = list(self._samples)
            self._samples.clear()
            return samples

    def _end_window(self) -> None:
        if self._monitor is not None:
            window = self._monitor.cut(self._clock.read())
            if window is not None:
                counts = self.shadow.cut() if self.shadow is not None else None
                self._ended.append(replace(window, shadow=counts))

    def _failed(self, error: Exception, monitor: Monitor) -> FieldloopError:
        """Count an input without an answer, and return the error for its caller."""
        if isinstance(error, InputError):
            monitor.reject()
            self.rejected_count += 1
            return error
        monitor.fail(error)
        self.failed_count += 1
        if isinstance(error, FieldloopError):
            return error
        return ModelRuntimeError(
            f"the model failed on this input: {error}", advice="Report this input."
        )

    def _remember(self, input_id: str, prediction: Prediction) -> None:
        self._answers[input_id] = prediction.answer
        if len(self._answers) > REMEMBERED_ANSWERS:
            self._answers.popitem(last=False)

    def _sample(
        self,
        draw: Draw,
        raw: object,
        rows: NDArray[np.float32],
        prediction: Prediction,
        input_id: str | None,
    ) -> None:
        assert self._runtime is not None
        assert self._sampler is not None
        sample = self._sampler.choose(
            draw,
            raw,
            rows,
            prediction,
            sample_id=lambda: input_id or f"{self._label}-{next(self._numbers)}",
            model=self._runtime.sha256[:MODEL_ID_DIGITS],
            now=self._clock.read,
        )
        if sample is not None:
            self._samples.append(sample)


def _of_each(truth: Category | Sequence[Category], count: int) -> tuple[Category, ...]:
    """Return the truth of each target."""
    if isinstance(truth, str) or not isinstance(truth, Sequence) or len(truth) != count:
        raise ConfigError(
            f"{truth!r:.80} is not the truth of {count} targets",
            advice="Give a list with one entry for each target.",
        )
    return tuple(truth)
