"""`fieldloop pretrain`."""

from pathlib import Path

import click
import msgspec
from rich.console import Console

from fieldloop.errors import ConfigError
from fieldloop_cloud.cli.output import DURATION, emit, json_option, progress_bar, seed_option


@click.command("pretrain")
@click.argument("data", required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The backbone's directory: what `fieldloop train --weights` takes.",
)
@click.option(
    "--member",
    default="MobileNetV2",
    show_default=True,
    help="The net, by its name in Keras Applications.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0.0, 4.0, min_open=True),
    default=None,
    help="Width of a MobileNet, by default 0.35; other nets have none.",
)
@click.option("--cut", default="stage3", show_default=True, help="The stage or layer to end at.")
@click.option(
    "--side",
    type=click.IntRange(8, 1024),
    default=None,
    help="Height and width that the net sees; by default the pictures', or its smallest.",
)
@click.option(
    "--pooling",
    type=click.Choice(["average", "max", "flatten"]),
    default="flatten",
    show_default=True,
    help="How the last feature map becomes a row; flatten keeps where something is.",
)
@click.option(
    "--count",
    type=click.IntRange(100, 10_000_000),
    default=20_000,
    show_default=True,
    help="Letters to render where no DATA are given.",
)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=None, help="Most epochs.")
@click.option("--budget", type=DURATION, default="15m", show_default=True, help="Training time.")
@seed_option("Of rendering and training.")
@click.option("--force", is_flag=True, help="Overwrite the backbone that is there.")
@json_option
def pretrain_command(
    *,
    data: str | None,
    out: Path,
    member: str,
    alpha: float | None,
    cut: str,
    side: int | None,
    pooling: str,
    count: int,
    epochs: int | None,
    budget: float,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Train a backbone for transfer learning, without a download.

    DATA is a set of pictures as `train` takes it, the more and the more varied the better. Without
    it, letters are rendered in the fonts that ship with matplotlib.
    """
    from fieldloop_cloud.data.dataset import Dataset  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.train.transfer.families import family_of  # noqa: PLC0415 - the same
    from fieldloop_cloud.train.transfer.glyphs import glyphs  # noqa: PLC0415 - the same
    from fieldloop_cloud.train.transfer.plan import BACKBONE_FACTS  # noqa: PLC0415 - the same
    from fieldloop_cloud.train.transfer.pretrain import SETTINGS, pretrain  # noqa: PLC0415 - same

    if (out / BACKBONE_FACTS).exists() and not force:
        raise ConfigError(
            "there is a backbone already",
            where=str(out),
            advice="Name another directory, or overwrite with --force.",
        )
    usual = 0.35 if family_of(member).has_width else 1.0
    options: dict[str, object] = {
        "member": member,
        "alpha": usual if alpha is None else alpha,
        "cut": cut,
        "pooling": pooling,
    }
    if side is not None:
        options["side"] = side
    source = Dataset.load(data) if data is not None else glyphs(count, seed=seed)
    with progress_bar("pretrain") as progress:
        made = pretrain(
            out,
            source,
            settings=msgspec.structs.replace(SETTINGS, epochs=epochs or SETTINGS.epochs),
            seed=seed,
            budget_s=budget,
            progress=progress,
            **options,
        )

    def text(console: Console) -> None:
        score = made.score
        console.print(
            f"{out}: {made.facts.member} up to {made.facts.cut or 'its end'}, trained on "
            f"{made.facts.source} in {made.train_s:.0f} s; {score.metric} {score.value:.3f} "
            f"({score.low:.3f} to {score.high:.3f}) on {score.row_count} held-out rows.",
            markup=False,
        )

    emit(made, as_json=as_json, text=text)
