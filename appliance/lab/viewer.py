"""A browser's part in small: a console's link opened, its screen read, keys pressed.

HTTP's upgrade (RFC 6455) and RFB (RFC 6143) over TLS, as far as a demonstration needs them: one
screen of raw pixels. The secret goes where the page puts it, into the sub-protocols.
"""

import base64
import os
import socket
import ssl
import struct
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.errors import ApplianceError

_RAW = struct.pack(">BxHi", 2, 1, 0)  # SetEncodings: raw alone
_RETURN = 0xFF0D  # keysyms of X


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole screen; `pixels` has four bytes for each, as the screen sends them."""

    width: int
    height: int
    pixels: bytes

    @property
    def colours(self) -> int:
        """How many there are."""
        return len({self.pixels[n : n + 3] for n in range(0, len(self.pixels), 4)})


class Viewer:
    """A console that is open."""

    def __init__(self, sock: ssl.SSLSocket, host: str, secret: str) -> None:
        """Open it over this connection. Raises ApplianceError with what a user would read."""
        self._sock = sock
        self._coming = b""  # bytes of frames
        self._data = b""  # bytes of RFB
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /socket HTTP/1.1", f"Host: {host}", f"Origin: https://{host}"]
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Protocol: binary, secret.{secret}"]
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._coming:
            self._read()
        head, _, self._coming = self._coming.partition(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101 " not in status:
            raise ApplianceError(f"the proxy answers {status}")
        self._take(12)
        self._say(b"RFB 003.008\n")
        if self._take(1) == b"\0":
            raise ApplianceError(self._take(struct.unpack(">I", self._take(4))[0]).decode())
        self._take(1)
        self._say(b"\x01")  # no authentication: the proxy has done it
        self._take(4)
        self._say(b"\x01")  # shared
        self._width, self._height, _, length = struct.unpack(">HH16sI", self._take(24))
        self.title = self._take(length).decode(errors="replace")

    def frame(self) -> Frame:
        """The screen as it is now."""
        wanted = struct.pack(">BBHHHH", 3, 0, 0, 0, self._width, self._height)
        self._say(_RAW + wanted)
        pixels = bytearray(self._width * self._height * 4)
        left = self._width * self._height
        while left > 0:
            kind = self._take(1)[0]
            if kind == 3:  # text of its clipboard
                self._take(struct.unpack(">3xI", self._take(7))[0])
                continue
            if kind != 0:
                continue  # a bell, or colours that nobody needs
            for _ in range(struct.unpack(">xH", self._take(3))[0]):
                x, y, width, height, _ = struct.unpack(">HHHHi", self._take(12))
                for row in range(y, y + height):
                    begin = (row * self._width + x) * 4
                    pixels[begin : begin + width * 4] = self._take(width * 4)
                left -= width * height
        return Frame(self._width, self._height, bytes(pixels))

    def type(self, text: str) -> None:
        """Press keys, the pointer over the screen's middle."""
        self._say(struct.pack(">BBHH", 5, 0, self._width // 3, self._height // 3))
        for character in text:
            keysym = _RETURN if character == "\n" else ord(character)
            self._say(struct.pack(">BBxxIBBxxI", 4, 1, keysym, 4, 0, keysym))

    # -- frames -------------------------------------------------------------------------------

    def _read(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ApplianceError("the proxy has closed the console")
        self._coming += data

    def _need(self, count: int) -> None:
        while len(self._coming) < count:
            self._read()

    def _take(self, count: int) -> bytes:
        parts, have = [self._data], len(self._data)
        while have < count:
            payload = self._payload()
            parts.append(payload)
            have += len(payload)
        whole = b"".join(parts)
        self._data = whole[count:]
        return whole[:count]

    def _payload(self) -> bytes:
        """The next frame's; a server's has no mask."""
        self._need(2)
        kind, length, begin = self._coming[0] & 15, self._coming[1] & 127, 2
        if length > 125:
            begin = 4 if length == 126 else 10
            self._need(begin)
            length = int.from_bytes(self._coming[2:begin])
        self._need(begin + length)
        payload = self._coming[begin : begin + length]
        self._coming = self._coming[begin + length :]
        if kind == 8:
            raise ApplianceError(payload[2:].decode(errors="replace") or "the console is closed")
        return payload if kind in {0, 1, 2} else b""

    def _say(self, data: bytes) -> None:
        """A frame of fewer than 126 bytes; a client's is masked, and by zeros as well as any."""
        self._sock.sendall(bytes((0x82, 0x80 | len(data))) + bytes(4) + data)


@contextmanager
def viewing(sock: socket.socket, authority: str, url: str) -> Iterator[Viewer]:
    """A console's link, opened over a connection to the proxy; `authority` is the CA's PEM."""
    parts = urllib.parse.urlsplit(url)
    secret = urllib.parse.parse_qs(parts.fragment)["s"][0]
    context = ssl.create_default_context(cadata=authority)
    with sock, context.wrap_socket(sock, server_hostname=parts.hostname) as secure:
        yield Viewer(secure, parts.netloc, secret)
