"""What the pruning process is told, and what it leaves behind."""

from typing import Literal

import msgspec

from fieldloop_cloud.compile.quantize import Gate
from fieldloop_cloud.train.prune.finetune import Task
from fieldloop_cloud.train.prune.importance import Importance

Method = Literal["channels", "weights"]
Scope = Literal["global", "layer", "sensitivity"]


class PruneJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `job.json` says.

    Attributes:
        method: Take out channels, or set weights to zero.
        share: Of all channels, or of each kernel's weights.
        task: What the net answers.
        importance: Criterion for channels.
        scope: Where channels go: wherever they are least important, the same share of each layer,
            or where a sweep shows that it costs least.
        steps: Rounds of pruning and fine-tuning.
        epochs: Most epochs of a round; 0 for none.
        batch: Rows of a training step.
        learning_rate: Of Adam.
        multiple_of: What a layer keeps is a multiple of this.
        epsilon: Largest loss of score allowed.
        seed: Of everything random.
        budget_s: For all rounds together.
    """

    method: Method
    share: float
    task: Task
    importance: Importance = "l2"
    scope: Scope = "global"
    steps: int
    epochs: int
    batch: int
    learning_rate: float
    multiple_of: int = 1
    epsilon: float
    seed: int
    budget_s: float


class PruneStep(msgspec.Struct, frozen=True, kw_only=True):
    """One round.

    Attributes:
        share: Of the channels (or weights) that are gone in all.
        parameter_count: Weights that are left and not zero.
        epochs: Of fine-tuning.
        gate: The comparison with the original net on the held-out rows.
        kept: Whether the net of this round was good enough.
    """

    share: float
    parameter_count: int
    epochs: int
    gate: Gate
    kept: bool


class PruneResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `result.json` says.

    Attributes:
        steps: The rounds; none after the first one that was refused.
        parameter_count: Weights of the original net that are not zero.
        channels: For each layer that lost some, its channels before and after.
        sensitivity: For the scope `sensitivity`, for each layer the loss added by a share of its
            channels: (share, added loss).
    """

    steps: tuple[PruneStep, ...]
    parameter_count: int
    channels: dict[str, tuple[int, int]] = {}
    sensitivity: dict[str, tuple[tuple[float, float], ...]] = {}
