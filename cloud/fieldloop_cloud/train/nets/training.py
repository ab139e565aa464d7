"""The loop: phases, epochs, steps; early stopping, checkpoints and the best epoch's weights.

Only workers call this. Keras' own `fit` keeps neither the order of rows nor the state of its
callbacks over a kill, and does not run on several machines in Keras 3; this loop does both.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fieldloop_cloud.compile.worker import report
from fieldloop_cloud.train.nets.augmentation import vary_rows
from fieldloop_cloud.train.nets.build import build, head_of
from fieldloop_cloud.train.nets.checkpoint import (
    Arrays,
    assign,
    drop_checkpoint,
    load_checkpoint,
    save_checkpoint,
    values_of,
)
from fieldloop_cloud.train.nets.course import Course, check_finite
from fieldloop_cloud.train.nets.curve import sparkline
from fieldloop_cloud.train.nets.job import Epoch, NetJob
from fieldloop_cloud.train.nets.logs import Log
from fieldloop_cloud.train.nets.objectives import row_losses
from fieldloop_cloud.train.nets.optimizers import make_optimizer, rate_at
from fieldloop_cloud.train.nets.phases import phases
from fieldloop_cloud.train.nets.pipeline import Rows, held_out_batches, training_batches
from fieldloop_cloud.train.nets.steps import Sums, learning, looking
from fieldloop_cloud.train.nets.strategy import Replicas
from fieldloop_cloud.train.phase import Phase

_STEPS_AT_ONCE = 25
"""Between two looks at the clock and at the loss."""


class Training:
    """A training under way.

    Args:
        job: The job's directory; a checkpoint in it is gone on from.
        order: What was ordered.
        rows: The rows.
        replicas: Where it runs.
        log: Called with every finished epoch.
    """

    def __init__(
        self,
        job: Path,
        order: NetJob,
        rows: Rows,
        replicas: Replicas,
        log: Log,
    ) -> None:
        self._job, self._order, self._rows = job, order, rows
        self._replicas, self._log = replicas, log
        self._settings, self._classes = order.settings, order.plan.classes
        self._started = time.monotonic()
        self._epoch_steps = -(-len(rows.fit) // order.settings.batch_size)
        self._phases = phases(order.plan, order.settings)
        with replicas.strategy.scope():
            head = head_of(self._classes, order.settings.objective)
            self._model = build(order.plan, head=head, scaling=order.scaling, unrolled=False)
        self._losses = row_losses(order.settings, self._classes)
        self._look = looking(self._model, self._losses, is_classifier=self._classes > 0)
        self.course = Course()
        self._optimizer_state: Arrays | None = None
        self.best: Arrays = values_of(self._model.variables)
        self._resume()
        self._before_s = self.course.elapsed_s

    def run(self) -> None:
        """Train to the end; `best` and `course` say what came out.

        Raises:
            DivergedError: The loss is no number any more, or exploded.
        """
        while self.course.phase < len(self._phases) and not self.course.stopped_by_time:
            self._run_phase(self._phases[self.course.phase])
            if not self.course.stopped_by_time:
                assign(self._model.variables, self.best)
                self.course.next_phase()

    def _resume(self) -> None:
        kept = load_checkpoint(self._job)
        # Machines that were killed in different epochs have no common state.
        if not self._replicas.agreed(len(kept[0].history) if kept else 0):
            drop_checkpoint(self._job)
            kept = None
        if kept is None:
            return
        self.course, parts = kept
        self.course.stopped_by_time = False
        self.best = parts["best"]
        self._optimizer_state = parts["optimizer"]
        assign(self._model.variables, parts["model"])
        report("train", 0.0, f"going on after epoch {len(self.course.history)}")

    def _run_phase(self, phase: Phase) -> None:
        phase.prepare(self._model)
        with self._replicas.strategy.scope():
            optimizer = make_optimizer(self._settings, phase)
            optimizer.build(self._model.trainable_variables)
        if self._optimizer_state is not None:
            assign(optimizer.variables, self._optimizer_state)
            self._optimizer_state = None
        learn = learning(self._model, self._losses, optimizer, self._replicas)
        batches = self._batches(phase)
        while self._goes_on(phase):
            if self.course.finish_epoch(self._epoch(phase, learn, batches)):
                self.best = values_of(self._model.variables)
            if self._settings.schedule == "plateau":
                settings = self._settings
                self.course.cut_on_plateau(settings.decay_epochs or 1, settings.decay or 1.0)
            self._keep(optimizer)
            self._log(self.course.history[-1])

    def _goes_on(self, phase: Phase) -> bool:
        course = self.course
        return (
            course.phase_epochs < phase.epochs
            and course.waited < self._settings.patience
            and not course.stopped_by_time
        )

    def _epoch(self, phase: Phase, learn: Callable[..., Sums], batches: Any) -> Epoch:
        number = len(self.course.history) + 1
        loss = weight = norm = 0.0
        step, rates = 0, self._rates(phase)
        while step < self._epoch_steps:
            sums = learn(batches, rates[step : step + _STEPS_AT_ONCE])
            step += len(rates[step : step + _STEPS_AT_ONCE])
            loss, weight, norm = loss + sums.loss, weight + sums.weight, norm + sums.norm
            check_finite(loss, norm, number)
            if time.monotonic() - self._started > self._order.train_s:
                self.course.stopped_by_time = True
                break
            self._tell(phase, step / self._epoch_steps, loss / max(weight, 1e-12))
        held_out = held_out_batches(self._rows, batch_size=self._settings.batch_size)
        held_out_loss, score = self._look(held_out)
        return Epoch(
            number=number,
            phase=phase.name,
            loss=loss / max(weight, 1e-12),
            held_out_loss=held_out_loss,
            held_out_score=score,
            learning_rate=rates[step - 1],
            gradient_norm=norm / step,
        )

    def _rates(self, phase: Phase) -> list[float]:
        """Return the learning rate of every step of the epoch that comes."""
        done, steps = self.course.phase_epochs, self._epoch_steps
        return [
            self.course.rate_scale
            * rate_at(self._settings, phase.learning_rate, phase.epochs, done + step / steps)
            for step in range(steps)
        ]

    def _batches(self, phase: Phase) -> Any:
        """Return an iterator over the batches of the epochs that are left of a phase."""
        first = len(self.course.history)
        left = phase.epochs - self.course.phase_epochs
        settings, rows = self._settings, self._rows
        vary = None
        if settings.augmentation is not None:
            vary = vary_rows(settings.augmentation, self._order.scaling, rows.X.ndim)

        def make(replicas: tuple[int, ...], count: int) -> Any:
            return training_batches(
                rows,
                batch_size=settings.batch_size,
                seed=self._order.seed,
                first_epoch=first,
                end_epoch=first + left,
                vary=vary,
                replicas=replicas,
                replica_count=count,
            )

        return self._replicas.distribute(make)

    def _keep(self, optimizer: Any) -> None:
        self.course.elapsed_s = self._before_s + time.monotonic() - self._started
        parts = {
            "model": values_of(self._model.variables),
            "optimizer": values_of(optimizer.variables),
            "best": self.best,
        }
        save_checkpoint(self._job, self.course, parts)

    def _tell(self, phase: Phase, share: float, loss: float) -> None:
        done = sum(one.epochs for one in self._phases[: self.course.phase])
        done += self.course.phase_epochs
        total = sum(one.epochs for one in self._phases)
        text = f"epoch {self.course.phase_epochs + 1} of {phase.epochs}, loss {loss:.4f}"
        if self.course.history:
            last = self.course.history[-1]
            curve = sparkline([epoch.held_out_loss for epoch in self.course.history])
            text += f", held-out loss {last.held_out_loss:.4f} {curve}"
        if len(self._phases) > 1:
            text = f"{phase.name}: {text}"
        report("train", (done + share) / total, text)
