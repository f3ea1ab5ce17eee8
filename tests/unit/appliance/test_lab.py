"""The lab's parts that need no root: processes, state, HTTP, the small server, the lease note."""

import json
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from agent.system.run import run
from appliance.errors import ApplianceError
from appliance.lab import lease_note, state
from appliance.lab.http import exchange, payload
from appliance.lab.node import lease
from appliance.lab.process import Identity, spawn
from appliance.lab.rows import rows
from appliance.lab.state import Container, Settings, Status
from appliance.lab.wait import TookTooLong, wait_until


def test_a_process_is_known_by_its_start_and_not_its_number() -> None:
    process = spawn(["sleep", "60"])
    identity = Identity.of(process.pid)
    assert identity is not None
    assert identity.alive
    stranger = Identity(identity.pid, identity.started + 1)
    assert not stranger.alive
    stranger.send(signal.SIGKILL)
    assert Identity.of(process.pid) == identity
    identity.send(signal.SIGKILL)
    assert identity.wait(5)
    process.wait()
    assert Identity.of(process.pid) is None
    identity.send(signal.SIGKILL)


def test_rows_are_whole_while_somebody_writes_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert rows(path) == ()
    said = '{"name": "ä"}\n{"name": "b"}\n'.encode()
    for length in range(len(said) + 1):
        path.write_bytes(said[:length])
        whole = said[:length].count(b"\n")
        assert rows(path) == ({"name": "ä"}, {"name": "b"})[:whole]


def test_a_container_remembers_what_it_is_and_what_runs(tmp_path: Path) -> None:
    container = Container(tmp_path)
    assert container.status() == Status()
    settings = Settings("lab", "vm", "router", ["/a", "/b"])
    container.configure(settings)
    assert container.settings() == settings
    status = Status(3, Identity(1, 2), None, Identity(3, 4))
    container.report(status)
    assert container.status() == status


@pytest.mark.parametrize("name", ["", "a-b", "A", "1a", "a" * 22, "a/b"])
def test_a_name_that_cannot_be_a_part_of_names_is_refused(name: str) -> None:
    assert not state.NAME.fullmatch(name)


def test_waiting_ends_with_what_was_waited_for() -> None:
    values = iter(["", "", "here"])
    assert wait_until(lambda: next(values), 5, "a value", every=0) == "here"
    with pytest.raises(TookTooLong, match="the impossible: not within 0 s"):
        wait_until(lambda: False, 0, "the impossible", every=0)


def test_a_request_over_an_open_socket() -> None:
    ours, theirs = socket.socketpair()
    seen: list[bytes] = []

    def serve() -> None:
        with theirs:
            request = theirs.recv(65536)
            while not request.endswith(b"}"):
                request += theirs.recv(65536)
            seen.append(request)
            theirs.sendall(b'HTTP/1.1 409 Conflict\r\nETag: "x"\r\nContent-Length: 2\r\n\r\n{}')

    thread = threading.Thread(target=serve)
    thread.start()
    body, headers = payload({"a": 1}, None)
    answer = exchange(ours, "PUT", "/v1/document", body=body, headers=headers)
    thread.join()
    assert (answer.status, answer.headers["etag"], answer.json()) == (409, '"x"', {})
    assert seen[0].startswith(b"PUT /v1/document HTTP/1.1\r\n")
    assert b"Content-Type: application/json" in seen[0]


def test_the_lease_note_holds_what_the_client_was_told(tmp_path: Path) -> None:
    script = tmp_path / "lease-note"
    script.write_text(Path(lease_note.__file__).read_text())
    run([sys.executable, "-IS", str(script), "deconfig"], timeout=10)
    assert not (tmp_path / "lease.json").exists()
    told = {"ip": "10.1.1.10", "mask": "24", "dns": "10.1.1.1", "mtu": "1450", "lease": "60"}
    told |= {"router": "10.1.1.1", "staticroutes": "0.0.0.0/0 10.1.1.1 10.2.0.0/16 10.1.1.2"}
    run([sys.executable, "-IS", str(script), "bound"], timeout=10, env=told)
    given = json.loads((tmp_path / "lease.json").read_text())
    assert given["event"] == "bound"
    found = lease(given)
    assert (found.address, found.prefix, found.mtu, found.seconds) == ("10.1.1.10", 24, 1450, 60)
    assert found.routes == (("0.0.0.0/0", "10.1.1.1"), ("10.2.0.0/16", "10.1.1.2"))


def test_an_error_says_what_to_do_next() -> None:
    assert str(ApplianceError("no lab", "sysvm lab up")) == "no lab (sysvm lab up)"
