"""A port of this machine that leads into a lab. A program of its own, standard library only.

Started in a node's network with a listening socket of the host's, whose number is its first
argument; each connection is carried on to the port that follows, at the address after it. Where
there are several addresses, it is the one that the name says which TLS is asked for
(203-0-113-20.… for 203.0.113.20), as at a load balancer.
"""

import contextlib
import select
import socket
import sys
import threading

_HELLO = 5.0  # seconds for a client to say which name it wants


def choose(hello: bytes, addresses: list[str]) -> str:
    """The address that is named in a TLS ClientHello, where names are still in the clear."""
    named = (a for a in addresses if a.replace(".", "-").encode() + b"." in hello)
    return next(named, addresses[0])


def peek(one: socket.socket) -> bytes:
    """A connection's first TLS record, left where it is."""
    one.settimeout(_HELLO)
    whole = socket.MSG_PEEK | socket.MSG_WAITALL
    head = one.recv(5, whole)
    hello = one.recv(5 + int.from_bytes(head[3:], "big"), whole)
    one.settimeout(None)
    return hello


def carry(one: socket.socket, addresses: list[str], port: int) -> None:
    """Carry a connection on until either side ends."""
    with one, contextlib.suppress(OSError):
        address = choose(peek(one), addresses) if len(addresses) > 1 else addresses[0]
        with socket.create_connection((address, port), 5) as other:
            other.settimeout(None)
            while True:
                readable, _, _ = select.select([one, other], [], [])
                for sock in readable:
                    data = sock.recv(65536)
                    if not data:
                        return
                    (other if sock is one else one).sendall(data)


def main() -> None:
    """Accept until killed."""
    handle, port, *addresses = sys.argv[1:]
    listener = socket.socket(fileno=int(handle))
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=carry, args=(accepted, addresses, int(port)), daemon=True).start()


if __name__ == "__main__":
    main()
