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
    masked,
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


@given(st.binary(max_size=100))
def test_a_mask_comes_off_as_it_went_on(data: bytes) -> None:
    assert masked(masked(data, MASK), MASK) == data
    assert masked(data, MASK) == bytes(b ^ MASK[i % 4] for i, b in enumerate(data))


def test_half_a_code_is_refused() -> None:
    with pytest.raises(ProtocolError, match="half a code"):
        FrameReader(masks=False).feed(b"\x88\x01\x03")
    reader = FrameReader(masks=False)
    reader.feed(b"\x88\x00")
    assert reader.close_code == 1005
