"""chronyd's socket, by a server that answers as its protocol says; the lab asks the real one."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.system.chrony import NoAnswer, number, tracking

SOURCES, TRACKING = 14, 33


def floating(exponent: int, coefficient: int) -> int:
    """chrony's own form of a number, from its parts."""
    return (exponent & 0x7F) << 25 | coefficient & 0x1FFFFFF


@contextmanager
def chronyd(path: Path, *, leap: int = 0, status: int = 0, short: bool = False) -> Iterator[None]:
    """Answers two requests: one source, and a clock that is 2 ms off."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(1)

        def serve() -> None:
            for _ in range(2):
                try:
                    request, peer = server.recvfrom(4096)
                except OSError:
                    return
                command, sequence = struct.unpack_from("!H", request, 4)[0], request[8:12]
                offset = floating(-7, int(0.002 * 2**32))
                body = (
                    struct.pack("!I", 1)
                    if command == SOURCES
                    else struct.pack(
                        "!I16sHHHHIII9I", 0, socket.inet_aton("192.0.2.1") + bytes(12), 1, 0, 2,
                        leap, 0, 0, 0, offset, 0, 0, 0, 0, 0, 0, 0, 0,
                    )
                )  # fmt: skip
                kind = 2 if command == SOURCES else 5
                head = struct.pack("!BBBBHHHHHH", 6, 2, 0, 0, command, kind, status, 0, 0, 0)
                answer = head + sequence + bytes(8) + body
                assert len(request) >= len(answer), "chronyd drops requests that are too short"
                server.sendto(answer[:20] if short else answer, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.close()
            thread.join(10)


def test_what_it_says_is_read(tmp_path: Path) -> None:
    with chronyd(tmp_path / "d"):
        found = tracking(tmp_path, tmp_path / "d")
    assert (found.synchronised, found.sources, found.reference) == (True, 1, "192.0.2.1")
    assert found.offset == pytest.approx(0.002, rel=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["d"], "the socket that was asked with is gone"


def test_a_clock_that_is_not_synchronised_is_told(tmp_path: Path) -> None:
    with chronyd(tmp_path / "d", leap=3):
        assert not tracking(tmp_path, tmp_path / "d").synchronised


def test_no_answer_a_refusal_and_half_an_answer_are_none(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer):
        tracking(tmp_path, tmp_path / "nobody")
    with chronyd(tmp_path / "a", status=3), pytest.raises(NoAnswer, match="refuses"):
        tracking(tmp_path, tmp_path / "a")
    with chronyd(tmp_path / "b", short=True), pytest.raises(NoAnswer, match="short"):
        tracking(tmp_path, tmp_path / "b")


@pytest.mark.parametrize(
    ("exponent", "coefficient", "value"),
    [(0, 0, 0.0), (1, 1 << 24, -1.0), (2, 1 << 23, 1.0), (-8, -(1 << 23), -1 / 1024)],
)
def test_numbers(exponent: int, coefficient: int, value: float) -> None:
    assert number(floating(exponent, coefficient)) == value
