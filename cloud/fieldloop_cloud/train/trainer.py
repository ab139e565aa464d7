"""`train`: from a data set and a device to a run, top to bottom.

dataset -> split -> each candidate: fitted, compiled, quantized, measured, gated -> choice
-> the sealed test set, once -> reference profile and golden answers -> run
"""

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from fieldloop.errors import ConfigError
from fieldloop.manifest import Lineage, Precision
from fieldloop_cloud.compile.quantize import EPSILON
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.facts import facts
from fieldloop_cloud.data.split import SealedTest, three_way
from fieldloop_cloud.release.targets import Target, load_target
from fieldloop_cloud.report.html import write_run_report
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.select.choice import choose
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.measure import answers
from fieldloop_cloud.train.metrics import METRICS, Estimate, confusion, estimate, estimates
from fieldloop_cloud.train.reference import golden_set, reference_profile
from fieldloop_cloud.train.run import Run, SplitRecord
from fieldloop_cloud.train.trial import run_trials

IMBALANCED_SHARE = 0.8
"""Above this share of one class, accuracy says too little and balanced accuracy decides."""


def train(
    data: Dataset,
    *,
    device: str | Path | Target = "x86",
    budget_s: float = 600.0,
    seed: int = 0,
    out: Path | str | None = None,
    candidates: Sequence[str] | None = None,
    metric: str | None = None,
    epsilon: float = EPSILON,
    progress: Progress = quiet,
) -> Run:
    """Train, compile and measure every candidate, and choose one for a device.

    Args:
        data: From `Dataset.load`.
        device: Target by name or TOML path.
        budget_s: Time for training; candidates that no longer fit are skipped and say so.
        seed: Same data, seed and machine: same split, same models, same scores.
        out: Directory for the run and its report; None keeps it in memory.
        candidates: Only these (see `select.candidates`); None for all that suit the data.
        metric: What to choose by; by default accuracy (balanced where one class has over 80 %
            of the rows), or R².
        epsilon: Largest loss of score that a quantized variant may show.
        progress: Called with (stage, fraction, text) while it runs.

    Returns:
        The run: every measured variant, the chosen one and why.

    Raises:
        ConfigError: An unknown device, candidate or metric, or a budget that is not positive.
        DataError: Data that cannot be split.
        GateError: Nothing fits the device, or nothing beats the dummy model.
    """
    started = time.monotonic()
    if not budget_s > 0:
        raise ConfigError(f"a budget of {budget_s} s is no time", advice="Give seconds above 0.")
    target = device if isinstance(device, Target) else load_target(device)
    wanted = portfolio(None if candidates is None else tuple(candidates))
    metric = _checked_metric(metric, data)
    progress("split", 0.0, f"{len(data)} rows of {data.name}")
    split = three_way(data, seed=seed)
    learn = data.take(split.train).ranged()
    bench = Bench(
        train=learn,
        validation=data.take(split.validation),
        target=target,
        metric=metric,
        epsilon=epsilon,
        seed=seed,
        deadline=started + budget_s,
        progress=progress,
    )
    sealed = SealedTest(data.take(split.test))
    front, skipped = run_trials(wanted, bench)
    baseline = dummy_score(bench.train, bench.validation, metric=metric, seed=seed)
    progress("choose", 0.0, "choosing")
    choice = choose(front, target, baseline, skipped=skipped)
    chosen = front[choice.index]
    run = Run(
        data=data.name,
        data_sha256=data.sha256,
        task=data.task,
        device=target.name,
        metric=metric,
        seed=seed,
        split=SplitRecord(
            train_count=len(split.train),
            validation_count=len(split.validation),
            test_count=len(split.test),
            sha256=split.sha256,
        ),
        baseline=baseline,
        why=choice.why,
        test={},
        skipped=skipped,
        notes=(*data.notes, *facts(data).warnings),
        tools=tool_versions(),
        front=tuple(sorted(front, key=lambda item: -item.score)),
        chosen=chosen,
        profile=reference_profile(
            chosen.compiled.signature,
            bench.train,
            bench.validation,
            answers(chosen.compiled.tflite, chosen.compiled.signature, bench.validation.X),
        ),
        golden=(),
        lineage=Lineage(
            data_sha256=data.sha256,
            split_sha256=split.sha256,
            candidate=chosen.candidate,
            metric=metric,
        ),
    )
    progress("test", 0.0, "opening the test set")
    run = _final(run, sealed, bench)
    run = msgspec.structs.replace(run, elapsed_s=time.monotonic() - started)
    if out is not None:
        run = run.save(out)
        write_run_report(run, Path(out) / "report.html")
    progress("done", 1.0, f"chose {run.chosen.name}")
    return run


def _final(run: Run, sealed: SealedTest, bench: Bench) -> Run:
    """Open the test set once, for every variant that may ship, and add what hangs on it."""
    test = sealed.open("the final evaluation of the chosen candidate")
    scores: dict[Precision, tuple[Estimate, ...]] = {}
    table: tuple[tuple[int, ...], ...] = ()
    for scored in run.chosen_variants:
        said = answers(scored.compiled.tflite, scored.compiled.signature, test.X)
        scores[scored.precision] = estimates(run.task, test.y, said.predicted, seed=run.seed)
        if scored is run.chosen and test.labels:
            counted = confusion(test.y.astype(np.int64), said.predicted, len(test.labels))
            table = tuple(tuple(int(n) for n in row) for row in counted)
    final = next(item for item in scores[run.chosen.precision] if item.metric == run.metric)
    golden = tuple(
        golden_set(item, bench.validation, seed=run.seed) for item in run.chosen_variants
    )
    return msgspec.structs.replace(
        run,
        test=scores,
        confusion=table,
        openings=sealed.openings,
        golden=golden,
        lineage=_lineage(run, final),
    )


def _lineage(run: Run, final: Estimate) -> Lineage:
    chosen = run.chosen
    calibrated = [v.calibration_sha256 for v in run.chosen_variants if v.calibration_sha256]
    gates = {f"precision {item.precision}": item.gate.reason for item in run.chosen_variants}
    gates["baseline"] = (
        f"validation {run.metric} {chosen.score:.4f} (from {chosen.score_low:.4f}) against the "
        f"dummy model's {run.baseline.value:.4f}"
    )
    gates["test"] = (
        f"{run.metric} {final.value:.4f} [{final.low:.4f}, {final.high:.4f}] on "
        f"{final.row_count} sealed rows"
    )
    return Lineage(
        data_sha256=run.data_sha256,
        split_sha256=run.split.sha256,
        calibration_sha256=calibrated[0] if calibrated else "",
        candidate=chosen.candidate,
        parameters=chosen.parameters,
        metric=run.metric,
        gate=gates,
        tools=run.tools,
    )


def dummy_score(train: Dataset, validation: Dataset, *, metric: str, seed: int) -> Estimate:
    """Score the model that always says the commonest class, or the mean."""
    if train.task == "classification":
        constant = int(np.bincount(train.y.astype(np.int64)).argmax())
        said = np.full(len(validation), constant, dtype=np.int64)
    else:
        said = np.full(len(validation), float(train.y.mean()))
    return estimate(metric, validation.y, said, seed=seed)


def _checked_metric(metric: str | None, data: Dataset) -> str:
    known = METRICS[data.task] if data.task == "classification" else ("r2",)
    if metric is not None:
        if metric not in known:
            raise ConfigError(
                f"'{metric}' cannot decide a {data.task}", advice=f"Use one of {', '.join(known)}."
            )
        return metric
    if data.task == "classification" and max(data.class_counts) > IMBALANCED_SHARE * len(data):
        return "balanced_accuracy"
    return known[0]


def tool_versions() -> dict[str, str]:
    """Return the versions of what has a part in a model; nothing is imported for it."""
    names = ("fieldloop-cloud", "numpy", "scikit-learn", "ai-edge-litert", "tensorflow", "keras")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
