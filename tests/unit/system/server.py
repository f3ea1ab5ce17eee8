"""A server on a socket of its own that gives each client one answer."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[bytes], bytes]


@contextlib.contextmanager
def serving(listener: socket.socket, answer: Answer) -> Iterator[list[bytes]]:
    """Answer clients until the block ends; the list fills with what they asked."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                asked.append(client.recv(65536))
                client.sendall(answer(asked[-1]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def unix(path: str) -> socket.socket:
    """A listening Unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def tcp() -> socket.socket:
    """A listening TCP socket on loopback, on a free port."""
    return socket.create_server(("127.0.0.1", 0))
