"""Run a manager: its endpoint, and what goes on beside it, until a signal ends it."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from waitress.server import create_server

from appliance.errors import ApplianceError
from appliance.manager.database import Database
from appliance.manager.inbox import Inbox
from appliance.manager.manager import Manager, Settings
from appliance.manager.registry import Registry
from appliance.manager.routes import LONGEST_DOCUMENT
from appliance.manager.tls import Shown, Wrap

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
    """A socket there, that listens. Raises ApplianceError."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((endpoint.host, endpoint.port))
        if kind is socket.SOCK_STREAM:
            sock.listen(256)
    except OSError as error:
        sock.close()
        raise ApplianceError(f"{endpoint} cannot be listened at: {error.strerror}") from error
    return sock


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where a manager is reached. Without `events` and `heartbeats`, by no VM."""

    api: Endpoint
    shown: Shown | None = None  # to those who call the API; none: it is plain HTTP
    events: Endpoint | None = None
    shown_to_vms: Shown | None = None  # to those that push events
    accepted: frozenset[str] = frozenset()  # zones whose proxies may register themselves
    heartbeats: Endpoint | None = None
    balancer: str | None = None  # does TLS, and says in X-Forwarded-For who comes


def run(database: Database, settings: Settings, doors: Doors) -> None:
    """Serve until SIGTERM or SIGINT. Raises ApplianceError."""
    listener = bind(doors.api)
    manager = Manager(database, settings)
    stop = threading.Event()
    works = _works(database, doors, manager)

    server = _server(manager.app, listener, doors)

    def renew(_signal: int, _frame: FrameType | None) -> None:
        for shown in filter(None, (doors.shown, doors.shown_to_vms)):
            shown.context()

    threads = [*manager.start(stop), *(_go(work, stop) for work in works)]
    signal.signal(signal.SIGHUP, renew)
    host, port = listener.getsockname()[:2]
    scheme = "http" if doors.shown is None else "https"
    log.info("manager %s answers at %s://%s", settings.name, scheme, Endpoint(host, port))
    try:
        run_until_told(server)
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)
        manager.close()
        database.close()


def run_until_told(server: Any) -> None:
    """Run a server of waitress's until SIGTERM or SIGINT, which end it between two of its events.

    What a signal raises wherever the server just is may be lost: it suppresses every exception of
    what other threads have it do.
    """
    told = threading.Event()
    readable = server.readable

    def end(_signal: int, _frame: FrameType | None) -> None:
        told.set()
        server.pull_trigger()

    def readable_until_told() -> bool:
        if told.is_set():
            raise SystemExit  # which `run` takes for its end
        return bool(readable())

    server.readable = readable_until_told
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run()


Work = Callable[[threading.Event], None]


def _works(database: Database, doors: Doors, manager: Manager) -> tuple[Work, ...]:
    """What takes what VMs send. Raises ApplianceError."""
    works: list[Work] = []
    if doors.events is not None:
        if doors.shown_to_vms is None:
            raise ApplianceError(
                "VMs that push events have to be shown a certificate",
                "--certificate and --certificate-key",
            )
        registry = Registry(database, manager.audit, doors.accepted)
        inbox = Inbox(database, doors.shown_to_vms, registry)
        taking = bind(doors.events)
        works.append(lambda stop: inbox.run(taking, stop))
    if doors.heartbeats is not None:
        hearing = bind(doors.heartbeats, socket.SOCK_DGRAM)
        works.append(lambda stop: manager.beats.hear(hearing, stop))
    return tuple(works)


def _go(work: Work, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()
    return thread


def _server(app: Any, listener: socket.socket, doors: Doors) -> Any:
    believed = {} if doors.balancer is None else {
        "trusted_proxy": doors.balancer, "trusted_proxy_headers": {"x-forwarded-for"},
    }  # fmt: skip
    server = create_server(
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
        url_scheme="http" if doors.shown is None else "https",
        **believed,
    )
    if doors.shown is not None:
        Wrap(doors.shown).before(server)
    return server
