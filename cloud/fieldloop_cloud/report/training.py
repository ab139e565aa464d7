"""The report of a run: what was advised, tried, measured and chosen, and why."""

from pathlib import Path

from fieldloop_cloud.files import write_file
from fieldloop_cloud.report import plots
from fieldloop_cloud.report.advice import learning_curve_plot, purchases
from fieldloop_cloud.report.explain import criteria, split_words, what_would_change
from fieldloop_cloud.report.html import render
from fieldloop_cloud.select.probes import WORDS
from fieldloop_cloud.train.run import Run


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
    labels = [str(label) for label in run.signature.labels]
    curve = run.advice.curve if run.advice else None
    return render(
        "run.html",
        title=f"{run.data}: a model for {run.device}",
        lead=f"{run.task}, {len(run.front)} variants measured in {run.elapsed_s:.0f} s",
        run=run,
        chosen=chosen,
        final=final,
        split_words=split_words(run),
        changes=what_would_change(run),
        families=criteria(run),
        words=WORDS,
        purchases=purchases(curve),
        curve_plot=learning_curve_plot(curve) if curve else "",
        latency_plot=_front(run, cost="latency"),
        bytes_plot=_front(run, cost="bytes"),
        confusion_plot=plots.confusion_matrix(run.confusion, labels) if run.confusion else "",
        reliability_plot=_reliability(run),
        courses=_courses(run),
        reproduce=reproduction(run),
    )


def reproduction(run: Run) -> str:
    """Return the Python that gives the same run again."""
    names = ", ".join(repr(name) for name in dict.fromkeys(v.candidate for v in run.front))
    name = " ".join(run.data.replace("`", "").split())  # it stands in a comment, and in Markdown
    allowed = f", allow_leakage={run.leakage_allowed!r}" if run.leakage_allowed else ""
    return (
        "import fieldloop_cloud as fl\n"
        f"data = fl.Dataset.load(...)  # {name}; sha256 {run.data_sha256}\n"
        f"run = fl.train(data, device={run.device!r}, seed={run.seed}, "
        f"strategy={run.split.strategy!r}, candidates=[{names}]{_weights(run)}{allowed})"
    )


def _weights(run: Run) -> str:
    """Return the argument that names the backbone; empty where the front has none on it."""
    if run.backbone is None or not any("weights" in item.parameters for item in run.front):
        return ""
    return f", weights={run.backbone.loading}"


def _front(run: Run, *, cost: str) -> str:
    points = [
        plots.Point(
            series=item.candidate,
            name=item.name,
            cost=item.latency_p50_ms * 1000 if cost == "latency" else item.size_bytes / 1024,
            score=item.score,
            low=item.score_low,
            high=item.score_high,
            counts=item.gate.passed and not item.over_budget,
        )
        for item in run.front
    ]
    label = "one row, µs" if cost == "latency" else "size, KB"
    return plots.front(points, chosen=run.chosen.name, xlabel=label, ylabel=run.metric)


def _courses(run: Run) -> dict[str, str]:
    """Return a plot of the epochs of each net, by its name."""
    nets = {item.name.rpartition(".")[0]: item.history for item in run.front if item.history}
    return {
        name: plots.epochs(
            [epoch.loss for epoch in history], [epoch.held_out_loss for epoch in history]
        )
        for name, history in nets.items()
    }


def _reliability(run: Run) -> str:
    if run.sealed is None or not run.sealed.reliability:
        return ""
    return plots.reliability(
        [(item.confidence, item.accuracy, item.low, item.high) for item in run.sealed.reliability]
    )
