"""Asks a DHCP server of this very machine, as a guest does (RFC 2131): one that has an address by
DHCPINFORM, one that wants one by DHCPDISCOVER.

It is told what a guest would be told, and nothing is lent: an offer that nobody takes is
forgotten. A packet to an address of our own is looped back, and the kernel says that it came in at
the NIC that holds the address; so dnsmasq takes it for a guest's.
"""

import secrets
import socket
import struct
import time
from ipaddress import IPv4Address

_SERVER, _CLIENT = 67, 68
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _ACK, _INFORM = 1, 2, 5, 8
_TYPE, _WANTED, _END = 53, 55, 255
# A hardware address that nobody has: of those that each network may give out itself.
_MAC = bytes.fromhex("020000000001")
_NOBODY = IPv4Address(0)


def informs(server: IPv4Address, timeout: float) -> bool:
    """Does the server answer within `timeout` seconds? Raises OSError."""
    number = secrets.token_bytes(4)
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        channel.bind((str(server), _CLIENT))
        channel.sendto(_question(number, _INFORM, _MAC, client=server), (str(server), _SERVER))
        while True:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                reply, peer = channel.recvfrom(4096)
            except TimeoutError:
                return False
            if peer == (str(server), _SERVER) and is_answer(reply, number):
                return True


def offered(server: IPv4Address, mac: str, timeout: float) -> IPv4Address | None:
    """The address that a guest with this MAC address would be offered; None where it gets none.

    Asked as a relay asks, whom the server answers at its own address and port: that is the server's
    own again, so the answer is read beside it. Nothing of it is seen in the guests' network; two
    lines are, in the server's log. Raises OSError.
    """
    number = secrets.token_bytes(4)
    deadline = time.monotonic() + timeout
    hardware = bytes.fromhex(mac.replace(":", ""))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as beside,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel,
    ):
        beside.bind((str(server), 0))
        channel.bind((str(server), 0))
        channel.sendto(_question(number, _DISCOVER, hardware, relay=server), (str(server), _SERVER))
        while True:
            beside.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                packet = beside.recv(4096)
            except TimeoutError:
                return None
            reply = packet[(packet[0] & 15) * 4 + 8 :]  # behind the headers of IP and UDP
            if is_answer(reply, number, _OFFER):
                return IPv4Address(reply[16:20])


def _question(
    number: bytes,
    kind: int,
    mac: bytes,
    *,
    client: IPv4Address = _NOBODY,
    relay: IPv4Address = _NOBODY,
) -> bytes:
    """A request of that type; the server answers the relay, where there is one, or the client."""
    hops = 0 if relay == _NOBODY else 1
    head = struct.pack("!BBBB4sHH", 1, 1, 6, hops, number, 0, 0)
    addresses = (client.packed, bytes(4), bytes(4), relay.packed)
    rest = struct.pack("!4s4s4s4s16s64s128s", *addresses, mac, b"", b"")
    return head + rest + _COOKIE + bytes([_TYPE, 1, kind, _WANTED, 2, 1, 3, _END])


def is_answer(reply: bytes, number: bytes, wanted: int = _ACK) -> bool:
    """Is this the answer of that type (a DHCPACK) to the request of that number?"""
    if len(reply) < 240 or reply[0] != 2 or reply[4:8] != number or reply[236:240] != _COOKIE:
        return False
    options, at = reply, 240
    while at + 1 < len(options) and options[at] != _END:
        if options[at] == 0:  # padding
            at += 1
            continue
        if options[at] == _TYPE:
            return options[at + 2 : at + 3] == bytes([wanted])
        at += 2 + options[at + 1]
    return False
