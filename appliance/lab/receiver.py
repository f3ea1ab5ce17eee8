"""Where a lab's VM sends its events and its heartbeat: the receiving end, as short as it can be.

An HTTPS server that asks for a client certificate, keeps each event once (by stream and number),
and acknowledges up to where none is missing. Run as a program it writes what arrives to files of
JSON lines: events.jsonl, beats.jsonl and refused.jsonl (datagrams, and why).
"""

import argparse
import http.server
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from agent.document.heartbeat import LONGEST, Receiver, Refused
from appliance.lab.rows import rows


class Inbox:
    """Events, each once and in order, whatever is sent twice."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        self._last: dict[str, int] = {}
        for event in self.events():
            self._last[event["stream"]] = event["seq"]

    def events(self) -> tuple[dict[str, Any], ...]:
        """What has arrived."""
        return rows(self._path)

    def take(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a batch, once its events are kept."""
        stream = batch["stream"]
        last = self._last.get(stream, 0)
        with self._path.open("a") as file:
            for event in batch["events"]:
                if event["seq"] > last:
                    last = event["seq"]
                    file.write(json.dumps({"stream": stream, "vm": batch["vm"], **event}) + "\n")
        self._last[stream] = last
        return {"stream": stream, "acknowledged": batch["events"][-1]["seq"]}


class Handler(http.server.BaseHTTPRequestHandler):
    """One POST of a batch."""

    protocol_version = "HTTP/1.1"
    inbox: ClassVar[Inbox]

    def do_POST(self) -> None:
        batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = json.dumps(self.inbox.take(batch)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


class Server(socketserver.ThreadingTCPServer):
    """HTTPS, with a client certificate."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, address: tuple[str, int], handler: type[Handler], context: ssl.SSLContext
    ) -> None:
        super().__init__(address, handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self._context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is refused, or leaves, is its own affair."""


def context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS as a server that only talks to clients of this authority."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(certificate, key)
    found.load_verify_locations(authority)
    found.verify_mode = ssl.CERT_REQUIRED
    return found


def hear(sock: socket.socket, key: bytes, folder: Path) -> None:
    """Note every datagram that comes, for ever."""
    receiver = Receiver(key)
    while True:
        datagram = sock.recv(2 * LONGEST)
        try:
            name, said = "beats", json.dumps(asdict(receiver.accept(datagram)))
        except Refused as error:
            name, said = "refused", json.dumps({"reason": str(error), "hex": datagram.hex()})
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write(said + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=8444)
    parser.add_argument("--udp-port", type=int, default=8445)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--heartbeat-key", default="00" * 32)
    options = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((options.address, options.udp_port))
        arguments = (sock, bytes.fromhex(options.heartbeat_key), options.folder)
        threading.Thread(target=hear, args=arguments, daemon=True).start()
        Handler.inbox = Inbox(options.folder)
        tls = context(options.ca, options.certificate, options.key)
        with Server((options.address, options.port), Handler, tls) as server:
            print("ready", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()
