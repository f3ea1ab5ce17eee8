"""The browser's messages: what policy leaves out, whatever the pieces they come in."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.console.rfb.filter import ClientFilter, NotRfb
from agent.console.sessions import Clipboard, Policy

FREE = Policy()
VIEW_ONLY = Policy(view_only=True)
NO_CLIPBOARD = Policy(clipboard=Clipboard.NONE)
TO_GUEST = Policy(clipboard=Clipboard.TO_GUEST)

PIXELS = struct.pack(">Bxxx", 0) + bytes((32, 24, 0, 1)) + bytes(12)
OTHER_PIXELS = struct.pack(">Bxxx", 0) + bytes((8, 8, 0, 1)) + bytes(12)
UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, 800, 600)
KEY = struct.pack(">BBxxI", 4, 1, 0x61)
POINTER = struct.pack(">BBHH", 5, 1, 10, 20)
CONTINUOUS = struct.pack(">BBHHHH", 150, 1, 0, 0, 800, 600)
FENCE = struct.pack(">BxxxIB", 248, 1, 3) + b"abc"
POWER = bytes((250, 0, 1, 2))
SIZE = struct.pack(">BxHHBx", 251, 800, 600, 1) + bytes(16)
DEVICE = struct.pack(">BBH", 253, 0x81, 4) + b"1234"
QEMU_KEY = struct.pack(">BBHII", 255, 0, 1, 0x61, 30)
AUDIO = struct.pack(">BBH", 255, 1, 1)
AUDIO_FORMAT = struct.pack(">BBHBBI", 255, 1, 2, 3, 2, 44100)


def text(length: int) -> bytes:
    return struct.pack(">Bxxxi", 6, length) + b"x" * abs(length)


def encodings(*numbers: int) -> bytes:
    return struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers)


ALWAYS = (PIXELS, UPDATE, CONTINUOUS, FENCE, AUDIO, AUDIO_FORMAT, encodings(7, 1, 0))
ACTS = (KEY, POINTER, POWER, SIZE, DEVICE, QEMU_KEY)
PASTES = (text(0), text(5), text(-20), text(3000))


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@given(
    st.lists(st.sampled_from((*ALWAYS, *ACTS, *PASTES)), max_size=30),
    st.lists(st.integers(0, 40), max_size=60),
    st.sampled_from([FREE, VIEW_ONLY, NO_CLIPBOARD, TO_GUEST]),
)
def test_what_passes_does_not_depend_on_the_pieces(
    messages: list[bytes], sizes: list[int], policy: Policy
) -> None:
    messages = [PIXELS, *messages]
    clients = ClientFilter(policy)
    passed = b"".join(map(clients.feed, cut(b"".join(messages), sizes)))
    out = (*ACTS, *PASTES) if policy.view_only else PASTES if not policy.clipboard.to_guest else ()
    assert passed == b"".join(message for message in messages if message not in out)
    assert clients.left_out == sum(message in out for message in messages)
    persons = (KEY, POINTER, QEMU_KEY, *PASTES)
    assert clients.inputs == sum(message in persons for message in messages)


def test_a_long_text_takes_no_room() -> None:
    clients = ClientFilter(FREE)
    assert clients.feed(struct.pack(">Bxxxi", 6, 1 << 20)) == struct.pack(">Bxxxi", 6, 1 << 20)
    for _ in range(16):
        assert clients.feed(bytes(1 << 16)) == bytes(1 << 16)
    assert clients.feed(KEY) == KEY


@pytest.mark.parametrize(
    "message",
    [
        struct.pack(">Bxxxi", 6, 1 << 30),
        struct.pack(">BxH", 2, 513),
        struct.pack(">BxxxIB", 248, 1, 65),
        struct.pack(">BBH", 253, 0x81, 5000),
    ],
)
@pytest.mark.parametrize("policy", [FREE, VIEW_ONLY])
def test_what_has_no_end_is_refused(message: bytes, policy: Policy) -> None:
    with pytest.raises(NotRfb):
        ClientFilter(policy).feed(message)


def test_an_unknown_message_ends_a_session_that_is_not_free() -> None:
    for policy in (VIEW_ONLY, NO_CLIPBOARD, TO_GUEST):
        clients = ClientFilter(policy)
        assert clients.feed(UPDATE) == UPDATE
        with pytest.raises(NotRfb, match="message 77"):
            clients.feed(b"\x4d....")


def test_a_free_session_goes_on_unread_after_an_unknown_message() -> None:
    clients = ClientFilter(FREE)
    assert clients.feed(UPDATE + b"\x4dwhatever") == UPDATE + b"\x4dwhatever"
    assert clients.feed(b"\x00\x01") == b"\x00\x01"


def test_an_extended_clipboard_is_asked_for_only_where_the_clipboard_is_free() -> None:
    asked = encodings(7, 16, -256, 0xC0A1E5CE - (1 << 32), 5, -316)
    assert ClientFilter(FREE).feed(asked) == asked
    assert ClientFilter(VIEW_ONLY).feed(asked) == encodings(7, 16, -256, 5)
    assert ClientFilter(TO_GUEST).feed(asked) == encodings(7, 16, -256)  # hextile is not read


def test_the_form_of_pixels_stays_where_the_screen_is_read() -> None:
    clients = ClientFilter(TO_GUEST)
    assert clients.feed(PIXELS + UPDATE) == PIXELS + UPDATE
    assert clients.feed(OTHER_PIXELS + PIXELS) == PIXELS
    assert clients.pixels == PIXELS[4:]
    free = ClientFilter(FREE)
    assert free.feed(PIXELS + UPDATE + OTHER_PIXELS) == PIXELS + UPDATE + OTHER_PIXELS


@given(st.lists(st.binary(max_size=40), max_size=20), st.sampled_from([FREE, VIEW_ONLY, TO_GUEST]))
def test_noise_is_passed_or_refused_and_never_kept(noise: list[bytes], policy: Policy) -> None:
    clients = ClientFilter(policy)
    came = passed = 0
    for piece in noise:
        came += len(piece)
        try:
            passed += len(clients.feed(piece))
        except NotRfb:
            return
    assert passed <= came


@given(st.lists(st.integers(0, 8), max_size=20))
def test_a_pointer_with_more_buttons_is_one_message(sizes: list[int]) -> None:
    more = struct.pack(">BBHHB", 5, 0x80 | 1, 10, 20, 1)
    clients = ClientFilter(FREE)
    said = encodings(7, -316) + more + POINTER + more + KEY + UPDATE
    assert b"".join(map(clients.feed, cut(said, sizes))) == said
    assert clients.inputs == 4
    assert clients.feed(UPDATE) == UPDATE
    assert clients.inputs == 4  # it still reads, and sees that nobody does anything
    # Who did not ask for it has an eighth button, and six bytes.
    plain = ClientFilter(FREE)
    eighth = struct.pack(">BBHH", 5, 0x80, 10, 20)
    assert plain.feed(encodings(7) + eighth + KEY) == encodings(7) + eighth + KEY
    assert plain.inputs == 2
