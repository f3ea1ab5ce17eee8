"""Where the proxy listens: the sockets that its workers share."""

import socket
from collections.abc import Mapping, Sequence

from agent.console.configuration import Listener

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h


def bind(
    listeners: Sequence[Listener], have: Mapping[Listener, socket.socket] | None = None
) -> dict[Listener, socket.socket]:
    """The sockets that workers share, each at its place.

    What `have` has at the same address and port is taken over. Raises OSError.
    """
    there = {(one.address, one.port): sock for one, sock in (have or {}).items()}
    bound: dict[Listener, socket.socket] = {}
    fresh: list[socket.socket] = []
    try:
        for listener in listeners:
            sock = there.get((listener.address, listener.port))
            if sock is None:
                sock = _listen(listener)
                fresh.append(sock)
            bound[listener] = sock
    except OSError:
        for sock in fresh:
            sock.close()
        raise
    return bound


def _listen(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # An IPv6 address is not there for a second after it was added (DAD).
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((listener.address, listener.port))
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock
