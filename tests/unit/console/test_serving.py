"""The page over the wire, and requests that are refused."""

import socket
import struct
from pathlib import Path

import pytest

from tests.unit.console.rig import (
    ORIGIN,
    Browser,
    Proxy,
    Screen,
    exchange,
    get,
    make,
    running,
)


def test_the_page_and_what_it_may_do(proxy: Proxy) -> None:
    answer = exchange(proxy, "tls", get("/"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    for line in (
        b"Content-Type: text/html; charset=utf-8",
        b"Referrer-Policy: no-referrer",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"Strict-Transport-Security: max-age=31536000",
        b"frame-ancestors 'none'",
    ):
        assert line in head
    assert b"console.js" in body
    script = exchange(proxy, "tls", get("/novnc/core/rfb.js"))
    assert b"text/javascript" in script
    etag = next(line for line in script.split(b"\r\n") if line.startswith(b"ETag: "))[6:]
    again = get("/novnc/core/rfb.js", f"If-None-Match: {etag.decode()}\r\n")
    assert exchange(proxy, "tls", again).startswith(b"HTTP/1.1 304")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/../../etc/passwd"), b"404"),
        (get("/novnc/../key.pem"), b"404"),
        (get("/novnc/core"), b"404"),
        (get("/%2e%2e/"), b"404"),
        (get("/", host="evil.example"), b"421"),
        (get("/", "X: a\r\nHost: console.example\r\n"), b"400"),
        (get("/", "X : a\r\n"), b"400"),
        (get("/", "X: a\r\n folded\r\n"), b"400"),
        (get("/", "X: a\nY: b\r\n"), b"400"),
        (get("/", "X: a\rb\r\n"), b"400"),
        (get("/", "Content-Length: 5\r\n"), b"400"),
        (get("/", "Transfer-Encoding: chunked\r\n"), b"400"),
        (get("/", "X: " + "a" * 9000 + "\r\n"), b"431"),
        (get("/", "X: a\r\n" * 100), b"431"),
        (get("/").replace(b"GET", b"POST"), b"405"),
        (get("/").replace(b"HTTP/1.1", b"HTTP/2.0"), b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
    ],
)
def test_requests_that_are_refused(proxy: Proxy, request_: bytes, status: bytes) -> None:
    assert exchange(proxy, "plain", request_).split(b" ")[1] == status


@pytest.mark.parametrize(
    "request_",
    [
        get("/echoed"),
        get("/?echoed=1"),
        get("/", host="echoed.example"),
        get("/", "Origin: https://echoed.example\r\nX-Echoed: echoed\r\n"),
        get("/socket?token=echoed", "Upgrade: websocket\r\nOrigin: https://echoed.example\r\n"),
        b"ECHOED / HTTP/1.1\r\nHost: console.example\r\n\r\n",
    ],
)
def test_nothing_of_a_request_is_in_its_answer(proxy: Proxy, request_: bytes) -> None:
    answer = exchange(proxy, "plain", request_)
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"echoed" not in answer.lower()


def test_a_browser_without_tls_is_sent_to_where_it_is(proxy: Proxy) -> None:
    answer = exchange(proxy, "redirect", get("//evil.example/"))
    assert answer.startswith(b"HTTP/1.1 308")
    assert f"Location: {ORIGIN}/\r\n".encode() in answer


def test_the_agents_probe_is_told_which_files_are_gone_by(proxy: Proxy) -> None:
    witness = proxy.settings["witness"]
    assert exchange(proxy, "status", get(f"/witness/{witness}")).startswith(b"HTTP/1.1 204")
    assert exchange(proxy, "status", get("/witness/other")).startswith(b"HTTP/1.1 404")
    assert exchange(proxy, "status", get("/")).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("kind", [1, 2])
def test_a_balancer_says_who_it_is_that_comes(tmp_path: Path, screen: Screen, kind: int) -> None:
    with running(make(tmp_path, "tls", balancers=["127.0.0.1/32"])) as proxy:
        offered = proxy.offer("s1", screen.port, policy={"source": "198.51.100.7/32"})
        preamble = b"PROXY TCP4 198.51.100.7 192.0.2.1 50000 443\r\n"
        if kind == 2:
            there = socket.inet_aton("198.51.100.7") + socket.inet_aton("192.0.2.1")
            preamble = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack(">H", 12) + there + bytes(4)
        browser = Browser(proxy, offer=offered, preamble=preamble)
        assert browser.open() == "web 1"
        live = proxy.session("s1")
        assert live is not None
        assert live["source"] == "198.51.100.7"


def test_pages_that_may_show_a_console_in_a_frame(tmp_path: Path) -> None:
    with running(make(tmp_path, "plain", framed_by=["https://cloud.example"])) as proxy:
        assert b"frame-ancestors https://cloud.example\r\n" in exchange(proxy, "plain", get("/"))
