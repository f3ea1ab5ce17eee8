"""What a request is to the endpoint, what an answer, and what of a request has to be looked at."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.api import problems
from agent.api.problems import Refusal
from agent.api.routes import LONGEST_WAIT, Route
from agent.document import json as strict_json
from agent.services import discover

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request: its route, what its path and query say, its header and its body."""

    route: Route
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    client: str = ""

    @property
    def dry_run(self) -> bool:
        return self.query.get("dry_run", "0") in {"1", "true"}

    @property
    def changes(self) -> bool:
        """Does it change something? Then it leaves a line in the log."""
        return self.route.changes and not self.dry_run


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is not a problem: bytes and a Stream as they are, anything else as JSON."""

    content: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def check_query(call: Call) -> None:
    """Refuse what the route does not know: a misspelt `dry_run` must not change anything."""
    known = {parameter.name: parameter for parameter in call.route.query}
    for name, value in call.query.items():
        if name not in known:
            hint = f"known are {', '.join(known)}" if known else "this path knows none"
            raise Refusal(problems.BAD_REQUEST, f"the query has {name[:40]!r}; {hint}")
        allowed: Sequence[str] | None = known[name].schema.get("enum")
        if allowed is not None and value not in allowed:
            raise Refusal(problems.BAD_REQUEST, f"{name} is one of {', '.join(allowed)}")


def confirm_within(call: Call) -> float | None:
    """Seconds that the change may wait for its confirm, or None for a change that stays."""
    text = call.query.get("confirm_within")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= LONGEST_WAIT:
        message = f"confirm_within is a number of seconds from 1 to {LONGEST_WAIT}"
        raise Refusal(problems.BAD_REQUEST, message)
    return seconds


def rollback_target(body: bytes) -> int | None:
    """The revision that the body of a roll back names, if it names one."""
    value = strict_json.loads(body) if body.strip() else {}
    if isinstance(value, dict) and value.keys() <= {"revision"}:
        revision = value.get("revision")
        if revision is None or (type(revision) is int and revision >= 0):
            return revision
    raise Refusal(problems.BAD_REQUEST, 'the body is {} or {"revision": 7}')


@functools.cache
def owned_units() -> tuple[str, ...]:
    """Every unit that some service could want."""
    return tuple(sorted({unit for service in discover().values() for unit in service.UNITS}))


def unit_of(call: Call) -> str:
    name = call.path["unit"]
    return name if "." in name else f"{name}.service"


def owned_unit(call: Call) -> str:
    unit = unit_of(call)
    if unit not in owned_units():
        raise no_such_unit(unit)
    return unit


def no_such_unit(unit: str) -> Refusal:
    return Refusal(problems.NO_SUCH_UNIT, f"no unit {unit[:80]!r} of ours")


def no_such_session(call: Call) -> Refusal:
    return Refusal(problems.NO_SUCH_SESSION, f"no session {call.path['session'][:63]!r}")


def number(call: Call) -> int:
    return int(call.path["number"])


def blob_name(call: Call) -> str:
    name = call.path["sha256"]
    if not SHA256.fullmatch(name):
        raise Refusal(problems.BAD_REQUEST, "a blob's name is 64 digits of 0-9 and a-f")
    return name
