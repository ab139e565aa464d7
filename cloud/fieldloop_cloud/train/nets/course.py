"""Where a training stands: what has been reached, and whether it goes on. No TensorFlow here.

A `Course` is what a checkpoint keeps beside the weights; with it a killed training goes on as if
nothing had happened.
"""

import math

import msgspec

from fieldloop_cloud.train.nets.job import Epoch

_EXPLODED = 1e4
"""A loss so many times its first value has exploded."""


class DivergedError(Exception):
    """The loss is no number any more, or exploded; the text says when."""


class Course(msgspec.Struct, kw_only=True):
    """The state between two epochs.

    Attributes:
        history: Every finished epoch.
        phase: Number of the phase under way, from 0.
        phase_epochs: Epochs finished in it.
        best_epoch: The best one so far, from 1; 0 before the first.
        best_loss: Its held-out loss.
        waited: Epochs of this phase since its best one.
        phase_best: Best held-out loss of this phase.
        plateau_waited: Epochs since the last improvement or cut.
        rate_scale: What a plateau's cuts have left of the learning rate.
        elapsed_s: Seconds of training in all processes so far.
        stopped_by_time: Whether the time was up.
    """

    history: list[Epoch] = []
    phase: int = 0
    phase_epochs: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    waited: int = 0
    phase_best: float = math.inf
    plateau_waited: int = 0
    rate_scale: float = 1.0
    elapsed_s: float = 0.0
    stopped_by_time: bool = False

    def finish_epoch(self, epoch: Epoch) -> bool:
        """Take an epoch in; returns whether its weights are the best so far.

        Raises:
            DivergedError: A loss that is no number, or has exploded.
        """
        first = self.history[0] if self.history else epoch
        for loss, start in (
            (epoch.loss, first.loss),
            (epoch.held_out_loss, first.held_out_loss),
        ):
            check_finite(loss, epoch.gradient_norm, epoch.number)
            if loss > _EXPLODED * max(abs(start), 1e-3):
                message = f"the loss rose to {loss:.3g} in epoch {epoch.number}"
                raise DivergedError(message)
        self.history.append(epoch)
        self.phase_epochs += 1
        if epoch.held_out_loss < self.phase_best:
            self.phase_best, self.waited, self.plateau_waited = epoch.held_out_loss, 0, 0
        else:
            self.waited += 1
            self.plateau_waited += 1
        if epoch.held_out_loss < self.best_loss:
            self.best_loss, self.best_epoch = epoch.held_out_loss, epoch.number
            return True
        return False

    def cut_on_plateau(self, after_epochs: int, decay: float) -> None:
        """Lower the rate if nothing has improved for so long."""
        if self.plateau_waited >= after_epochs:
            self.rate_scale *= decay
            self.plateau_waited = 0

    def next_phase(self) -> None:
        """Begin the next phase."""
        self.phase += 1
        self.phase_epochs = self.waited = self.plateau_waited = 0
        self.phase_best, self.rate_scale = math.inf, 1.0


def check_finite(loss: float, gradient_norm: float, number: int) -> None:
    """Refuse a loss or a gradient that is no number.

    Raises:
        DivergedError: Says in which epoch.
    """
    for name, value in (("loss", loss), ("gradient's length", gradient_norm)):
        if not math.isfinite(value):
            message = f"the {name} became {value} in epoch {number}"
            raise DivergedError(message)
