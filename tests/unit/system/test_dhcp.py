"""What counts as a DHCP server's answer."""

import pytest

from agent.system.dhcp import is_answer

NUMBER = b"abcd"


def reply(options: bytes, *, op: int = 2, number: bytes = NUMBER) -> bytes:
    head = bytes([op, 1, 6, 0]) + number
    return head + bytes(236 - len(head)) + b"\x63\x82\x53\x63" + options


def test_an_acknowledgement_of_our_question_is_an_answer() -> None:
    assert is_answer(reply(b"\x35\x01\x05\xff"), NUMBER)
    assert is_answer(reply(b"\x00\x00\x36\x04\x0a\x01\x01\x01\x35\x01\x05\xff"), NUMBER)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        reply(b"\x35\x01\x06\xff"),  # a refusal
        reply(b"\x35\x01\x05\xff", number=b"efgh"),
        reply(b"\x35\x01\x05\xff", op=1),
        reply(b"\xff"),
        reply(b"\x35"),
        reply(b"\x35\x01"),
        reply(b"\x36\xff"),
    ],
)
def test_nothing_else_is(other: bytes) -> None:
    assert not is_answer(other, NUMBER)
