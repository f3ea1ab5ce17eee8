"""Asks a name server for a name, over UDP: A and AAAA (RFC 1035, RFC 3596).

The monitor asks every two seconds, and the health checks for every name: dnspython writes the
questions and reads the replies, and neither twice. Its dns.query would send them, too, but with TLS
and HTTP come 2 MiB of memory.
"""

import functools
import secrets
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address

from agent import lean
from agent.engine.model import IPAddress

_PORT = 53
_NUMBER = 2  # bytes of a message that are its own: what comes after them is the same each time


class NotDns(ValueError):
    """What came is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says: how that went (RFC 1035's RCODE), and the addresses."""

    code: str
    addresses: frozenset[IPAddress] = frozenset()

    @property
    def well(self) -> bool:
        return self.code == "NOERROR"


def ask(server: IPAddress, name: str, kind: str, timeout: float) -> Answer:
    """The answer of one of our own servers; `kind` is A or AAAA.

    It is asked from the very address that is asked, which so has to be there. Raises OSError
    (TimeoutError where nobody answers in time, in seconds) and NotDns.
    """
    deadline = time.monotonic() + timeout
    number = secrets.token_bytes(_NUMBER)
    family = socket.AF_INET if server.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.bind((str(server), 0))
        channel.connect((str(server), _PORT))
        channel.send(number + question(name, kind))
        while True:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            reply = channel.recv(65535)
            if reply[:_NUMBER] == number:
                return read(reply[_NUMBER:], kind)


@functools.lru_cache(64)
def question(name: str, kind: str) -> bytes:
    """A query without its number."""
    with lean.without("importlib.metadata"):  # it looks for packages that are not there: 0.5 MiB
        import dns.message

    return dns.message.make_query(name, kind).to_wire()[_NUMBER:]


@functools.lru_cache(64)
def read(reply: bytes, kind: str) -> Answer:
    """What a reply without its number says. Raises NotDns."""
    import dns.exception
    import dns.flags
    import dns.message
    import dns.rcode
    import dns.rdatatype

    try:
        message = dns.message.from_wire(bytes(_NUMBER) + reply)
    except (dns.exception.DNSException, ValueError) as error:
        raise NotDns(str(error) or type(error).__name__) from error
    if not message.flags & dns.flags.QR:
        raise NotDns("a question came back")
    wanted = dns.rdatatype.from_text(kind)
    found = (item for records in message.answer if records.rdtype == wanted for item in records)
    addresses = frozenset(ip_address(item.to_text()) for item in found)
    return Answer(dns.rcode.to_text(message.rcode()), addresses)
