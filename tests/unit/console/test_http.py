"""HTTP in small: noise is refused with a status, and what is parsed is what was sent."""

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.console import http
from agent.console.http import BadRequest

SECRET = "A" * 43


@given(st.binary(max_size=400))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    for head in (noise, noise + http.END, b"GET / HTTP/1.1\r\n" + noise + http.END):
        try:
            request = http.parse(head)
        except BadRequest:
            continue
        assert request.path.startswith("/")
        values = "".join(request.headers.values()) + request.path + request.query
        assert "\r" not in values
        assert "\n" not in values


def test_a_request_as_browsers_send_it() -> None:
    head = (
        b"GET /socket?x=1 HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\n"
        b"Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary, secret."
        + SECRET.encode()
        + b"\r\n\r\n"
    )
    request = http.parse(head)
    assert (request.path, request.query, request.keep) == ("/socket", "x=1", True)
    assert http.is_upgrade(request)
    http.check_upgrade(request)
    assert http.offer(request) == http.Offer(binary=True, secret=SECRET, resume=b"")


@pytest.mark.parametrize(
    ("names", "offer"),
    [
        ([], http.Offer(binary=False, secret=None, resume=b"")),
        (["binary", "other"], http.Offer(binary=True, secret=None, resume=b"")),
        (["secret.short", "xsecret." + SECRET], http.Offer(binary=False, secret=None, resume=b"")),
        (["resume." + SECRET], http.Offer(binary=False, secret=None, resume=bytes(32))),
    ],
)
def test_what_sub_protocols_say(names: list[str], offer: http.Offer) -> None:
    assert http.parse_offer(names) == offer


@pytest.mark.parametrize("kind", ["secret.", "resume."])
def test_two_secrets_are_none(kind: str) -> None:
    with pytest.raises(BadRequest, match="two secrets"):
        http.parse_offer([kind + SECRET, kind + "B" * 43])


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 fd00::1 fd00::2 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"GET / HTTP/1.1 a b\r\n",
    ],
)
def test_lines_that_are_not_the_proxy_protocol(line: bytes) -> None:
    with pytest.raises(BadRequest):
        http.proxy_1(line)


def test_who_a_balancer_names() -> None:
    assert http.proxy_1(b"PROXY TCP6 fd00::1 fd00::2 1 2\r\n") == ip_address("fd00::1")
    assert http.proxy_1(b"PROXY UNKNOWN\r\n") is None
    head = http.PROXY_2 + b"\x21\x21\x00\x24"
    rest = ip_address("fd00::1").packed + ip_address("fd00::2").packed + bytes(4)
    assert http.proxy_2_length(head) == 36
    assert http.proxy_2(head, rest) == ip_address("fd00::1")
    assert http.proxy_2(http.PROXY_2 + b"\x20\x00\x00\x00", b"") is None


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=300))
def test_noise_after_the_signature_is_refused_or_an_address(head: bytes, rest: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert http.proxy_2_length(http.PROXY_2 + head) <= 2048
        http.proxy_2(http.PROXY_2 + head, rest)


@pytest.mark.parametrize(
    ("native", "origin", "status"),
    [
        (False, None, 403),
        (True, None, None),
        (True, "https://evil.example", 403),
        (False, "https://evil.example", 403),
        (False, "https://a.example", None),
        (False, "HTTPS://A.example", None),
        (False, "https://a.example.evil.example", 403),
        (False, "null", 403),
    ],
)
def test_a_client_without_an_origin(native: bool, origin: str | None, status: int | None) -> None:
    line = b"" if origin is None else f"Origin: {origin}\r\n".encode()
    request = http.parse(b"GET /socket HTTP/1.1\r\nHost: a.example\r\n" + line + b"\r\n")

    def check() -> None:
        http.check_place(request, hosts={"a.example"}, origins={"https://a.example"}, native=native)

    if status is None:
        check()
        return
    with pytest.raises(BadRequest) as refused:
        check()
    assert refused.value.status == status
