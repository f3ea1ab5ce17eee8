"""A blocking socket to the kernel (netlink(7)): requests as bytes, answers as bytes.

What the bytes mean is its caller's affair. pyroute2 has sockets as well, of asyncio and with all
that they could ever speak of at hand: 7 MiB, and most of what starting the agent would take.
"""

import os
import socket
import struct
from collections.abc import Iterator

ROUTE = 0  # NETLINK_ROUTE
NETFILTER = 12  # NETLINK_NETFILTER

REQUEST = 0x1
ACK = 0x4
ROOT_MATCH = 0x300  # NLM_F_DUMP
REPLACE = 0x100
EXCLUSIVE = 0x200
CREATE = 0x400

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what is listed was changed meanwhile
_ERROR = 2
_DONE = 3
_SOL_NETLINK = 270
_CAP_ACK = 10  # an answer does not repeat the request
_EXT_ACK = 11  # and says in words what is wrong
_STRICT = 12  # the kernel filters a listing by what the request's header says
_ACK_TLVS = 0x200
_MESSAGE = 1  # NLMSGERR_ATTR_MSG
_LONGEST = 64 * 1024  # the kernel answers in parts of at most 32 KiB
_TIMEOUT = 10.0  # seconds; the kernel answers at once or never
_TRIES = 5  # of a listing that is interrupted


class KernelRefused(Exception):
    """The kernel said no; `code` is the errno."""

    def __init__(self, code: int, words: str = "") -> None:
        self.code = code
        said = os.strerror(code)
        super().__init__(f"{said} ({words})" if words else said)


class Channel:
    """A socket of one protocol. Its methods raise KernelRefused, or OSError where it is broken."""

    def __init__(self, protocol: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        try:
            for option in (_CAP_ACK, _EXT_ACK, *((_STRICT,) if protocol == ROUTE else ())):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            self._socket.settimeout(_TIMEOUT)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Have the kernel change something, and wait until it has."""
        for _ in self._answers(kind, body, REQUEST | ACK | flags):
            pass

    def listing(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all messages that the kernel answers with."""
        for attempt in range(_TRIES):
            found, whole = [], True
            for flags, answer in self._answers(kind, body, REQUEST | ROOT_MATCH):
                found.append(answer)
                whole = whole and not flags & _INTERRUPTED
            if whole or attempt == _TRIES - 1:
                break
        return found

    def _answers(self, kind: int, body: bytes, flags: int) -> Iterator[tuple[int, bytes]]:
        self._number = self._number % 0x7FFFFFFF + 1
        head = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._number, 0)
        self._socket.send(head + body)
        while True:
            data = self._socket.recv(_LONGEST)
            for kind, flags, number, answer in _messages(data):
                if number != self._number:
                    continue  # of a request that was given up
                if kind == _DONE:
                    _check(answer, flags)
                    return
                if kind == _ERROR:
                    _check(answer, flags)
                    return
                yield flags, answer


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    place = 0
    while place + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, place)
        if length < _HEADER.size:
            return
        yield kind, flags, number, data[place + _HEADER.size : place + length]
        place += (length + 3) & ~3


def _check(answer: bytes, flags: int) -> None:
    """An error's number, and its words behind it (nlmsgerr in linux/netlink.h)."""
    if len(answer) < 4 or not (code := -int.from_bytes(answer[:4], "little", signed=True)):
        return
    words = ""
    if flags & _ACK_TLVS:
        # The number, and the header of the request; of a listing the number alone.
        for place in (4 + _HEADER.size, 4):
            words = words or _words(answer[place:])
    raise KernelRefused(code, words)


def _words(attributes: bytes) -> str:
    place = 0
    while place + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, place)
        if length < 4:
            return ""
        if kind == _MESSAGE:
            return attributes[place + 4 : place + length].rstrip(b"\0").decode(errors="replace")
        place += (length + 3) & ~3
    return ""
