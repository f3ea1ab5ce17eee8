"""waitress on the Unix socket: who may connect, what is too much, who is at the other end."""

import concurrent.futures
import contextlib
import errno
import json
import logging
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.api.server import Door, listen
from tests.unit.api.fake import FakeEngine, FakeMachine, document
from tests.unit.api.serving import serving


@pytest.fixture
def control(tmp_path: Path, engine: FakeEngine, machine: FakeMachine) -> Iterator[Path]:
    with serving(tmp_path / "run" / "control.sock", engine, machine) as path:
        yield path


def exchange(path: Path, request: bytes, more: bytes = b"", times: int = 0) -> tuple[int, Any]:
    """Send raw bytes; status and JSON of the answer."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        answer = b""
        with contextlib.suppress(BrokenPipeError):  # it has answered before it has read everything
            peer.sendall(request)
            for _ in range(times):
                peer.sendall(more)
        with contextlib.suppress(ConnectionResetError):  # closed, with some of that unread
            while chunk := peer.recv(65536):
                answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def put(path: Path, body: bytes) -> tuple[int, Any]:
    header = f"PUT /v1/document HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return exchange(path, header + body)


def test_socket_is_for_root_and_its_group(control: Path) -> None:
    status = control.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert status.st_uid == os.getuid()
    assert [path.name for path in control.parent.iterdir()] == ["control.sock"]


def test_second_start_takes_the_name_over(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    first, second = listen(path, group=None), listen(path, group=None)
    second.settimeout(5)
    with first, second, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        second.accept()[0].close()


def test_answers_over_the_socket(control: Path) -> None:
    status, answer = put(control, document())
    assert (status, answer["result"]) == (201, "committed")


def test_log_names_the_process_at_the_other_end(
    control: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(control, document())
    assert f"by uid {os.getuid()} pid {os.getpid()}: committed" in caplog.text


def test_64_mb_are_refused_before_they_are_read(control: Path, engine: FakeEngine) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    size = 64 * 2**20
    header = f"PUT /v1/document HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    status, problem = exchange(control, header, b" " * 2**20, 64)
    assert (status, problem["type"]) == (413, "/v1/problems/too-large")
    assert problem["status"] == 413
    assert time.monotonic() - began < 5  # generous: the machine may be busy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB
    assert engine.calls == []


def test_64_mb_in_chunks_are_refused_on_the_way(control: Path, engine: FakeEngine) -> None:
    header = b"PUT /v1/document HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    status, problem = exchange(control, header, chunk, 64)
    assert (status, problem["type"]) == (413, "/v1/problems/too-large")
    assert engine.calls == []


def test_header_has_a_limit(control: Path) -> None:
    request = b"GET /v1/status HTTP/1.0\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n"
    status, problem = exchange(control, request)
    assert (status, problem["type"]) == (431, "/v1/problems/headers-too-large")


def test_what_is_not_http_is_a_problem_too(control: Path) -> None:
    status, problem = exchange(control, b"PUT /v1/document\x00 nonsense\r\nA b\r\n\r\n")
    assert (status, problem["type"]) == (400, "/v1/problems/bad-request")


def test_deep_json_is_refused_at_once(control: Path) -> None:
    began = time.monotonic()
    status, problem = put(control, b"[" * 100_000)
    assert (status, problem["type"]) == (400, "/v1/problems/not-json")
    assert time.monotonic() - began < 5  # generous: the machine may be busy


def test_client_that_goes_away_in_the_middle_changes_nothing(
    control: Path, engine: FakeEngine
) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(control))
        peer.sendall(b"PUT /v1/document HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert put(control, document())[0] == 201
    assert engine.calls == ["push"]


def test_hundred_pushes_at_once_are_all_answered(control: Path, engine: FakeEngine) -> None:
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda g: put(control, document(g)), range(1, 101)))
    assert {status for status, _ in answers} <= {200, 201, 409}
    assert engine.state().generation == 100


def test_importing_the_endpoint_is_cheap() -> None:
    """Flask and pydantic, and nothing that only one operation needs."""
    code = (
        "import sys, agent.api.app, agent.api.server\n"
        "heavy = {'psutil', 'pyroute2', 'jeepney', 'dns', 'iptc', 'cryptography', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class FullListener:
    """As a listening socket, where there is no descriptor left for every other client."""

    def __init__(self) -> None:
        self.full = True
        self.clients: list[socket.socket] = []
        self._spared = False

    def accept(self) -> tuple[socket.socket, str]:
        if self.full and not self._spared:
            self._spared = True  # the second try is with the spare one's number
            raise OSError(errno.EMFILE, "Too many open files")
        self._spared = False
        ours, theirs = socket.socketpair()
        self.clients.append(theirs)
        return ours, ""


def test_a_client_for_whom_there_is_no_descriptor_is_sent_away_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener: Any = FullListener()
    door = Door(listener)
    for _ in range(3):
        assert door.accept() is None
    for client in listener.clients:
        assert client.recv(1) == b""  # closed, and not left to wait
    listener.full = False
    found = door.accept()
    assert found is not None
    found[0].close()
    told = [record.message for record in caplog.records if record.name == "agent.api.server"]
    assert [message.split(":")[0] for message in told] == [
        "clients are sent away",
        "clients are taken in again",
    ]
    listener.full = True
    assert door.accept() is None
