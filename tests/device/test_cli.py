import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner
from tests.support.devices import KEY, OTHER_KEY, Device, make_bundle

from fieldloop_device.cli import main

COMMAND = [sys.executable, "-m", "fieldloop_device.cli"]


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device", settings="[telemetry]\nwindow_s = 0.2\n")


def invoke(*arguments):
    result = CliRunner().invoke(main, [str(item) for item in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def run(device, text, *arguments):
    done = subprocess.run(
        [*COMMAND, "run", "--root", str(device.path), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, [json.loads(line) for line in done.stdout.splitlines()]


def test_run_answers_line_by_line_and_counts_everything(device):
    text = '{"id": "a", "x": [1, 2]}\n{"x": {"current": 2, "voltage": 1}}\nbad\n{"x": [1]}\n'
    done, answers = run(device, text)
    assert done.returncode == 0, done.stderr
    assert [answer["id"] for answer in answers] == ["a", None, None, None]
    assert [answer.get("label") for answer in answers] == ["bad", "good", None, None]
    assert answers[0]["model"] == device.sha256
    assert set(answers[0]) == {
        "id",
        "label",
        "value",
        "confidence",
        "probabilities",
        "model",
        "latency_ms",
    }
    assert [answer["error"]["error"] for answer in answers[2:]] == ["DataError", "SignatureError"]
    status = json.loads(invoke("status", "--root", device.path, "--json").output)
    assert (status["prediction_count"], status["rejected_count"]) == (2, 2)
    assert status["outbox_count"] >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_flushes_and_ends_with_success(device, number):
    with subprocess.Popen(
        [*COMMAND, "run", "--root", str(device.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write('{"x": [1, 2]}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["label"] == "bad"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors
    status = json.loads(invoke("status", "--root", device.path, "--json").output)
    assert (status["prediction_count"], status["window_count"]) == (1, 1)


def test_run_watches_a_directory(device, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.json").write_text("[1, 2]")
    done, answers = run(device, "", "--source", f"dir:{inbox}", "--once")
    assert done.returncode == 0, done.stderr
    assert [(answer["id"], answer["label"]) for answer in answers] == [("a.json", "bad")]
    assert (inbox / "done" / "a.json").exists()


def test_an_input_that_the_model_does_not_take_ends_among_the_failed(device, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.png").write_bytes(b"no picture")
    (inbox / "b.json").write_text("[1]")
    (inbox / "c.json").write_text("[1, 2]")
    _, answers = run(device, "", "--source", f"dir:{inbox}", "--once")
    assert ["error" in answer for answer in answers] == [True, True, False]
    assert sorted(path.name for path in (inbox / "failed").iterdir()) == ["a.png", "b.json"]
    assert [path.name for path in (inbox / "done").iterdir()] == ["c.json"]


def test_a_terminal_that_is_not_utf8_gets_escapes(device, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [*COMMAND, "predict", str(tmp_path / "😀.csv"), "--root", str(device.path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "\\U0001f600.csv" in done.stderr) == (2, True), done.stderr


def test_a_reader_that_goes_away_is_no_traceback(device):
    with subprocess.Popen(
        [*COMMAND, "run", "--root", str(device.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write('{"x": [1, 2]}\n')
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        errors = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
        reader.start()
        for _ in range(3):
            try:
                process.stdin.write('{"x": [1, 2]}\n' * 10)
                process.stdin.flush()
            except BrokenPipeError:
                break
        process.stdin.close()
        process.wait(timeout=30)
        reader.join()
    assert process.returncode == 1
    assert "Traceback" not in errors[0]


@pytest.mark.parametrize(
    ("break_it", "code", "message"),
    [
        (lambda device: device.root.config.unlink(), 2, "fieldloop provision"),
        (lambda device: device.root.trusted.unlink(), 2, "trusted.pem"),
        (lambda device: device.configure("[telemetry]\nwindow_s = -1\n"), 2, "window_s"),
    ],
)
def test_a_broken_root_is_one_paragraph_and_an_exit_code(device, break_it, code, message):
    break_it(device)
    done, _ = run(device, "")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_source_is_the_users_mistake(device):
    done, _ = run(device, "", "--source", "camera")
    assert (done.returncode, "dir:PATH" in done.stderr) == (2, True)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("voltage,current\n2,1\n1,2\n")
    return path


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "model.flb"
    path.write_bytes(make_bundle())
    return path


@pytest.fixture
def trusted(tmp_path):
    path = tmp_path / "release.pub.pem"
    path.write_bytes(KEY.public.to_pem())
    return path


def test_predict_answers_a_file(device, bundle, trusted, rows):
    for arguments in ((bundle, rows, "--trusted", trusted), (rows, "--root", device.path)):
        result = invoke("predict", *arguments, "--json")
        assert result.exit_code == 0, result.output
        answers = [json.loads(line) for line in result.output.splitlines()]
        assert [answer["label"] for answer in answers] == ["bad", "good"]
    assert "bad  0.881" in invoke("predict", rows, "--root", device.path).output


def test_predict_trusts_nobody_by_itself(bundle, rows, trusted):
    result = invoke("predict", bundle, rows)
    assert (result.exit_code, "--trusted" in result.output) == (2, True)
    trusted.write_bytes(OTHER_KEY.public.to_pem())
    result = invoke("predict", bundle, rows, "--trusted", trusted)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("rows.csv", "voltage\n1\n", 2),
        ("rows.csv", "voltage,current\nx,1\n", 2),
        ("rows.csv", "voltage,current\n,1\n", 2),
        ("rows.csv", "voltage,current\ninf,1\n", 2),
        ("rows.json", "[[1, 2, 3]]", 2),
        ("rows.txt", "1 2", 2),
        ("rows.npy", "rubbish", 2),
    ],
)
def test_bad_input_is_one_paragraph_and_an_exit_code(device, tmp_path, name, content, code):
    path = tmp_path / name
    path.write_text(content)
    result = invoke("predict", path, "--root", device.path)
    assert result.exit_code == code, result.output
    assert result.output.startswith("error: ")
    assert name in result.stderr


def test_json_errors_are_for_machines(device, tmp_path):
    result = invoke("predict", tmp_path / "nowhere.csv", "--root", device.path, "--json")
    assert json.loads(result.stdout)["error"] == "DataError"
    assert result.stderr.startswith("error: ")
    for words in (["predict", "--nope"], ["measure", "--interval-ms", "x"], ["nonsense"]):
        result = invoke(*words, "--json")
        assert (result.exit_code, json.loads(result.stdout)["error"]) == (2, "UsageError")


def test_an_unexpected_error_is_one_line(device, monkeypatch):
    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("fieldloop_device.cli.read_status", broken)
    result = invoke("status", "--root", device.path, "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]) == (1, "InternalError")
    assert result.stderr.startswith("error: internal error: RuntimeError: a bug. ")
    assert result.stderr.count("\n") == 1


def test_a_bundle_that_is_missing_or_none_is_named(bundle, rows, trusted, tmp_path):
    for command in (["predict", "{}", rows], ["measure", "{}"]):
        for path, code in ((tmp_path / "none.flb", 2), (rows, 1)):
            words = [str(path) if word == "{}" else word for word in command]
            result = invoke(*words, "--trusted", trusted)
            assert (result.exit_code, path.name in result.stderr) == (code, True)
    for option in (["--interval-ms", "-5"], ["--interval-ms", "nan"], ["--threads", "100000"]):
        result = invoke("measure", bundle, "--trusted", trusted, *option)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_predict_wants_a_bundle_or_a_root(device, rows):
    assert invoke("predict", rows).exit_code == 2
    assert invoke("predict", rows, rows, "--root", device.path).exit_code == 2


def test_status_before_the_first_run_says_what_to_do(device):
    result = invoke("status", "--root", device.path)
    assert result.exit_code == 2
    assert "fieldloop-device run" in result.output
    device.root.status.write_text("{")
    assert invoke("status", "--root", device.path).exit_code == 1


def test_doctor_lists_findings_and_its_code_tells_whether_all_is_well(device, tmp_path):
    result = invoke("doctor", "--root", device.path, "--json")
    found = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == (0 if all(item["is_fine"] for item in found) else 1)
    device.root.slot("a").write_bytes(b"rotten")
    result = invoke("doctor", "--root", device.path)
    assert result.exit_code == 1
    assert "PROBLEM  bundle" in result.output
