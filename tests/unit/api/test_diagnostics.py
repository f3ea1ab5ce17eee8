"""Tools over the endpoint: what is run, live and whole, within limits, until nobody listens."""

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from flask.testing import FlaskClient

from agent.api import openapi, problems
from agent.api.diagnostics import Diagnosis
from agent.api.ports import MachineFailed
from agent.api.streams import SLOTS
from appliance.lab.wait import wait_until
from tests.unit.api.answers import expect_problem
from tests.unit.api.fake import FakeEngine, FakeMachine
from tests.unit.api.serving import serving

GUEST = {"target": "10.1.1.10"}
SLEEPS = ["sh", "-c", "echo out; exec sleep 600"]


def post(client: FlaskClient, tool: str = "ping", query: str = "", **request: object) -> Any:
    return client.post(f"/v1/diagnostics/{tool}{query}", data=json.dumps({**GUEST, **request}))


# -- what is run -------------------------------------------------------------------------------


def test_tool_is_run_and_what_it_said_is_told(client: FlaskClient, machine: FakeMachine) -> None:
    response = post(client, arguments="-c 2", seconds=9)
    assert response.status_code == 200
    assert response.content_type == "application/json"
    answer = response.get_json()
    assert machine.tried == [(("ping", "-4", "-c", "2", "--", "10.1.1.10"), 9)]
    assert answer.pop("duration") > 0
    assert answer == {
        "argv": ["ping", "-4", "-c", "2", "--", "10.1.1.10"],
        "exit": 1,
        "reason": "exited",
        "timed_out": False,
        "truncated": False,
        "stdout": "out\n",
        "stderr": "err\n",
    }


def test_answer_is_as_described(client: FlaskClient) -> None:
    description: dict[str, Any] = dict(openapi.description())
    operation = description["paths"]["/v1/diagnostics/{tool}"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": description["components"]}
    jsonschema.validate(post(client).get_json(), whole, cls=jsonschema.Draft202012Validator)
    assert Diagnosis.__name__ in description["components"]["schemas"]
    request = operation["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(request)
    jsonschema.validate({**GUEST, "arguments": "-c 2"}, request)


def test_live_answer_has_a_line_for_everything(client: FlaskClient, machine: FakeMachine) -> None:
    machine.script = ["sh", "-c", r"printf 'a\303'; sleep 0.2; printf '\251\n'; sleep 2.5; exit 3"]
    response = post(client, query="?live=1")
    assert response.content_type == "application/jsonl"
    begun, *rounds, ended = map(json.loads, response.get_data().splitlines())
    said = [line for line in rounds if "text" in line]
    waiting = [line["elapsed"] for line in rounds if "elapsed" in line]
    assert begun["argv"][0] == "ping"
    assert "".join(line["text"] for line in said) == "aé\n"
    assert {line["stream"] for line in said} == {"stdout"}
    assert waiting
    assert waiting[0] > 2
    assert (ended["exit"], ended["reason"]) == (3, "exited")


def test_limits_of_time_and_output(client: FlaskClient, machine: FakeMachine) -> None:
    machine.script = SLEEPS
    answer = post(client, seconds=1).get_json()
    assert (answer["exit"], answer["reason"], answer["stdout"]) == (None, "time limit", "out\n")
    assert answer["timed_out"]
    assert answer["duration"] < 60
    machine.script = ["sh", "-c", "while :; do echo x; done"]
    answer = post(client).get_json()
    assert (answer["exit"], answer["reason"]) == (None, "output limit")
    assert answer["truncated"]
    assert len(answer["stdout"]) == 256 * 1024


def test_trying_is_no_change(client: FlaskClient) -> None:
    """It does not stand in the status as the last one."""
    post(client)
    assert client.get("/v1/status").get_json()["last"] is None


# -- what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "path", "words"),
    [
        ({"target": "10.1.1.10;id"}, "/target", "neither an address nor a name"),
        ({"target": "file:///etc/passwd"}, "/target", "neither an address nor a name"),
        ({}, "/target", "neither an address nor a name"),
        ({"target": 7}, "/target", "is a string"),
        ({**GUEST, "arguments": "-c 4; id"}, "/arguments", "illegal character ';' at place 5"),
        ({**GUEST, "arguments": ["-c"]}, "/arguments", "is a string"),
        ({**GUEST, "arguments": "--flood"}, "/arguments", "long options"),
        ({**GUEST, "arguments": "-c 1000000"}, "/arguments", "from 1 to 1000"),
        ({**GUEST, "arguments": "-I -f"}, "/arguments", "a NIC of this VM (eth2)"),
        ({**GUEST, "family": 5}, "/family", "is 4 or 6"),
        ({**GUEST, "family": True}, "/family", "whole number"),
        ({**GUEST, "seconds": 0}, "/seconds", "from 1 to 240"),
        ({**GUEST, "seconds": 241}, "/seconds", "from 1 to 240"),
        ({**GUEST, "argv": "x"}, "/argv", "not known"),
        ([], "", "is an object"),
    ],
)
def test_refused_request_runs_nothing(
    client: FlaskClient, machine: FakeMachine, request_: object, path: str, words: str
) -> None:
    response = client.post("/v1/diagnostics/ping", data=json.dumps(request_))
    body = expect_problem(response, problems.DIAGNOSTIC_REFUSED)
    assert body["problems"][0]["path"] == path
    assert words in body["problems"][0]["message"]
    assert machine.tried == []


# -- captures ----------------------------------------------------------------------------------

RECORD = r"\0\0\0\0\0\0\0\0\004\0\0\0\004\0\0\0abcd"
HEADER = r"\324\303\262\241\2\0\4\0\0\0\0\0\0\0\0\0\0\0\4\0\1\0\0\0"


def test_capture_is_a_file_of_whole_packets(client: FlaskClient, machine: FakeMachine) -> None:
    machine.script = ["sh", "-c", f"printf '{HEADER}{RECORD}'; echo listening >&2; printf ab"]
    body = {"nic": "eth2", "hosts": ["10.1.1.10"], "ports": [53], "seconds": 7}
    response = client.post("/v1/diagnostics/capture", data=json.dumps(body))
    assert response.status_code == 200
    assert response.content_type == "application/vnd.tcpdump.pcap"
    assert len(response.get_data()) == 24 + 20
    ((argv, seconds),) = machine.tried
    assert seconds == 7
    assert " ".join(argv).endswith("host 10.1.1.10 and (port 53) and "
                                   "not (tcp port 3922 or tcp port 8443)")  # fmt: skip


def test_capture_that_cannot_begin_says_why(client: FlaskClient, machine: FakeMachine) -> None:
    machine.script = ["sh", "-c", "echo 'tcpdump: eth2: no such device' >&2; exit 1"]
    response = client.post("/v1/diagnostics/capture", data=b'{"nic": "eth2"}')
    body = expect_problem(response, problems.MACHINE_FAILED)
    assert "no such device" in body["detail"]
    for wrong in ({"nic": "eth9"}, {"nic": "eth2", "ports": ["1"]}, {"nic": "eth2", "x": 1}, {}):
        response = client.post("/v1/diagnostics/capture", data=json.dumps(wrong))
        expect_problem(response, problems.DIAGNOSTIC_REFUSED)
    assert len(machine.tried) == 1


def test_other_refusals(client: FlaskClient, machine: FakeMachine) -> None:
    expect_problem(post(client, tool="nmap"), problems.UNKNOWN_PATH)
    expect_problem(client.post("/v1/diagnostics/ping", data=b"{"), problems.NOT_JSON)
    expect_problem(client.post("/v1/diagnostics/ping", data=b" " * 20_000), problems.TOO_LARGE)
    expect_problem(post(client, query="?live=yes"), problems.BAD_REQUEST)
    assert client.get("/v1/diagnostics/ping").status_code == 405
    machine.fails = MachineFailed("ping", "cannot be run")
    expect_problem(post(client), problems.MACHINE_FAILED)
    assert machine.tried == []


# -- over the socket ---------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path: Path, engine: FakeEngine, machine: FakeMachine) -> Iterator[Path]:
    with serving(tmp_path / "control.sock", engine, machine) as path:
        yield path


def ask(control: Path, query: str = "?live=1", **request: object) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("vm", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(str(control))
    connection.request("POST", f"/v1/diagnostics/ping{query}", json.dumps({**GUEST, **request}))
    return connection


def all_ended(machine: FakeMachine) -> bool:
    return all(running.returncode is not None for running in machine.running)


def test_output_is_there_before_the_end_and_nothing_after_it(
    control: Path, machine: FakeMachine
) -> None:
    machine.script = SLEEPS
    began = time.monotonic()
    connection = ask(control)
    answer = connection.getresponse()
    assert json.loads(answer.readline())["argv"][-1] == "10.1.1.10"
    assert json.loads(answer.readline()) == {"stream": "stdout", "text": "out\n"}
    assert time.monotonic() - began < 60
    answer.close()
    connection.close()
    wait_until(lambda: all_ended(machine), 30, "the tool is ended")


@pytest.mark.parametrize("query", ["", "?live=1"])
def test_client_that_leaves_ends_the_tool(control: Path, machine: FakeMachine, query: str) -> None:
    machine.script = ["sleep", "600"]
    connection = ask(control, query)
    wait_until(lambda: machine.running, 30, "it runs")
    os.kill(machine.running[0]._process.pid, 0)  # noqa: SLF001 - it is there
    connection.close()
    wait_until(lambda: all_ended(machine), 30, "the tool is ended")


def test_only_so_many_at_once(control: Path, machine: FakeMachine) -> None:
    machine.script = SLEEPS
    # An answer without a length owns its socket: to drop the answer is to hang up.
    held = [ask(control).getresponse() for _ in range(SLOTS["diagnostics"])]
    for response in held:
        response.readline()
    answer = ask(control).getresponse()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert json.loads(answer.read())["type"] == "/v1/problems/too-many-streams"
    assert len(machine.tried) == SLOTS["diagnostics"]
    held.pop().close()

    def again() -> bool:
        held.append(ask(control, seconds=1).getresponse())
        return held[-1].status == 200

    wait_until(again, 30, "there is room again")
    for response in held:
        response.close()
    wait_until(lambda: all_ended(machine), 30, "all are ended")
