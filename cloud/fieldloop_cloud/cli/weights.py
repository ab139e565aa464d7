"""Options that name a backbone."""

from typing import TYPE_CHECKING

import click

from fieldloop.errors import ConfigError
from fieldloop_cloud.cli.output import Command

if TYPE_CHECKING:
    from fieldloop_cloud.train.transfer.backbone import Backbone


def weights_options(command: Command) -> Command:
    """Add the options that name a backbone."""
    options = [
        click.option(
            "--weights",
            metavar="DIR|FILE|imagenet",
            help="The backbone that transfer starts from: what `fieldloop pretrain` wrote, a "
            "file of Keras, or imagenet, which is downloaded once.",
        ),
        click.option(
            "--member",
            help="Which net of Keras Applications a file of --weights holds, or imagenet shall "
            "be; what `fieldloop pretrain` wrote says it itself.",
        ),
        click.option(
            "--alpha",
            type=click.FloatRange(0.0, 4.0, min_open=True),
            help="Width of a MobileNet of --member, by default 1.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def backbone_of(weights: str | None, member: str | None, alpha: float | None) -> "Backbone | None":
    """Return the backbone that `weights_options` name.

    Raises:
        ConfigError: There is none, or --member without --weights.
        DataError: It is damaged.
    """
    from fieldloop_cloud.train.transfer.backbone import Backbone  # noqa: PLC0415 - slow to load

    if weights is not None:
        return Backbone.load(weights, member=member, alpha=alpha)
    if member is not None or alpha is not None:
        raise ConfigError(
            "--member and --alpha describe a backbone, and none is named",
            where="--member" if member is not None else "--alpha",
            advice="Name it with --weights, or leave them out.",
        )
    return None
