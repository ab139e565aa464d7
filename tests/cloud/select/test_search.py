"""Searching: same seed same trials, limits before training, folds, and what is kept."""

import dataclasses
import importlib
import importlib.util
import json
import os
import time

import joblib
import numpy as np
import optuna
import pytest
from msgspec.structs import replace

from fieldloop.errors import ConfigError, DataError, GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.split import split
from fieldloop_cloud.release.targets import load_target
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.select.search.evaluator import Evaluator, leased_evaluator
from fieldloop_cloud.select.search.files import get, load_bench, put, save_bench
from fieldloop_cloud.select.search.fold_backend import active_backend, folds_on
from fieldloop_cloud.select.search.front import read_front
from fieldloop_cloud.select.search.on_ray import run_on_ray
from fieldloop_cloud.select.search.orders import Order
from fieldloop_cloud.select.search.screening import rungs
from fieldloop_cloud.select.search.search import LOCAL_NAME, SearchPlan, search
from fieldloop_cloud.select.search.spec import join_study
from fieldloop_cloud.select.search.storage import LeasedJournal, open_storage, without_password
from fieldloop_cloud.train.bench import bench_of
from fieldloop_cloud.train.trainer import train

FAST = ("logistic", "discriminant", "naive-bayes", "k-nearest")


def bench_for(data, *, strategy="60-20-20", left_s=120.0, **target):
    return bench_of(
        data,
        split(data, strategy=strategy),
        target=replace(load_target("x86"), **target),
        metric="accuracy" if data.labels else "r2",
        epsilon=0.02,
        seed=0,
        deadline=time.monotonic() + left_s,
    )


def trials_of(directory):
    opened = join_study(str(directory / "study"), name=LOCAL_NAME)
    return opened.study.get_trials(deepcopy=False)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of ten trials, twice with the same seed."""
    made = []
    for name in ("first", "second"):
        out = tmp_path_factory.mktemp("runs") / name
        run = train(Dataset.load("sklearn:iris"), candidates=FAST, trials=10, out=out)
        made.append((run, out))
    return made


def test_the_same_seed_draws_the_same_trials_and_makes_the_same_choice(searched):
    (first, one), (second, two) = searched
    assert [t.params for t in trials_of(one)] == [t.params for t in trials_of(two)]
    assert [(i.name, i.score) for i in first.front] == [(i.name, i.score) for i in second.front]
    assert first.chosen.compiled.tflite == second.chosen.compiled.tflite


def test_the_portfolio_comes_first_and_the_search_goes_on_from_there(searched):
    run, out = searched[0]
    known = [settings for c in portfolio(FAST) for settings in c.portfolio]
    trials = trials_of(out)
    assert len(trials) == len(known) + 10 == run.search.trial_count
    assert [t.params["candidate"] for t in trials[:4]] == list(FAST)
    drawn = [t.params for t in trials[len(known) :]]
    assert len({json.dumps(p, sort_keys=True) for p in drawn}) > 5


def test_the_front_holds_the_best_of_every_family_and_nothing_that_is_beaten_in_all(searched):
    run, _ = searched[0]
    assert {item.candidate for item in run.front if item.trial == 0} == set(FAST)
    assert len({item.name for item in run.front}) == len(run.front)
    assert all(not item.over_budget for item in run.front)


def test_after_a_search_only_results_stay_and_no_copy_of_the_rows(searched):
    _, out = searched[0]
    assert sorted(path.name for path in (out / "study").iterdir()) == [
        "artifacts",
        "journal.lock",
        "journal.log",
        "leases",
    ]
    assert not list((out / "study" / "leases").iterdir())


def test_folds_judge_by_rows_that_a_model_did_not_see():
    """One nearest neighbour knows every training row by heart; labels at random tell."""
    random = np.random.default_rng(0)
    noise = from_arrays(random.normal(size=(200, 3)), np.arange(200) % 2)
    nearest = dataclasses.replace(
        bench_for(noise, strategy="80-20"), metric="accuracy", epsilon=0.02
    )
    found = search(portfolio(("k-nearest",)), nearest, SearchPlan(), out=None)
    item = found.front[0]
    own = item.compiled.run(nearest.train.X)["label"]
    labels = np.asarray(nearest.train.labels)[nearest.train.y]
    assert np.mean(own == labels) == 1.0
    assert 0.3 < item.score < 0.7
    assert len(item.held_out.predicted) == len(nearest.validation)
    assert np.mean(item.held_out.predicted == nearest.validation.y) == pytest.approx(item.score)


def test_a_chosen_model_is_fitted_on_all_but_the_test_rows():
    data = Dataset.load("sklearn:iris")
    parts = split(data, strategy="80-20")
    run = train(data, candidates=["k-nearest"], strategy="80-20")
    kept = next(item for item in run.front if item.name == "k-nearest.float32")
    said = kept.compiled.run(data.X[parts.development])["label"]
    # Weighted by distance, a kept row answers for itself.
    assert list(said) == [data.label(int(row)) for row in parts.development]
    assert run.profile.row_count == len(parts.development)


def test_what_cannot_fit_is_never_trained():
    bench = bench_for(Dataset.load("sklearn:digits"), max_model_bytes=20_000)
    found = search(portfolio(("logistic", "k-nearest")), bench, SearchPlan(), out=None)
    reasons = {item.name: item.reason for item in found.skipped}
    # 1,078 rows of 64 pixels, a byte each at least
    assert "bytes at least of 20,000" in reasons["k-nearest"]
    assert found.record.over_limit_count == 1
    assert {item.candidate for item in found.front} == {"logistic"}


def test_a_search_keeps_to_the_limits(tmp_path):
    run = train(
        Dataset.load("sklearn:digits"),
        device=replace(load_target("x86"), max_model_bytes=30_000),
        candidates=["logistic", "k-nearest", "svm-rbf"],
        trials=4,
        out=tmp_path / "run",
    )
    beyond = [trial for trial in run.front if trial.trial and trial.over_budget]
    assert beyond == []
    assert run.chosen.size_bytes <= 30_000
    limited = [t for t in trials_of(tmp_path / "run") if "bytes" in t.constraints]
    assert any(t.constraints["bytes"] > 0 for t in limited)


def interrupting(number):
    """Progress that is met by Ctrl-C when this trial begins."""

    def progress(stage, _fraction, text):
        if stage == "trial" and text.startswith(f"trial {number}:"):
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_in_the_portfolio_keeps_the_best_so_far(tmp_path):
    run = train(
        Dataset.load("sklearn:iris"),
        candidates=["naive-bayes", "logistic", "random-forest"],
        out=tmp_path / "run",
        progress=interrupting(2),
    )
    assert run.search.interrupted
    assert {item.candidate for item in run.front} == {run.chosen.candidate} == {"logistic"}
    reasons = {item.name: item.reason for item in run.skipped}
    assert all("interrupted" in reasons[name] for name in ("naive-bayes", "random-forest"))
    assert not (tmp_path / "run" / "study").exists()


def test_ctrl_c_before_anything_was_measured_ends_the_run(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(
            Dataset.load("sklearn:iris"),
            candidates=["naive-bayes"],
            out=tmp_path / "run",
            progress=interrupting(1),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_floor_that_nothing_reaches_says_what_was_reached():
    with pytest.raises(GateError, match=r"floor of 0\.999 in accuracy.*logistic\.\w+, has 0\.9"):
        train(Dataset.load("sklearn:breast_cancer"), candidates=["logistic"], floor=0.999)


def test_a_trial_is_killed_at_its_time_and_the_next_one_runs(tmp_path):
    random = np.random.default_rng(0)
    large = from_arrays(random.normal(size=(3500, 60)), np.arange(3500) % 2)
    bench = bench_for(large)
    sha256 = save_bench(bench, tmp_path / "bench")
    hours = {"units": 4096, "layers": 3, "alpha": 1e-5, "learning_rate": 1e-5, "epochs": 10_000}
    order = Order(
        files=str(tmp_path), bench_sha256=sha256, candidate="mlp", settings=hours, left_s=1.5
    )
    with leased_evaluator() as evaluator:
        reply = evaluator.evaluate(order)
        assert "stopped when its 2 s were used up" in reply.reason
        quick = replace(order, candidate="naive-bayes", settings={"var_smoothing": 1e-3}, left_s=60)
        assert evaluator.evaluate(quick).outcome_sha256


def test_a_process_that_dies_costs_its_trial_only(tmp_path):
    bench = bench_for(Dataset.load("sklearn:iris"))
    order = Order(
        files=str(tmp_path),
        bench_sha256=save_bench(bench, tmp_path / "bench"),
        candidate="logistic",
        settings={"C": 1.0},
        left_s=60,
    )
    evaluator = Evaluator()
    assert evaluator.evaluate(order).outcome_sha256
    evaluator._process.kill()
    evaluator._process.wait()
    assert evaluator.evaluate(order).outcome_sha256
    evaluator.close()


def test_a_longest_time_for_a_trial_leaves_the_slow_ones_out():
    random = np.random.default_rng(0)
    X = random.normal(size=(3500, 40))
    data = from_arrays(X, (X[:, 0] + X[:, 1] > 0).astype(int))
    with pytest.raises(GateError, match=r"mlp: it was stopped when its 0 s were used up"):
        train(data, candidates=["mlp"], max_trial_s=0.001)


def test_a_bench_comes_back_as_it_was_and_every_changed_byte_is_noticed(tmp_path):
    bench = bench_for(Dataset.load("sklearn:iris"), strategy="80-20")
    sha256 = save_bench(bench, tmp_path)
    back = load_bench(tmp_path, sha256, deadline=bench.deadline)
    assert back.train.sha256 == bench.train.sha256
    assert back.validation.sha256 == bench.validation.sha256
    assert back.target == bench.target
    assert [fold.held.tolist() for fold in back.folds] == [f.held.tolist() for f in bench.folds]
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match="does not have the hash"):
            load_bench(tmp_path, sha256, deadline=0.0)
        path.write_bytes(whole)


def test_an_artefact_is_checked_and_its_name_cannot_lead_elsewhere(tmp_path):
    sha256 = put(tmp_path, b"model")
    assert get(tmp_path, sha256) == b"model"
    (tmp_path / "artifacts" / sha256).write_bytes(b"other")
    with pytest.raises(DataError, match="does not have the hash"):
        get(tmp_path, sha256)
    with pytest.raises(DataError, match="is no hash"):
        get(tmp_path, "../../etc/passwd")


def test_a_line_that_a_power_cut_tore_costs_that_line_only(tmp_path):
    with_study = optuna.create_study(storage=LeasedJournal(tmp_path), study_name="torn")
    with_study.add_trial(optuna.create_trial(value=1.0))
    with (tmp_path / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_id":"x","stu')
    again = optuna.load_study(storage=LeasedJournal(tmp_path), study_name="torn")
    again.add_trial(optuna.create_trial(value=2.0))
    last = optuna.load_study(storage=LeasedJournal(tmp_path), study_name="torn")
    assert [trial.value for trial in last.trials] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": -1}, "trials cannot be -1"),
        ({"search_s": 0.0}, "search_s cannot be 0"),
        ({"workers": 0}, "workers cannot be 0"),
        ({"max_trial_s": -2.0}, "max_trial_s cannot be"),
        ({"resume": True}, "needs a place"),
        ({"study": "postgresql://nowhere/x"}, "needs a place"),
        ({"strategy": "90-10"}, "no split '90-10'"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        train(Dataset.load("sklearn:iris"), **options)


def test_a_search_is_resumed_only_where_one_is_and_about_the_same(searched, tmp_path):
    iris = Dataset.load("sklearn:iris")
    with pytest.raises(ConfigError, match="no search to resume"):
        train(iris, out=tmp_path / "new", resume=True)
    _, out = searched[1]
    with pytest.raises(ConfigError, match="there is a search already"):
        train(iris, out=out)
    with pytest.raises(ConfigError, match="about other data, another device, seed"):
        train(iris, candidates=FAST, seed=7, out=out, resume=True)


def test_a_database_that_cannot_be_had_is_named_without_its_password():
    assert without_password("postgresql://a:b@h/d") == "postgresql://a@h/d"
    with pytest.raises(ConfigError, match=r"cannot live in mysql://.*mysql://a@h/d"):
        open_storage("mysql://a:secret@h/d")
    errors = importlib.import_module("fieldloop.errors")
    with pytest.raises(errors.EnvironmentFaultError) as caught:
        open_storage("postgresql://ann:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
    assert "cannot be used" in str(caught.value)


def test_a_trial_names_the_worker_that_ran_it(searched):
    _, out = searched[0]
    workers = {trial.user_attrs["worker"].rpartition(":")[2] for trial in trials_of(out)}
    assert workers == {str(os.getpid())}


def test_many_rows_are_screened_on_few_and_the_best_goes_on(tmp_path):
    random = np.random.default_rng(0)
    X = random.normal(size=(5400, 4))
    data = from_arrays(X, (X[:, 0] * X[:, 1] > 0).astype(int))
    out = tmp_path / "run"
    train(data, candidates=["naive-bayes", "tree", "logistic"], trials=12, out=out)
    opened = join_study(str(out / "study"), name=LOCAL_NAME)
    screened = opened.screening.get_trials(deepcopy=False)
    assert rungs(len(split(data).train)) == (360, 1080)
    assert len(screened) == 12
    pruned = [t for t in screened if t.state.name == "PRUNED"]
    complete = [t for t in screened if t.state.name == "COMPLETE"]
    assert any(set(t.intermediate_values) == {1} for t in pruned)
    assert all(set(t.intermediate_values) == {1, 3} for t in complete)
    # Only trees see the product of two columns.
    best = max(complete, key=lambda trial: trial.value)
    assert best.params["candidate"] == "tree"
    known = sum(len(c.portfolio) for c in portfolio(("naive-bayes", "tree", "logistic")))
    assert best.params in [t.params for t in opened.study.get_trials()[known : known + 3]]
    assert len(opened.study.get_trials()) == known + 12


def test_the_callers_joblib_backend_reaches_the_folds():
    assert active_backend() is None
    with joblib.parallel_config(backend="threading", n_jobs=2):
        given = active_backend()
        found = search(
            portfolio(("k-nearest",)),
            bench_for(Dataset.load("sklearn:iris"), strategy="80-20"),
            SearchPlan(),
            out=None,
        )
    assert (given.name, given.n_jobs) == ("threading", 2)
    with folds_on(given):
        backend, n_jobs = joblib.parallel.get_active_backend()
    assert (type(backend).__name__, n_jobs) == ("ThreadingBackend", 2)
    assert found.front[0].held_out is not None


def test_without_ray_its_remedy_is_named():
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed here")
    errors = importlib.import_module("fieldloop.errors")
    with pytest.raises(
        errors.EnvironmentFaultError, match=r"Ray is not.*pip install 'ray\[tune\]'"
    ):
        run_on_ray("postgresql://a:secret@h/d", workers=2)


def test_a_trial_on_the_front_has_a_name_of_its_own(searched):
    """The very first trial too, when another of its family is better."""
    _, out = searched[0]
    opened = join_study(str(out / "study"), name=LOCAL_NAME)
    front, _ = read_front(opened, load_target("x86"))
    names = [item.name for item in front]
    assert len(set(names)) == len(names)
    firsts = {item.name for item in front if item.trial == 0 and item.precision == "float32"}
    assert firsts == {f"{name}.float32" for name in FAST}
