"""Long answers: their slots, who is told when they end, and that they never keep others out."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import flask
import pytest

from agent.api.app import respond
from agent.api.calls import Response
from agent.api.problems import Refusal, answer_to
from agent.api.server import Server, listen
from agent.api.streams import JSON_LINES, SLOTS, Stream, Streams
from appliance.lab.wait import wait_until
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine, FakeMachine

PURPOSE = "diagnostics"


class Source:
    """Parts that a test hands in one by one; says nothing (b"") while there are none."""

    def __init__(self) -> None:
        self.begun = False
        self.closed = threading.Event()
        self._more = threading.Condition()
        self._parts: list[bytes] = []

    @property
    def left(self) -> int:
        with self._more:
            return len(self._parts)

    def say(self, *parts: bytes) -> None:
        with self._more:
            self._parts += parts
            self._more.notify_all()

    def parts(self) -> Iterator[bytes]:
        self.begun = True
        try:
            while True:
                with self._more:
                    self._more.wait_for(lambda: self._parts, timeout=0.05)
                    part = self._parts.pop(0) if self._parts else b""
                if part == b"end":
                    return
                if part == b"fail":
                    raise OSError("gone wrong")
                yield part
        finally:
            self.closed.set()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def streams() -> Streams:
    return Streams({PURPOSE: 2})


def taken(streams: Streams) -> int:
    """How many slots are not free."""
    found: list[Stream] = []
    with contextlib.suppress(Refusal):
        while len(found) < 2:
            found.append(streams.open(PURPOSE, JSON_LINES, lambda: iter([b"x"])))
    for stream in found:
        stream.close()
    return 2 - len(found)


# -- slots -------------------------------------------------------------------------------------


def test_slots_are_finite_and_come_back(streams: Streams) -> None:
    first = streams.open(PURPOSE, JSON_LINES, lambda: iter([b"a", b"", b"b"]))
    streams.open(PURPOSE, JSON_LINES, lambda: iter([b"a"]))
    with pytest.raises(Refusal) as refused:
        streams.open(PURPOSE, JSON_LINES, lambda: iter([b"a"]))
    answer = answer_to(refused.value)
    assert answer is not None
    assert (answer.kind.status, answer.headers["Retry-After"]) == (503, "5")
    assert list(first) == [b"a", b"b"]
    assert taken(streams) == 1
    first.close()
    assert taken(streams) == 1


def test_stream_that_cannot_begin_takes_no_slot(streams: Streams) -> None:
    def begin() -> Iterator[bytes]:
        raise OSError("no such program")

    with pytest.raises(OSError, match="no such program"):
        streams.open(PURPOSE, JSON_LINES, begin)
    assert taken(streams) == 0


def test_stream_that_is_never_read_gives_its_slot_back(streams: Streams, source: Source) -> None:
    streams.open(PURPOSE, JSON_LINES, source.parts).close()
    assert taken(streams) == 0


def test_parts_are_closed_when_the_client_has_left(streams: Streams, source: Source) -> None:
    stream = streams.open(PURPOSE, JSON_LINES, source.parts)
    source.say(b"one")
    assert next(stream) == b"one"
    stream.gone = lambda: True
    assert list(stream) == []
    assert source.closed.is_set()
    assert taken(streams) == 0


def test_streams_end_with_the_server(streams: Streams, source: Source) -> None:
    stream = streams.open(PURPOSE, JSON_LINES, source.parts)
    streams.end()
    assert list(stream) == []
    assert source.closed.is_set()


def test_stream_without_a_server_is_its_parts() -> None:
    assert b"".join(Stream(JSON_LINES, iter([b"a", b"", b"b"]))) == b"ab"


# -- over the socket ---------------------------------------------------------------------------


class Client:
    """One connection with one answer."""

    def __init__(self, path: Path, target: str) -> None:
        self.connection = http.client.HTTPConnection("vm", timeout=60)
        self.connection.sock = socket.socket(socket.AF_UNIX)
        self.connection.sock.settimeout(60)
        self.connection.sock.connect(str(path))
        self.connection.request("GET", target)
        self.answer = self.connection.getresponse()

    def leave(self) -> None:
        self.answer.close()
        self.connection.close()


class Endpoint:
    """The endpoint with one more path, whose stream says `one` and then what a test hands in."""

    def __init__(self, path: Path, streams: Streams) -> None:
        self.path = path
        self.sources: list[Source] = []
        self._streams = streams

    def stream(self) -> flask.Response:
        source = Source()
        source.say(b"one\n")
        stream = self._streams.open(PURPOSE, JSON_LINES, source.parts)
        self.sources.append(source)
        return respond(Response(stream))

    def get(self, target: str = "/v1/test") -> Client:
        return Client(self.path, target)


@pytest.fixture
def endpoint(tmp_path: Path, engine: FakeEngine, machine: FakeMachine) -> Iterator[Endpoint]:
    streams = Streams()
    endpoint = Endpoint(tmp_path / "control.sock", streams)
    app = fake.app(engine, machine)
    app.add_url_rule("/v1/test", view_func=endpoint.stream, methods=["GET"])
    server = Server(app, listen(endpoint.path, group=None), streams)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield endpoint
    server.stop()
    thread.join(30)  # also where a stream is under way
    assert not thread.is_alive()
    assert all(source.closed.is_set() for source in endpoint.sources if source.begun)


def test_parts_arrive_as_they_come_and_then_the_end(endpoint: Endpoint) -> None:
    answer = endpoint.get().answer
    assert answer.headers["Content-Type"] == JSON_LINES
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.readline() == b"one\n"
    endpoint.sources[0].say(b"two\n", b"end")
    assert answer.read() == b"two\n"
    assert endpoint.sources[0].closed.wait(30)


def test_client_that_leaves_ends_its_stream(endpoint: Endpoint) -> None:
    """Also while there is nothing to say to it."""
    endpoint.get().leave()
    assert endpoint.sources[0].closed.wait(30)


def test_stream_that_fails_is_seen_to_be_incomplete(endpoint: Endpoint) -> None:
    client = endpoint.get()
    endpoint.sources[0].say(b"fail")
    with pytest.raises(http.client.IncompleteRead):
        client.answer.read()


def test_asking_for_the_head_alone_leaves_nothing_behind(endpoint: Endpoint) -> None:
    client = endpoint.get("/v1/schema")
    client.answer.read()
    client.connection.request("HEAD", "/v1/test")
    assert client.connection.getresponse().read() == b""
    client.leave()
    assert endpoint.get().answer.status == 200


def test_streams_never_take_the_threads_of_others(endpoint: Endpoint) -> None:
    held = [endpoint.get() for _ in range(SLOTS[PURPOSE])]
    busy = endpoint.get().answer
    assert (busy.status, busy.headers["Retry-After"]) == (503, "5")
    assert endpoint.get("/v1/schema").answer.status == 200
    for client in held:
        client.leave()
    assert all(source.closed.wait(30) for source in endpoint.sources)
    assert wait_until(lambda: endpoint.get().answer.status == 200, 30, "a slot is free")


def test_slow_client_holds_its_stream_back(endpoint: Endpoint) -> None:
    """What it does not read is not kept in memory, but for half a mebibyte."""
    client = endpoint.get()
    source = endpoint.sources[0]
    source.say(*[b"x" * 65536] * 1000)
    assert not source.closed.wait(1)
    assert source.left > 900
    client.leave()
    assert source.closed.wait(30)


def test_server_that_stops_ends_its_streams(endpoint: Endpoint) -> None:
    """The fixture stops it while this one is under way."""
    assert endpoint.get().answer.readline() == b"one\n"
