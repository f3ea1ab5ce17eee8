"""What the endpoint answers: the types behind its JSON, and how outcomes become them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_never

from agent.api import problems
from agent.api.ports import Engine, LegacyRule
from agent.api.problems import Refusal
from agent.engine.model import (
    Committed,
    Degraded,
    Outcome,
    Plan,
    Problem,
    Provisional,
    Refused,
    RolledBack,
    Unchanged,
)
from agent.engine.plan import describe
from agent.engine.store import RevisionInfo, State
from agent.monitor.events import Page
from agent.monitor.rows import EventRow, event_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """How a change ended well: what runs now, and what was done for it."""

    result: str  # committed, provisional, unchanged
    revision: int
    generation: int
    digest: str
    plan: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    duration_ms: int
    confirm: str | None = None  # where to POST the confirm of a provisional revision
    deadline: str | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What a change would do; nothing has been done."""

    plan: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """How the machine differs from what was asked for, as the plan that would mend it."""

    drift: bool
    plan: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """A revision: which document, when, and why."""

    revision: int
    generation: int
    digest: str
    created: str
    age: float  # seconds
    cause: str
    origin: int | None
    state: str  # running, provisional, confirmed (what a roll back returns to), or past


@dataclass(frozen=True, slots=True)
class RevisionWithDocument:
    """A revision with its document, as it was pushed but for the secrets."""

    info: RevisionRow
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """The revisions that are kept, newest first, and which of them runs."""

    current: int | None
    confirmed: int | None
    deadline: str | None
    seconds_left: float | None
    revisions: tuple[RevisionRow, ...]


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that is there."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class LegacyRules:
    """Rules in the legacy tables, which filter beside ours."""

    rules: tuple[LegacyRule, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """The last lines of a unit's journal, oldest first."""

    unit: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Events in order, and where to go on: `after=NEXT&stream=STREAM`."""

    stream: str
    next: int
    oldest: int | None  # the least number that is kept
    last: int  # the greatest number there is
    acknowledged: int
    events: tuple[EventRow, ...]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Up to which number all events have arrived."""

    stream: str
    seq: int


def events(page: Page) -> Events:
    return Events(
        stream=page.stream,
        next=page.next.seq,
        oldest=page.oldest,
        last=page.last,
        acknowledged=page.acknowledged,
        events=tuple(map(event_row, page.events)),
    )


def timestamp(seconds: float | None) -> str | None:
    """A moment as RFC 3339 has it, in UTC, to the second."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_left(state: State, monotonic: float) -> float | None:
    """How long a provisional revision still has, whatever becomes of the time of day."""
    if not state.provisional or state.deadline is None:
        return None
    return round(max(0.0, state.deadline - monotonic), 1)


def deadline(left: float | None, now: float) -> str | None:
    """The time of day at which so many seconds are over."""
    return None if left is None else timestamp(now + left)


def revision_row(info: RevisionInfo, state: State, now: float) -> RevisionRow:
    return RevisionRow(
        revision=info.number,
        generation=info.generation,
        digest=info.digest,
        created=timestamp(info.created) or "",
        age=round(max(0.0, now - info.created), 1),
        cause=info.cause,
        origin=info.origin,
        state=_revision_state(info.number, state),
    )


def _revision_state(number: int, state: State) -> str:
    if number == state.current:
        return "provisional" if state.provisional else "running"
    return "confirmed" if number == state.confirmed else "past"


def changed(
    outcome: Outcome, engine: Engine, *, duration: float, now: float, monotonic: float
) -> Changed:
    """An outcome that is a success, in full. Raises Refusal for one that is not.

    A push that is repeated because its answer was lost is `unchanged`, and learns like the first
    one that its revision waits to be confirmed.
    """
    plan = Plan(())
    warnings: Sequence[str] = ()
    left: float | None = None
    result = type(outcome).__name__.lower()
    match outcome:
        case Committed() | Provisional():
            plan, warnings = outcome.plan, outcome.warnings
            left = outcome.seconds if isinstance(outcome, Provisional) else None
        case Unchanged():
            state = engine.state()
            left = seconds_left(state, monotonic) if state.current == outcome.revision else None
        case Refused(found):
            raise Refusal(problems.REFUSED, problems.count(found), problems=found)
        case RolledBack(revision, cause, found):
            raise _undone(revision, cause, found)
        case Degraded(cause):
            raise Refusal(problems.DEGRADED, cause)
        case _ as unreachable:
            assert_never(unreachable)
    info = engine.revision(outcome.revision).info
    return Changed(
        result=result,
        revision=info.number,
        generation=info.generation,
        digest=info.digest,
        plan=describe(plan),
        warnings=tuple(warnings),
        duration_ms=round(duration * 1000),
        confirm=None if left is None else f"/v1/revisions/{info.number}/confirm",
        deadline=deadline(left, now),
        seconds_left=left,
    )


def _undone(revision: int, cause: str, found: tuple[Problem, ...]) -> Refusal:
    named = any(problem.path for problem in found)
    kind = problems.DID_NOT_HOLD if named else problems.ROLLED_BACK
    again = (
        f"revision {revision} runs" if revision else "what was there before the first document runs"
    )
    return Refusal(kind, f"{cause}; {again} again", problems=found)
