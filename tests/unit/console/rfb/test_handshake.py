"""The handshakes: which way the proxy comes in, and what it says where it does not."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.console.rfb.des import vnc_response
from agent.console.rfb.handshake import (
    Encrypt,
    HandshakeFailed,
    Receive,
    Send,
    ServerInit,
    Step,
    Steps,
    T,
    begin_screen,
    greet_browser,
    let_in,
    to_screen,
    turn_away,
)
from agent.console.sessions import Credentials

V3, V7, V8 = b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n"
OK = struct.pack(">I", 0)
CHALLENGE = bytes(range(16))
PASSWORD = Credentials(password="secret")
TLS = Credentials(ca="a CA")
TLS_PASSWORD = Credentials(ca="a CA", password="secret")
TLS_USER = Credentials(ca="a CA", username="alice", password="secret")


def play(
    steps: Steps[T], peer: bytes, done: list[bytes | type[Encrypt]] | None = None
) -> tuple[T, list[bytes | type[Encrypt]]]:
    """What came of it, and what went out, where the other side says `peer`."""
    done = [] if done is None else done
    answer: bytes | None = None
    try:
        while True:
            step: Step = next(steps) if answer is None else steps.send(answer)
            answer = b""
            match step:
                case Receive(count):
                    assert len(peer) >= count, f"{count} bytes wanted, {peer!r} left"
                    answer, peer = peer[:count], peer[count:]
                case Send(data):
                    done.append(data)
                case Encrypt():
                    done.append(Encrypt)
    except StopIteration as stop:
        assert peer == b""
        return stop.value, done


def reason(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("peer", "credentials", "said"),
    [
        (V3 + struct.pack(">I", 1), PASSWORD, [V3]),
        (V7 + bytes((1, 1)), PASSWORD, [V7, b"\x01"]),
        (V8 + bytes((2, 16, 1)) + OK, Credentials(), [V8, b"\x01"]),
        (b"RFB 003.889\n" + bytes((1, 1)) + OK, Credentials(), [V8, b"\x01"]),
        (b"RFB 004.001\n" + bytes((1, 1)) + OK, Credentials(), [V8, b"\x01"]),
        (b"RFB 003.005\n" + struct.pack(">I", 1), Credentials(), [V3]),
    ],
)
def test_an_open_screen(peer: bytes, credentials: Credentials, said: list[bytes]) -> None:
    assert play(to_screen(credentials), peer) == (None, said)


@pytest.mark.parametrize(
    ("version", "offer", "said"),
    [
        (V3, struct.pack(">I", 2), []),
        (V7, bytes((1, 2)), [b"\x02"]),
        (V8, bytes((2, 1, 2)), [b"\x02"]),
    ],
)
def test_a_password_is_shown(version: bytes, offer: bytes, said: list[bytes]) -> None:
    _, done = play(to_screen(PASSWORD), version + offer + CHALLENGE + OK)
    assert done == [version, *said, vnc_response("secret", CHALLENGE)]


def vencrypt(kind: int) -> bytes:
    return (
        V8 + bytes((2, 2, 19)) + b"\x00\x02\x00" + b"\x02" + struct.pack(">II", 258, kind) + b"\x01"
    )


@pytest.mark.parametrize(
    ("kind", "credentials", "inside", "answer"),
    [
        (260, TLS, OK, []),
        (261, TLS_PASSWORD, CHALLENGE + OK, [vnc_response("secret", CHALLENGE)]),
        (262, TLS_USER, OK, [struct.pack(">II", 5, 6) + b"alicesecret"]),
    ],
)
def test_vencrypt_with_certificates(
    kind: int, credentials: Credentials, inside: bytes, answer: list[bytes]
) -> None:
    _, done = play(to_screen(credentials), vencrypt(kind) + inside)
    assert done == [V8, b"\x13", b"\x00\x02", struct.pack(">I", kind), Encrypt, *answer]


@pytest.mark.parametrize(
    ("peer", "credentials", "message"),
    [
        (b"HTTP/1.1 400", PASSWORD, "no VNC server"),
        (b"RFB xxx.yyy\n", PASSWORD, "no VNC server"),
        (b"RFB 003.002\n", PASSWORD, "too old"),
        (V8 + b"\x00" + reason("Too many connections"), PASSWORD, "Too many connections"),
        (V3 + struct.pack(">I", 0) + reason("no\x1b[31m\n"), PASSWORD, r"no \[31m$"),
        (V8 + b"\x00" + reason(""), PASSWORD, "does not say why"),
        (V3 + struct.pack(">I", 30), PASSWORD, "wants: Apple"),
        (V8 + bytes((2, 5, 16)), PASSWORD, "cannot do what the hypervisor offers: RA2, Tight"),
        (V8 + bytes((1, 2)), Credentials(), "asks for a VNC password"),
        (
            V8 + bytes((1, 2)) + CHALLENGE + struct.pack(">I", 1) + reason("wrong"),
            PASSWORD,
            "wrong",
        ),
        (V7 + bytes((1, 2)) + CHALLENGE + struct.pack(">I", 2), PASSWORD, "too many attempts"),
        (V8 + bytes((2, 1, 2)), TLS_PASSWORD, "has no TLS, it offers only: None, VNC password"),
        (V3 + struct.pack(">I", 2), TLS_PASSWORD, "has no TLS, it speaks RFB 3.3"),
        (V8 + bytes((1, 19)), PASSWORD, "no CA to know it by"),
        (V8 + bytes((1, 19)) + b"\x00\x01", TLS, "before 0.2"),
        (V8 + bytes((1, 19)) + b"\x00\x02\x01", TLS, "does not speak VeNCrypt 0.2"),
        (V8 + bytes((1, 19)) + b"\x00\x02\x00\x00", TLS, "no kind of VeNCrypt"),
        (V8 + bytes((1, 19)) + b"\x00\x02\x00\x01" + struct.pack(">I", 257), TLS, "TLSNone"),
        (V8 + bytes((1, 19)) + b"\x00\x02\x00\x01" + struct.pack(">I", 261), TLS, "are missing"),
        (vencrypt(260)[:-1] + b"\x00", TLS, "takes back: X509None"),
    ],
)
def test_a_refusal_says_why(peer: bytes, credentials: Credentials, message: str) -> None:
    with pytest.raises(HandshakeFailed, match=message):
        play(to_screen(credentials), peer)


def test_where_there_is_a_ca_nothing_is_told_without_tls() -> None:
    said: list[bytes | type[Encrypt]] = []
    with pytest.raises(HandshakeFailed):
        play(to_screen(TLS_USER), V8 + bytes((3, 1, 2, 5)), said)
    assert said == [V8]


PIXELS = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def test_the_screen_is_shared_and_named_for_the_vm() -> None:
    head = struct.pack(">HH16sI", 1024, 768, PIXELS, 4)
    screen, done = play(begin_screen(), head + b"QEMU")
    assert done == [b"\x01"]
    assert screen == ServerInit(1024, 768, PIXELS, "QEMU")
    assert screen.encoded("web 1") == head[:20] + struct.pack(">I", 5) + b"web 1"
    assert screen.encoded("") == head + b"QEMU"


def test_a_name_without_end_is_refused() -> None:
    with pytest.raises(HandshakeFailed, match="no sense"):
        play(begin_screen(), struct.pack(">HH16sI", 1, 1, PIXELS, 1 << 31))


@pytest.mark.parametrize(
    ("version", "choice", "said"),
    [
        (V8, b"\x01\x01", [b"\x01\x01", OK]),
        (V7, b"\x01\x00", [b"\x01\x01"]),
        (V3, b"\x01", [struct.pack(">I", 1)]),
    ],
)
def test_nothing_is_asked_of_the_browser(version: bytes, choice: bytes, said: list[bytes]) -> None:
    minor, done = play(greet_browser(), version)
    assert done == [V8]
    _, done = play(let_in(minor), choice)
    assert done == said


def test_a_browser_that_chooses_another_way_is_not_let_in() -> None:
    with pytest.raises(HandshakeFailed, match="was not offered"):
        play(let_in(8), b"\x02")


@pytest.mark.parametrize(("version", "nothing"), [(3, b"\0\0\0\0"), (7, b"\0"), (8, b"\0")])
def test_who_is_turned_away_reads_why(version: int, nothing: bytes) -> None:
    assert turn_away(version, "full") == nothing + reason("full")


@given(st.binary(max_size=200), st.sampled_from([PASSWORD, TLS_USER, Credentials()]))
def test_a_server_that_says_anything_is_refused_or_understood(
    noise: bytes, credentials: Credentials
) -> None:
    peer = V8 + noise + bytes(4096)
    steps = to_screen(credentials)
    answer: bytes | None = None
    for _ in range(100):
        try:
            step = next(steps) if answer is None else steps.send(answer)
        except (HandshakeFailed, StopIteration):
            return
        answer = b""
        if isinstance(step, Receive):
            assert step.count <= 1024
            answer, peer = peer[: step.count].ljust(step.count, b"\0"), peer[step.count :]
    pytest.fail("it goes on for ever")
