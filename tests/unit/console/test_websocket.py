"""Frames: what is read is what was sent, whatever the pieces, and another reader agrees."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockify.websocket import WebSocket

from agent.console.websocket import (
    HEADROOM,
    FrameReader,
    ProtocolError,
    client_frame,
    header,
    masked,
    masked_as_number,
    put_header,
)

MASK = b"\x01\x82\x03\x84"


@given(
    st.lists(st.tuples(st.sampled_from([2, 9, 10]), st.binary(max_size=300)), max_size=10),
    st.lists(st.integers(0, 50), max_size=80),
)
def test_payload_does_not_depend_on_the_pieces(
    messages: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    messages = [(kind, data if kind == 2 else data[:125]) for kind, data in messages]
    stream = b"".join(client_frame(data, MASK, kind) for kind, data in messages)
    reader, read, at = FrameReader(masks=True), b"", 0
    for size in (*sizes, len(stream)):
        read += reader.feed(stream[at : at + size])
        at += size
    assert read == b"".join(data for kind, data in messages if kind == 2)
    assert reader.pongs == sum(kind == 10 for kind, _ in messages)
    sent = [data for kind, data in messages if kind == 9]
    assert reader.pings == sent[-4:]


def test_a_message_in_frames() -> None:
    reader = FrameReader(masks=False)
    data = b"\x02\x01a" + b"\x89\x00" + b"\x00\x01b" + b"\x80\x01c" + b"\x82\x01d"
    assert reader.feed(data) == b"abcd"


def test_after_a_close_nothing_is_read() -> None:
    reader = FrameReader(masks=False)
    assert reader.feed(b"\x82\x01a\x88\x02\x03\xe9\x82\x01b") == b"a"
    assert reader.closed
    assert reader.close_code == 1001


@given(st.binary(max_size=100), st.booleans())
def test_noise_is_read_or_refused(noise: bytes, masks: bool) -> None:
    with contextlib.suppress(ProtocolError):
        assert len(FrameReader(masks=masks).feed(noise)) <= len(noise)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 131072])
def test_websockify_reads_what_is_sent(length: int) -> None:
    data = bytes(length)
    buffer = bytearray(HEADROOM + length)
    begin = put_header(buffer, length)
    frame = bytes(buffer)[begin:]
    read = WebSocket()._decode_hybi(frame)  # noqa: SLF001
    assert (read["opcode"], read["fin"], read["length"], read["payload"]) == (
        2,
        True,
        len(frame),
        data,
    )
    other = WebSocket()._decode_hybi(client_frame(data, MASK))  # noqa: SLF001
    assert other["masked"]
    assert other["payload"] == data


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4))
def test_a_mask_comes_off_as_it_went_on(data: bytes, mask: bytes) -> None:
    for way in (masked, masked_as_number):
        assert way(way(data, mask), mask) == data
        assert way(data, mask) == bytes(b ^ mask[i % 4] for i, b in enumerate(data))


@pytest.mark.parametrize("length", [*range(300), 65535, 65536, 262134, 1 << 20])
def test_a_frame_of_any_length_is_read_in_one_piece_and_in_two(length: int) -> None:
    data = bytes(n & 255 for n in range(length))
    frame = client_frame(data, MASK)
    assert FrameReader(masks=True).feed(frame) == data
    for cut in {1, 2, 5, len(frame) // 2, len(frame) - 1}:
        reader = FrameReader(masks=True)
        assert reader.feed(frame[:cut]) + reader.feed(frame[cut:]) == data
    buffer = bytearray(HEADROOM)
    begin = put_header(buffer, length)
    assert bytes(buffer)[begin:] == header(length)
    assert FrameReader(masks=False).feed(header(length) + data) == data


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 4), st.sampled_from([b"", b"ping", b"pong"])),
        min_size=1, max_size=8,
    ),
    st.lists(st.integers(1, 60), max_size=60),
)  # fmt: skip
def test_fragments_with_control_frames_between(
    messages: list[tuple[int, int, bytes]], sizes: list[int]
) -> None:
    """Small frames are read at once where nothing is unfinished, and only there."""
    stream, expected, pings = b"", b"", 0
    for length, parts, control in messages:
        data = bytes(n & 255 for n in range(length))
        expected += data
        for part in range(parts):
            piece = data[length * part // parts : length * (part + 1) // parts]
            frame = bytearray(client_frame(piece, MASK, opcode=2 if part == 0 else 0))
            if part < parts - 1:
                frame[0] &= 0x7F  # not the last one
            stream += frame
            if control:
                pings += control == b"ping"
                stream += client_frame(control, MASK, opcode=9 if control == b"ping" else 10)
    reader, read, at = FrameReader(masks=True), b"", 0
    for size in (*sizes, len(stream)):
        read += reader.feed(stream[at : at + size])
        at += size
    assert read == expected
    assert len(reader.pings) == min(pings, 4)
    assert reader.told == any(control for _, _, control in messages)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\x01a", 1002),  # not masked
        (b"\xc2\x81" + MASK + b"a", 1002),  # a reserved bit
        (b"\x83\x81" + MASK + b"a", 1002),  # an unknown kind
        (b"\x81\x81" + MASK + b"a", 1003),  # text
        (b"\x80\x81" + MASK + b"a", 1002),  # a continuation of nothing
        (b"\x09\x80" + MASK, 1002),  # a ping in pieces
        (b"\x89\xfe\x00\x7e" + MASK + bytes(126), 1002),  # and one that is too long
        (b"\x82\xff\x80" + bytes(7) + MASK, 1002),  # a negative length
        (b"\x82\xff" + (64 * 1024 * 1024 + 1).to_bytes(8, "big") + MASK, 1009),
    ],
)
def test_a_broken_frame_has_its_code_also_after_a_good_one(frame: bytes, code: int) -> None:
    for before in (b"", client_frame(b"a key..", MASK)):
        reader = FrameReader(masks=True)
        assert reader.feed(before) == (b"a key.." if before else b"")
        with pytest.raises(ProtocolError) as raised:
            reader.feed(frame)
        assert raised.value.code == code


def test_a_second_message_within_one_that_is_unfinished_is_refused() -> None:
    reader = FrameReader(masks=True)
    begun = bytearray(client_frame(b"a", MASK))
    begun[0] &= 0x7F
    reader.feed(bytes(begun))
    with pytest.raises(ProtocolError):
        reader.feed(client_frame(b"12345678", MASK))


@pytest.mark.parametrize("code", [1000, 1001, 1012, 4999])
def test_a_close_ends_reading_also_of_small_frames(code: int) -> None:
    reader = FrameReader(masks=True)
    reader.feed(client_frame(code.to_bytes(2, "big") + b"bye", MASK, opcode=8))
    assert (reader.closed, reader.told, reader.close_code) == (True, True, code)
    assert reader.feed(client_frame(b"12345678", MASK)) == b""


def test_half_a_code_is_refused() -> None:
    with pytest.raises(ProtocolError, match="half a code"):
        FrameReader(masks=False).feed(b"\x88\x01\x03")
    reader = FrameReader(masks=False)
    reader.feed(b"\x88\x00")
    assert reader.close_code == 1005
