"""A backbone of one's own: trained on a source task, kept in a directory, used with `weights=DIR`.

    from fieldloop_cloud.train.transfer.glyphs import glyphs
    from fieldloop_cloud.train.transfer.pretrain import pretrain

    pretrain("backbones/letters", glyphs(20_000), member="MobileNetV2", alpha=0.35, cut="stage3")

The directory holds `backbone.keras` and `backbone.json`, which says what it was trained on.
"""

from pathlib import Path

import msgspec

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.files import check_writable, write_file
from fieldloop_cloud.train.metrics import Estimate
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.nets.train import train_net
from fieldloop_cloud.train.transfer.plan import (
    BACKBONE_FACTS,
    BACKBONE_FILE,
    BackboneFacts,
    plan_transfer,
)

SETTINGS = NetSettings(epochs=8, batch_size=64, learning_rate=3e-3, schedule="cosine", patience=3)
"""For some ten thousand small pictures."""


class Pretrained(msgspec.Struct, frozen=True, kw_only=True):
    """A backbone that is ready for use.

    Attributes:
        path: Its directory: what `TransferPlan.weights` takes.
        facts: What it is and what it was trained on.
        score: On held-out rows of the source task.
        train_s: Seconds of training.
    """

    path: str
    facts: BackboneFacts
    score: Estimate
    train_s: float


def pretrain(
    directory: Path | str,
    source: Dataset,
    *,
    settings: NetSettings = SETTINGS,
    seed: int = 0,
    budget_s: float = 900.0,
    progress: Progress = quiet,
    **options: object,
) -> Pretrained:
    """Train a member of Keras Applications from scratch and keep it as a backbone.

    Args:
        directory: Where the backbone is put; made if need be.
        source: The source task, a data set of images.
        settings: How it is trained.
        seed: Of weights and order.
        budget_s: Hard limit in seconds.
        progress: Receives the epochs.
        options: Fields of `TransferPlan`, such as `member`, `alpha`, `side`, `cut` and `pooling`.

    Raises:
        DataError: The source is no image classification.
        ConfigError: A wrong option.
        GateError: It learned no more than the commonest class, or the time was up.
        EnvironmentFaultError: The packages for nets are missing, or the place is not writable.
        ModelRuntimeError: Training failed.
    """
    if source.image is None or not source.labels:
        raise DataError(
            "a backbone is pretrained on classes of images",
            where=source.name,
            advice="Give a data set of images, such as glyphs(20_000).",
        )
    if "weights" in options:
        raise ConfigError(
            "a backbone is pretrained from scratch",
            where="weights",
            advice="Leave weights out; use train_net to go on from others.",
        )
    root = Path(directory)
    check_writable(root)
    plan = plan_transfer(source.image, len(source.labels), weights=None, **options)
    net = train_net(
        plan,
        source,
        settings=settings,
        precisions=(),
        seed=seed,
        budget_s=budget_s,
        progress=progress,
    )
    facts = BackboneFacts(
        member=plan.member,
        alpha=plan.alpha,
        minimalistic=plan.minimalistic,
        side=plan.seen_shape[0],
        cut=plan.cut,
        pooling=plan.pooling,
        source=source.name,
        source_sha256=source.sha256,
        accuracy=net.score.value,
    )
    net.save(root / BACKBONE_FILE)
    # Last: with it the backbone is whole.
    write_file(root / BACKBONE_FACTS, msgspec.json.format(msgspec.json.encode(facts), indent=1))
    return Pretrained(path=str(root), facts=facts, score=net.score, train_s=net.train_s)
