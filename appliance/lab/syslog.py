"""A lab's receiver of syslog over TLS (RFC 5425): notes each message, as a line of a file."""

import argparse
import socketserver
import ssl
from pathlib import Path
from typing import Any, ClassVar


class Handler(socketserver.StreamRequestHandler):
    """One sender: messages with their lengths before them."""

    file: ClassVar[Path]

    def handle(self) -> None:
        while (digits := self._until_blank()) is not None:
            message = self.rfile.read(int(digits))
            with self.file.open("ab") as file:
                file.write(message.replace(b"\n", b" ") + b"\n")

    def _until_blank(self) -> bytes | None:
        digits = b""
        while (byte := self.rfile.read(1)) != b" ":
            if not byte.isdigit():
                return None
            digits += byte
        return digits


class Server(socketserver.ThreadingTCPServer):
    """TLS; a client certificate is asked for where there is a CA to check it with."""

    daemon_threads = True
    allow_reuse_address = True
    context: ClassVar[ssl.SSLContext]

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or refuses, is its own affair."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=6514)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--ca", type=Path)
    options = parser.parse_args()
    Handler.file = options.file
    Server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    Server.context.load_cert_chain(options.certificate, options.key)
    if options.ca is not None:
        Server.context.load_verify_locations(options.ca)
        Server.context.verify_mode = ssl.CERT_REQUIRED
    with Server((options.address, options.port), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
