"""Events: what happens on this VM that somebody outside should know. One closed set.

Everything that raises an event does so through a `Recorder`, as a value; where it is stored, shown
and sent to is not the raiser's affair. docs/events.md is generated from the catalogue below.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

Value = str | int | float | bool | None

LONGEST_SUBJECT = 200  # characters
LONGEST_TEXT = 1000  # characters of a message, and of each value of `data`


class Severity(enum.StrEnum):
    """How bad it is, in ascending order."""

    INFO = "info"  # a change of state that ends well, or that somebody asked for
    WARNING = "warning"  # degraded, but serving
    ALERT = "alert"  # something does not serve, and does not come back by itself
    CRITICAL = "critical"  # the VM as a whole is at risk

    @property
    def rank(self) -> int:
        """0 for the least."""
        return _RANKS[self]


_RANKS: Mapping[Severity, int] = {severity: rank for rank, severity in enumerate(Severity)}


class Kind(enum.StrEnum):
    """Every type of event."""

    AGENT_STARTED = "agent.started"
    AGENT_STARVED = "agent.starved"
    AGENT_FED = "agent.fed"
    DOCUMENT_COMMITTED = "document.committed"
    DOCUMENT_PROVISIONAL = "document.provisional"
    DOCUMENT_CONFIRMED = "document.confirmed"
    DOCUMENT_ROLLED_BACK = "document.rolled-back"
    DOCUMENT_DEGRADED = "document.degraded"
    STATE_UNREADABLE = "state.unreadable"
    STATE_REPLACED = "state.replaced"
    STATE_NOT_WRITABLE = "state.not-writable"
    STATE_WRITABLE = "state.writable"
    DRIFT_FOUND = "drift.found"
    DRIFT_OVER = "drift.over"
    LEGACY_RULES_FOUND = "legacy-rules.found"
    LEGACY_RULES_OVER = "legacy-rules.over"
    SERVICE_DIED = "service.died"
    SERVICE_HUNG = "service.hung"
    SERVICE_RECOVERED = "service.recovered"
    SERVICE_NOT_RECOVERED = "service.not-recovered"
    SERVICE_CRASH_LOOP = "service.crash-loop"
    SERVICE_CONFIGURATION = "service.configuration-error"
    SERVICE_OTHER_FILES = "service.other-files"
    SERVICE_STILL_OTHER_FILES = "service.still-other-files"
    SERVICE_OWN_FILES = "service.own-files"
    SERVICE_HELD = "service.held"
    SERVICE_RELEASED = "service.released"
    SERVER_DOWN = "balancer.server-down"
    SERVER_UP = "balancer.server-up"
    TUNNEL_DOWN = "vpn.tunnel-down"
    TUNNEL_UP = "vpn.tunnel-up"
    RESOURCE_SHORT = "resource.short"
    RESOURCE_WELL = "resource.well"
    CHECK_FAILED = "check.failed"
    CHECK_PASSED = "check.passed"
    CLIENT_REFUSED = "client.refused"
    EVENTS_GAP = "events.gap"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a kind of event says, how bad it is, and what to do next."""

    severity: Severity
    summary: str
    next: str
    data: Mapping[str, str] = field(default_factory=dict)  # by name: what it says


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


_SERVICE = {
    "unit": "the systemd unit",
    "reason": "crash, killed, out-of-memory, hung, exited, stopped, configuration, other-files",
    "detail": "what systemd, the daemon or the probe said",
    "restarts": "how often it has been restarted within the last ten minutes",
}

CATALOGUE: Mapping[Kind, Meaning] = {
    Kind.AGENT_STARTED: Meaning(
        Severity.INFO,
        "The agent has started, after a boot or by itself.",
        "nothing; where the VM was not rebooted, `sysvmctl logs sysvm-agent` says why",
        {"boot": "whether the VM has booted since the agent last ran"},
    ),
    Kind.AGENT_STARVED: Meaning(
        Severity.ALERT,
        "The agent can open nothing or start nothing. It watches on; clients are sent away, and "
        "pushes fail. What is configured runs on.",
        "`systemctl restart sysvm-agent`; keep `sysvmctl logs sysvm-agent` of before",
        {"lacks": "descriptors, tasks", "detail": "what the kernel said"},
    ),
    Kind.AGENT_FED: Meaning(
        Severity.INFO,
        "The agent has what it needs again.",
        "nothing",
        {"lacks": "what it had lacked"},
    ),
    Kind.DOCUMENT_COMMITTED: Meaning(
        Severity.INFO,
        "A document runs and stays.",
        "nothing",
        {"revision": "the VM's number", "generation": "management's number", "cause": "why"},
    ),
    Kind.DOCUMENT_PROVISIONAL: Meaning(
        Severity.INFO,
        "A document runs, and goes unless it is confirmed.",
        "`sysvmctl confirm`, or let it go",
        {
            "revision": "the VM's number",
            "generation": "management's number",
            "seconds": "the time to confirm it in",
        },
    ),
    Kind.DOCUMENT_CONFIRMED: Meaning(
        Severity.INFO,
        "A provisional document stays.",
        "nothing",
        {"revision": "the VM's number", "generation": "management's number"},
    ),
    Kind.DOCUMENT_ROLLED_BACK: Meaning(
        Severity.WARNING,
        "A document was taken back: it did not work, was not confirmed, or somebody asked.",
        "`sysvmctl status` says why; correct the document, and push it again",
        {"revision": "what runs now", "cause": "why"},
    ),
    Kind.DOCUMENT_DEGRADED: Meaning(
        Severity.CRITICAL,
        "Neither the new document nor the one before could be made to run whole.",
        "`sysvmctl status`; then push a document that works",
        {"cause": "why"},
    ),
    Kind.STATE_UNREADABLE: Meaning(
        Severity.CRITICAL,
        "What the VM remembers of its revisions could not be read; an older one stands in.",
        "push the document again; look at the disk",
        {
            "cause": "what was unreadable",
            "revision": "which revision stands in for it, or cannot be restored",
        },
    ),
    Kind.STATE_REPLACED: Meaning(
        Severity.CRITICAL,
        "The state partition could not be used at boot; memory stands in for it until then.",
        "look at the disk; recreate the VM if it is lost",
        {"cause": "why"},
    ),
    Kind.STATE_NOT_WRITABLE: Meaning(
        Severity.CRITICAL,
        "The state partition is full or read-only: pushes are refused; what is configured runs on.",
        "make room, or look at the disk",
        {"reason": "why", "free": "bytes that are free"},
    ),
    Kind.STATE_WRITABLE: Meaning(
        Severity.INFO,
        "The state partition can be written again.",
        "nothing",
        {"free": "bytes that are free"},
    ),
    Kind.DRIFT_FOUND: Meaning(
        Severity.WARNING,
        "Somebody changed by hand what the document says.",
        "`sysvmctl drift` says what; pushing the document again puts it right",
        {"lines": "how many differences", "first": "the first of them"},
    ),
    Kind.DRIFT_OVER: Meaning(
        Severity.INFO, "The VM is again what the document says.", "nothing", {}
    ),
    Kind.LEGACY_RULES_FOUND: Meaning(
        Severity.WARNING,
        "Somebody made firewall rules in the legacy tables, which filter beside ours.",
        "`sysvmctl legacy-rules`, and `--remove`",
        {"rules": "how many", "first": "the first of them"},
    ),
    Kind.LEGACY_RULES_OVER: Meaning(
        Severity.INFO, "There are no legacy firewall rules any more.", "nothing", {}
    ),
    Kind.SERVICE_DIED: Meaning(
        Severity.WARNING,
        "A daemon that the document wants ended; it is started again.",
        "nothing, if it recovers; `sysvmctl logs UNIT` says what it said",
        _SERVICE,
    ),
    Kind.SERVICE_HUNG: Meaning(
        Severity.WARNING,
        "A daemon runs and does not answer; it is restarted.",
        "nothing, if it recovers; `sysvmctl logs UNIT`",
        _SERVICE,
    ),
    Kind.SERVICE_RECOVERED: Meaning(
        Severity.INFO,
        "A daemon that had ended or hung answers again.",
        "nothing",
        {**_SERVICE, "seconds": "how long it did not answer"},
    ),
    Kind.SERVICE_NOT_RECOVERED: Meaning(
        Severity.ALERT,
        "Restarting a daemon does not help.",
        "`sysvmctl logs UNIT`, `sysvmctl check`; then `sysvmctl service restart UNIT`",
        _SERVICE,
    ),
    Kind.SERVICE_CRASH_LOOP: Meaning(
        Severity.ALERT,
        "A daemon keeps ending; it is tried again ever more rarely, once a minute at most.",
        "`sysvmctl logs UNIT`; roll back the change that brought it, if there was one",
        _SERVICE,
    ),
    Kind.SERVICE_CONFIGURATION: Meaning(
        Severity.ALERT,
        "A daemon refuses its configuration; it is not tried again with it.",
        "what was changed by hand has been put back; otherwise correct the document",
        {
            **_SERVICE,
            "file": "the file that it refuses",
            "line": "the line",
            "path": "where the document says so; empty where that is not from it",
            "origin": "document, or hand: somebody wrote that line into the file",
        },
    ),
    Kind.SERVICE_OTHER_FILES: Meaning(
        Severity.WARNING,
        "A daemon serves with other files than the running revision's; it is told to read them.",
        "nothing, if `service.own-files` follows; somebody had it load something else",
        _SERVICE,
    ),
    Kind.SERVICE_STILL_OTHER_FILES: Meaning(
        Severity.ALERT,
        "A daemon that was told to read its files goes on with others; it is not restarted.",
        "`sysvmctl logs UNIT` says why; `sysvmctl service restart UNIT` when it suits",
        _SERVICE,
    ),
    Kind.SERVICE_OWN_FILES: Meaning(
        Severity.INFO, "A daemon serves with the revision's files again.", "nothing", _SERVICE
    ),
    Kind.SERVICE_HELD: Meaning(
        Severity.INFO,
        "An operator holds a daemon: it is not restarted, and nobody is alerted.",
        "`sysvmctl service release UNIT` ends it",
        {
            "unit": "the systemd unit",
            "by": "who",
            "why": "the reason given",
            "until": "when it ends",
        },
    ),
    Kind.SERVICE_RELEASED: Meaning(
        Severity.INFO, "A hold is over.", "nothing", {"unit": "the systemd unit"}
    ),
    Kind.SERVER_DOWN: Meaning(
        Severity.WARNING,
        "A server behind the load balancer fails its health check.",
        "`sysvmctl show lb`; look at that server",
        {"listener": "the listener", "server": "the server", "check": "what the check said"},
    ),
    Kind.SERVER_UP: Meaning(
        Severity.INFO,
        "A server behind the load balancer passes its health check again.",
        "nothing",
        {"listener": "the listener", "server": "the server"},
    ),
    Kind.TUNNEL_DOWN: Meaning(
        Severity.WARNING,
        "An IPsec tunnel is down.",
        "`sysvmctl show vpn` says why",
        {"connection": "the connection", "child": "the tunnel", "reason": "why, where it is known"},
    ),
    Kind.TUNNEL_UP: Meaning(
        Severity.INFO,
        "An IPsec tunnel is up.",
        "nothing",
        {"connection": "the connection", "child": "the tunnel"},
    ),
    Kind.RESOURCE_SHORT: Meaning(
        Severity.ALERT,
        "A resource is beyond its threshold.",
        "`sysvmctl check basic`; the thresholds are in the document's `monitoring`",
        {"value": "how much", "threshold": "what is allowed", "unit": "of what"},
    ),
    Kind.RESOURCE_WELL: Meaning(
        Severity.INFO,
        "A resource is within its threshold again.",
        "nothing",
        {"value": "how much", "threshold": "what is allowed", "unit": "of what"},
    ),
    Kind.CHECK_FAILED: Meaning(
        Severity.WARNING,
        "A health check fails.",
        "`sysvmctl check --name NAME` runs it again and says what is missing",
        {"level": "basic or advanced", "missing": "the first items that it misses"},
    ),
    Kind.CHECK_PASSED: Meaning(
        Severity.INFO,
        "A health check that failed passes again.",
        "nothing",
        {"level": "basic or advanced"},
    ),
    Kind.CLIENT_REFUSED: Meaning(
        Severity.WARNING,
        "Somebody was refused at the control endpoint: no certificate, or not one that may.",
        "`sysvmctl logs sysvm-front` has who and why",
        {
            "client": "its address; `others` where there were too many",
            "reason": "why",
            "name": "the common name of its certificate, where it showed one",
            "times": "how often within the last minute",
        },
    ),
    Kind.EVENTS_GAP: Meaning(
        Severity.ALERT,
        "Events were lost before anybody had acknowledged them.",
        "ask the VM for its status; acknowledge events sooner",
        {
            "lost": "how many, where that is known",
            "first": "the first lost number",
            "last": "the last lost number; not all between them need be lost",
            "reason": "why",
        },
    ),
}
