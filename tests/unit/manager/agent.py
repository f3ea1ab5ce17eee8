"""Agents on loopback: the real endpoint, over mutual TLS, on a console proxy's real table."""

import contextlib
import socketserver
import ssl
import threading
import time
import wsgiref.simple_server
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.api.ports import MachineFailed
from agent.api.streams import Streams
from agent.console import wire
from agent.console.sessions import Admitted, End, Ended, NotAllowed, Table
from agent.engine.model import Desired, Unit
from appliance.lab.pki import Authority
from appliance.lab.receiver import context
from appliance.manager.agents import Identity
from appliance.manager.consoles import UNIT
from tests.unit.api import fake
from tests.unit.api.fake import FakeEngine, FakeMachine
from tests.unit.manager.cloud import RULES

SOURCE = ip_address("192.0.2.7")


class ProxyMachine(FakeMachine):
    """A machine with a console proxy, that answers as the proxy's keeper does."""

    def __init__(self, cap: int) -> None:
        super().__init__()
        self.cap = cap
        self.table = Table(RULES, cap)
        self.over: list[dict[str, Any]] = []
        self.changed = threading.Event()
        self.mute = False
        self.restarts = 0
        self._lock = threading.RLock()

    def console(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        now = time.monotonic()
        with self._lock:
            answer = self._asked(message, now)
        self.changed.set()
        return answer

    def _asked(self, message: Mapping[str, Any], now: float) -> Mapping[str, Any]:
        match message["op"]:
            case "put":
                try:
                    new = self.table.offer(wire.session(message["session"]), now)
                except NotAllowed as error:
                    return {"error": "refused", "detail": str(error)}
                return {"result": "created" if new else "unchanged"}
            case "delete":
                ended = self.table.end(message["id"], End.REVOKED, now)
                self._note(ended, now)
                return {"error": "unknown"} if ended is None else {"result": "ended"}
            case "drain":
                for one in self.table.drain(now):
                    self._note(one, now)
                return self.state()
            case "undrain":
                self.table.resume_service()
                return self.state()
            case _:
                return self.state()

    def _note(self, ended: Ended | None, now: float) -> None:
        if ended is not None:
            self.over.append(wire.ended_row(ended, now))

    def state(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "draining": self.table.draining,
            "cap": self.cap,
            "held": self.table.held,
            "workers": 2,
            "sessions": [wire.row(live, now) for live in self.table],
        }

    def console_reports(self) -> Iterator[Mapping[str, Any] | None]:
        while not self.mute:
            with self._lock:
                self.changed.clear()
                over, self.over = self.over, []
                report = self.state() | {"ended": over}
            yield report
            self.changed.wait(1.0)
        raise MachineFailed("watch the console proxy", "it ended")

    def open(self, secret: str, back: bytes = b"") -> bool:
        """A browser comes."""
        with self._lock:
            found = self.table.open(secret, SOURCE, time.monotonic(), back)
        self.changed.set()
        return isinstance(found, Admitted)

    def lose(self, identity: str) -> None:
        """Its browser is lost."""
        with self._lock:
            live = self.table.get(identity)
            assert live is not None
            self.table.lose(identity, live.connections, time.monotonic())
        self.changed.set()

    def restart(self, unit: str) -> None:
        super().restart(unit)
        with self._lock:
            self.restarts += 1
            self.table = Table(RULES, self.cap)


class ProxyEngine(FakeEngine):
    """An engine whose document wants a console proxy."""

    def __init__(self) -> None:
        super().__init__()
        self.push(fake.document())

    def desired(self) -> Desired:
        units = {UNIT: Unit(UNIT)}
        return replace(fake.DESIRED, units=units, owned_units=frozenset(units))


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True
    tls: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.tls.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is its own affair."""


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


class Agent:
    """An agent that answers at `url`; `down` and `up` cut it off and bring it back."""

    def __init__(self, keys: "Keys", machine: ProxyMachine, engine: FakeEngine) -> None:
        self.machine = machine
        self.engine = engine
        self._keys = keys
        self._app = fake.app(engine, machine, None, Streams())
        self._server: _Server | None = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def up(self) -> None:
        self.machine.mute = False
        _Server.allow_reuse_address = True
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.tls = self._keys.server
        self._server.set_app(self._app)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def begin_anew(self, engine: FakeEngine) -> None:
        """Be another VM at the same place, with nothing on it."""
        self.engine = engine
        self._app = fake.app(engine, self.machine, None, Streams())
        if self._server is not None:
            self._server.set_app(self._app)

    def down(self) -> None:
        self.machine.mute = True
        self.machine.changed.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Keys:
    """An authority, what agents show, and what managers show."""

    def __init__(self, folder: Path) -> None:
        authority = Authority.create("agents")
        self.authority = authority
        ca, _ = authority.identity.write(folder, "ca")
        server = authority.issue("agent", addresses=("127.0.0.1",)).write(folder, "agent")
        self.vm = authority.issue("r-1-vm").write(folder, "vm")
        client = authority.issue("manager").write(folder, "manager")
        self.ca = ca
        self.own = server
        self.server = context(ca, *server)
        self.identity = Identity(ca, *client)


@contextlib.contextmanager
def agents(keys: Keys, count: int, cap: int = 50) -> Iterator[list[Agent]]:
    """So many console proxies, until the block ends."""
    made = [Agent(keys, ProxyMachine(cap), ProxyEngine()) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.down()
