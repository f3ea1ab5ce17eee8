"""Run a manager: its endpoint, and what goes on beside it, until a signal ends it."""

import contextlib
import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any

from waitress.server import create_server

from appliance.errors import ApplianceError
from appliance.manager.database import Database
from appliance.manager.manager import Manager, Settings
from appliance.manager.routes import LONGEST_DOCUMENT

log = logging.getLogger(__name__)

THREADS = 32
CONNECTIONS = 1000
IDLE = 60  # seconds after which a connection without a request is closed
UNSENT = 4 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """`HOST:PORT`; IPv6 in brackets. Raises ApplianceError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
            raise ApplianceError(f"{text!r} is no address with a port", "127.0.0.1:8080")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def default_name() -> str:
    """This process among all managers."""
    return f"{socket.gethostname()}-{os.getpid()}"


def bind(endpoint: Endpoint, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket there. Raises ApplianceError."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((endpoint.host, endpoint.port))
    except OSError as error:
        sock.close()
        raise ApplianceError(f"{endpoint} cannot be listened at: {error.strerror}") from error
    return sock


def run(database: Database, settings: Settings, listen: Endpoint) -> None:
    """Serve until SIGTERM or SIGINT. Raises ApplianceError."""
    listener = bind(listen)
    listener.listen(128)
    manager = Manager(database, settings)
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit

    threads = manager.start(stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    host, port = listener.getsockname()[:2]
    log.info("manager %s answers at %s", settings.name, Endpoint(host, port))
    try:
        with contextlib.suppress(SystemExit):
            _server(manager.app, listener).run()
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)
        manager.close()
        database.close()


def _server(app: Any, listener: socket.socket) -> Any:
    return create_server(
        app,
        sockets=[listener],
        threads=THREADS,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE,
        max_request_body_size=LONGEST_DOCUMENT,
        outbuf_high_watermark=UNSENT,
        ident="sysvm",
        clear_untrusted_proxy_headers=True,
        expose_tracebacks=False,
    )
