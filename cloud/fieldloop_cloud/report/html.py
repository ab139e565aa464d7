"""HTML reports: one self-contained page, whatever they tell.

`render` is the only way to a page: a template of this package that extends `page.html`, which
brings the style and the macros. Everything is escaped; plots come in as data URIs.
"""

from pathlib import Path
from typing import Any

from fieldloop_cloud.files import write_file
from fieldloop_cloud.report import plots
from fieldloop_cloud.train.run import Run


def render(template: str, *, title: str, lead: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: File name in this package's `templates` folder.
        title: The page's headline.
        lead: One sentence below it.
        values: What the template uses.
    """
    import jinja2  # noqa: PLC0415 - only when a report is written

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fieldloop_cloud.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(title=title, lead=lead, **values)


def write_run_report(run: Run, path: Path) -> None:
    """Write the report of a run.

    Raises:
        EnvironmentFaultError: The file cannot be written.
    """
    write_file(path, run_report(run).encode())


def run_report(run: Run) -> str:
    """Return the report of a run as HTML."""
    chosen = run.chosen
    final = next(item for item in run.test[chosen.precision] if item.metric == run.metric)
    matrix = (
        plots.confusion_matrix(run.confusion, [str(label) for label in run.signature.labels])
        if run.confusion
        else ""
    )
    return render(
        "run.html",
        title=f"{run.data}: a model for {run.device}",
        lead=f"{run.task}, {len(run.front)} variants measured in {run.elapsed_s:.0f} s",
        run=run,
        chosen=chosen,
        final=final,
        latency_plot=_front(run, cost="latency"),
        bytes_plot=_front(run, cost="bytes"),
        confusion_plot=matrix,
        reproduce=_reproduce(run),
    )


def _front(run: Run, *, cost: str) -> str:
    points = [
        (
            item.candidate,
            item.name,
            item.latency_p50_ms * 1000 if cost == "latency" else item.size_bytes / 1024,
            item.score,
            item.score_low,
            item.score_high,
        )
        for item in run.front
    ]
    label = "one row, µs" if cost == "latency" else "size, KB"
    return plots.front(points, chosen=run.chosen.name, xlabel=label, ylabel=run.metric)


def _reproduce(run: Run) -> str:
    names = ", ".join(repr(name) for name in dict.fromkeys(v.candidate for v in run.front))
    return (
        "import fieldloop_cloud as fl\n"
        f"data = fl.Dataset.load(...)  # {run.data}; sha256 {run.data_sha256}\n"
        f"run = fl.train(data, device={run.device!r}, seed={run.seed}, candidates=[{names}])"
    )
