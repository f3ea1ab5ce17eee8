"""Events over the endpoint: pages, waiting, Server-Sent Events, acknowledgements."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.api import events
from agent.api.streams import SLOTS
from agent.monitor.events import Kind
from appliance.lab.wait import wait_until
from tests.unit.api.fake import FakeEngine, FakeEvents, FakeMachine
from tests.unit.api.serving import serving


class Client:
    """One connection to the endpoint at a time for each request."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("vm", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(self.path))
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request(method, target, body, names)
        return connection.getresponse()

    def get(self, query: str = "", status: int = 200) -> Any:
        answer = self.open("GET", f"/v1/events{query}")
        assert answer.status == status
        return json.loads(answer.read())

    def acknowledge(self, body: object, status: int = 200) -> Any:
        answer = self.open("POST", "/v1/events/acknowledge", json.dumps(body).encode())
        assert answer.status == status
        return json.loads(answer.read())


@pytest.fixture
def kept() -> FakeEvents:
    return FakeEvents()


@pytest.fixture
def client(
    tmp_path: Path, engine: FakeEngine, machine: FakeMachine, kept: FakeEvents
) -> Iterator[Client]:
    with serving(tmp_path / "control.sock", engine, machine, kept) as path:
        yield Client(path)


def test_page_has_events_and_where_to_go_on(client: Client, kept: FakeEvents) -> None:
    for _ in range(3):
        kept.say()
    answer = client.get("?after=1&limit=1")
    row = answer["events"][0]
    assert (answer["stream"], answer["next"], answer["oldest"], answer["last"]) == ("s1", 2, 1, 3)
    assert row == {
        "seq": 2,
        "boot": "b1",
        "time": "2027-01-15T08:00:00.250Z",
        "monotonic": 1.5,
        "kind": "drift.found",
        "severity": "warning",
        "subject": "drift",
        "message": "it happened",
        "data": {},
    }
    assert client.get("?after=3")["events"] == []
    assert [row["seq"] for row in client.get("?tail=2")["events"]] == [2, 3]
    assert [row["seq"] for row in client.get("?after=3&stream=s0")["events"]] == [1, 2, 3]
    assert client.get("?severity=alert") == {**client.get("?after=3"), "next": 3}


@pytest.mark.parametrize(
    "query",
    ["?after=-1", "?after=x", "?limit=0", "?limit=1001", "?wait=61", "?severity=bad", "?stream=%0A",
     "?tail=1001", "?what=1"],
)  # fmt: skip
def test_query_that_makes_no_sense_is_refused(client: Client, query: str) -> None:
    assert client.get(query, 400)["type"] == "/v1/problems/bad-request"


def test_poll_answers_when_something_happens(client: Client, kept: FakeEvents) -> None:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.get("?wait=30")))
    thread.start()
    wait_until(lambda: kept.waiting, 5, "the agent waits")
    kept.say()
    thread.join(5)
    assert [row["seq"] for row in answers[0]["events"]] == [1]
    assert client.get("?after=1&wait=1")["events"] == []


def test_polls_leave_threads_for_others(client: Client, kept: FakeEvents) -> None:
    threads = [
        threading.Thread(target=client.get, args=("?wait=60",)) for _ in range(SLOTS["events"])
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: kept.waiting == SLOTS["events"], 5, "all of them wait")
    answer = client.open("GET", "/v1/events?wait=1")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert client.open("GET", "/v1/status").status == 200
    assert client.get("")["events"] == []  # whoever does not wait is served
    kept.say()
    for thread in threads:
        thread.join(5)
    assert client.get("?after=1&wait=1")["events"] == []


def read_event(answer: http.client.HTTPResponse) -> dict[str, str]:
    """The next event, past comments."""
    found: dict[str, str] = {}
    while True:
        line = answer.readline().decode().rstrip("\n")
        if not line and found:
            return found
        name, colon, value = line.partition(": ")
        if colon and name:
            found[name] = value


def test_stream_tells_events_as_they_come(client: Client, kept: FakeEvents) -> None:
    kept.say("before")
    answer = client.open("GET", "/v1/events/stream")
    assert answer.headers["Content-Type"] == "text/event-stream"
    first = read_event(answer)
    assert (first["id"], first["event"]) == ("s1:1", "drift.found")
    assert json.loads(first["data"])["message"] == "before"
    kept.say("after\nwards", Kind.DRIFT_OVER)
    second = read_event(answer)
    assert second["id"] == "s1:2"
    assert json.loads(second["data"])["message"] == "after wards"
    answer.close()
    again = client.open("GET", "/v1/events/stream", Last_Event_ID="s1:1")
    assert read_event(again)["id"] == "s1:2"
    another = client.open("GET", "/v1/events/stream?severity=warning", Last_Event_ID="s0:77")
    assert read_event(another)["id"] == "s1:1"


def test_silent_stream_says_that_it_is_still_there(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE", 0.1)
    answer = client.open("GET", "/v1/events/stream")
    assert answer.readline() == b": events of this VM\n"
    assert answer.readline() == b"\n"
    assert answer.readline() == b":\n"


def test_acknowledging(client: Client, kept: FakeEvents) -> None:
    for _ in range(3):
        kept.say()
    assert client.acknowledge({"stream": "s1", "seq": 2}) == {"stream": "s1", "seq": 2}
    assert client.acknowledge({"stream": "s1", "seq": 1}) == {"stream": "s1", "seq": 2}
    assert client.get()["acknowledged"] == 2
    for body in ({"stream": "s1", "seq": 4}, {"stream": "s2", "seq": 1}):
        assert client.acknowledge(body, 409)["type"] == "/v1/problems/no-such-event"
    for wrong in (
        b"[]",
        b'{"seq": 1}',
        b'{"stream": "s1", "seq": "1"}',
        b'{"stream": 1, "seq": 1}',
    ):
        assert client.open("POST", "/v1/events/acknowledge", wrong).status == 400
    assert kept.acknowledged == 2
