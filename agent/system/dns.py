"""Asks a name server for a name, over UDP: A and AAAA (RFC 1035, 4; RFC 3596).

The monitor asks every two seconds, and the health checks for every name. dnspython would take
2.3 MiB of the agent's memory for it.
"""

import secrets
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from agent.engine.model import IPAddress

_PORT = 53
_TYPES = {"A": (1, 4), "AAAA": (28, 16)}  # the record's number, and the bytes of an address
_INTERNET = 1
_HEAD = struct.Struct("!6H")  # number, flags, records of each of the four parts
_RECORD = struct.Struct("!2HIH")  # type, class, time to live, length
_QUESTION = struct.Struct("!2H")
_IS_ANSWER, _RECURSE, _CODE = 0x8000, 0x0100, 0x000F
_POINTER = 0xC0
_CODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")


class NotDns(ValueError):
    """What came is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says: how that went (RFC 1035's RCODE), and the addresses."""

    code: str
    addresses: frozenset[IPAddress] = frozenset()

    @property
    def well(self) -> bool:
        return self.code == _CODES[0]


def ask(server: IPAddress, name: str, kind: str, timeout: float) -> Answer:
    """The answer of one of our own servers; `kind` is A or AAAA.

    It is asked from the very address that is asked, which so has to be there. Raises OSError
    (TimeoutError where nobody answers in time, in seconds) and NotDns.
    """
    deadline = time.monotonic() + timeout
    number = secrets.randbelow(1 << 16)
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.bind((str(server), 0))
        channel.connect((str(server), _PORT))
        channel.send(question(number, name, kind))
        while True:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            reply = channel.recv(65535)
            if reply[:2] == number.to_bytes(2):
                return read(reply, kind)


def question(number: int, name: str, kind: str) -> bytes:
    """A query that has this number."""
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    words = b"".join(bytes([len(label)]) + label for label in labels)
    head = _HEAD.pack(number, _RECURSE, 1, 0, 0, 0)
    return head + words + b"\0" + _QUESTION.pack(_TYPES[kind][0], _INTERNET)


def read(reply: bytes, kind: str) -> Answer:
    """What a reply says. Raises NotDns."""
    try:
        _, flags, questions, answers, _, _ = _HEAD.unpack_from(reply)
        if not flags & _IS_ANSWER:
            raise NotDns("a question came back")
        at = _HEAD.size
        for _ in range(questions):
            at = _after_name(reply, at) + _QUESTION.size
        code = flags & _CODE
        return Answer(
            _CODES[code] if code < len(_CODES) else f"RCODE {code}",
            frozenset(_addresses(reply, at, answers, kind)),
        )
    except (IndexError, struct.error) as error:
        raise NotDns("the answer ends too early") from error


def _addresses(reply: bytes, at: int, count: int, kind: str) -> Iterator[IPAddress]:
    """Those in `count` records from there on; one of another type may be on the way to them."""
    number, size = _TYPES[kind]
    for _ in range(count):
        at = _after_name(reply, at)
        of, which, _, length = _RECORD.unpack_from(reply, at)
        at += _RECORD.size + length
        if at > len(reply):
            raise NotDns("the answer ends too early")
        if (of, which) == (number, _INTERNET):
            if length != size:
                raise NotDns(f"an address has {length} bytes")
            yield ip_address(reply[at - length : at])


def _after_name(reply: bytes, at: int) -> int:
    """Where a name ends: at an empty label, or at a pointer to where it goes on."""
    while (length := reply[at]) & _POINTER != _POINTER:
        at += 1 + length
        if not length:
            return at
    return at + 2
