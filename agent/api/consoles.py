"""What is told of console sessions over the endpoint, and what is asked about all of them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from agent.api import problems
from agent.api.ports import Machine, MachineFailed
from agent.api.problems import Refusal
from agent.api.shape import to_json
from agent.api.streams import SERVER_SENT_EVENTS, Stream, Streams
from agent.document import json as strict_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleRow:
    """A session as it is; times are seconds ago, bytes those of all its connections."""

    id: str
    vm: str
    user: str
    state: str  # offered, open, waiting (for a lost browser)
    source: str | None
    target: str
    view_only: bool
    opened_ago: float | None
    input_ago: float | None
    to_guest: int
    from_guest: int
    connections: int
    resume_sha256: str | None  # with it another proxy can be pushed the session


@dataclass(frozen=True, slots=True, kw_only=True)
class Consoles:
    """The proxy as it is, with its sessions."""

    draining: bool
    cap: int
    held: int  # sessions that count against it
    workers: int
    sessions: tuple[ConsoleRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedConsole(ConsoleRow):
    """A session that is over, and why; `state` is ended."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleReport(Consoles):
    """The same as it was at a moment, with what ended since the report before."""

    ended: tuple[EndedConsole, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A session that was taken in, or ended."""

    id: str
    result: str  # created, unchanged, moved, ended


_ROW = tuple(one.name for one in fields(ConsoleRow))


def row(value: Mapping[str, Any]) -> ConsoleRow:
    """A row of the proxy's answer."""
    return ConsoleRow(**{name: value[name] for name in _ROW})


def state(answer: Mapping[str, Any]) -> Consoles:
    """The proxy's answer on how it is."""
    return Consoles(
        draining=answer["draining"],
        cap=answer["cap"],
        held=answer["held"],
        workers=answer["workers"],
        sessions=tuple(map(row, answer["sessions"])),
    )


def report(answer: Mapping[str, Any]) -> ConsoleReport:
    """A report of the proxy's; its first one has nothing that ended."""
    now = state(answer)
    over = (
        EndedConsole(**{name: one[name] for name in _ROW}, why=one["why"])
        for one in answer.get("ended", ())
    )
    return ConsoleReport(
        draining=now.draining,
        cap=now.cap,
        held=now.held,
        workers=now.workers,
        sessions=now.sessions,
        ended=tuple(over),
    )


def reports(machine: Machine, streams: Streams) -> Stream:
    """Reports as they come, as Server-Sent Events: every few seconds, and soon after a change.

    Raises MachineFailed where no proxy runs, and Refusal where too many listen.
    """

    def begin() -> Iterator[bytes]:
        came = machine.console_reports()
        first = next(came)  # so that a proxy that does not run is a problem, and no empty stream
        return parts(first, came)

    def parts(
        first: Mapping[str, Any] | None, came: Iterator[Mapping[str, Any] | None]
    ) -> Iterator[bytes]:
        one = first
        try:
            while True:
                yield b"" if one is None else b"data: %s\n\n" % _json(report(one))
                one = next(came)
        except MachineFailed:
            return

    return streams.open("consoles", SERVER_SENT_EVENTS, begin)


def _json(value: ConsoleReport) -> bytes:
    return json.dumps(to_json(value), separators=(",", ":")).encode()


def drain_time(body: bytes) -> int:
    """Seconds that open sessions may go on. Raises Refusal."""
    value = strict_json.loads(body) if body.strip() else {}
    if isinstance(value, dict) and value.keys() <= {"within"}:
        within = value.get("within", 300)
        if type(within) is int and 0 <= within <= 86400:
            return within
    raise Refusal(problems.BAD_REQUEST, 'the body is {} or {"within": 300}, at most 86400 seconds')
