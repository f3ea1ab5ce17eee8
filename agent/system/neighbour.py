"""Does a neighbour answer: by ICMP echo (RFC 792, RFC 4443) or, over IPv4, at least by ARP.

Sockets rather than ping(8), for these are asked every few minutes for as long as the VM lives.
"""

import contextlib
import os
import secrets
import socket
import struct
import time
from ipaddress import IPv4Address

from agent.engine.model import IPAddress

_TRIES = 3
_PAUSE = 1.0  # seconds that an answer may take
_ECHO = {4: (8, 0), 6: (128, 129)}  # request, reply
_ETH_ARP = 0x0806


def answers(address: IPAddress, nic: str) -> str:
    """How it answers on this NIC: "ping", "ARP", or empty for not at all."""
    with contextlib.suppress(OSError):
        if _pings(address, nic):
            return "ping"
    if isinstance(address, IPv4Address):
        with contextlib.suppress(OSError):
            if _has(address, nic):
                return "ARP"
    return ""


def _pings(address: IPAddress, nic: str) -> bool:
    four = isinstance(address, IPv4Address)
    family = socket.AF_INET if four else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if four else socket.IPPROTO_ICMPV6
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, nic.encode())
        scope = 0 if four else socket.if_nametoindex(nic)
        where = (str(address), 0) if four else (str(address), 0, 0, scope)
        mark = secrets.token_bytes(12)
        for number in range(_TRIES):
            sock.sendto(_echo(address.version, os.getpid() & 0xFFFF, number, mark), where)
            if _came(sock, mark, _ECHO[address.version][1], 20 if four else 0):
                return True
    return False


def _echo(version: int, identifier: int, number: int, mark: bytes) -> bytes:
    kind = _ECHO[version][0]
    body = struct.pack("!HH", identifier, number) + mark
    head = struct.pack("!BB", kind, 0)
    # Over IPv6 the kernel fills the checksum in, for it knows the source (RFC 3542, 3.1).
    total = _checksum(head + b"\0\0" + body) if version == 4 else 0
    return head + struct.pack("!H", total) + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _came(sock: socket.socket, mark: bytes, kind: int, header: int) -> bool:
    """Wait for the reply that has our mark; `header` bytes of IPv4 stand before it."""
    deadline = time.monotonic() + _PAUSE
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            packet = sock.recv(2048)
        except TimeoutError:
            return False
        start = (packet[0] & 15) * 4 if header else 0
        if len(packet) > start and packet[start] == kind and mark in packet:
            return True
    return False


def _has(address: IPv4Address, nic: str) -> bool:
    """Ask who has the address, as an ARP probe does (RFC 5227): nobody learns anything from it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ARP)) as sock:
        sock.bind((nic, _ETH_ARP))
        mac: bytes = sock.getsockname()[4]
        packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + bytes(4) + bytes(6)
        frame = b"\xff" * 6 + mac + struct.pack("!H", _ETH_ARP) + packet + address.packed
        for _ in range(_TRIES):
            sock.send(frame)
            deadline = time.monotonic() + _PAUSE
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    answer = sock.recv(2048)
                except TimeoutError:
                    break
                if answer[20:22] == b"\0\2" and answer[28:32] == address.packed:
                    return True
    return False
