"""Events: what happens on this VM that somebody outside should know. One closed set.

Everything that raises an event does so through a `Recorder`, as a value; where it is stored, shown
and sent to is not the raiser's affair. Which kinds there are is in `agent.monitor.kinds`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.monitor.kinds import CATALOGUE, Kind, Severity

__all__ = [
    "CATALOGUE",
    "NOWHERE",
    "Cursor",
    "Event",
    "Kept",
    "Kind",
    "Nowhere",
    "Page",
    "Recorder",
    "Severity",
    "Stored",
    "Unknown",
    "Value",
    "stamp",
]

Value = str | int | float | bool | None

LONGEST_SUBJECT = 200  # characters
LONGEST_TEXT = 1000  # characters of a message, and of each value of `data`


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, without when: whoever records it says that.

    `subject` is what it is about: a unit without `.service`, a resource, a check, a revision.
    `data` has what the kind's meaning names, as plain values, and never a secret.
    """

    kind: Kind
    subject: str
    message: str  # one sentence for a person
    data: Mapping[str, Value] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        return CATALOGUE[self.kind].severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An event as it is kept: what happened, and when.

    `kind` is text, for a database may be older or newer than this catalogue.
    """

    seq: int  # within the outbox's stream; 0 while it has no number yet
    boot: str  # the kernel's id of the boot that it happened in
    at: float  # seconds since the epoch
    monotonic: float  # seconds since that boot
    kind: str
    severity: Severity
    subject: str
    message: str
    data: Mapping[str, Value]


def stamp(event: Event, *, boot: str, at: float, monotonic: float) -> Stored:
    """The event with its times, its texts bounded and without control characters."""
    return Stored(
        seq=0,
        boot=boot,
        at=at,
        monotonic=monotonic,
        kind=str(event.kind),
        severity=event.severity,
        subject=_clean(event.subject, LONGEST_SUBJECT),
        message=_clean(event.message, LONGEST_TEXT),
        data={
            name: _clean(value, LONGEST_TEXT) if isinstance(value, str) else value
            for name, value in event.data.items()
        },
    )


def _clean(text: str, longest: int) -> str:
    text = "".join(c if c.isprintable() else " " for c in text[: longest + 1])
    return text if len(text) <= longest else text[: longest - 1] + "…"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a stream: what was seen up to and with `seq`. An empty stream means any."""

    seq: int = 0
    stream: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Events, and where to go on."""

    stream: str
    oldest: int | None  # the least number that is kept
    last: int  # the greatest number there is
    acknowledged: int
    next: Cursor
    events: tuple[Stored, ...]


class Unknown(Exception):
    """A number was acknowledged that this stream has not given yet, or one of another stream."""

    retryable = False


class Recorder(Protocol):
    """Where events go. Never raises and never waits long: what watches must not fail of it."""

    def record(self, event: Event) -> None:
        """Keep it, durably, in order, and have it told to whoever listens."""


class Kept(Protocol):
    """What can be asked of the events that are kept. For any number of threads."""

    def read(self, cursor: Cursor, limit: int = 1000, least: Severity = Severity.INFO) -> Page:
        """What comes after a place; all there is, where the place is in another stream."""

    def wait(self, cursor: Cursor, seconds: float) -> bool:
        """Wait until there is something after that place; is there?"""

    def before(self, count: int, least: Severity = Severity.INFO) -> Cursor:
        """The place after which the last `count` events come, about."""

    def acknowledge(self, cursor: Cursor) -> int:
        """All up to this place have arrived; returns the greatest number for which that is so.

        Raises Unknown.
        """


class Nowhere:
    """A recorder that keeps nothing, for where nobody would ask."""

    def record(self, event: Event) -> None:
        """Nothing."""


NOWHERE: Recorder = Nowhere()
