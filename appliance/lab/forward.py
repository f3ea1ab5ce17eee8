"""A port of this machine that leads into a lab. A program of its own, standard library only.

Started in a node's network with a listening socket of the host's, whose number is its first
argument; each connection is carried on to the address and port that follow.
"""

import contextlib
import select
import socket
import sys
import threading


def carry(one: socket.socket, to: tuple[str, int]) -> None:
    """Carry a connection on until either side ends."""
    with one, contextlib.suppress(OSError), socket.create_connection(to, 5) as other:
        while True:
            readable, _, _ = select.select([one, other], [], [])
            for sock in readable:
                data = sock.recv(65536)
                if not data:
                    return
                (other if sock is one else one).sendall(data)


def main() -> None:
    """Accept until killed."""
    handle, address, port = sys.argv[1:]
    listener = socket.socket(fileno=int(handle))
    while True:
        accepted, _ = listener.accept()
        to = (address, int(port))
        threading.Thread(target=carry, args=(accepted, to), daemon=True).start()


if __name__ == "__main__":
    main()
