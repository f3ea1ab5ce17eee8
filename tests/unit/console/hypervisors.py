"""Hypervisors that answer as XenServer's and VMware's do around RFB; no real one can be had here.

What xapi says is of its console.ml: CONNECT with `uuid` or `ref` and a session in a cookie or the
query, 401 without a session, 404 without a console, 503 where `limit_console_sessions` is set and
one is open; then RFB 3.3. ESXi's WebSocket is at /ticket/…, wants the sub-protocol `binary`, and
knows each ticket once; it speaks RFB 3.8.
"""

import base64
import hashlib
import re
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.unit.console.rig import PIXELS, Screen, begin, take

UUID = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
SESSION = "OpaqueRef:5a3f0c1e-0000-4000-8000-000000000001"
TICKET = "3f9a0c1e5b7d2a44"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def head(sock: socket.socket) -> tuple[str, dict[str, str]]:
    """A request's first line, and its fields by their names in lower case."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += take(sock, 1)
    first, *lines = data.decode().strip().split("\r\n")
    return first, {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


@dataclass
class Xapi:
    """XenServer's xapi: a console after CONNECT."""

    context: ssl.SSLContext
    limited: bool = False  # limit_console_sessions, and somebody is there
    cut: str = ""  # where the connection breaks: "tls", "head", "rfb"
    asked: list[str] = field(default_factory=list)

    def around(self, sock: socket.socket) -> socket.socket:
        if self.cut == "tls":
            sock.recv(10)
            raise EOFError
        inside = self.context.wrap_socket(sock, server_side=True)
        line, fields = head(inside)
        self.asked.append(line)
        method, path, _ = line.split(" ")
        known = f"session_id={SESSION}"
        if self.cut == "head":
            inside.sendall(b"HTTP/1.1 200 OK\r\nCache-")
            raise EOFError
        status = "200 OK"
        if method != "CONNECT" or not path.startswith("/console?"):
            status = "404 Not Found"
        elif known not in fields.get("cookie", "") and known not in path:
            status = '401 Unauthorised\r\nWWW-Authenticate: Basic realm="XAPI"'
        elif f"uuid={UUID}" not in path:
            status = "404 Not Found"
        elif self.limited:
            status = "503 Connection Limit Exceeded"
        inside.sendall(
            f"HTTP/1.1 {status}\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n"
            "\r\n".encode()
        )
        if not status.startswith("200") or self.cut == "rfb":
            inside.sendall(b"RFB 003." if self.cut else b"<html><body>no</body></html>")
            raise EOFError
        return inside

    def screen(self) -> Screen:
        return Screen(old_talk, around=self.around)


def old_talk(screen: Screen, sock: socket.socket) -> None:
    """RFB 3.3, where the server says how it is: without a password."""
    sock.sendall(b"RFB 003.003\n")
    assert take(sock, 12) == b"RFB 003.003\n"
    sock.sendall(struct.pack(">I", 1))
    begin(screen, sock)


@dataclass
class Esxi:
    """ESXi: a console in a WebSocket, for who has a ticket."""

    context: ssl.SSLContext
    cut: str = ""  # "accept": what accepts is no WebSocket; "middle": RFB breaks off
    tickets: set[str] = field(default_factory=lambda: {TICKET})
    protocols: list[str] = field(default_factory=list)

    def screen(self) -> Screen:
        return Screen(self.talk, around=self.around)

    def around(self, sock: socket.socket) -> socket.socket:
        return self.context.wrap_socket(sock, server_side=True)

    def talk(self, screen: Screen, sock: socket.socket) -> None:
        line, fields = head(sock)
        ticket = re.fullmatch(r"GET /ticket/(\w+) HTTP/1\.1", line)
        offered = fields.get("sec-websocket-protocol", "")
        self.protocols.append(offered)
        if ticket is None or ticket[1] not in self.tickets:
            sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        if offered != "binary":
            return  # it hangs up
        self.tickets.discard(ticket[1])
        digest = hashlib.sha1(fields["sec-websocket-key"].encode() + _GUID, usedforsecurity=False)
        accepted = base64.b64encode(digest.digest()).decode()
        if self.cut == "accept":
            accepted = "AAAAAAAAAAAAAAAAAAAAAAAAAAA="
        sock.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accepted}\r\nSec-WebSocket-Protocol: binary\r\n\r\n".encode()
        )
        web = Frames(sock)
        web.send(b"RFB 003.")
        if self.cut == "middle":
            return
        web.send(b"008\n")
        assert web.take(12) == b"RFB 003.008\n"
        web.send(b"\x01\x01")
        assert web.take(1) == b"\x01"
        # Everything at once: where a frame ends says nothing of where a message does.
        web.send(struct.pack(">I", 0))
        assert web.take(1) == b"\x01"
        web.send(struct.pack(">HH16sI", 8, 6, PIXELS, 4) + b"ESXi")
        screen.sockets.append(sock)
        screen.say = web.send  # type: ignore[method-assign] # in frames, here
        while True:
            screen.heard += web.take(1)


class Frames:
    """The server's side of a WebSocket, in small."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""
        self.pongs: list[bytes] = []

    def send(self, data: bytes, opcode: int = 2) -> None:
        if len(data) < 126:
            first = struct.pack(">BB", 0x80 | opcode, len(data))
        elif len(data) < 65536:
            first = struct.pack(">BBH", 0x80 | opcode, 126, len(data))
        else:
            first = struct.pack(">BBQ", 0x80 | opcode, 127, len(data))
        self._sock.sendall(first + data)

    def take(self, count: int) -> bytes:
        """So many bytes of what comes. Raises EOFError."""
        while len(self._data) < count:
            first, second = take(self._sock, 2)
            assert second & 0x80, "a client masks"
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", take(self._sock, 2))
            elif length == 127:
                (length,) = struct.unpack(">Q", take(self._sock, 8))
            mask = take(self._sock, 4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(take(self._sock, length)))
            if first & 0x0F == 10:
                self.pongs.append(data)
            elif first & 0x0F == 8:
                raise EOFError
            else:
                self._data += data
        data, self._data = self._data[:count], self._data[count:]
        return data


def silent(_: Screen, sock: socket.socket) -> None:
    """Takes the connection, and never says anything."""
    while sock.recv(4096):
        pass


Talk = Callable[[Screen, socket.socket], None]
