"""The search's options on the command line: floor, trials, resume, split."""

from tests.support.commands import fieldloop

FAST = ("--candidate", "logistic", "--candidate", "naive-bayes")


def test_a_floor_that_is_not_reached_fails_the_command_and_leaves_nothing(tmp_path):
    out = tmp_path / "run"
    done = fieldloop("train", "sklearn:breast_cancer", *FAST, "--floor", 0.9999, "-o", out)
    assert done.code == 1
    assert "no model reaches the floor of 0.9999 in accuracy: the best that fits" in done.err
    assert not out.exists()


def test_a_floor_that_no_score_can_reach_is_refused_before_training(tmp_path):
    done = fieldloop("train", "sklearn:iris", *FAST, "--floor", 1.1, "-o", tmp_path / "run")
    assert done.code == 2
    assert "the highest is 1" in done.err
    assert "trial" not in done.err


def test_the_table_of_a_run_fits_into_a_hundred_columns(tmp_path):
    done = fieldloop("train", "sklearn:breast_cancer", *FAST, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    lines = done.out[: done.out.index("chosen ")].splitlines()
    assert any("→ " in line for line in lines)
    assert max(len(line) for line in lines if line[:1] in "┏┃┡│└") < 100


def test_a_finished_search_goes_on_with_more_trials(tmp_path):
    out = tmp_path / "run"
    words = ["train", "sklearn:wine", *FAST, "--split", "80-20", "-o", out, "--json"]
    first = fieldloop(*words, "--trials", 2)
    assert first.code == 0, first.err
    assert first.result["search"]["trial_count"] == 3 + 2
    refused = fieldloop(*words, "--trials", 4)
    assert refused.code == 2
    assert "--resume" in refused.err
    second = fieldloop(*words, "--trials", 4, "--resume")
    assert second.code == 0, second.err
    assert second.result["search"]["trial_count"] == 3 + 4


def test_a_worker_without_a_study_is_told_so(tmp_path):
    done = fieldloop("worker", "--study", tmp_path / "nothing")
    assert done.code == 2
    assert "there is no search here" in done.err
    assert not (tmp_path / "nothing").exists()
    assert "secret" not in fieldloop("worker", "--study", "mysql://a:secret@h/d").err
