"""Everything that the manager answers instead of what was asked: one closed set (RFC 9457)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.engine.model import Problem

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of problem: its name, its HTTP status, what it means and what to do next."""

    name: str
    status: int
    title: str
    hint: str
    retryable: bool = False


KINDS: dict[str, Kind] = {}


def _kind(name: str, status: int, title: str, hint: str, *, retryable: bool = False) -> Kind:
    return KINDS.setdefault(name, Kind(name, status, title, hint, retryable))


BAD_REQUEST = _kind(
    "bad-request", 400, "The request is malformed", "See /v1/openapi.json for what it takes."
)
NOT_JSON = _kind("not-json", 400, "The body is not JSON", "Send one JSON value in UTF-8.")
UNAUTHENTICATED = _kind(
    "unauthenticated",
    401,
    "There is no token, or none that is valid",
    "Send 'Authorization: Bearer TOKEN'; 'sysvm manager token add' makes one.",
)
FORBIDDEN = _kind(
    "forbidden", 403, "The token's role may not do this", "Ask with a token of another role."
)
NOT_FOUND = _kind("not-found", 404, "There is no such thing", "Look at the list of them.")
UNKNOWN_PATH = _kind("unknown-path", 404, "There is nothing at this path", "See /v1/openapi.json.")
METHOD_NOT_ALLOWED = _kind(
    "method-not-allowed", 405, "This path does not do that", "See /v1/openapi.json."
)
IN_USE = _kind("in-use", 409, "It is in use", "Drain it, and try again when its sessions are over.")
STALE = _kind(
    "stale-generation",
    409,
    "The document is older than one that was pushed, or other with the same number",
    "Count its generation up.",
)
TOO_LARGE = _kind("too-large", 413, "The body is larger than allowed", "Send less.")
INVALID = _kind(
    "invalid", 422, "The request says something impossible", "Correct every problem that is listed."
)
REQUIRES_UPGRADE = _kind(
    "requires-upgrade",
    409,
    "The VM's agent is too old to be changed; it goes on serving",
    "Recreate the VM from the current template; '?force=1' pushes all the same.",
)
NO_PROXY = _kind(
    "no-proxy",
    503,
    "There is no console proxy for this now",
    "Ask again in a while; GET /v1/capacity says how many proxies should run.",
    retryable=True,
)
TOO_MANY = _kind(
    "too-many-sessions", 429, "The user has as many sessions as one may have", "End some of them."
)
AGENT_MUTE = _kind(
    "agent-mute",
    502,
    "The VM's agent does not answer",
    "Look at the VM, and at the network to it.",
    retryable=True,
)
AGENT_REFUSED = _kind(
    "agent-refused", 502, "The VM's agent refused it", "The detail has its answer."
)
DATABASE = _kind(
    "database",
    503,
    "The manager's database does not answer",
    "Ask again in a while.",
    retryable=True,
)
BUSY = _kind(
    "busy", 503, "Too many requests wait for events", "Ask again in a while.", retryable=True
)
UNEXPECTED = _kind("unexpected", 500, "The manager made a mistake", "Look at its log.")


class Refusal(Exception):
    """A request that is not granted."""

    def __init__(
        self, kind: Kind, detail: str, *, problems: tuple[Problem, ...] = (), retry_after: int = 0
    ) -> None:
        self.answer = Answer(kind, detail, problems, retry_after)
        super().__init__(f"{kind.name}: {detail}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A problem as it is told."""

    kind: Kind
    detail: str
    problems: tuple[Problem, ...] = field(default=())
    retry_after: int = 0


def body(answer: Answer) -> Mapping[str, Any]:
    """The answer's JSON."""
    kind = answer.kind
    found: dict[str, Any] = {
        "type": f"/v1/problems/{kind.name}",
        "title": kind.title,
        "status": kind.status,
        "detail": answer.detail,
        "hint": kind.hint,
        "retryable": kind.retryable,
    }
    if answer.problems:
        found["problems"] = [
            {"path": one.path, "message": one.message, "hint": one.hint} for one in answer.problems
        ]
    return found
