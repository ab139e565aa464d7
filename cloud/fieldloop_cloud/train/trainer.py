"""`train`: from a data set and a device to a run, top to bottom.

dataset -> split -> trials: each fitted, compiled, quantized, measured, gated -> choice
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
from fieldloop_cloud.data.dataset import Dataset, check_dataset
from fieldloop_cloud.data.leakage import check_leakage
from fieldloop_cloud.data.split import Split, Strategy, split
from fieldloop_cloud.files import check_writable
from fieldloop_cloud.release.targets import Target, load_target
from fieldloop_cloud.report.card import write_model_card
from fieldloop_cloud.report.training import write_run_report
from fieldloop_cloud.select.advice import Advice, advise
from fieldloop_cloud.select.candidates import Candidate, portfolio
from fieldloop_cloud.select.choice import choose
from fieldloop_cloud.select.route import aim
from fieldloop_cloud.select.search.search import LOCAL_NAME, SearchPlan, search
from fieldloop_cloud.select.search.storage import HEARTBEAT_S
from fieldloop_cloud.train.bench import Bench, bench_of
from fieldloop_cloud.train.ending import Ending, dummy_score
from fieldloop_cloud.train.metrics import METRICS
from fieldloop_cloud.train.run import Run
from fieldloop_cloud.train.transfer.backbone import Backbone, no_backbone

_ENDING_S, _ENDING_SHARE = 6.0, 0.2
"""Kept back of the budget for choosing, the test set and the report."""

_ADVICE_S = 30.0
"""With less time left, the report does without the advice."""


def train(
    data: Dataset,
    *,
    device: str | Path | Target = "x86",
    budget_s: float = 600.0,
    seed: int = 0,
    out: Path | str | None = None,
    candidates: Sequence[str] | None = None,
    weights: str | Path | Backbone | None = None,
    metric: str | None = None,
    epsilon: float = EPSILON,
    strategy: Strategy = "60-20-20",
    trials: int | None = None,
    search_s: float | None = None,
    max_trial_s: float | None = None,
    floor: float | None = None,
    allow_leakage: str = "",
    workers: int = 1,
    study: str | None = None,
    heartbeat_s: int = HEARTBEAT_S,
    resume: bool = False,
    progress: Progress = quiet,
) -> Run:
    """Train, compile and measure candidates, and choose one for a device.

    First comes the portfolio: of every family that suits the data a setting or two that are known
    to be strong. With `trials` or `search_s` a search under the device's limits follows.

    Args:
        data: From `Dataset.load`.
        device: Target by name or TOML path.
        budget_s: Time for all; trials that no longer fit are killed or skipped and say so.
        seed: Same data, seed and machine: same split, same models, same scores, and with one
            worker the same trials, unless a time limit cuts them short.
        out: Directory for the run and its report; None keeps it in memory.
        candidates: Only these (see `select.candidates`); None for all that suit the data.
        weights: A backbone for the transfer candidates: the directory of `fieldloop pretrain`,
            `imagenet`, or a `Backbone` for files that do not say which net they are of. None:
            no transfer.
        metric: What to choose by; by default accuracy (balanced where one class has over 80 %
            of the rows), or R².
        epsilon: Largest loss of score that a quantized variant may show.
        strategy: `60-20-20`; `80-20`, which chooses by cross-validation and fits the chosen
            on all rows but the test's; or `auto`, which decides by the data.
        trials: Search for so many trials after the portfolio: the reproducible form.
        search_s: Search until so many seconds have passed since the start.
        max_trial_s: Longest time for one trial, training and compiling; then it is killed.
        floor: Lowest validation score that is acceptable, at most 1.
        allow_leakage: Why findings of the leakage check are put up with; the reason stays in the
            run. Empty: they stop.
        workers: Processes that search at the same time on this machine.
        study: Database for the search, `postgresql://USER@HOST/DATABASE`, so that workers on
            other machines can join (`fieldloop worker`); needs `out`, which they must reach too.
        heartbeat_s: Seconds between a trial's signs of life in the database; one that misses six
            is repeated by another worker.
        resume: Go on with the search that was interrupted in `out`.
        progress: Called with (stage, fraction, text) while it runs.

    Returns:
        The run: every measured variant, the chosen one and why.

    Raises:
        ConfigError: An unknown device, candidate, metric or split, a budget that is not positive,
            an epsilon that is no share, a floor that no score reaches, data that are no
            `Dataset`, transfer without a backbone or a backbone without transfer, or a search
            that cannot be resumed.
        DataError: Data that cannot be split, or that leak (see `data.leakage`), a backbone for
            what are no images, or a damaged one.
        EnvironmentFaultError: `out` cannot be written; found out before anything is trained.
        GateError: Nothing fits the device, nothing beats the dummy model, or nothing reaches
            the floor.
    """
    started = time.monotonic()
    check_dataset(data)
    if not budget_s > 0:
        raise ConfigError(f"a budget of {budget_s} s is no time", advice="Give seconds above 0.")
    if not 0 <= seed < 1 << 32:
        raise ConfigError(f"{seed} is no seed", advice="Give a whole number from 0 to 2**32 - 1.")
    check_epsilon(epsilon)
    plan = SearchPlan(
        trials=trials,
        search_s=search_s,
        max_trial_s=max_trial_s,
        workers=workers,
        study=study,
        name=LOCAL_NAME if study is None or out is None else Path(out).name,
        resume=resume,
        heartbeat_s=heartbeat_s,
    ).checked()
    if out is None and (resume or study is not None):
        raise ConfigError("a search that others join or resume needs a place", advice="Give out.")
    target = device if isinstance(device, Target) else load_target(device)
    backbone = Backbone.load(weights) if isinstance(weights, str | Path) else weights
    wanted = _wanted(candidates, data, backbone)
    metric = _checked_metric(metric, data)
    _check_floor(floor, metric)
    if out is not None:
        check_writable(Path(out))
    progress("split", 0.0, f"{len(data)} rows of {data.name}")
    parts = split(data, strategy=strategy, seed=seed)
    leaks = check_leakage(data, parts, allowed=allow_leakage)
    bench = bench_of(
        data,
        parts,
        target=target,
        metric=metric,
        epsilon=epsilon,
        seed=seed,
        backbone=backbone,
        deadline=started + budget_s - min(_ENDING_S, _ENDING_SHARE * budget_s),
        progress=progress,
    )
    found = search(wanted, bench, plan, out=None if out is None else Path(out))
    progress("choose", 0.0, "choosing")
    baseline = dummy_score(bench)
    choice = choose(found.front, target, baseline, skipped=found.skipped, floor=floor)
    progress("test", 0.0, "opening the test set")
    ending = Ending(data, parts, bench, found.front, found.skipped, baseline)
    run = msgspec.structs.replace(
        ending.run(found.front[choice.index], choice.why),
        search=found.record,
        backbone=backbone and backbone.named,
        leaks=leaks,
        leakage_allowed=allow_leakage if any(leak.stops for leak in leaks) else "",
    )
    if out is not None:
        run = msgspec.structs.replace(run, advice=_advice(data, parts, bench, budget_s))
    run = msgspec.structs.replace(run, elapsed_s=time.monotonic() - started)
    if out is not None:
        run = _written(run, Path(out))
    progress("done", 1.0, f"chose {run.chosen.name}")
    return run


def _advice(data: Dataset, parts: Split, bench: Bench, budget_s: float) -> Advice | None:
    """Return the advice for the report, if the budget leaves the time for it."""
    if bench.left_s < _ADVICE_S:
        return None
    return advise(
        data,
        budget_s=budget_s,
        seed=bench.seed,
        parts=parts,
        limit_s=bench.left_s / 2,
        progress=bench.progress,
    )


def _wanted(
    names: Sequence[str] | None, data: Dataset, backbone: Backbone | None
) -> tuple[Candidate, ...]:
    """Return the named candidates, or all that do the data's task; transfer with a backbone only.

    Raises:
        ConfigError: An unknown name, or transfer without a backbone, or the reverse.
        DataError: A backbone for data that are no images.
    """
    found = portfolio() if names is None else portfolio(tuple(names))
    transfer = [candidate for candidate in found if candidate.transfer is not None]
    if backbone is None and names is not None and transfer:
        raise no_backbone(*(candidate.name for candidate in transfer))
    if backbone is None:
        found = tuple(candidate for candidate in found if candidate.transfer is None)
    elif not transfer:
        raise ConfigError(
            "none of the named candidates starts from a backbone",
            where="weights",
            advice="Leave weights out, or name transfer or transfer-features too.",
        )
    else:
        # A plan that is not possible is found out before anything is trained.
        for candidate in transfer:
            assert candidate.transfer is not None
            candidate.transfer(data, candidate.portfolio[0], backbone)
    return tuple(c for c in found if names is not None or data.task in c.tasks)


def _written(run: Run, out: Path) -> Run:
    """Write the run and its report; what cannot be finished is taken away again."""
    is_new = not out.exists() or not any(out.iterdir())
    try:
        run = run.save(out)
        write_run_report(run, out / "report.html")
        write_model_card(run, out)
    except BaseException:
        if is_new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    return run


def _check_floor(floor: float | None, metric: str) -> None:
    """Refuse a floor above the highest score: every metric that decides ends at 1."""
    if floor is not None and not floor <= 1:
        raise ConfigError(
            f"no {metric} reaches a floor of {floor:g}: the highest is 1",
            where="floor",
            advice="Give a score such as 0.9.",
        )


def _checked_metric(metric: str | None, data: Dataset) -> str:
    known = METRICS[data.task] if data.task == "classification" else ("r2",)
    if metric is not None:
        if metric not in known:
            raise ConfigError(
                f"'{metric}' cannot decide a {data.task}", advice=f"Use one of {', '.join(known)}."
            )
        return metric
    return aim(data).metric
