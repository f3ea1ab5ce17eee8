"""Every kind of event, how bad it is, what it says and what to do next: one closed set.

docs/events.md is generated from the catalogue below. `agent.monitor.events` has what is made of it.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial


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
    SERVICE_BUSY = "service.busy"
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
    CONSOLE_OPENED = "console.opened"
    CONSOLE_ENDED = "console.ended"
    CONSOLE_REFUSED = "console.refused"
    CONSOLE_WORKER_DIED = "console.worker-died"
    CONSOLE_DRAINING = "console.draining"
    CONSOLE_DRAINED = "console.drained"
    EVENTS_GAP = "events.gap"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a kind of event says, how bad it is, and what to do next."""

    severity: Severity
    summary: str
    next: str
    data: Mapping[str, str] = field(default_factory=dict)  # by name: what it says


_info = partial(Meaning, Severity.INFO)
_warning = partial(Meaning, Severity.WARNING)
_alert = partial(Meaning, Severity.ALERT)
_critical = partial(Meaning, Severity.CRITICAL)

# What `data` of several kinds has.
_REVISION = {"revision": "the VM's number", "generation": "management's number"}
_RESOURCE = {"value": "how much", "threshold": "what is allowed", "unit": "of what"}
_SERVER = {"listener": "the listener", "server": "the server"}
_TUNNEL = {"connection": "the connection", "child": "the tunnel"}
_SERVICE = {
    "unit": "the systemd unit",
    "reason": "crash, killed, out-of-memory, busy, hung, exited, stopped, configuration, "
    "other-files",
    "detail": "what systemd, the daemon or the probe said",
    "restarts": "how often it has been restarted within the last ten minutes",
}

_CONSOLE = {
    "session": "management's name for it",
    "user": "who",
    "vm": "whose console",
    "source": "the browser's address",
}

CATALOGUE: Mapping[Kind, Meaning] = {
    Kind.AGENT_STARTED: _info(
        "The agent has started, after a boot or by itself.",
        "nothing; where the VM was not rebooted, `sysvmctl logs sysvm-agent` says why",
        {"boot": "whether the VM has booted since the agent last ran"},
    ),
    Kind.AGENT_STARVED: _alert(
        "The agent can open nothing or start nothing. It watches on; clients are sent away, and "
        "pushes fail. What is configured runs on.",
        "`systemctl restart sysvm-agent`; keep `sysvmctl logs sysvm-agent` of before",
        {"lacks": "descriptors, tasks", "detail": "what the kernel said"},
    ),
    Kind.AGENT_FED: _info(
        "The agent has what it needs again.",
        "nothing",
        {"lacks": "what it had lacked"},
    ),
    Kind.DOCUMENT_COMMITTED: _info(
        "A document runs and stays.",
        "nothing",
        {**_REVISION, "cause": "why"},
    ),
    Kind.DOCUMENT_PROVISIONAL: _info(
        "A document runs, and goes unless it is confirmed.",
        "`sysvmctl confirm`, or let it go",
        {**_REVISION, "seconds": "the time to confirm it in"},
    ),
    Kind.DOCUMENT_CONFIRMED: _info(
        "A provisional document stays.",
        "nothing",
        _REVISION,
    ),
    Kind.DOCUMENT_ROLLED_BACK: _warning(
        "A document was taken back: it did not work, was not confirmed, or somebody asked.",
        "`sysvmctl status` says why; correct the document, and push it again",
        {"revision": "what runs now", "cause": "why"},
    ),
    Kind.DOCUMENT_DEGRADED: _critical(
        "Neither the new document nor the one before could be made to run whole.",
        "`sysvmctl status`; then push a document that works",
        {"cause": "why"},
    ),
    Kind.STATE_UNREADABLE: _critical(
        "What the VM remembers of its revisions could not be read; an older one stands in.",
        "push the document again; look at the disk",
        {
            "cause": "what was unreadable",
            "revision": "which revision stands in for it, or cannot be restored",
        },
    ),
    Kind.STATE_REPLACED: _critical(
        "The state partition could not be used at boot; memory stands in for it until then.",
        "look at the disk; recreate the VM if it is lost",
        {"cause": "why"},
    ),
    Kind.STATE_NOT_WRITABLE: _critical(
        "The state partition is full or read-only: pushes are refused; what is configured runs on.",
        "make room, or look at the disk",
        {"reason": "why", "free": "bytes that are free"},
    ),
    Kind.STATE_WRITABLE: _info(
        "The state partition can be written again.",
        "nothing",
        {"free": "bytes that are free"},
    ),
    Kind.DRIFT_FOUND: _warning(
        "Somebody changed by hand what the document says.",
        "`sysvmctl drift` says what; pushing the document again puts it right",
        {"lines": "how many differences", "first": "the first of them"},
    ),
    Kind.DRIFT_OVER: _info("The VM is again what the document says.", "nothing", {}),
    Kind.LEGACY_RULES_FOUND: _warning(
        "Somebody made firewall rules in the legacy tables, which filter beside ours.",
        "`sysvmctl legacy-rules`, and `--remove`",
        {"rules": "how many", "first": "the first of them"},
    ),
    Kind.LEGACY_RULES_OVER: _info("There are no legacy firewall rules any more.", "nothing", {}),
    Kind.SERVICE_DIED: _warning(
        "A daemon that the document wants ended; it is started again.",
        "nothing, if it recovers; `sysvmctl logs UNIT` says what it said",
        _SERVICE,
    ),
    Kind.SERVICE_BUSY: _warning(
        "A daemon does not answer, and is busy: it runs, or waits for the CPU. It is given time.",
        "nothing, if it recovers; often: give the VM more CPU, or the daemon less to do",
        _SERVICE,
    ),
    Kind.SERVICE_HUNG: _warning(
        "A daemon runs and does not answer, or has been busy for too long; it is restarted.",
        "nothing, if it recovers; `sysvmctl logs UNIT`",
        _SERVICE,
    ),
    Kind.SERVICE_RECOVERED: _info(
        "A daemon that had ended, hung or been busy answers again.",
        "nothing",
        {**_SERVICE, "seconds": "how long it did not answer"},
    ),
    Kind.SERVICE_NOT_RECOVERED: _alert(
        "Restarting a daemon does not help.",
        "`sysvmctl logs UNIT`, `sysvmctl check`; then `sysvmctl service restart UNIT`",
        _SERVICE,
    ),
    Kind.SERVICE_CRASH_LOOP: _alert(
        "A daemon keeps ending; it is tried again ever more rarely, once a minute at most.",
        "`sysvmctl logs UNIT`; roll back the change that brought it, if there was one",
        _SERVICE,
    ),
    Kind.SERVICE_CONFIGURATION: _alert(
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
    Kind.SERVICE_OTHER_FILES: _warning(
        "A daemon serves with other files than the running revision's; it is told to read them.",
        "nothing, if `service.own-files` follows; somebody had it load something else",
        _SERVICE,
    ),
    Kind.SERVICE_STILL_OTHER_FILES: _alert(
        "A daemon that was told to read its files goes on with others; it is not restarted.",
        "`sysvmctl logs UNIT` says why; `sysvmctl service restart UNIT` when it suits",
        _SERVICE,
    ),
    Kind.SERVICE_OWN_FILES: _info(
        "A daemon serves with the revision's files again.", "nothing", _SERVICE
    ),
    Kind.SERVICE_HELD: _info(
        "An operator holds a daemon: it is not restarted, and nobody is alerted.",
        "`sysvmctl service release UNIT` ends it",
        {
            "unit": "the systemd unit",
            "by": "who",
            "why": "the reason given",
            "until": "when it ends",
        },
    ),
    Kind.SERVICE_RELEASED: _info("A hold is over.", "nothing", {"unit": "the systemd unit"}),
    Kind.SERVER_DOWN: _warning(
        "A server behind the load balancer fails its health check.",
        "`sysvmctl show lb`; look at that server",
        {**_SERVER, "check": "what the check said"},
    ),
    Kind.SERVER_UP: _info(
        "A server behind the load balancer passes its health check again.",
        "nothing",
        _SERVER,
    ),
    Kind.TUNNEL_DOWN: _warning(
        "An IPsec tunnel is down.",
        "`sysvmctl show vpn` says why",
        {**_TUNNEL, "reason": "why, where it is known"},
    ),
    Kind.TUNNEL_UP: _info(
        "An IPsec tunnel is up.",
        "nothing",
        _TUNNEL,
    ),
    Kind.RESOURCE_SHORT: _alert(
        "A resource is beyond its threshold.",
        "`sysvmctl check basic`; the thresholds are in the document's `monitoring`",
        _RESOURCE,
    ),
    Kind.RESOURCE_WELL: _info(
        "A resource is within its threshold again.",
        "nothing",
        _RESOURCE,
    ),
    Kind.CHECK_FAILED: _warning(
        "A health check fails.",
        "`sysvmctl check --name NAME` runs it again and says what is missing",
        {"level": "basic or advanced", "missing": "the first items that it misses"},
    ),
    Kind.CHECK_PASSED: _info(
        "A health check that failed passes again.",
        "nothing",
        {"level": "basic or advanced"},
    ),
    Kind.CLIENT_REFUSED: _warning(
        "Somebody was refused at the control endpoint: no certificate, or not one that may.",
        "`sysvmctl logs sysvm-front` has who and why",
        {
            "client": "its address; `others` where there were too many",
            "reason": "why",
            "name": "the common name of its certificate, where it showed one",
            "times": "how often within the last minute",
        },
    ),
    Kind.CONSOLE_OPENED: _info("A user sees a guest's console.", "nothing", _CONSOLE),
    Kind.CONSOLE_ENDED: _info(
        "A console session that had been opened is over.",
        "nothing",
        {**_CONSOLE, "seconds": "how long it lasted", "why": "why it ended"},
    ),
    Kind.CONSOLE_REFUSED: _warning(
        "A browser was refused a console: its link was used, is over, or never was.",
        "nothing for one; many of one address are somebody who guesses",
        {
            "source": "its address; `others` where there were too many",
            "reason": "why",
            "times": "how often within the last minute",
        },
    ),
    Kind.CONSOLE_WORKER_DIED: _warning(
        "A process of the console proxy ended; another takes its place, and browsers come back.",
        "`sysvmctl logs sysvm-console-proxy`",
        {"worker": "which of them", "status": "its exit status, or the signal below zero"},
    ),
    Kind.CONSOLE_DRAINING: _info(
        "The console proxy takes nobody new, for somebody asked it to.",
        "nothing; `console.drained` follows",
        {"within": "seconds that sessions may go on", "sessions": "how many there are"},
    ),
    Kind.CONSOLE_DRAINED: _info(
        "A console proxy that drains has no session left.", "it may be replaced"
    ),
    Kind.EVENTS_GAP: _alert(
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
