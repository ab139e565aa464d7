"""`train`: from a data set and a device to a run, top to bottom.

dataset -> split -> each candidate: fitted, compiled, quantized, measured, gated -> choice
-> the sealed test set, once -> reference profile and golden answers -> run
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fieldloop.errors import ConfigError
from fieldloop_cloud.compile.quantize import EPSILON, check_epsilon
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.split import split
from fieldloop_cloud.files import check_writable
from fieldloop_cloud.release.targets import Target, load_target
from fieldloop_cloud.report.html import write_run_report
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.select.choice import choose
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.ending import Ending, dummy_score
from fieldloop_cloud.train.metrics import METRICS
from fieldloop_cloud.train.run import Run
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
        ConfigError: An unknown device, candidate or metric, a budget that is not positive, or an
            epsilon that is no share.
        DataError: Data that cannot be split.
        EnvironmentFaultError: `out` cannot be written; found out before anything is trained.
        GateError: Nothing fits the device, or nothing beats the dummy model.
    """
    started = time.monotonic()
    if not budget_s > 0:
        raise ConfigError(f"a budget of {budget_s} s is no time", advice="Give seconds above 0.")
    if not 0 <= seed < 1 << 32:
        raise ConfigError(f"{seed} is no seed", advice="Give a whole number from 0 to 2**32 - 1.")
    check_epsilon(epsilon)
    target = device if isinstance(device, Target) else load_target(device)
    wanted = portfolio(None if candidates is None else tuple(candidates))
    metric = _checked_metric(metric, data)
    if out is not None:
        check_writable(Path(out))
    progress("split", 0.0, f"{len(data)} rows of {data.name}")
    parts = split(data, strategy="60-20-20", seed=seed)
    bench = Bench(
        train=data.take(parts.train).ranged(),
        validation=data.take(parts.validation),
        target=target,
        metric=metric,
        epsilon=epsilon,
        seed=seed,
        deadline=started + budget_s,
        progress=progress,
    )
    front, skipped = run_trials(wanted, bench)
    progress("choose", 0.0, "choosing")
    baseline = dummy_score(bench)
    choice = choose(front, target, baseline, skipped=skipped)
    progress("test", 0.0, "opening the test set")
    ending = Ending(data, parts, bench, front, skipped, baseline)
    run = msgspec.structs.replace(
        ending.run(front[choice.index], choice.why), elapsed_s=time.monotonic() - started
    )
    if out is not None:
        run = _written(run, Path(out))
    progress("done", 1.0, f"chose {run.chosen.name}")
    return run


def _written(run: Run, out: Path) -> Run:
    """Write the run and its report; what cannot be finished is taken away again."""
    is_new = not out.exists() or not any(out.iterdir())
    try:
        run = run.save(out)
        write_run_report(run, out / "report.html")
    except BaseException:
        if is_new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    return run


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
