"""What is told of console sessions over the endpoint, and what is asked about all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.api import problems
from agent.api.problems import Refusal
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


@dataclass(frozen=True, slots=True)
class Accepted:
    """A session that was taken in, or ended."""

    id: str
    result: str  # created, unchanged, ended


def row(value: Mapping[str, Any]) -> ConsoleRow:
    """A row of the proxy's answer."""
    return ConsoleRow(**{name: value[name] for name in ConsoleRow.__slots__})


def state(answer: Mapping[str, Any]) -> Consoles:
    """The proxy's answer on how it is."""
    return Consoles(
        draining=answer["draining"],
        cap=answer["cap"],
        held=answer["held"],
        workers=answer["workers"],
        sessions=tuple(map(row, answer["sessions"])),
    )


def drain_time(body: bytes) -> int:
    """Seconds that open sessions may go on. Raises Refusal."""
    value = strict_json.loads(body) if body.strip() else {}
    if isinstance(value, dict) and value.keys() <= {"within"}:
        within = value.get("within", 300)
        if type(within) is int and 0 <= within <= 86400:
            return within
    raise Refusal(problems.BAD_REQUEST, 'the body is {} or {"within": 300}, at most 86400 seconds')
