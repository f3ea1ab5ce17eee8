"""Sockets of the agent's own traffic, which leaves by one NIC whatever the routes say.

SO_BINDTODEVICE (socket(7)): of all routes, those of that NIC alone count, so that what the agent
tells management never takes the public side's default route.
"""

import socket


def connect(host: str, port: int, nic: str, timeout: float) -> socket.socket:
    """A TCP connection to the first address of this host that takes one. Raises OSError."""
    failed: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        peer = socket.socket(family, kind, protocol)
        try:
            bind(peer, nic)
            peer.settimeout(timeout)
            peer.connect(address)
        except OSError as error:
            peer.close()
            failed = error
        else:
            return peer
    raise failed or OSError(f"{host} has no address")


def send(datagram: bytes, address: str, port: int, nic: str) -> None:
    """Send a datagram, or not at all: never waits. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.settimeout(0)
        bind(sender, nic)
        sender.sendto(datagram, (address, port))


def bind(one: socket.socket, nic: str) -> None:
    """By this NIC alone; by any where there is no name."""
    if nic:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, nic.encode() + b"\0")
