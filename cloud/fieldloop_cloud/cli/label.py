"""`fieldloop label`: samples out to people, labels back in."""

from pathlib import Path

import click

from fieldloop.errors import ConfigError
from fieldloop.manifest import BundleContent
from fieldloop_cloud.cli.output import emit, home_option, json_option, vacant
from fieldloop_cloud.fleet.labels import export_samples, import_labels
from fieldloop_cloud.fleet.records import StoredSample
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.releases import published


@click.group("label")
def label_group() -> None:
    """Give field samples their labels by way of a CSV file."""


@label_group.command("export")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The CSV file to write."
)
@click.option("--all", "everything", is_flag=True, help="Also samples that have a label.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@home_option
@json_option
def export(*, out: Path, everything: bool, force: bool, home: Home, as_json: bool) -> None:
    """Write field samples as CSV with an empty label column; images as PNG beside it."""
    vacant(out, force=force)
    with Store(home.opened().store_file) as store:
        samples = store.samples(labelled=None if everything else False)
    image = None
    if samples:
        signature = _model_of(home, samples).signature
        _ = signature.labels  # refuses several targets: nobody should label what cannot come back
        image = signature.image if len(signature.inputs) == 1 else None  # else raw says it all
    count = export_samples(samples, out, image=image)
    emit(
        {"file": out, "sample_count": count},
        as_json=as_json,
        text=lambda console: console.print(
            f"{count} samples in {out}; fill in the column label and import it", markup=False
        ),
    )


@label_group.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@home_option
@json_option
def import_(*, file: Path, home: Home, as_json: bool) -> None:
    """Store the labels of a CSV FILE with the columns device, sample_id and label."""
    with Store(home.opened().store_file) as store:
        samples = store.samples()
        labels = _model_of(home, samples).signature.labels if samples else ()
        count = import_labels(store, file, labels=labels)
    emit(
        {"label_count": count},
        as_json=as_json,
        text=lambda console: console.print(f"{count} labels stored"),
    )


def _model_of(home: Home, samples: list[StoredSample]) -> BundleContent:
    """Return the newest release that one of the samples came from."""
    models = {item.sample.model for item in samples}
    found = [item for sha256, item in published(home).items() if sha256[:16] in models]
    if not found:
        raise ConfigError(
            "the samples come from models that this home has not released",
            where=str(home.releases),
            advice="Put their bundles back into the releases folder.",
        )
    return found[-1]
