"""One contender on one data set: `CONTENDER SET SEED TASK FOLDER BUDGET_S`; prints JSON.

Runs in fieldloop's environment or in that of the peers, so that it imports neither at the top.
"""
# ruff: noqa: PLC0415 - as said above

import json
import pickle
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Made = dict[str, Any]

TIMED_ROWS = 100
VOLUME_BYTES = 200_000


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def latency_us(predict: Callable[[int], object], count: int) -> float:
    """Return the median time of one row."""
    taken = []
    for number in range(min(TIMED_ROWS, count) + 5):
        start = time.perf_counter_ns()
        predict(number % count)
        taken.append(time.perf_counter_ns() - start)
    return statistics.median(taken[5:]) / 1e3


def scored(task: str, truth: Any, said: Any) -> Made:
    """Return the score and its standard error."""
    truth, said = np.asarray(truth), np.asarray(said)
    if task == "classification":
        share = float(np.mean(truth == said))
        # Agresti and Coull's, which does not vanish at 1
        count, hits = len(truth) + 4, share * len(truth) + 2
        return {"score": share, "se": float((hits / count * (1 - hits / count) / count) ** 0.5)}

    def r2(rows: Any) -> float:
        left = ((truth[rows] - said[rows]) ** 2).sum()
        return float(1 - left / ((truth[rows] - truth[rows].mean()) ** 2).sum())

    random = np.random.default_rng(0)
    draws = [r2(random.integers(0, len(truth), len(truth))) for _ in range(500)]
    return {"score": r2(np.arange(len(truth))), "se": float(np.std(draws))}


def fieldloop(rows: Any, task: str, name: str, seed: int, _folder: Path, _budget: int) -> Made:
    """Train on the whole set by the same split; its sealed test rows are the peers'."""
    from selection import data_of

    from fieldloop_cloud.data.split import split
    from fieldloop_cloud.select.candidates import CANDIDATES
    from fieldloop_cloud.select.search.evaluator import close_idle
    from fieldloop_cloud.train.measure import answers, latency
    from fieldloop_cloud.train.trainer import train

    data = data_of(name)
    classical = [one.name for one in CANDIDATES if not one.is_deep]
    run = train(
        data,
        strategy="80-20",
        seed=seed,
        candidates=[n for n in classical if data.task in _tasks(n)],
        allow_leakage="a public benchmark, the same rows for everybody",
    )
    close_idle()
    used = cpu_s()
    test = data.take(split(data, strategy="80-20", seed=seed).test)
    compiled = run.chosen.compiled
    said = answers(compiled.tflite, compiled.signature, test.X)
    timed = latency(compiled.tflite, compiled.signature, test.X)
    return {
        **scored(task, rows["y_test"], said.predicted),
        "cpu_s": used,
        "bytes": len(compiled.tflite),
        "latency_us": timed.p50_ms * 1e3,
        "model": run.chosen.name,
    }


def _tasks(name: str) -> tuple[str, ...]:
    from fieldloop_cloud.select.candidates import portfolio

    return portfolio((name,))[0].tasks


def flaml(rows: Any, task: str, _name: str, seed: int, _folder: Path, budget: int) -> Made:
    """Fit FLAML with its defaults."""
    from flaml import AutoML

    automl = AutoML()
    automl.fit(
        rows["X"],
        rows["y"],
        task=task,
        metric="accuracy" if task == "classification" else "r2",
        time_budget=budget,
        n_jobs=1,
        seed=seed,
        verbose=0,
    )
    used = cpu_s()
    test = rows["X_test"]
    return {
        **scored(task, rows["y_test"], automl.predict(test)),
        "cpu_s": used,
        "bytes": len(pickle.dumps(automl.model)),
        "latency_us": latency_us(lambda row: automl.predict(test[row : row + 1]), len(test)),
        "model": str(automl.best_estimator),
    }


def autogluon(rows: Any, task: str, _name: str, seed: int, folder: Path, budget: int) -> Made:
    """Fit AutoGluon with its defaults."""
    import pandas as pd
    from autogluon.tabular import TabularPredictor

    def frame(X: Any) -> Any:
        return pd.DataFrame(X, columns=[f"x{column}" for column in range(X.shape[1])])

    table = frame(rows["X"]).assign(target=rows["y"])
    kind = "regression" if task == "regression" else None
    metric = "accuracy" if task == "classification" else "r2"
    predictor = TabularPredictor(
        "target", problem_type=kind, eval_metric=metric, path=str(folder / "fit"), verbosity=0
    )
    np.random.seed(seed)  # noqa: NPY002 - AutoGluon has no other seed
    predictor.fit(table, time_limit=budget, num_cpus=1, num_gpus=0)
    used = cpu_s()
    small = predictor.clone_for_deployment(str(folder / "deployed"), return_clone=True)
    size = sum(path.stat().st_size for path in (folder / "deployed").rglob("*") if path.is_file())
    small.persist()
    test = frame(rows["X_test"])
    return {
        **scored(task, rows["y_test"], small.predict(test)),
        "cpu_s": used,
        "bytes": size,
        "latency_us": latency_us(lambda row: small.predict(test.iloc[row : row + 1]), len(test)),
        "model": str(predictor.model_best),
    }


def searched(rows: Any, task: str, name: str, seed: int, folder: Path, _budget: int) -> Made:
    """Search as fieldloop does and keep the hyper-volume after each trial."""
    return _course(rows, task, name, seed, folder, chance=False)


def searched_by_chance(rows: Any, task: str, name: str, seed: int, folder: Path, _b: int) -> Made:
    """Draw every trial at random, without a portfolio."""
    return _course(rows, task, name, seed, folder, chance=True)


def _course(rows: Any, task: str, name: str, seed: int, folder: Path, *, chance: bool) -> Made:
    import optuna
    from msgspec.structs import replace
    from selection import SEARCH_TRIALS, data_of

    from fieldloop_cloud.data.split import split
    from fieldloop_cloud.release.targets import load_target
    from fieldloop_cloud.select.candidates import CANDIDATES
    from fieldloop_cloud.select.search import search, spec
    from fieldloop_cloud.select.search.search import LOCAL_NAME, SearchPlan
    from fieldloop_cloud.train.bench import bench_of

    del rows
    data = data_of(name)
    bench = bench_of(
        data,
        split(data, seed=seed),
        target=replace(load_target("x86"), max_model_bytes=VOLUME_BYTES),
        metric="accuracy" if task == "classification" else "r2",
        epsilon=0.02,
        seed=seed,
        deadline=time.monotonic() + 600,
    )
    families = tuple(one for one in CANDIDATES if not one.is_deep and data.task in one.tasks)
    queue_length = len(spec.portfolio_queue(tuple(one.name for one in families)))
    trials = SEARCH_TRIALS - queue_length
    if chance:
        setattr(search, "portfolio_queue", lambda _names: [])  # noqa: B010 - for this process
        setattr(spec, "sampler", optuna.samplers.RandomSampler)  # noqa: B010 - the same
        trials = SEARCH_TRIALS
    search.search(families, bench, SearchPlan(trials=trials), out=folder / "run")
    opened = spec.join_study(str(folder / "run" / "study"), name=LOCAL_NAME)
    spent, points, course = 0.0, [], []
    for trial in opened.study.get_trials(deepcopy=False):
        begun, ended = trial.datetime_start, trial.datetime_complete
        assert begun is not None
        assert ended is not None
        spent += (ended - begun).total_seconds()
        reached = trial.values  # noqa: PD011 - a trial, no table
        if reached and max(trial.constraints.values(), default=0.0) <= 0:
            points.append((reached[0], reached[2]))
        course.append((spent, _volume(points)))
    return {"cpu_s": cpu_s(), "course": course}


def _volume(points: list[tuple[float, float]]) -> float:
    """Return the area that points (score, log2 bytes) command, from score 0.9 and the limit."""
    floor, limit = 0.9, float(np.log2(VOLUME_BYTES))
    area, reached = 0.0, limit
    for score, bits in sorted(points, reverse=True):
        if score > floor and bits < reached:
            area += (score - floor) * (reached - bits)
            reached = bits
    return area


CONTENDERS: dict[str, Callable[..., Made]] = {
    "fieldloop": fieldloop,
    "FLAML": flaml,
    "AutoGluon": autogluon,
    "search": searched,
    "random search": searched_by_chance,
}


def main() -> None:
    """Run the contender that the arguments name."""
    contender, name, seed, task, folder, budget = sys.argv[1:]
    with np.load(Path(folder) / "rows.npz", allow_pickle=False) as loaded:
        rows = {key: loaded[key] for key in loaded.files}
    made = CONTENDERS[contender](rows, task, name, int(seed), Path(folder), int(budget))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
