import os
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.engine.model import (
    DnsAnswers,
    HaproxyRuns,
    HttpReturns,
    Probe,
    ProbeResult,
    SshGreets,
    TcpAccepts,
    UnitActive,
)
from agent.system.netlink import Netlink
from agent.system.probes import Prober
from agent.system.units import Units
from tests.unit.system.server import serving, tcp, unix

LOOPBACK = ip_address("127.0.0.1")
UNIT = "some.service"


@pytest.fixture
def prober() -> Iterator[Prober]:
    netlink = Netlink()
    yield Prober(netlink, Units(bus="unix:path=/no/such/bus"))
    netlink.close()


def ask(prober: Prober, probe: Probe, timeout: float = 0.2) -> ProbeResult:
    (result,) = prober.run([probe], timeout)
    assert result.probe == probe
    return result


def page(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_no_probes_have_no_results(prober: Prober) -> None:
    assert prober.run([], 1.0) == ()


def test_page_must_have_the_status_and_the_body(prober: Prober) -> None:
    listener = tcp()
    port = listener.getsockname()[1]
    with serving(listener, lambda _: page("200 OK", "1a2b")) as asked:
        assert ask(prober, HttpReturns(UNIT, LOOPBACK, port, "/witness", body="1a2b")).passed
        assert ask(prober, HttpReturns(UNIT, LOOPBACK, port, "/witness")).passed
        other = ask(prober, HttpReturns(UNIT, LOOPBACK, port, "/witness", body="3c4d"))
        assert not other.passed
        assert "1a2b" in other.detail
        missing = ask(prober, HttpReturns(UNIT, LOOPBACK, port, "/witness", status=404))
        assert (missing.passed, missing.detail) == (False, "/witness has status 200, not 404")
    assert asked[0].startswith(b"GET /witness HTTP/1.0\r\n")


def test_port_that_nobody_listens_on_does_not_accept(prober: Prober) -> None:
    listener = tcp()
    port = listener.getsockname()[1]
    probe = TcpAccepts(UNIT, LOOPBACK, port)
    assert ask(prober, probe).passed
    listener.close()
    refused = ask(prober, probe)
    assert not refused.passed
    assert "refused" in refused.detail


def test_probe_is_asked_again_until_it_passes(prober: Prober) -> None:
    listener = tcp()
    bodies = [page("503 Busy", ""), page("200 OK", "old"), page("200 OK", "new")]
    port = listener.getsockname()[1]
    with serving(listener, lambda _: bodies.pop(0) if len(bodies) > 1 else bodies[0]):
        assert ask(prober, HttpReturns(UNIT, LOOPBACK, port, "/", body="new"), 10.0).passed


def test_probes_are_asked_at_once_and_answered_in_order(prober: Prober) -> None:
    silent = socket.create_server(("127.0.0.1", 0), backlog=8)
    port = silent.getsockname()[1]
    probes = [HttpReturns(UNIT, LOOPBACK, port, f"/{number}") for number in range(4)]
    begin = time.monotonic()
    results = prober.run([*probes, TcpAccepts(UNIT, LOOPBACK, port)], 0.5)
    assert time.monotonic() - begin < 6.0
    silent.close()
    assert [result.probe for result in results] == [*probes, TcpAccepts(UNIT, LOOPBACK, port)]
    assert [result.passed for result in results] == [False] * 4 + [True]


def test_haproxy_must_have_the_witness(prober: Prober, tmp_path: Path) -> None:
    path = str(tmp_path / "stats")
    with serving(unix(path), lambda _: b"Name: HAProxy\nDescription: 1a2b\n\n"):
        assert ask(prober, HaproxyRuns(UNIT, path, "1a2b")).passed
        other = ask(prober, HaproxyRuns(UNIT, path, "3c4d"))
    assert (other.passed, other.detail) == (False, "haproxy runs 1a2b, not 3c4d")
    assert not ask(prober, HaproxyRuns(UNIT, path, "1a2b")).passed


def test_systemd_that_does_not_answer_is_a_probe_that_fails(prober: Prober) -> None:
    result = ask(prober, UnitActive(UNIT))
    assert not result.passed
    assert "bus" in result.detail


def test_threads_end_with_the_probes(prober: Prober) -> None:
    before = threading.active_count()
    prober.run([TcpAccepts(UNIT, LOOPBACK, 9)] * 8, 0.05)
    assert threading.active_count() == before


def test_silence_and_a_wrong_answer_are_two_things(prober: Prober) -> None:
    listener = tcp()
    port = listener.getsockname()[1]
    with serving(listener, lambda _: page("200 OK", "1a2b")):
        right = prober.once(HttpReturns(UNIT, LOOPBACK, port, "/x"), 1.0)
        assert (right.passed, right.answered) == (True, True)
        wrong = prober.once(HttpReturns(UNIT, LOOPBACK, port, "/x", status=204), 1.0)
        assert (wrong.passed, wrong.answered) == (False, True)
    refused = prober.once(HttpReturns(UNIT, LOOPBACK, port, "/x"), 1.0)
    assert (refused.passed, refused.answered, refused.blameless) == (False, False, False)


def test_ssh_server_greets(prober: Prober) -> None:
    listener = tcp()
    probe = SshGreets(UNIT, LOOPBACK, listener.getsockname()[1])
    said = [b"SSH-2.0-x\r\n", b"220 mail\r\n"]

    def serve() -> None:
        for words in said:
            peer, _ = listener.accept()
            peer.sendall(words)
            peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert prober.once(probe, 1.0).passed
    assert not prober.once(probe, 1.0).passed
    thread.join()
    listener.close()


def test_dns_is_asked_and_what_it_says_is_compared(prober: Prober) -> None:
    """A server of few words, whose answer is the question and an address."""
    pid = os.getpid()  # port 53 of an address that no other run of the tests takes
    home = ip_address(f"127.{1 + pid // 250 % 250}.{1 + pid % 250}.2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((str(home), 53)) if os.geteuid() == 0 else pytest.skip("port 53 is root's")

        def serve() -> None:
            for code in (0, 0, 3):
                query, peer = server.recvfrom(512)
                header = query[:2] + bytes([0x85, 0x80 | code]) + b"\0\1\0\1\0\0\0\0"
                answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + ip_address("192.0.2.1").packed
                server.sendto(header + query[12:] + answer, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert prober.once(DnsAnswers(UNIT, home, "x.invalid", ("192.0.2.1",)), 10.0).passed
        other = prober.once(DnsAnswers(UNIT, home, "x.invalid", ("192.0.2.9",)), 10.0)
        assert (other.passed, other.answered) == (False, True)
        missing = prober.once(DnsAnswers(UNIT, home, "x.invalid", ("192.0.2.1",)), 10.0)
        assert (missing.passed, missing.answered) == (False, True)
        thread.join()
        silent = prober.once(DnsAnswers(UNIT, home, "x.invalid"), 0.1)
        assert (silent.passed, silent.answered, silent.blameless) == (False, False, False)
