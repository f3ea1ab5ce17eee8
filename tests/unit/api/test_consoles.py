"""Console sessions over the endpoint: what passes to the proxy, and what is refused before."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from agent.api.ports import MachineFailed
from agent.console import wire
from agent.console.sessions import Clipboard, Session
from appliance.lab.pki import Authority
from tests.unit.api.fake import FakeMachine

PATH = "/v1/console/sessions/s1"
AUTHORITY = Authority.create("hypervisors")
CLIENT = AUTHORITY.issue("proxy")
SESSION: dict[str, Any] = {
    "secret_sha256": "ab" * 32,
    "vm": "i-2-10-VM",
    "user": "alice@example",
    "target": {"address": "10.2.0.7", "port": 5901},
}
FULL: dict[str, Any] = SESSION | {
    "title": "Büro-PC 1",
    "target": {"kind": "connect", "address": "10.2.0.7", "port": 443, "path": "/console?uuid=1"}
    | {"name": "xen7.example"},
    "credentials": {
        "password": "session",
        "ca": AUTHORITY.identity.certificate,
        "certificate": CLIENT.certificate,
        "key": CLIENT.key,
    },
    "policy": {"view_only": True, "clipboard": "none", "source": "192.0.2.7/32", "idle": 60},
    "valid": 30,
}


def put(client: FlaskClient, value: object) -> tuple[int, dict[str, Any]]:
    response = client.put(PATH, data=json.dumps(value))
    return response.status_code, response.get_json(force=True)


def pushed(machine: FakeMachine) -> Session:
    """The session as the proxy understands it."""
    (message,) = machine.consoles
    assert message["op"] == "put"
    value: Any = message["session"]
    return wire.session(json.loads(json.dumps(value)))


def test_a_session_is_what_the_proxy_understands(client: FlaskClient, machine: FakeMachine) -> None:
    assert put(client, SESSION) == (201, {"id": "s1", "result": "created"})
    session = pushed(machine)
    assert (session.id, session.vm, session.valid) == ("s1", "i-2-10-VM", 60)
    assert (session.policy.idle, session.policy.lifetime) == (1800, 43200)
    assert session.title == "i-2-10-VM"  # and not what the hypervisor calls its screen


def test_every_field_arrives(client: FlaskClient, machine: FakeMachine) -> None:
    assert put(client, FULL)[0] == 201
    session = pushed(machine)
    assert wire.session(wire.unsession(session)) == session
    assert (session.title, session.target.name) == ("Büro-PC 1", "xen7.example")
    assert session.policy.clipboard is Clipboard.NONE
    assert session.credentials.key == CLIENT.key


def test_the_same_session_again_is_no_new_one(client: FlaskClient, machine: FakeMachine) -> None:
    machine.console_says = {"result": "unchanged"}
    assert put(client, SESSION) == (200, {"id": "s1", "result": "unchanged"})


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"secret_sha256": "secret"}, "/secret_sha256"),
        ({"user": "alice\nERROR forged"}, "/user"),
        ({"vm": ""}, "/vm"),
        ({"title": "a\u2028b"}, "/title"),
        ({"target": {"address": "kvm7.example", "port": 5900}}, "/target/address"),
        ({"target": {"address": "10.2.0.7", "port": 0}}, "/target/port"),
        ({"target": SESSION["target"] | {"path": "/a b\r\nX: y"}}, "/target/path"),
        ({"target": SESSION["target"] | {"kind": "connect"}}, "/target/path"),
        ({"target": SESSION["target"] | {"kind": "rdp"}}, "/target/kind"),
        ({"credentials": {"certificate": CLIENT.certificate}}, "/credentials/key"),
        ({"credentials": {"key": "<secret>"}}, "/credentials/key"),
        ({"policy": {"idle": -1}}, "/policy/idle"),
        ({"policy": {"clipboard": "sometimes"}}, "/policy/clipboard"),
        ({"valid": 3600}, "/valid"),
        ({"more": 1}, "/more"),
    ],
)
def test_what_is_refused_never_reaches_the_proxy(
    client: FlaskClient, machine: FakeMachine, change: dict[str, Any], path: str
) -> None:
    status, problem = put(client, SESSION | change)
    assert status == 422
    assert problem["type"] == "/v1/problems/session-refused"
    assert path in [found["path"] for found in problem["problems"]]
    assert machine.consoles == []


def test_hyper_v_is_told_that_it_is_not_built(client: FlaskClient) -> None:
    _, problem = put(client, SESSION | {"target": SESSION["target"] | {"kind": "rdp"}})
    assert [(found["path"], found["message"], found["hint"]) for found in problem["problems"]] == [
        ("/target/kind", "is not built", "Hyper-V's consoles are RDP; this proxy speaks VNC alone")
    ]


def test_all_problems_come_at_once(client: FlaskClient) -> None:
    _, problem = put(client, {"target": {"address": "10.2.0.7"}, "policy": {"idle": "x"}})
    assert [found["path"] for found in problem["problems"]] == [
        "/policy/idle", "/secret_sha256", "/target/port", "/user", "/vm",
    ]  # fmt: skip


def test_what_the_proxy_refuses_is_told(client: FlaskClient, machine: FakeMachine) -> None:
    machine.console_says = {"error": "refused", "detail": "10.2.0.7 is in a guest network"}
    status, problem = put(client, SESSION)
    assert (status, problem["detail"]) == (422, "10.2.0.7 is in a guest network")


@pytest.mark.parametrize("name", ["-s1", "a" * 64, "a b"])
def test_names_that_are_none(client: FlaskClient, name: str) -> None:
    assert client.put(f"/v1/console/sessions/{name}", data=json.dumps(SESSION)).status_code == 400


def test_no_credential_is_in_an_answer_or_the_log(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        put(client, FULL)
        put(client, FULL | {"vm": ""})
        shown = client.get(PATH).get_data(as_text=True) + caplog.text
    assert "PRIVATE" not in shown
    assert "ab" * 32 not in shown


def test_a_session_is_ended(client: FlaskClient, machine: FakeMachine) -> None:
    machine.console_says = {"result": "ended"}
    assert client.delete(PATH).get_json(force=True) == {"id": "s1", "result": "ended"}
    machine.console_says = {"error": "unknown"}
    for response in (client.delete(PATH), client.get(PATH)):
        assert response.status_code == 404
        assert response.get_json(force=True)["type"] == "/v1/problems/no-such-session"


@pytest.mark.parametrize(("body", "within"), [("", 300), ('{"within": 5}', 5)])
def test_a_drain(client: FlaskClient, machine: FakeMachine, body: str, within: int) -> None:
    assert client.post("/v1/console/drain", data=body).status_code == 200
    assert machine.consoles == [{"op": "drain", "within": within}]
    assert client.delete("/v1/console/drain").status_code == 200
    assert machine.consoles[1:] == [{"op": "undrain"}]


@pytest.mark.parametrize("body", ['{"within": -1}', '{"within": "5"}', "[]", '{"now": 1}'])
def test_drains_that_are_none(client: FlaskClient, machine: FakeMachine, body: str) -> None:
    assert client.post("/v1/console/drain", data=body).status_code == 400
    assert machine.consoles == []


def test_where_no_proxy_runs_that_is_said(client: FlaskClient, machine: FakeMachine) -> None:
    machine.fails = MachineFailed("ask the console proxy", "No such file or directory")
    response = client.get("/v1/console/sessions")
    assert response.status_code == 502
    assert "ask the console proxy" in response.get_json(force=True)["detail"]


def test_reports_come_as_they_are_made(client: FlaskClient) -> None:
    response = client.get("/v1/console/reports")
    assert response.content_type == "text/event-stream"
    lines = response.get_data(as_text=True).split("\n\n")
    first, second, rest = lines
    assert json.loads(first.removeprefix("data: "))["ended"] == []
    (ended,) = json.loads(second.removeprefix("data: "))["ended"]
    assert (ended["id"], ended["state"], ended["why"]) == ("s1", "ended", "closed by the user")
    assert rest == ""


def test_reports_of_a_proxy_that_does_not_run_are_a_problem(
    client: FlaskClient, machine: FakeMachine
) -> None:
    machine.fails = MachineFailed("watch the console proxy", "No such file or directory")
    assert client.get("/v1/console/reports").status_code == 502
    assert client.get("/v1/console/reports").status_code == 200
