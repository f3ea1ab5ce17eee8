"""A small server for a lab's nodes: says who asked. A program of its own, standard library only.

HTTP answers with a fixed body, or with the server's name and the client's address; TCP and UDP
answer with the same line and, for UDP, what came. One JSON line per exchange goes to the log.
"""

import argparse
import http.server
import json
import socket
import socketserver
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar


class Settings:
    """What was said on the command line."""

    name: ClassVar[str] = ""
    body: ClassVar[bytes | None] = None
    log: ClassVar[Path] = Path("/dev/null")
    lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def answer(cls, client: str) -> bytes:
        """What a client is told."""
        return cls.body if cls.body is not None else f"{cls.name} sees {client}\n".encode()

    @classmethod
    def note(cls, **exchange: object) -> None:
        """Write one exchange down."""
        with cls.lock, cls.log.open("a") as log:
            log.write(json.dumps(exchange) + "\n")


def plain(address: tuple[Any, ...]) -> str:
    """The client's address, without the prefix that a dual-stack socket adds to IPv4."""
    return str(address[0]).removeprefix("::ffff:")


class Web(http.server.BaseHTTPRequestHandler):
    """Answers every request alike."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Say who asked."""
        length = int(self.headers.get("Content-Length") or 0)
        received = self.rfile.read(length)
        client = plain(self.client_address)
        answer = Settings.answer(client)
        Settings.note(
            client=client,
            port=self.client_address[1],
            method=self.command,
            path=self.path,
            headers=dict(self.headers),
            body=received.decode(errors="replace"),
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Server", Settings.name)
        self.send_header("X-Client", client)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Keep standard error quiet: there is a log."""


class Line(socketserver.StreamRequestHandler):
    """Answers a TCP connection at once, and closes it."""

    def handle(self) -> None:
        """Say who connected."""
        Settings.note(client=plain(self.client_address), port=self.client_address[1])
        self.wfile.write(Settings.answer(plain(self.client_address)))


class Datagram(socketserver.DatagramRequestHandler):
    """Answers a UDP datagram."""

    def handle(self) -> None:
        """Say who sent it, and what."""
        received = self.rfile.read()
        client = plain(self.client_address)
        Settings.note(
            client=client, port=self.client_address[1], body=received.decode(errors="replace")
        )
        self.wfile.write(Settings.answer(client) + received)


class WebServer(socketserver.ThreadingTCPServer):
    """HTTP and bare TCP, IPv4 and IPv6; a burst of connections waits rather than being refused."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 1024
    daemon_threads = True


class DatagramServer(socketserver.ThreadingUDPServer):
    """UDP, IPv4 and IPv6."""

    address_family = socket.AF_INET6
    daemon_threads = True


def main() -> None:
    """Serve until killed; say `ready` on standard output once requests are accepted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--protocol", choices=("http", "tcp", "udp"), default="http")
    parser.add_argument("--address", default="::")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--body")
    parser.add_argument("--log", type=Path, required=True)
    given = parser.parse_args()
    Settings.name, Settings.log = given.name, given.log
    if given.body is not None:
        Settings.body = given.body.encode()
    address = given.address if ":" in given.address else f"::ffff:{given.address}"
    server: socketserver.BaseServer
    match given.protocol:
        case "http":
            server = WebServer((address, given.port), Web)
        case "tcp":
            server = WebServer((address, given.port), Line)
        case _:
            server = DatagramServer((address, given.port), Datagram)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
