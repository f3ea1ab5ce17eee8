"""Asks a DHCP server of this very machine, as a guest with an address does (DHCPINFORM, RFC 2131).

It is told what a guest would be told, and nothing is lent. A packet to an address of our own is
looped back, and the kernel says that it came in at the NIC that holds the address; so dnsmasq takes
it for a guest's.
"""

import functools
import secrets
import socket
import struct
import time
from ipaddress import IPv4Address

_SERVER, _CLIENT = 67, 68
_COOKIE = b"\x63\x82\x53\x63"
_INFORM, _ACK = 8, 5
_TYPE, _WANTED, _END = 53, 55, 255
# A hardware address that nobody has: of those that each network may give out itself.
_MAC = bytes.fromhex("020000000001")


def informs(server: IPv4Address, timeout: float) -> bool:
    """Does the server answer within `timeout` seconds? Raises OSError."""
    number = secrets.token_bytes(4)
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        channel.bind((str(server), _CLIENT))
        head, rest = _question(server)
        channel.sendto(head + number + rest, (str(server), _SERVER))
        while True:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                reply, peer = channel.recvfrom(4096)
            except TimeoutError:
                return False
            if peer == (str(server), _SERVER) and is_answer(reply, number):
                return True


@functools.lru_cache(64)
def _question(server: IPv4Address) -> tuple[bytes, bytes]:
    """The request, without its number in the middle."""
    nobody = bytes(4)
    rest = struct.pack(
        "!HH4s4s4s4s16s64s128s", 0, 0, server.packed, nobody, nobody, nobody, _MAC, b"", b""
    )
    options = bytes([_TYPE, 1, _INFORM, _WANTED, 2, 1, 3, _END])
    return struct.pack("!BBBB", 1, 1, 6, 0), rest + _COOKIE + options


def is_answer(reply: bytes, number: bytes) -> bool:
    """Is this the DHCPACK to the request of that number?"""
    if len(reply) < 240 or reply[0] != 2 or reply[4:8] != number or reply[236:240] != _COOKIE:
        return False
    options, at = reply, 240
    while at + 1 < len(options) and options[at] != _END:
        if options[at] == 0:  # padding
            at += 1
            continue
        if options[at] == _TYPE:
            return options[at + 2 : at + 3] == bytes([_ACK])
        at += 2 + options[at + 1]
    return False
