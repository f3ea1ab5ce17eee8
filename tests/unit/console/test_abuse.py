"""Who breaks protocols, does not read, does not end, or comes too often."""

import socket
import ssl
import time
from pathlib import Path

import pytest

from appliance.lab.wait import wait_until
from tests.unit.console.rig import (
    KEY,
    Browser,
    Proxy,
    Screen,
    TurnedAway,
    exchange,
    get,
    make,
    running,
)


def test_old_tls_is_refused(proxy: Proxy) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", proxy.ports["tls"]), 10) as sock,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(sock)


@pytest.mark.parametrize(
    "liked", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"]
)
def test_a_browser_has_the_cipher_that_it_likes_best(proxy: Proxy, liked: str) -> None:
    context = ssl.create_default_context(cadata=proxy.authority.identity.certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose ciphers Python's client can order
    context.set_ciphers(f"{liked}:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256")
    with (
        socket.create_connection(("127.0.0.1", proxy.ports["tls"]), 10) as sock,
        context.wrap_socket(sock, server_hostname="console.example") as tls,
    ):
        assert (tls.cipher() or ("",))[0] == liked


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\x01a", 1002),  # not masked
        (b"\xc2\x81\0\0\0\0a", 1002),  # compressed
        (b"\x81\x81\0\0\0\0a", 1003),  # text
        (b"\x89\xfe\x00\x80\0\0\0\0", 1002),  # a ping of 128 bytes
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in pieces
        (b"\x80\x81\0\0\0\0a", 1002),  # a continuation of nothing
        (b"\x83\x80\0\0\0\0", 1002),  # an unknown kind
        (b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),  # a negative length
        (b"\x82\xff\0\0\0\0\x40\0\0\0\0\0\0\0", 1009),  # a gibibyte
    ],
)
def test_a_broken_frame_ends_its_session_with_the_right_code(
    proxy: Proxy, screen: Screen, request: pytest.FixtureRequest, frame: bytes, code: int
) -> None:
    name = f"frame-{abs(hash((frame, code)))}"
    browser = Browser(proxy, "plain", offer=proxy.offer(name, screen.port))
    browser.open()
    browser.sock.sendall(frame)
    assert browser.end()[0] == code
    wait_until(lambda: proxy.session(name) is None, 10, "the end")


def test_a_browser_that_does_not_read_costs_next_to_nothing(
    proxy: Proxy, screen: Screen, name: str
) -> None:
    browser = Browser(proxy, offer=proxy.offer(name, screen.port))
    browser.open()
    wait_until(lambda: screen.sockets, 10, "the screen")
    worker = worker_pid(proxy)
    before = resident(worker)
    sock = screen.sockets[-1]
    sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        sock.sendall(bytes(1 << 28))
    assert resident(worker) - before < 8 << 20  # of 256 MiB
    browser.say(KEY)  # and the other way still goes
    wait_until(lambda: screen.heard == KEY, 10, "a key")
    browser.sock.close()


def worker_pid(proxy: Proxy) -> int:
    assert proxy.process is not None
    children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text()
    return int(children.split()[0])


def resident(pid: int) -> int:
    """Bytes that are the process's own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def test_nobody_holds_on_to_half_a_handshake(proxy: Proxy) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", proxy.ports["tls"]), 30) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        assert sock.recv(1) == b""
        assert time.monotonic() - begun > 3


def test_nobody_holds_on_to_half_a_request(proxy: Proxy) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", proxy.ports["plain"]), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert sock.recv(1) == b""
        assert time.monotonic() - begun > 3


def test_limits_of_one_source(tmp_path: Path) -> None:
    with running(make(tmp_path, "plain", half_open=6, half_open_each=3)) as proxy:
        idle = [
            socket.create_connection(("127.0.0.1", proxy.ports["plain"]), 10, (source, 0))
            for source in ("127.0.0.2",) * 3
        ]
        with socket.create_connection(
            ("127.0.0.1", proxy.ports["plain"]), 10, ("127.0.0.2", 0)
        ) as s:
            assert s.recv(1) == b""
        assert exchange(proxy, "plain", get("/")).startswith(b"HTTP/1.1 200")
        for sock in idle:
            sock.close()


def test_half_open_connections_are_few_in_all(tmp_path: Path) -> None:
    with running(make(tmp_path, "plain", half_open=4, half_open_each=3)) as proxy:
        place = ("127.0.0.1", proxy.ports["plain"])
        idle = [socket.create_connection(place, 10, (f"127.0.0.{n}", 0)) for n in range(2, 6)]
        with socket.create_connection(place, 10, ("127.0.0.9", 0)) as late:
            assert late.recv(1) == b""
        idle.pop().close()
        wait_until(
            lambda: exchange(proxy, "plain", get("/")).startswith(b"HTTP/1.1 200"), 10, "room"
        )
        for sock in idle:
            sock.close()


def test_the_rate_of_one_source(tmp_path: Path) -> None:
    settings = {"handshakes_per_second": 0.001, "handshakes_burst": 2}
    with running(make(tmp_path, "plain", **settings)) as proxy:
        answers = [exchange(proxy, "plain", get("/")) for _ in range(4)]
        assert [bool(answer) for answer in answers] == [True, True, False, False]


def test_a_full_proxy_says_so_and_has_room_again(tmp_path: Path, screen: Screen) -> None:
    with running(make(tmp_path, "plain", cap=1)) as proxy:
        first = Browser(proxy, "plain", offer=proxy.offer("first", screen.port))
        first.open()
        offered = proxy.offer("second", screen.port)
        with pytest.raises(TurnedAway, match="full"):
            Browser(proxy, "plain", offer=offered).open()
        first.close()
        wait_until(lambda: proxy.session("first") is None, 10, "the end")
        assert Browser(proxy, "plain", offer=offered).open() == "web 1"


def test_behind_a_balancer_each_browser_counts_for_itself(tmp_path: Path) -> None:
    settings = {"balancers": ["127.0.0.1/32"], "half_open": 20, "half_open_each": 2}
    with running(make(tmp_path, "plain", **settings)) as proxy:

        def comes(source: str) -> socket.socket:
            sock = socket.create_connection(("127.0.0.1", proxy.ports["plain"]), 10)
            sock.sendall(f"PROXY TCP4 {source} 192.0.2.1 50000 443\r\n".encode())
            return sock

        idle = [comes(f"198.51.100.{number}") for number in range(1, 7)]
        with comes("198.51.100.9") as other:
            other.sendall(get("/"))
            assert other.recv(12) == b"HTTP/1.1 200"
        idle.append(comes("198.51.100.1"))
        with comes("198.51.100.1") as third:
            assert third.recv(1) == b""
        # Who never says who it is counts as the balancer's, and against the whole.
        silent = [socket.create_connection(("127.0.0.1", proxy.ports["plain"]), 10) for _ in "ab"]
        for sock in (*idle, *silent):
            sock.close()
