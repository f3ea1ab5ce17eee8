"""haproxy's own sockets: the master's reload, and what a worker says of itself.

Management guide of haproxy, 9.3 and 9.4: one command a connection, which ends the answer.
"""

import csv
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.engine.host import StepFailed
from agent.engine.model import Keep
from agent.system import files

_TIMEOUT = 5.0  # seconds
_RELOAD_TIMEOUT = 30.0
_MASTER_PATIENCE = 2.0
_PAUSE = 0.02
_CHUNK = 65536

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
