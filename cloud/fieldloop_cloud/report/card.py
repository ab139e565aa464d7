"""The model card: what the model is for, what it can and cannot do, on one page.

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019, 220-229). `model-card.json` is
for machines, `model-card.md` says the same to people; both stand beside the run.
"""

from pathlib import Path
from typing import Literal

import msgspec

from fieldloop.manifest import Precision
from fieldloop_cloud.files import write_file
from fieldloop_cloud.report.explain import split_words
from fieldloop_cloud.report.training import reproduction
from fieldloop_cloud.train.evidence import PartScore
from fieldloop_cloud.train.metrics import Estimate
from fieldloop_cloud.train.run import Run, SplitRecord

_WEAK_PARTS = 5


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A model card.

    Attributes:
        format: Version of this form.
        model: Name of the variant.
        task: `classification` or `regression`.
        labels: What it can answer; empty for regression.
        inputs: Names of its features, or the image's size.
        device: The device class it was chosen for.
        precision: How it is quantized.
        size_bytes: Of the flatbuffer.
        latency_p90_ms: One row on the machine that trained it.
        data: Name of the data set.
        data_sha256: Its content's hash.
        split: How it was split.
        scores: On the sealed test set.
        baseline: The dummy model's score on the rows to choose by.
        parts: Scores by class, group and category.
        calibration_error: Mean gap between confidence and accuracy; None without confidences.
        why: Why it was chosen.
        limits: What it must not be trusted with, one sentence each.
        candidate: The kind of model.
        parameters: Its hyper-parameters.
        seed: Of split and training.
        tools: Versions.
        reproduce: Python that gives it again.
    """

    format: Literal[1] = 1
    model: str
    task: Literal["classification", "regression"]
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    device: str
    precision: Precision
    size_bytes: int
    latency_p90_ms: float
    data: str
    data_sha256: str
    split: SplitRecord
    scores: tuple[Estimate, ...]
    baseline: Estimate
    parts: tuple[PartScore, ...]
    calibration_error: float | None
    why: str
    limits: tuple[str, ...]
    candidate: str
    parameters: dict[str, str]
    seed: int
    tools: dict[str, str]
    reproduce: str


def model_card(run: Run) -> ModelCard:
    """Return the card of a run's chosen model."""
    chosen, signature, sealed = run.chosen, run.signature, run.sealed
    image = signature.image
    inputs = (
        (f"image {image.height} x {image.width} x {image.channels}",)
        if image is not None
        else tuple(spec.name for spec in signature.features)
    )
    return ModelCard(
        model=chosen.name,
        task=run.task,
        labels=tuple(str(label) for label in signature.labels),
        inputs=inputs,
        device=run.device,
        precision=chosen.precision,
        size_bytes=chosen.size_bytes,
        latency_p90_ms=chosen.latency_p90_ms,
        data=run.data,
        data_sha256=run.data_sha256,
        split=run.split,
        scores=run.test[chosen.precision],
        baseline=run.baseline,
        parts=sealed.parts if sealed else (),
        calibration_error=sealed.calibration_error if sealed else None,
        why=run.why,
        limits=limits(run),
        candidate=chosen.candidate,
        parameters=chosen.parameters,
        seed=run.seed,
        tools=run.tools,
        reproduce=reproduction(run),
    )


def limits(run: Run) -> tuple[str, ...]:
    """Say what the model must not be trusted with."""
    final = next(e for e in run.test[run.chosen.precision] if e.metric == run.metric)
    said = [
        (
            f"The score on {final.row_count} sealed rows says {final.low:.3f} to {final.high:.3f} "
            "for rows like these; drift detection watches whether the field still is like them."
        )
    ]
    if run.split.kept == "strata":
        said.append(
            "Rows were split at random: the score says nothing about a new machine, person or "
            "season that the data do not hold."
        )
    parts = run.sealed.parts if run.sealed else ()
    weak = [part for part in parts if run.task == "classification" and part.score.high < final.low]
    weak = sorted(weak, key=lambda part: part.score.value)[:_WEAK_PARTS]
    said += [
        f"Weaker for {part.kind} {part.name}: {part.score.metric} {part.score.value:.3f} "
        f"({part.score.low:.3f} to {part.score.high:.3f})."
        for part in weak
    ]
    if run.leakage_allowed:
        said.append(f"Leakage was found and allowed, because: {run.leakage_allowed}")
    return (*said, *run.notes)


def write_model_card(run: Run, directory: Path) -> None:
    """Write `model-card.json` and `model-card.md` into a directory.

    Raises:
        EnvironmentFaultError: The files cannot be written.
    """
    card = model_card(run)
    data = msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n"
    write_file(directory / "model-card.json", data)
    write_file(directory / "model-card.md", card_text(card, split_words(run)).encode())


def card_text(card: ModelCard, split: tuple[str, ...]) -> str:
    """Return the card as Markdown."""
    answers = ", ".join(card.labels) if card.labels else "a number"
    lines = [
        f"# {_safe(card.data)}: {card.model}",
        "",
        "## What it is",
        "",
        f"- Task: {card.task}; answers: {_safe(answers)}",
        f"- Inputs: {_safe(', '.join(card.inputs))}",
        (
            f"- Device class {card.device}, {card.precision}, {card.size_bytes:,} bytes, "
            f"{card.latency_p90_ms:.3g} ms a row (90th percentile on the machine that trained it)"
        ),
        f"- {card.candidate}: "
        + (", ".join(f"{key} = {value}" for key, value in card.parameters.items()) or "defaults"),
        "",
        "## Data",
        "",
        f"- {_safe(card.data)}, sha256 `{card.data_sha256}`",
        *(f"- {text}" for text in split),
        f"- Split sha256 `{card.split.sha256}`, seed {card.seed}",
        "",
        "## How good it is",
        "",
        "On the sealed test set:",
        "",
        "| metric | score | 95 % interval | rows |",
        "|---|---|---|---|",
        *(_row(e.metric, e) for e in card.scores),
        "",
        f"A dummy model reaches {card.baseline.value:.3f} {card.baseline.metric}. {card.why}",
        "",
    ]
    if card.parts:
        lines += ["| part | score | 95 % interval | rows |", "|---|---|---|---|"]
        lines += [
            _row(f"{part.kind} {part.name} ({part.score.metric})", part.score)
            for part in card.parts
        ]
        lines.append("")
    if card.calibration_error is not None:
        gap = f"{card.calibration_error:.3f}"
        lines += [f"Confidence and accuracy differ by {gap} on average.", ""]
    lines += ["## Limits", "", *(f"- {_safe(text)}" for text in card.limits), ""]
    lines += ["## How to get it again", "", "```python", card.reproduce, "```", ""]
    lines += [", ".join(f"{key} {value}" for key, value in card.tools.items()), ""]
    return "\n".join(lines)


def _row(name: str, score: Estimate) -> str:
    return (
        f"| {_safe(name)} | {score.value:.4f} | {score.low:.4f} to {score.high:.4f} | "
        f"{score.row_count} |"
    )


def _safe(text: str) -> str:
    """Keep names from the data from being read as Markdown or HTML."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
