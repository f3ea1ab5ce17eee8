"""The password server: `python -m agent.passwords`, as a user of its own, with nothing but Python.

    GET /, DomU_Request: send_my_password   the guest's password, or `saved_password` without one
    GET /, DomU_Request: saved_password     acknowledged: it is not handed out any more
    anything else                           400 `bad_request`

The guest is who it comes from: the firewall lets in an address that has a password with its MAC
address only. Which passwords were taken is a folder of empty files named for them.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

log = logging.getLogger("passwords")

FILES = Path("/run/sysvm/current/passwords")
TAKEN = Path("/var/lib/sysvm/passwords")
NOTHING = "saved_password"
KEPT = 65536  # names of passwords that were taken, at most

_TIMEOUT = 5.0  # seconds that a guest may be silent
_AT_ONCE = 64  # connections
_OF_ONE = 4  # connections of one guest


@dataclass(slots=True)
class Passwords:
    """What waits for whom, and what was taken; safe to be asked by several threads."""

    guests_file: Path
    taken: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: tuple[int, int, int] | None = None
    _guests: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # password, identity
    _witness: str = ""

    def waiting(self, address: str) -> str | None:
        """The password that waits for this address. Raises OSError or ValueError."""
        with self._lock:
            password, identity = self._read().get(address, ("", ""))
            return password if identity and not (self.taken / identity).exists() else None

    def take(self, address: str) -> None:
        """The guest at this address has its password: on the disk before this returns.

        Raises OSError where that cannot be noted down, or ValueError.
        """
        with self._lock:
            _, identity = self._read().get(address, ("", ""))
            if not identity or (self.taken / identity).exists():
                return
            self._forget()
            (self.taken / identity).touch(mode=0o600)
            folder = os.open(self.taken, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def witness(self) -> str:
        """What names the file that is being gone by."""
        with self._lock:
            self._read()
            return self._witness

    def _read(self) -> Mapping[str, tuple[str, str]]:
        """The file's content, read again where it is another one: a folder's symlink flips."""
        status = self.guests_file.stat()
        seen = (status.st_dev, status.st_ino, status.st_mtime_ns)
        if seen != self._seen:
            _, _, text = self.guests_file.read_bytes().partition(b"\n")
            value: dict[str, Any] = json.loads(text)
            self._guests = {a: (g["password"], g["id"]) for a, g in value["guests"].items()}
            self._witness = value["witness"]
            self._seen = seen
        return self._guests

    def _forget(self) -> None:
        """Make room: the oldest names go that no password has any more."""
        names = list(self.taken.iterdir())
        if len(names) < KEPT:
            return
        current = {identity for _, identity in self._guests.values()}
        names.sort(key=lambda path: path.stat().st_mtime)
        for path in names[: KEPT // 8]:
            if path.name not in current:
                path.unlink()


class Server(ThreadingMixIn, TCPServer):
    """One address; a thread for each connection, of which there are few."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], passwords: Passwords) -> None:
        self.passwords = passwords
        self._mutex = threading.Lock()
        self._open: Counter[str] = Counter()
        super().__init__(address, Handler)

    def verify_request(self, request: object, client_address: Any) -> bool:  # noqa: ARG002 - base
        """Count the connection in; one too many is closed at once."""
        guest = client_address[0]
        with self._mutex:
            if self._open.total() >= _AT_ONCE or self._open[guest] >= _OF_ONE:
                return False
            self._open[guest] += 1
            return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """As the base does; a connection that gets no thread is counted out again."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._count_out(client_address[0])
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the base does, and count the connection out."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._count_out(client_address[0])

    def handle_error(self, request: object, client_address: Any) -> None:  # noqa: ARG002 - base
        """A guest that goes away in the middle is nobody's concern."""
        log.debug("%s went away", client_address[0])

    def _count_out(self, guest: str) -> None:
        with self._mutex:
            self._open[guest] -= 1
            if self._open[guest] <= 0:
                del self._open[guest]


class Handler(BaseHTTPRequestHandler):
    """One request, and the connection's end."""

    server: Server
    protocol_version = "HTTP/1.0"
    server_version, sys_version = "sysvm", ""
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        """Answer a guest, or the probe that asks for the witness."""
        guest = self.client_address[0]
        wanted = self.headers.get_all("DomU_Request", [])
        passwords = self.server.passwords
        try:
            if self.path.startswith("/witness/"):
                known = self.path == f"/witness/{passwords.witness()}"
                self._answer(204 if known else 404, "")
            elif wanted == ["send_my_password"]:
                self._answer(200, passwords.waiting(guest) or NOTHING)
            elif wanted == ["saved_password"]:
                passwords.take(guest)
                log.info("%s has its password", guest)
                self._answer(200, NOTHING)
            else:
                self._answer(400, "bad_request")
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            log.error("%s cannot be answered: %s", guest, error)
            self._answer(503, "bad_request")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base's name
        """Requests are not logged: guests decide how many there are."""


def listen(text: str) -> Iterator[tuple[str, int]]:
    """The addresses and ports of the file `listen`."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            address, port = line.split(" ")
            yield address, int(port)


def main() -> int:
    """Serve until told to stop."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    passwords = Passwords(FILES / "guests", TAKEN)
    servers = [Server(place, passwords) for place in listen((FILES / "listen").read_text())]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    _notify("READY=1")
    threading.Event().wait()
    return 0


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as channel:
            channel.sendto(state.encode(), address.replace("@", "\0", 1))


if __name__ == "__main__":
    sys.exit(main())
