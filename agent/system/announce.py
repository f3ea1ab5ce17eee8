"""Tell the neighbours of new addresses: gratuitous ARP and unsolicited neighbour advertisements.

RFC 5227 and RFC 826 for ARP, sent in both forms, since some neighbours learn from requests only
and others from replies only; RFC 4861, section 7.2.6, for IPv6. Frames are made here, because
that is all there is to it.
"""

import errno
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from agent.engine.host import StepFailed
from agent.engine.model import Address

_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = b"\x33\x33\x00\x00\x00\x01"
_ETH_ARP = 0x0806
_ETH_IPV6 = 0x86DD
_ARP_REQUEST = 1
_ARP_REPLY = 2
_ICMPV6 = 58
_ADVERTISEMENT = 136
_ROUTER_AND_OVERRIDE = 0xA0000000
_TARGET_LINK_LAYER_ADDRESS = 2
# A NIC that is down, or is gone again, has no neighbours to tell.
_NOBODY_THERE = frozenset({errno.ENETDOWN, errno.ENODEV, errno.ENXIO})


def announce(addresses: Iterable[Address]) -> None:
    """Announce each address on its NIC. Raises StepFailed."""
    for address in addresses:
        try:
            _announce(address.nic, address.interface.ip)
        except OSError as error:
            if error.errno not in _NOBODY_THERE:
                raise StepFailed(f"announce {address.interface.ip}", str(error)) from error


def _announce(nic: str, ip: IPv4Address | IPv6Address) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((nic, 0))
        mac: bytes = out.getsockname()[4]
        if isinstance(ip, IPv4Address):
            out.send(arp(mac, ip, _ARP_REQUEST))
            out.send(arp(mac, ip, _ARP_REPLY))
        else:
            out.send(advertisement(mac, ip))


def arp(mac: bytes, ip: IPv4Address, operation: int) -> bytes:
    """An Ethernet frame with an ARP packet that names one address as sender and as target."""
    target = mac if operation == _ARP_REPLY else bytes(6)
    packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    packet += mac + ip.packed + target + ip.packed
    return _BROADCAST + mac + struct.pack("!H", _ETH_ARP) + packet


def advertisement(mac: bytes, ip: IPv6Address) -> bytes:
    """An Ethernet frame with an unsolicited neighbour advertisement to all nodes."""
    body = struct.pack("!I", _ROUTER_AND_OVERRIDE) + ip.packed
    body += struct.pack("!BB", _TARGET_LINK_LAYER_ADDRESS, 1) + mac
    pseudo = ip.packed + _ALL_NODES.packed + struct.pack("!II", len(body) + 4, _ICMPV6)
    head = struct.pack("!BB", _ADVERTISEMENT, 0)
    total = _checksum(pseudo + head + b"\0\0" + body)
    message = head + struct.pack("!H", total) + body
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255)
    packet = header + ip.packed + _ALL_NODES.packed + message
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_IPV6) + packet


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
