"""Ports for servers that a test starts, and starts again.

The kernel gives connections and servers that ask for any port one from `ip_local_port_range`
(32768 and above). A port from there may have another owner by the time that the test's server
wants it, or wants it again; these are from below, at another place in each of xdist's workers.
"""

import itertools
import os
import socket

_FIRST, _MANY = 10_000, 20_000
_NEXT = itertools.count(os.getpid() * 911)


def free(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has at any address."""
    while True:
        port = _FIRST + next(_NEXT) % _MANY
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.bind(("", port))
            except OSError:
                continue
        return port
