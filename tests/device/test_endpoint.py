import concurrent.futures
import http.client
import json
import socket
import stat
import subprocess
import sys

import pytest
from tests.support.devices import Device

from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop_device.agent import Agent
from fieldloop_device.endpoint import MAX_BODY_BYTES, Endpoint, openapi

JSON = {"Content-Type": "application/json"}


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


@pytest.fixture
def agent(tmp_path):
    with Agent(Device(tmp_path / "device").path) as agent:
        yield agent


@pytest.fixture
def endpoint(agent):
    with Endpoint(agent, "127.0.0.1:0") as endpoint:
        yield endpoint


def ask(endpoint, method, path, body=None, headers=JSON):
    address = endpoint.address
    kind = UnixConnection if address.startswith("unix:") else http.client.HTTPConnection
    connection = kind(address.removeprefix("unix:"), timeout=20)
    payload = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request(method, path, payload, headers)
    reply = connection.getresponse()
    document = json.loads(reply.read())
    connection.close()
    return reply.status, document


def test_an_answer_is_that_of_the_agent(endpoint, agent):
    status, answer = ask(endpoint, "POST", "/v1/predict", {"id": "a", "x": [1, 2]})
    assert (status, answer["id"], answer["label"]) == (200, "a", "bad")
    assert answer["model"] == agent.running_sha256
    assert ask(endpoint, "POST", "/v1/predict", {"x": {"current": 2, "voltage": 1}})[1][
        "label"
    ] == ("good")
    assert ask(endpoint, "GET", "/v1/status")[1]["prediction_count"] == 2


def test_feedback_says_whether_the_answer_was_right(endpoint):
    ask(endpoint, "POST", "/v1/predict", {"id": "a", "x": [1, 2]})
    told = {"id": "a", "truth": "good"}
    assert ask(endpoint, "POST", "/v1/feedback", told) == (200, {"id": "a", "correct": False})
    status, answer = ask(endpoint, "POST", "/v1/feedback", told)
    assert (status, answer["error"]["error"]) == (404, "ConfigError")
    assert ask(endpoint, "POST", "/v1/feedback", {"id": "a"})[0] == 400


def test_a_socket_only_its_group_may_open(agent, tmp_path):
    path = tmp_path / "agent.sock"
    with Endpoint(agent, f"unix:{path}") as endpoint:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert ask(endpoint, "POST", "/v1/predict", {"x": [1, 2]})[0] == 200
        with pytest.raises(EnvironmentFaultError, match="in use"):
            Endpoint(agent, f"unix:{path}")
    assert not path.exists()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with Endpoint(agent, f"unix:{path}") as endpoint:
        assert ask(endpoint, "GET", "/v1/status")[0] == 200


@pytest.mark.parametrize("address", ["0.0.0.0:8000", "192.168.1.5:80", "8000", "localhost:x", ""])
def test_only_this_machine_may_ask(agent, address):
    with pytest.raises(ConfigError, match="this machine alone"):
        Endpoint(agent, address)


@pytest.mark.parametrize(
    ("request_line", "body", "headers", "status"),
    [
        ("POST /v1/predict", b"{", JSON, 400),
        ("POST /v1/predict", b'{"x": [1]}', JSON, 400),
        ("POST /v1/predict", b'{"x": ["a", "b"]}', JSON, 400),
        ("POST /v1/predict", b"not an image", {"Content-Type": "image/png"}, 400),
        # What a web page can send without asking for permission first.
        ("POST /v1/predict", b'{"x": [1, 2]}', {"Content-Type": "text/plain"}, 415),
        ("POST /v1/predict", b"x=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST /v1/predict", b"", {**JSON, "Content-Length": str(MAX_BODY_BYTES + 1)}, 413),
        ("POST /v1/predict", b"", {**JSON, "Content-Length": "many"}, 411),
        ("POST /v1/nothing", b"{}", JSON, 404),
        ("GET /", None, {}, 404),
    ],
)
def test_what_cannot_be_taken_is_said(endpoint, request_line, body, headers, status):
    said, document = ask(endpoint, *request_line.split(), body, headers)
    assert said == status
    assert document["error"]["what"]
    assert document["error"]["advice"]
    assert ask(endpoint, "POST", "/v1/predict", {"x": [1, 2]})[0] == 200


def test_many_ask_at_once_and_each_gets_its_answer(endpoint, agent):
    def one(number):
        body = {"id": str(number), "x": [number % 2, 1 - number % 2]}
        return ask(endpoint, "POST", "/v1/predict", body)[1]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(200)))
    assert [answer["id"] for answer in answers] == [str(number) for number in range(200)]
    assert [answer["label"] for answer in answers] == ["bad", "good"] * 100
    assert agent.status.prediction_count == 200


def test_a_client_that_hangs_up_disturbs_nobody(endpoint):
    host, port = endpoint.address.split(":")
    with socket.create_connection((host, int(port))) as rude:
        rude.sendall(b"POST /v1/predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert ask(endpoint, "GET", "/v1/status")[0] == 200


def test_the_description_names_what_is_answered(endpoint):
    described = openapi()
    assert ask(endpoint, "GET", "/v1/openapi.json") == (200, described)
    answer = ask(endpoint, "POST", "/v1/predict", {"x": [1, 2]})[1]
    assert set(answer) == set(described["components"]["schemas"]["Answer"]["required"])
    paths = set(described["paths"])
    assert paths == {"/v1/predict", "/v1/feedback", "/v1/status", "/v1/openapi.json"}


def test_the_agent_as_a_process_serves_only_its_endpoint(tmp_path):
    path = tmp_path / "agent.sock"
    settings = f'[endpoint]\nlisten = ["unix:{path}"]\n'
    device = Device(tmp_path / "device", settings=settings)
    command = [sys.executable, "-m", "fieldloop_device.cli", "run", "--root", str(device.path)]
    with subprocess.Popen([*command, "--source", "none"], stderr=subprocess.PIPE) as process:
        try:
            expected = f"listening on unix:{path}\n".encode()
            assert expected in iter(process.stderr.readline, b"")
            connection = UnixConnection(str(path))
            connection.request("POST", "/v1/predict", b'{"x": [1, 2]}', JSON)
            assert json.loads(connection.getresponse().read())["label"] == "bad"
            # It stays connected: a program that asks now and then does not hold the agent up.
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
    connection.close()
    assert not path.exists()


@pytest.mark.parametrize("raw", [[True, 2.0], {"current": 1.0, "voltage": False}])
def test_true_is_no_number(endpoint, agent, raw):
    status, answer = ask(endpoint, "POST", "/v1/predict", {"x": raw})
    assert status == 400
    assert "came where a number belongs" in answer["error"]["what"]
    assert "feature" in answer["error"]["where"]
    assert agent.serving.rejected_count == 1
