"""The advice as a page: what the data say, in words, with the plots behind them."""

from pathlib import Path

from fieldloop_cloud.files import write_file
from fieldloop_cloud.report import plots
from fieldloop_cloud.report.html import render
from fieldloop_cloud.select.advice import Advice
from fieldloop_cloud.select.curves import LearningCurve
from fieldloop_cloud.select.probes import WORDS

MANY_CLASSES = 30
"""More bars than this cannot be read."""

NOTHING_TO_FORECAST = (
    "The rows are too few, or the probes too weak, for a learning curve: six sizes are needed that "
    "each hold some rows of every class."
)


def write_advice_report(advice: Advice, path: Path) -> None:
    """Write the advice as one self-contained HTML file.

    Raises:
        EnvironmentFaultError: The file cannot be written.
    """
    write_file(path, advice_report(advice).encode())


def advice_report(advice: Advice) -> str:
    """Return the advice as HTML."""
    return render(
        "advice.html",
        title=f"{advice.data}: what the data say",
        lead=headline(advice),
        advice=advice,
        words=WORDS,
        probe_plot=_probes(advice),
        curve_plot=learning_curve_plot(advice.curve) if advice.curve else "",
        class_plot=_classes(advice),
        purchases=purchases(advice.curve),
        no_curve=advice.curve.refusal if advice.curve else NOTHING_TO_FORECAST,
        split_sentences=split_sentences(advice),
    )


def headline(advice: Advice) -> str:
    """Say the gist in one sentence."""
    kinds = {"classical": "a classical model", "deep": "a net", "transfer": "a pretrained net"}
    return (
        f"{advice.facts.row_count:,} rows, {advice.kind} {advice.task}: train "
        f"{kinds[advice.route.name]}, choose by {advice.aim.metric}, and seal "
        f"{advice.split.test_count} rows."
    )


def purchases(curve: LearningCurve | None) -> tuple[str, ...]:
    """Say what more labels would buy."""
    return tuple(item.sentence(curve.metric) for item in curve.purchases) if curve else ()


def split_sentences(advice: Advice) -> tuple[str, ...]:
    """Say how to split, and why."""
    sizes = advice.split
    rest = advice.facts.row_count - sizes.test_count
    how = (
        f"Seal {sizes.test_count} rows for the test, and choose by {sizes.fold_count}-fold "
        f"cross-validation over the other {rest} (--split auto)."
        if sizes.fold_count
        else f"Seal {sizes.test_count} rows for the test, choose by {sizes.validation_count}, and "
        f"learn from {rest - sizes.validation_count} (--split auto)."
    )
    kept = {
        "strata": "Classes keep their shares in every part."
        if advice.task == "classification"
        else "The target's range is the same in every part.",
        "groups": "Groups stay whole: the score says what a new group will give.",
        "time": "The order of time is kept: the score says what tomorrow will give.",
    }
    return (how, *sizes.reasons, kept[advice.kept])


def learning_curve_plot(curve: LearningCurve) -> str:
    """Draw a learning curve with its forecast and band."""
    drawing = plots.figure()
    made = plots.axes(drawing, xlabel="rows learnt from", ylabel=curve.metric)
    sizes = [point.row_count for point in curve.points]
    made.errorbar(
        sizes,
        [point.score for point in curve.points],
        yerr=[1.96 * point.standard_error for point in curve.points],
        fmt="o",
        color=plots.ACCENT,
        markersize=4,
        elinewidth=0.8,
        capsize=2,
        label="measured",
    )
    if curve.forecast:
        x = [item.row_count for item in curve.forecast]
        made.plot(x, [item.score for item in curve.forecast], color=plots.WARN, label="expected")
        low, high = [item.low for item in curve.forecast], [item.high for item in curve.forecast]
        made.fill_between(x, low, high, color=plots.WARN, alpha=0.12, linewidth=0, label="95 %")
    plots.count_axis(made, [*sizes, *(item.row_count for item in curve.forecast)])
    plots.legend(made, 3)
    return plots.data_uri(drawing)


def _probes(advice: Advice) -> str:
    drawing = plots.figure(6.4, 0.9 + 0.42 * len(advice.probes))
    made = plots.axes(drawing, xlabel=f"{advice.aim.metric}, by cross-validation", ylabel="")
    made.barh(
        [WORDS[item.name] for item in advice.probes],
        [item.score for item in advice.probes],
        xerr=[1.96 * item.standard_error for item in advice.probes],
        color=[plots.ACCENT if item == advice.best else plots.MUTED for item in advice.probes],
        ecolor=plots.INK,
        error_kw={"elinewidth": 0.8, "capsize": 2},
    )
    made.invert_yaxis()
    made.set_xlim(min(0.0, *(item.score for item in advice.probes)), 1.02)
    return plots.data_uri(drawing)


def _classes(advice: Advice) -> str:
    shares = advice.facts.class_shares
    if not 0 < len(shares) <= MANY_CLASSES:
        return ""
    drawing = plots.figure(6.4, 0.9 + 0.28 * len(shares))
    made = plots.axes(drawing, xlabel="share of the rows, %", ylabel="")
    made.barh(list(advice.labels), [100 * share for share in shares], color=plots.ACCENT)
    made.invert_yaxis()
    return plots.data_uri(drawing)
