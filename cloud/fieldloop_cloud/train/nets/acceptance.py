"""Whether a trained net is good enough to go on: better than a dummy, and up to the floor."""

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.metrics import (
    METRICS,
    PROBABILITY_METRICS,
    Estimate,
    Task,
    estimate,
    estimates,
    is_better,
)
from fieldloop_cloud.train.nets.trained import TrainedNet


def dummy_answers(train: Dataset, count: int) -> NDArray[np.float64]:
    """Answer `count` rows without looking: the classes' shares (n, classes), or the mean (n, 1)."""
    if train.labels:
        shares = np.asarray(train.class_counts, dtype=np.float64) / len(train)
        return np.tile(shares, (count, 1))
    return np.full((count, 1), float(train.y.mean()))


def deciding_metric(task: Task, metric: str | None) -> str:
    """Return the metric that decides; None for the task's usual one.

    Raises:
        ConfigError: No such metric for this task.
    """
    known = (*METRICS[task], *(PROBABILITY_METRICS if task == "classification" else ()))
    if metric is not None and metric not in known:
        raise ConfigError(
            f"'{metric}' does not judge a {task}", advice=f"Use one of {', '.join(known)}."
        )
    return metric or known[0]


def scored(
    answers: NDArray[np.floating],
    dummy: NDArray[np.float64],
    validation: Dataset,
    metric: str,
) -> tuple[tuple[Estimate, ...], Estimate]:
    """Score a net by every metric of the task, and the dummy by the deciding one."""
    task = validation.task
    said, table = _read(answers, task)
    idle, idle_table = _read(dummy, task)
    truth = validation.y
    scores = estimates(task, truth, said, probabilities=table)
    return scores, estimate(metric, truth, idle, probabilities=idle_table)


def _read(
    answers: NDArray[np.floating], task: Task
) -> tuple[NDArray[np.generic], NDArray[np.float64] | None]:
    table = answers.reshape(len(answers), -1).astype(np.float64)
    if task == "regression":
        return table[:, 0], None
    if table.shape[1] == 1:
        table = np.hstack([1 - table, table])
    return table.argmax(axis=1), table


def accepted(net: TrainedNet, *, floor: float | None) -> TrainedNet:
    """Return the net, or refuse it.

    Raises:
        GateError: It does not beat the dummy model, or does not reach the floor.
    """
    score, baseline = net.score, net.baseline
    found = f"{score.metric} {score.value:.4g} ({score.low:.4g} … {score.high:.4g})"
    if not is_better(score.metric, score.value, baseline.value):
        raise GateError(
            f"the net is no better than a dummy model: {found} against {baseline.value:.4g}",
            where=f"{score.row_count} validation rows",
            advice="Train longer, bring more rows, or check that the input says anything of the "
            "target.",
        )
    if (
        floor is not None
        and score.value != floor
        and not is_better(score.metric, score.value, floor)
    ):
        raise GateError(
            f"the net stays below the floor: {found} against {floor:g}",
            where=f"{score.row_count} validation rows",
            advice="Train longer, bring more rows or a larger net, or lower the floor.",
        )
    return net
