"""haproxy's own sockets: the master's reload, and what a worker says of itself.

Management guide of haproxy, 9.3 and 9.4: one command a connection, which ends the answer.
"""

import csv
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.engine.host import StepFailed
from agent.engine.model import Keep
from agent.system import files

_TIMEOUT = 5.0  # seconds
_RELOAD_TIMEOUT = 30.0
_MASTER_PATIENCE = 2.0
_PAUSE = 0.02
_CHUNK = 65536
_AGAIN = 1.0  # seconds from one try to hear a worker to the next
_GONE = re.compile(r"Proxy \S+ stopped \(")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """A row of `show stat`: a server of a backend, or the backend itself."""

    proxy: str
    name: str
    status: str
    weight: int
    sessions: int
    sessions_total: int
    bytes_in: int
    bytes_out: int
    check: str


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A row of `show servers state`: where a server is, and whether it gets connections."""

    listener: str
    server: str
    address: str  # address:port, an IPv6 address without brackets
    up: bool


@dataclass(frozen=True, slots=True)
class Health:
    """What haproxy thinks of a server."""

    listener: str
    server: str
    status: str
    check: str  # such as L4OK, L7TOUT; INI where it has not been checked yet


class Follower(Protocol):
    """Who follows a ring."""

    def begun(self) -> None:
        """What is said from now on is heard."""

    def heard(self, line: str) -> None:
        """Something was said."""

    def idle(self) -> None:
        """Nothing was said for a moment."""


def ask(path: str, command: str, timeout: float = _TIMEOUT) -> str:
    """One command's answer. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(timeout)
        peer.connect(path)
        peer.sendall(f"{command}\n".encode())
        answer = bytearray()
        while chunk := peer.recv(_CHUNK):
            answer += chunk
    return answer.decode(errors="replace")


def keep(keeps: Sequence[Keep]) -> None:
    """Write down what a worker knows, for the next one to begin with.

    A worker that does not answer has nothing to hand on: the reload is worth more than counters.
    """
    for one in keeps:
        try:
            answer = ask(one.socket, one.command)
        except OSError as error:
            log.warning("haproxy's state is not kept: %s: %s", one.socket, error)
            return
        files.write(Path(one.path), _kept(one, answer).encode(), durable=False)


def _kept(one: Keep, answer: str) -> str:
    if not one.columns:
        return answer
    lines = []
    for line in answer.splitlines(keepends=True):
        words = line.split()
        whole = len(words) > max(one.columns) and not line.startswith("#")
        if not whole or tuple(words[column] for column in one.columns) in one.rows:
            lines.append(line)
    return "".join(lines)


def reload(path: str) -> None:
    """Have the master load its files again; wait until the new worker serves or has failed.

    Raises StepFailed with haproxy's own words; the old worker serves on in that case.
    """
    try:
        answer = _ask_master(path, "reload")
    except OSError as error:
        raise StepFailed("reload haproxy", f"the master's socket {path}: {error}") from error
    verdict, _, said = answer.partition("\n--\n")
    if verdict.strip() != "Success=1":
        words = " ".join(said.split()) or verdict.strip() or "the master did not say how it went"
        raise StepFailed("reload haproxy", words)


def _ask_master(path: str, command: str) -> str:
    """A master that has just started or reloaded opens its socket some milliseconds later."""
    deadline = time.monotonic() + _MASTER_PATIENCE
    while True:
        try:
            return ask(path, command, _RELOAD_TIMEOUT)
        except (ConnectionRefusedError, FileNotFoundError):
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)


def info(path: str, timeout: float = _TIMEOUT) -> dict[str, str]:
    """`show info` of a worker, by lower-case name. Raises OSError."""
    pairs = (line.partition(": ") for line in ask(path, "show info", timeout).splitlines())
    return {key.lower(): value for key, _, value in pairs if key}


def health(path: str) -> Iterator[Health]:
    """Every server, from `show stat` of a worker. Raises OSError."""
    head, *lines = ask(path, "show stat -1 4 -1").removeprefix("# ").splitlines()
    names = head.split(",")
    places = [names.index(name) for name in ("pxname", "svname", "status", "check_status")]
    most = max(places) + 1
    for line in lines:
        row = line.split(",", most)
        if len(row) > most:
            yield Health(*(row[place].removeprefix("* ") for place in places))


def follow(path: str, ring: str, follower: Follower, stop: threading.Event) -> None:
    """Hear what haproxy writes into a ring, worker after worker, until `stop`.

    A worker that has been replaced says so, and is let go: it would wait for its last client.
    """
    while not stop.is_set():
        try:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(_TIMEOUT)
                peer.connect(path)
                peer.sendall(f"show events {ring} -w -n\n".encode())
                follower.begun()
                _hear(peer, follower, stop)
        except OSError as error:
            log.debug("%s is not heard: %s", path, error)
        stop.wait(_AGAIN)


def _hear(peer: socket.socket, follower: Follower, stop: threading.Event) -> None:
    rest = b""
    while not stop.is_set():
        try:
            said = peer.recv(_CHUNK)
        except TimeoutError:
            follower.idle()
            continue
        if not said:
            return
        *lines, rest = (rest + said).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if _GONE.match(text):
                return
            follower.heard(text)


def servers(path: str) -> tuple[Server, ...]:
    """`show stat` of a worker. Raises OSError."""
    rows = csv.DictReader(ask(path, "show stat").removeprefix("# ").splitlines())
    return tuple(_server(row) for row in rows)


def frontends(path: str) -> tuple[tuple[str, str], ...]:
    """Name and status of each frontend, OPEN where it listens. Raises OSError."""
    rows = csv.reader(ask(path, "show stat -1 1 -1").removeprefix("# ").splitlines())
    status = next(rows).index("status")
    return tuple((row[0], row[status]) for row in rows if len(row) > status)


# Columns of `show servers state` (management guide, its first version).
_BACKEND, _NAME, _ADDRESS, _OPERATIONAL, _PORT = 1, 3, 4, 5, 18
_STOPPED = "0"


def states(path: str) -> tuple[ServerRow, ...]:
    """Every server that the worker has. Raises OSError."""
    lines = (line.split() for line in ask(path, "show servers state").splitlines())
    return tuple(
        ServerRow(
            words[_BACKEND],
            words[_NAME],
            f"{words[_ADDRESS]}:{words[_PORT]}",
            up=words[_OPERATIONAL] != _STOPPED,
        )
        for words in lines
        if len(words) > _PORT and words[0].isdigit()
    )


def _server(row: dict[str, str]) -> Server:
    return Server(
        proxy=row["pxname"],
        name=row["svname"],
        status=row["status"],
        weight=int(row["weight"] or 0),
        sessions=int(row["scur"] or 0),
        sessions_total=int(row["stot"] or 0),
        bytes_in=int(row["bin"] or 0),
        bytes_out=int(row["bout"] or 0),
        check=row["check_status"],
    )
