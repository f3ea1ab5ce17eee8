"""Where VMs push their events, and console proxies say that they are there: HTTPS that asks for a
client certificate, and nothing but that.

What is acknowledged is committed. A VM whose events are not taken sends them again, so a manager
that is killed at any moment loses none.
"""

import json
import logging
import re
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from appliance.manager import bodies, happenings, problems
from appliance.manager.database import Database
from appliance.manager.happenings import Batch, Names
from appliance.manager.notices import Notice, note_sometimes
from appliance.manager.problems import Answer, Refusal
from appliance.manager.registry import Registry
from appliance.manager.routes import PARAMETERS
from appliance.manager.tls import HANDSHAKE, Shown

log = logging.getLogger(__name__)

LONGEST = 8 * 1024 * 1024  # bytes of a batch: a thousand events
LONGEST_REGISTRATION = 64 * 1024
CONNECTIONS = 200  # at once; more wait in the kernel
_IDLE = 30.0  # seconds
_PROXY = re.compile(rf"/v1/proxies/({PARAMETERS['proxy']})")


class Inbox:
    """Takes batches of events."""

    def __init__(self, database: Database, shown: Shown, registry: Registry) -> None:
        self._database = database
        self._shown = shown
        self.registry = registry

    def take(self, names: Names, data: bytes) -> dict[str, Any]:
        """The answer to a batch, once it is kept. Raises Refusal."""
        batch: Batch = bodies.read(Batch, data)
        now = time.time()
        with self._database.read() as connection:
            allowed = happenings.speaks_for(connection, names, batch.vm)
        if allowed is None:
            raise Refusal(problems.NOT_FOUND, f"there is no VM {batch.vm}")
        if not allowed:
            shown = ", ".join(sorted(names.names | names.addresses))[:200]
            message = f"somebody who is {shown} sends events of {batch.vm}"
            notice = Notice.FOREIGN_EVENTS
            self._database.write(lambda c: note_sometimes(c, notice, batch.vm, message, {}, now))
            raise Refusal(problems.FORBIDDEN, f"this certificate does not speak for {batch.vm}")
        last = self._database.write(lambda c: happenings.take(c, batch, now))
        return {"stream": batch.stream, "acknowledged": last}

    def run(self, listener: socket.socket, stop: threading.Event) -> None:
        """Serve on a listening socket until told to stop."""
        server = _Server(self, listener, self._shown)
        thread = threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True)
        thread.start()
        stop.wait()
        server.shutdown()
        server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, inbox: Inbox, listener: socket.socket, shown: Shown) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.inbox = inbox
        self._shown = shown
        self._free = threading.BoundedSemaphore(CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(HANDSHAKE)
        with self._shown.context().wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is refused, or leaves, is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE
    server: _Server
    connection: ssl.SSLSocket

    def do_POST(self) -> None:
        self._do(self._events)

    def do_PUT(self) -> None:
        self._do(self._registration)

    def _do(self, work: Callable[[], dict[str, Any]]) -> None:
        try:
            status, value = 200, work()
        except Refusal as error:
            status, value = error.answer.kind.status, dict(problems.body(error.answer))
        except Exception:
            log.exception("what a VM sent could not be taken")
            answer = Answer(problems.UNEXPECTED, "an error that nobody foresaw")
            status, value = answer.kind.status, dict(problems.body(answer))
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/json" if status == 200 else problems.MEDIA_TYPE
        )
        self.send_header("Content-Length", str(len(content)))
        if status != 200:
            self.close_connection = True
        self.end_headers()
        self.wfile.write(content)

    def _events(self) -> dict[str, Any]:
        data = self._body(LONGEST)
        if self.path != "/v1/events":
            raise Refusal(problems.UNKNOWN_PATH, "events go to /v1/events")
        return self.server.inbox.take(self._names(), data)

    def _registration(self) -> dict[str, Any]:
        data = self._body(LONGEST_REGISTRATION)
        found = _PROXY.fullmatch(self.path)
        if found is None:
            raise Refusal(problems.UNKNOWN_PATH, "a proxy registers at /v1/proxies/NAME")
        source = str(self.client_address[0])
        return self.server.inbox.registry.take(self._names(), found[1], data, source)

    def _names(self) -> Names:
        return Names.of(self.connection.getpeercert() or {})

    def _body(self, longest: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refusal(problems.BAD_REQUEST, "there is no Content-Length")
        if int(length) > longest:
            raise Refusal(problems.TOO_LARGE, f"{length} bytes, allowed are {longest}")
        return self.rfile.read(int(length))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass
