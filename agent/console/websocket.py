"""The WebSocket (RFC 6455): websockify's class for the protocol, and a reader of frames of ours.

websockify's `WebSocket` makes the opening's answer, pings, pongs and the close; it is given a
buffer in place of a socket, so that whoever has the socket decides when bytes go. Reading is ours,
because the class gathers whole frames of any size in a buffer that it copies for each 4 KiB, and
takes masks off byte by byte where numpy is not installed: here payload passes on as it comes, and
nothing is kept but a frame's header.
"""

import struct
import warnings
from collections.abc import Callable, Mapping
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that numpy is missing, which only its own reader would use
    from websockify.websocket import WebSocket

NORMAL, GOING_AWAY, PROTOCOL, UNSUPPORTED, POLICY, TOO_BIG, FAULT, RESTART = (
    1000, 1001, 1002, 1003, 1008, 1009, 1011, 1012,
)  # fmt: skip
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_LONGEST_FRAME = 64 * 1024 * 1024
_SHORT = tuple(bytes((0x82, length)) for length in range(126))  # headers of what is short
HEADROOM = 10  # bytes that a frame's header needs in front of what a server sends


class ProtocolError(Exception):
    """The other side breaks the protocol: close with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Buffer:
    """What websockify takes for a socket: everything goes into it at once."""

    def __init__(self) -> None:
        self.data = b""

    def send(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def close(self) -> None:
        """Closing is done by whoever has the socket."""


class Protocol(WebSocket):  # type: ignore[misc]  # websockify has no types
    """The server's side of one WebSocket, in bytes. Nothing here waits."""

    def answer(self, headers: Mapping[str, str], *, binary: bool) -> bytes:
        """What accepts an opening that `http.check_upgrade` has found to be one.

        The class sees of the sub-protocols only whether `binary` is among them: a secret that
        stands there too is neither echoed nor known to it.
        """
        given = {name.title(): value for name, value in headers.items()}
        seen: dict[str, Any] = {
            "upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": given["Sec-Websocket-Key"],
        }
        if binary:
            seen["Sec-WebSocket-Protocol"] = "binary"
        self.accept(_Buffer(), seen)
        return self._taken()

    def select_subprotocol(self, protocols: list[str]) -> str:
        return protocols[0]

    def closing(self, code: int, reason: str) -> bytes:
        """The frame that closes; nothing where it was closed already."""
        if self.socket is None:
            return b""
        self.shutdown(None, code, reason.encode()[:120].decode("utf-8", "ignore"))
        return self._taken()

    def pinging(self) -> bytes:
        self.ping()
        return self._taken()

    def ponging(self, data: bytes) -> bytes:
        self.pong(data)
        return self._taken()

    def _taken(self) -> bytes:
        data: bytes = self.socket.data
        self.socket.data = b""
        return data


def header(length: int) -> bytes:
    """The header of a binary frame of a server, with so many bytes of payload."""
    if length < 126:
        return _SHORT[length]
    if length < 65536:
        return struct.pack(">BBH", 0x82, 126, length)
    return struct.pack(">BBQ", 0x82, 127, length)


def put_header(buffer: bytearray | memoryview, length: int) -> int:
    """Write the header of a binary frame so that it ends at HEADROOM; returns where it begins."""
    if length < 126:
        buffer[HEADROOM - 2] = 0x82
        buffer[HEADROOM - 1] = length
        return HEADROOM - 2
    if length < 65536:
        struct.pack_into(">BBH", buffer, HEADROOM - 4, 0x82, 126, length)
        return HEADROOM - 4
    struct.pack_into(">BBQ", buffer, HEADROOM - 10, 0x82, 127, length)
    return HEADROOM - 10


def text_frame(data: bytes) -> bytes:
    """A short text from the server: no RFB, all of which is binary."""
    length = len(data)
    if length < 126:
        return struct.pack(">BB", 0x81, length) + data
    return struct.pack(">BBH", 0x81, 126, length) + data


def masked_as_number(data: bytes, mask: bytes) -> bytes:
    """`data` with a mask put on or taken off: as one large number, without any C of others."""
    length = len(data)
    pattern = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(
        length, "little"
    )


masked: Callable[[bytes, bytes], bytes]
try:
    # A hundred times as quick for a large frame, and twice for a key.
    from websockets.speedups import apply_mask as masked
except ImportError:
    masked = masked_as_number


def client_frame(data: bytes, mask: bytes, opcode: int = _BINARY) -> bytes:
    """A whole frame as a client sends it."""
    length = len(data)
    if length < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
    elif length < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, length)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, length)
    return head + mask + masked(data, mask)


class FrameReader:
    """The frames of one side, as they come; `masks` says whether that side has to mask."""

    __slots__ = (
        "_between", "_control", "_head", "_left", "_mask", "_masks", "_opcode", "_open",
        "close_code", "closed", "pings", "pongs", "told",
    )  # fmt: skip

    def __init__(self, *, masks: bool) -> None:
        self._masks = masks
        self._head = b""  # of a header whose end has not come, or of a control frame's payload
        self._left = 0  # bytes of a data frame that are still to come
        self._mask = b""
        self._open = False  # is a message unfinished?
        self._control = -1  # bytes of a control frame's payload, where one is being read
        self._opcode = 0
        self._between = masks  # is nothing begun, of a side that masks?
        self.told = False  # is there something of what follows to be looked at?
        self.pings: list[bytes] = []  # to be answered by whoever reads
        self.pongs = 0
        self.closed = False
        self.close_code = 1005

    def feed(self, data: bytes) -> bytes:
        """The payload that is in it. Raises ProtocolError."""
        # A key, most likely: one small frame, the whole of it, and nothing before it unfinished.
        length = len(data)
        if self._between and 6 < length < 132 and data[0] == 0x82 and data[1] == 0x7A + length:
            return masked(data[6:], data[2:6])
        said = self._read(data)
        self._between = self._masks and not (
            self._left or self._head or self._open or self._control >= 0 or self.closed
        )
        return said

    def _read(self, data: bytes) -> bytes:
        if self._head:
            data = self._head + data
            self._head = b""
        at, end = 0, len(data)
        found: list[bytes] = []
        while at < end and not self.closed:
            if self._left:
                at = self._payload(data, at, found)
                continue
            if self._control >= 0:
                if end - at < self._control:
                    self._head = data[at:]
                    break
                self._finish_control(data[at : at + self._control])
                at += self._control
                self._control = -1
                continue
            size = self._header(data, at)
            if size == 0:
                self._head = data[at:]
                break
            at += size
            if self._control == 0:
                self._finish_control(b"")
                self._control = -1
        return found[0] if len(found) == 1 else b"".join(found)

    def _payload(self, data: bytes, at: int, found: list[bytes]) -> int:
        step = min(self._left, len(data) - at)
        piece = data[at : at + step]
        if self._masks:
            found.append(masked(piece, self._mask))
            turn = step % 4
            self._mask = self._mask[turn:] + self._mask[:turn]
        else:
            found.append(piece)
        self._left -= step
        return at + step

    def _header(self, data: bytes, at: int) -> int:
        """Take a header; returns its size, or 0 where it is not all there."""
        left = len(data) - at
        if left < 2:
            return 0
        first, second = data[at], data[at + 1]
        self._check(first, second)
        length, size = second & 0x7F, 2
        if length == 126:
            size = 4
        elif length == 127:
            size = 10
        whole = size + (4 if self._masks else 0)
        if left < whole:
            return 0
        if size == 4:
            (length,) = struct.unpack_from(">H", data, at + 2)
        elif size == 10:
            (length,) = struct.unpack_from(">Q", data, at + 2)
            if length >> 63:
                raise ProtocolError(PROTOCOL, "a negative length")
        if length > _LONGEST_FRAME:
            raise ProtocolError(TOO_BIG, "too large a frame")
        self._mask = data[at + size : at + whole]
        self._opcode = first & 0x0F
        if self._opcode >= _CLOSE:
            self._control = length
        else:
            self._open = not first & 0x80
            self._left = length
        return whole

    def _check(self, first: int, second: int) -> None:
        """What is wrong with a header is known of its first two bytes."""
        opcode = first & 0x0F
        if first & 0x70:
            raise ProtocolError(PROTOCOL, "reserved bits are set")
        if bool(second & 0x80) is not self._masks:
            raise ProtocolError(PROTOCOL, "a frame is not masked as it has to be")
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise ProtocolError(PROTOCOL, "an unknown kind of frame")
            if not first & 0x80 or second & 0x7F > 125:
                raise ProtocolError(PROTOCOL, "a control frame in pieces, or too long")
        elif opcode == _TEXT:
            raise ProtocolError(UNSUPPORTED, "text is not understood here")
        elif opcode > _BINARY:
            raise ProtocolError(PROTOCOL, "an unknown kind of frame")
        elif (opcode == _CONTINUATION) is not self._open:
            raise ProtocolError(PROTOCOL, "a message is continued that was not begun, or not ended")

    def _finish_control(self, payload: bytes) -> None:
        payload = masked(payload, self._mask) if self._masks else payload
        self.told = True
        if self._opcode == _PING:
            self.pings = [
                *self.pings[-3:],
                payload,
            ]  # who sends more at once gets the last answered
        elif self._opcode == _PONG:
            self.pongs += 1
        else:
            self.closed = True
            if len(payload) == 1:
                raise ProtocolError(PROTOCOL, "half a code")
            if payload:
                (self.close_code,) = struct.unpack_from(">H", payload)
