"""`fieldloop export`."""

from pathlib import Path

import click
from rich.console import Console

from fieldloop.bundle import MAGIC, unpack
from fieldloop_cloud.cli.inspect import bundle_trust
from fieldloop_cloud.cli.output import emit, home_option, json_option, naming
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.releases import read_bundle


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory to write to."
)
@click.option("--name", help="Prefix of everything in C; by default from the FILE.")
@click.option(
    "--target", default="mcu", show_default=True, help="Target with TFLite Micro, or its .toml."
)
@click.option(
    "--allow-float", is_flag=True, help="Also take ops in floating point, for a processor with FPU."
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@home_option
@click.option(
    "--trusted",
    type=click.Path(path_type=Path),
    help="Public keys (PEM) to check a bundle with; by default the home's.",
)
@json_option
def export_command(
    *,
    file: Path,
    out: Path,
    name: str | None,
    target: str,
    allow_float: bool,
    force: bool,
    home: Home,
    trusted: Path | None,
    as_json: bool,
) -> None:
    """Write a .tflite FILE or a signed bundle as C source for a microcontroller.

    NAME.c has the model as an aligned array, NAME.h sizes, scales, labels and the features' order,
    NAME_ops.h registers the ops that TensorFlow Lite Micro needs for it. What does not run there or
    does not fit the target is refused.
    """
    from fieldloop_cloud.release.microcontroller import export_c  # noqa: PLC0415 - slow to load

    data = read_bundle(file) if file.is_file() else b""  # export_c says what is missing
    is_bundle = data.startswith(MAGIC)
    with naming(file):
        made = export_c(
            unpack(data, trust=bundle_trust(home, trusted), where=str(file)) if is_bundle else file,
            out,
            name=name or (None if is_bundle else file.stem),
            target=target,
            allow_float=allow_float,
            force=force,
        )

    def text(console: Console) -> None:
        console.print(
            f"{', '.join(path.name for path in made.files)} in {out}\n"
            f"flash: {made.size_bytes:,} bytes for the model\n"
            f"RAM: {made.arena.total_bytes:,} bytes of arena (an estimate; "
            f"{made.arena.tensor_bytes:,} of tensors)\n"
            f"ops: {', '.join(made.methods)}",
            markup=False,
        )

    emit(made, as_json=as_json, text=text)
