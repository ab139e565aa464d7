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
        click.option(
            "--cut", default="", help="The stage or layer that a file of --weights ends at."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def backbone_of(
    weights: str | None, member: str | None, alpha: float | None, cut: str = ""
) -> "Backbone | None":
    """Return the backbone that `weights_options` name.

    Raises:
        ConfigError: There is none, or it is described and not named.
        DataError: It is damaged.
    """
    from fieldloop_cloud.train.transfer.backbone import Backbone  # noqa: PLC0415 - slow to load

    if weights is not None:
        return Backbone.load(weights, member=member, alpha=alpha, cut=cut)
    given = {"--member": member, "--alpha": alpha, "--cut": cut or None}
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise ConfigError(
            f"{', '.join(named)} is given, but no backbone that it describes",
            where=named[0],
            advice="Name it with --weights, or leave them out.",
        )
    return None
