"""The push: events go to management by themselves, in batches, until they are acknowledged.

A thread of its own; recording never waits for it. What is sent stays in the outbox until the
receiver has named it, so that a batch whose answer was lost is sent again: at least once, in order.
TLS is imported only when there is somewhere to send to.
"""

import json
import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.monitor.events import Cursor, Page, Unknown
from agent.monitor.outbox import Outbox
from agent.monitor.rows import event_row
from agent.services.events import SETTINGS
from agent.system import dial

if TYPE_CHECKING:
    import http.client
    import ssl

LOOK = 2.0  # seconds between two looks whether there is somewhere to send to
CONNECT = 5.0  # seconds
ANSWER = 20.0  # seconds
LONGEST_ANSWER = 65_536  # bytes
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds after a failure

log = logging.getLogger(__name__)


class NotTaken(Exception):
    """The receiver did not take a batch; the text is for an operator."""

    retryable = True

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


class Settings:
    """What the running revision says of events; read again when its file is another."""

    def __init__(self, current: Path) -> None:
        self._path = current / SETTINGS
        self._seen: tuple[int, int] | None = None
        self._value: Mapping[str, Any] = {}

    def read(self) -> Mapping[str, Any]:
        """The file's content; nothing where there is none."""
        try:
            status = self._path.stat()
            seen = status.st_ino, status.st_mtime_ns
            if seen != self._seen:
                self._value = json.loads(self._path.read_bytes())
                self._seen = seen
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                log.error("%s: %s", self._path, error)
            self._seen, self._value = None, {}
        return self._value


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver."""

    host: str
    port: int
    path: str
    ca: str
    server_name: str
    certificate: str  # a file with the certificate and its key
    batch: int
    nic: str


def pauses(chance: Callable[[], float] = random.random) -> "Callable[[], float]":
    """Seconds to wait after each failure in a row: twice as long each time, by chance less."""
    longest = SHORTEST_PAUSE / 2

    def following() -> float:
        nonlocal longest
        longest = min(longest * 2, LONGEST_PAUSE)
        return longest * (0.5 + chance() / 2)

    return following


class Push:
    """Sends what the outbox has, while the running document names a receiver."""

    def __init__(self, outbox: Outbox, settings: Settings, boot: str) -> None:
        self._outbox = outbox
        self._settings = settings
        self._boot = boot
        self._smaller = 0  # how often the receiver has found a batch too large, to be halved

    def run(self, stop: threading.Event) -> None:
        following, failing = pauses(), False
        before: Target | None = None
        while not stop.is_set():
            settings = self._settings.read()
            target = Target(**settings["push"]) if settings.get("push") else None
            if target != before:
                following, before, self._smaller = pauses(), target, 0
            if target is None:
                stop.wait(LOOK)
                continue
            if not self._outbox.wait(self._outbox.acknowledged(), LOOK):
                continue
            try:
                self._drain(target, str(settings["vm"]), stop)
            except NotTaken as error:
                if not failing:
                    log.warning("events are not taken by %s: %s", target.host, error)
                failing = True
                if error.too_large:
                    self._smaller += 1
                self._wait(following(), target, stop)
            else:
                if failing:
                    log.info("events are taken by %s again", target.host)
                following, failing = pauses(), False

    def _wait(self, seconds: float, target: Target, stop: threading.Event) -> None:
        """Wait after a failure, unless there is another receiver meanwhile."""
        while seconds > 0 and not stop.wait(min(seconds, LOOK)):
            seconds -= LOOK
            push = self._settings.read().get("push")
            if not push or Target(**push) != target:
                return

    def _drain(self, target: Target, vm: str, stop: threading.Event) -> None:
        """Send until there is nothing more, over one connection. Raises NotTaken."""
        import http.client
        import ssl

        limit = max(1, target.batch >> self._smaller)
        connection: http.client.HTTPConnection | None = None
        try:
            while not stop.is_set():
                page = self._outbox.read(self._outbox.acknowledged(), limit)
                if not page.events:
                    stop.wait(0 if connection is not None else SHORTEST_PAUSE)
                    return
                if connection is None:
                    connection = connect(target)
                last = _send(connection, target, _batch(page, vm, self._boot), page)
                self._outbox.acknowledge(Cursor(last, page.stream))
        except (OSError, http.client.HTTPException, ssl.SSLError, Unknown) as error:
            raise NotTaken(str(error) or type(error).__name__) from error
        finally:
            if connection is not None:
                connection.close()


def _batch(page: Page, vm: str, boot: str) -> bytes:
    value = {
        "vm": vm,
        "boot": boot,  # this one; each event has that which it happened in
        "stream": page.stream,
        "events": [asdict(event_row(event)) for event in page.events],
    }
    return json.dumps(value, ensure_ascii=False).encode()


def connect(target: Target) -> "http.client.HTTPConnection":
    """A connection to a receiver, by mutual TLS. Raises OSError, which TLS's errors are as well."""
    import http.client

    connection = http.client.HTTPConnection(target.host, target.port, timeout=ANSWER)
    plain = dial.connect(target.host, target.port, target.nic, CONNECT)
    try:
        secure = _context(target).wrap_socket(plain, server_hostname=target.server_name)
    except BaseException:
        plain.close()
        raise
    secure.settimeout(ANSWER)
    connection.sock = secure
    return connection


def _context(target: Target) -> "ssl.SSLContext":
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=target.ca)
    context.load_cert_chain(target.certificate)
    return context


def _send(connection: "http.client.HTTPConnection", target: Target, body: bytes, page: Page) -> int:
    """The number up to which the receiver has all. Raises NotTaken."""
    headers = {"Content-Type": "application/json"}
    connection.request("POST", target.path, body, headers)
    response = connection.getresponse()
    content = response.read(LONGEST_ANSWER)
    if response.status // 100 != 2:
        too_large = response.status == 413 and len(page.events) > 1
        raise NotTaken(f"it answers {response.status} {response.reason}", too_large=too_large)
    try:
        value = json.loads(content)
        stream, last = value["stream"], value["acknowledged"]
    except (ValueError, TypeError, KeyError) as error:
        raise NotTaken("its answer does not say what has arrived") from error
    first, greatest = page.events[0].seq, page.events[-1].seq
    if stream != page.stream or type(last) is not int or not first <= last <= greatest:
        raise NotTaken(f"its answer acknowledges {last} of {stream}, sent were {first}-{greatest}")
    return last
