"""Many workers, and what is left when one of them, or all, are killed."""

import os
import signal
import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from tests.support.postgres import postgres
from tests.support.waiting import wait_until

from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.select.search.search import LOCAL_NAME
from fieldloop_cloud.select.search.spec import join_study
from fieldloop_cloud.select.search.storage import close_storage, open_storage, quiet_optuna
from fieldloop_cloud.train.run import Run

FAMILIES = ("random-forest", "logistic", "naive-bayes")
TRIALS = 9


def rows(count=1500):
    random = np.random.default_rng(0)
    X = random.normal(size=(count, 20))
    return X, (X[:, 0] + 0.5 * random.normal(size=count) > 0).astype(int)


def fieldloop(*words, **options):
    command = [sys.executable, "-c", "from fieldloop_cloud.cli import main; main()"]
    return subprocess.Popen(
        [*command, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finished(study):
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


@pytest.fixture(scope="module")
def database():
    with postgres() as url:
        yield url


@pytest.mark.slow
def test_three_workers_on_postgresql_lose_one_and_no_finished_trial(database, tmp_path):
    out = tmp_path / "field"
    options = ["--study", database, "--heartbeat", 3, "--trials", TRIALS]
    first = started(out, *options)
    storage = open_storage(database)
    wait_until(
        lambda: "field" in optuna.get_all_study_names(storage), what="the study", timeout_s=60
    )
    joined = join_study(database, name="field")
    study = joined.study
    wait_until(
        lambda: "fieldloop" in study.user_attrs, what="what the study is about", timeout_s=60
    )
    workers = [
        fieldloop("worker", "--study", database, "--name", "field", "--json") for _ in range(3)
    ]
    victim = running_trial_of(study, workers)
    before = {trial.number: trial.values for trial in finished(study)}
    victim.kill()
    victim.wait()
    told = first.communicate(timeout=200)[0]
    assert first.returncode == 0, told
    others = [worker for worker in workers if worker is not victim]
    said = [worker.communicate(timeout=60)[0] for worker in others]
    victim.communicate()
    assert [worker.returncode for worker in others] == [0, 0], said
    lost = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    history = optuna.storages.RetryHeartbeatStaleTrialCallback
    with quiet_optuna():
        retried = [history.retried_trial_number(trial) for trial in finished(study)]
    assert {trial.number for trial in lost} <= set(retried)
    assert lost
    after = {trial.number: trial.values for trial in finished(study)}
    assert before.items() <= after.items()
    planned = sum(len(candidate.portfolio) for candidate in portfolio(FAMILIES)) + TRIALS
    assert planned <= len(after) <= planned + 3
    assert len({trial.user_attrs["worker"] for trial in finished(study)}) >= 3
    run = Run.load(out)
    assert {item.candidate for item in run.front} == set(FAMILIES)
    assert run.search.retried_count == len(lost)
    close_storage(storage)
    joined.close()


def running_trial_of(study, workers):
    """Wait until one of the workers is in the middle of a trial, and return the worker."""
    by_name = {str(worker.pid): worker for worker in workers}
    seen = []

    def is_running():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            pid = trial.user_attrs.get("worker", ":").rpartition(":")[2]
            if pid in by_name and len(finished(study)) > 3:
                seen.append(by_name[pid])
        return seen

    wait_until(is_running, what="a worker in the middle of a trial", timeout_s=120)
    return seen[0]


def journal(out):
    return join_study(str(out / "study"), name=LOCAL_NAME).study


def started(out, *words):
    X, y = rows()
    np.savez(out.parent / "rows.npz", X=X, y=y)
    options = ["--split", "80-20", "-o", out, *words]
    for family in FAMILIES:
        options += ["--candidate", family]
    return fieldloop("train", out.parent / "rows.npz", *options, start_new_session=True)


def wait_for_trials(out, count):
    wait_until((out / "study" / "journal.log").exists, what="the journal", timeout_s=120)

    def are_there():
        with quiet_optuna():
            names = optuna.get_all_study_names(open_storage(str(out / "study")))
        if LOCAL_NAME not in names:
            return False
        try:
            return len(finished(journal(out))) >= count
        except Exception:  # noqa: BLE001 - the study is still being made
            return False

    wait_until(are_there, what=f"{count} trials", timeout_s=120)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_where_it_was(tmp_path):
    out = tmp_path / "run"
    killed = started(out, "--trials", 4)
    wait_for_trials(out, 3)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = {trial.number: trial.values for trial in finished(journal(out))}
    assert not (out / "run.json").exists()
    again = started(out, "--trials", 4, "--resume")
    said = again.communicate(timeout=120)[0]
    assert again.returncode == 0, said
    after = {trial.number: trial.values for trial in finished(journal(out))}
    assert before.items() <= after.items()
    planned = sum(len(candidate.portfolio) for candidate in portfolio(FAMILIES)) + 4
    assert len(after) == planned == Run.load(out).search.trial_count


@pytest.mark.slow
def test_ctrl_c_ends_the_search_and_keeps_the_best_so_far(tmp_path):
    out = tmp_path / "run"
    process = started(out, "--trials", 100_000)
    wait_for_trials(out, 4)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    run = Run.load(out)
    assert run.search.interrupted
    assert run.search.trial_count >= 4
    assert "interrupted" in said
    assert run.chosen.compiled.tflite
