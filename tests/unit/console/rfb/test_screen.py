"""The hypervisor's messages: texts are left out, everything else passes untouched."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.console.rfb.screen import ScreenFilter, ScreenUnreadable, known

PIXELS = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
SMALL_PIXELS = struct.pack(">BBBBHHHBBBxxx", 16, 16, 0, 1, 31, 63, 31, 11, 5, 0)

TEXT = struct.pack(">Bxxxi", 3, 9) + b"clipboard"
EXTENDED = struct.pack(">Bxxxi", 3, -4) + b"1234"
BELL = b"\x02"
COLOURS = struct.pack(">BxHH", 1, 0, 2) + bytes(12)
FENCE = struct.pack(">BxxxIB", 248, 1, 3) + b"\x03\x03\x03"
XVP = bytes((250, 0, 1, 1))
ENDED = b"\x96"


def rectangle(width: int, height: int, encoding: int, data: bytes) -> bytes:
    return struct.pack(">HHHHi", 0, 0, width, height, encoding) + data


def update(*rectangles: bytes, count: int | None = None) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles) if count is None else count) + b"".join(
        rectangles
    )


# Each is full of 3s, which as the beginning of a message would be one with a text.
RECTANGLES = (
    rectangle(2, 3, 0, b"\x03" * 24),
    rectangle(9, 9, 1, b"\x03" * 4),
    rectangle(5, 5, 6, struct.pack(">I", 7) + b"\x03" * 7),
    rectangle(5, 5, 16, struct.pack(">I", 300) + b"\x03" * 300),
    rectangle(9, 9, 7, b"\x80" + b"\x03" * 3),  # a fill
    rectangle(9, 9, 7, b"\x90" + b"\x83\x03" + b"\x03" * (3 | 3 << 7)),  # a picture
    rectangle(9, 9, 7, b"\x00" + b"\x03" + b"\x03" * 3),  # basic
    rectangle(1, 3, 7, b"\x30" + b"\x03" * 9),  # basic, too short to be compressed
    rectangle(9, 9, 7, b"\x40\x01\x01" + b"\x03" * 6 + b"\x0c" + b"\x03" * 12),  # two colours
    rectangle(9, 1, 7, b"\x50\x01\x01" + b"\x03" * 6 + b"\x03" * 2),  # two colours, short
    rectangle(9, 9, 7, b"\x40\x01\x03" + b"\x03" * 12 + b"\x83\x83\x01" + b"\x03" * 16771),
    rectangle(9, 9, 7, b"\x60\x02\x03" + b"\x03" * 3),  # a gradient
    rectangle(0, 0, -223, b""),
    rectangle(9, 2, -239, b"\x03" * (9 * 2 * 4 + 4)),
    rectangle(0, 0, -258, b""),
    rectangle(0, 0, -261, b"\x03"),
    rectangle(0, 0, -307, struct.pack(">I", 3) + b"\x03" * 3),
    rectangle(0, 0, -308, b"\x02\0\0\0" + b"\x03" * 32),
)
LAST = rectangle(0, 0, -224, b"")
MESSAGES = (
    *(update(one) for one in RECTANGLES),
    update(*RECTANGLES),
    update(RECTANGLES[0], LAST, count=65535),
    update(),
    BELL,
    COLOURS,
    FENCE,
    XVP,
    ENDED,
)


@given(
    st.lists(st.sampled_from((*MESSAGES, TEXT, EXTENDED)), max_size=20),
    st.lists(st.integers(0, 60), max_size=60),
)
def test_texts_are_left_out_and_nothing_else_is(messages: list[bytes], sizes: list[int]) -> None:
    screen = ScreenFilter(PIXELS)
    data, at, passed = b"".join(messages), 0, b""
    for size in (*sizes, len(data)):
        passed += screen.feed(data[at : at + size])
        at += size
    assert passed == b"".join(one for one in messages if one not in {TEXT, EXTENDED})
    assert screen.left_out == sum(one in {TEXT, EXTENDED} for one in messages)


def test_pixels_of_another_form_have_another_length() -> None:
    screen = ScreenFilter(PIXELS)
    screen.set_pixels(SMALL_PIXELS)
    small = (
        update(rectangle(2, 3, 0, b"\x03" * 12), rectangle(9, 9, 7, b"\x80" + b"\x03" * 2)),
        update(rectangle(9, 2, -239, b"\x03" * (9 * 2 * 2 + 4))),
    )
    data = b"".join(small)
    assert screen.feed(data + TEXT + BELL) == data + BELL


@pytest.mark.parametrize(
    "data",
    [
        b"\x63",
        update(rectangle(1, 1, 5, b"")),
        update(rectangle(1, 1, 7, b"\xa0")),
        update(rectangle(1, 1, 7, b"\x40\x07")),
    ],
)
def test_what_cannot_be_stepped_over_is_refused(data: bytes) -> None:
    with pytest.raises(ScreenUnreadable):
        ScreenFilter(PIXELS).feed(data)


def test_encodings_that_are_known() -> None:
    for number in (0, 1, 6, 7, 16, -223, -224, -239, -308, -23, -32, -247, -256):
        assert known(number & 0xFFFFFFFF)
    for number in (5, 2, 21, -260, -259, -314, -316, 0xC0A1E5CE, -22, -33):
        assert not known(number & 0xFFFFFFFF)
