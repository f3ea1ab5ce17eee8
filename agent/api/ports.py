"""What the endpoint stands on: the engine, and what else it asks of the machine.

Two protocols, so that the tests can put others behind them. `agent.engine.transaction.Engine`
and `agent.system.machine.LinuxMachine` are the real ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agent.engine.model import (
    Command,
    Count,
    CounterKey,
    Desired,
    IPInterface,
    Observed,
    Outcome,
    Plan,
)
from agent.engine.store import Revision, RevisionInfo, State
from agent.monitor.gauges import Gauges
from agent.monitor.health import Level, Report, Result, Verdict
from agent.monitor.model import Hold, Row


class Engine(Protocol):
    """The transaction. Raises InvalidDocument, HostFull and what agent.engine.errors has."""

    def push(
        self, data: bytes, *, if_match: str | None = None, confirm_within: float | None = None
    ) -> Outcome:
        """Make the machine what this whole document says."""

    def patch(
        self, data: bytes, *, if_match: str | None, confirm_within: float | None = None
    ) -> Outcome:
        """Make the machine what the document says after this merge patch (RFC 7396)."""

    def plan(self, data: bytes, *, patch: bool = False, if_match: str | None = None) -> Plan:
        """What a push or a patch would do; nothing is done."""

    def confirm(self, revision: int) -> Outcome:
        """Keep a provisional revision."""

    def roll_back(self, revision: int | None = None, *, if_unconfirmed: bool = False) -> Outcome:
        """Apply an earlier revision again: the one before where none is named."""

    def state(self) -> State:
        """Which revision runs."""

    def revisions(self) -> tuple[RevisionInfo, ...]:
        """Those that are kept, newest first."""

    def revision(self, number: int) -> Revision:
        """One of them, with its document."""

    def current(self) -> Revision:
        """The one that runs. Raises NothingApplied."""

    def drift(self) -> Plan:
        """What it would take to be what was asked for; empty when nothing has drifted."""

    def counters(self) -> Mapping[CounterKey, Count]:
        """What each rule has counted since it first was."""

    def inspections(self) -> Mapping[str, tuple[Command, ...]]:
        """What a bundle takes of each service that runs. Raises NothingApplied."""

    def observed(self) -> Observed:
        """What is on the machine and ours."""

    def desired(self) -> Desired:
        """What the running revision wants. Raises NothingApplied."""


class Watch(Protocol):
    """The services' monitor; `agent.monitor.monitor.Monitor` is the real one."""

    def rows(self) -> Mapping[str, Row]:
        """What is known of each unit that is wanted, by its name."""

    def hold(self, hold: Hold) -> None:
        """Leave a unit alone until then. Raises HostFull."""

    def release(self, unit: str, by: str) -> bool:
        """End a hold; was there one? Raises HostFull."""

    def clear(self, unit: str) -> None:
        """Somebody has it restarted: what was the matter before is over."""


class Health(Protocol):
    """The health checks; `agent.monitor.runner.Health` is the real one."""

    def report(self) -> Report:
        """What is known, without running anything."""

    def worst(self) -> Verdict | None:
        """The worst verdict; None where nothing has been checked yet."""

    def run(self, level: Level | None = None, name: str | None = None) -> tuple[Result, ...]:
        """Run checks now. Raises NoSuchCheck, Busy."""

    def gauges(self) -> Gauges:
        """The machine's figures at this moment."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the machine and the agent's process are like at this moment."""

    hostname: str
    uptime: float  # seconds since the machine booted
    agent_uptime: float  # seconds
    agent_memory: int  # bytes that are the agent's own
    state_problem: str = ""  # what was wrong with the state partition at boot


@dataclass(frozen=True, slots=True)
class UnitReport:
    """A systemd unit and its main process."""

    active: str  # active, inactive, failed, activating ...
    sub: str = ""
    main_pid: int = 0
    uptime: float | None = None  # seconds since its main process started
    memory: int | None = None  # bytes, of the main process


@dataclass(frozen=True, slots=True)
class DhcpLease:
    """A lease that dnsmasq has given out."""

    mac: str
    address: str
    name: str  # what the guest calls itself, or empty
    expires: float | None  # seconds since the epoch; None for never


@dataclass(frozen=True, slots=True)
class BalancerRow:
    """One line of haproxy's statistics: a listener, or a server behind it."""

    listener: str
    server: str  # FRONTEND and BACKEND for the listener's own two lines
    status: str  # UP, DOWN, DRAIN, MAINT, OPEN, no check
    weight: int | None
    sessions: int  # now
    total_sessions: int
    bytes_in: int
    bytes_out: int
    check: str  # the last health check's result


@dataclass(frozen=True, slots=True)
class LegacyRule:
    """A rule in the legacy tables, which filter beside ours; nobody of ours makes them."""

    family: int
    table: str
    rule: str  # as iptables prints it


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """A security association that charon has: a tunnel, or a key exchange without one yet."""

    connection: str
    child: str  # empty for a key exchange that has no tunnel yet
    state: str  # charon's: CONNECTING, ESTABLISHED; INSTALLED, REKEYING, REKEYED, DELETED ...
    peer: str  # where the peer is
    local_identity: str
    remote_identity: str
    ike: str  # version and algorithms of the key exchange
    esp: str = ""  # algorithms of the traffic
    installed: float = 0.0  # seconds since the epoch
    bytes_in: int = 0
    packets_in: int = 0
    bytes_out: int = 0
    packets_out: int = 0


@dataclass(frozen=True, slots=True)
class FailedHandshake:
    """Why a tunnel did not come up; `connection` is empty where it would have been none of ours."""

    at: float  # seconds since the epoch
    connection: str
    reason: str


@dataclass(frozen=True, slots=True)
class TunnelHistory:
    """What became of a tunnel since the agent listens."""

    up_since: float | None = None  # seconds since the epoch
    rekeyed: float | None = None


@dataclass(frozen=True, slots=True)
class Vpn:
    """What charon has and has done."""

    loaded: frozenset[str]  # connections
    associations: tuple[Association, ...]
    failures: Mapping[str, FailedHandshake]  # by connection, since it last came up
    strangers: tuple[FailedHandshake, ...]  # the last one first
    histories: Mapping[tuple[str, str], TunnelHistory]  # by connection and child


class Saying(Protocol):
    """Some of what a program wrote."""

    @property
    def stream(self) -> Literal["stdout", "stderr"]: ...

    @property
    def data(self) -> bytes: ...


class Tool(Protocol):
    """A program under way, within limits of time and output.

    Iterate over it for what it says as it says it, with None after each half a second of silence.
    """

    @property
    def argv(self) -> tuple[str, ...]: ...

    @property
    def reason(self) -> str | None:
        """Why it has ended: exited, time limit, output limit."""

    @property
    def returncode(self) -> int | None: ...

    @property
    def duration(self) -> float:
        """Seconds that it has run."""

    def __iter__(self) -> Iterator[Saying | None]: ...

    def close(self) -> None:
        """Have it ended, with all that it started."""


class MachineFailed(Exception):
    """The machine did not do, or did not tell, what it was asked."""

    retryable = True

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


class NoConsoleProxy(MachineFailed):
    """No console proxy runs on this VM."""


class Machine(Protocol):
    """The machine outside the engine's transactions. Raises MachineFailed; HostFull for blobs."""

    def facts(self) -> Facts:
        """The machine and the agent's process."""

    def units(self, names: Sequence[str]) -> Mapping[str, UnitReport]:
        """How these units are."""

    def restart(self, unit: str) -> None:
        """Restart a unit, and return when systemd has done it."""

    def log(self, unit: str, lines: int) -> tuple[str, ...]:
        """The last lines of a unit's journal, oldest first."""

    def leases(self) -> tuple[DhcpLease, ...]:
        """DHCP leases given out; none where no DHCP server runs."""

    def balancer(self) -> tuple[BalancerRow, ...]:
        """The load balancer's statistics; none where none runs."""

    def vpn(self) -> Vpn:
        """IPsec: what charon holds; nothing where it does not run."""

    def legacy_rules(self) -> tuple[LegacyRule, ...]:
        """Rules that somebody made in the legacy tables."""

    def remove_legacy_rules(self) -> tuple[LegacyRule, ...]:
        """Remove them; returns those that were there."""

    def nics(self) -> Mapping[str, tuple[IPInterface, ...]]:
        """Network interfaces by name, whoever made them, with their addresses."""

    def start(self, argv: tuple[str, ...], seconds: float, longest: int) -> Tool:
        """Start a diagnostic tool, with no more rights than it needs."""

    def inspect(self, argv: tuple[str, ...], seconds: float, longest: int) -> Tool:
        """Start a command that a bundle takes, with the agent's own rights."""

    def secrets(self) -> Iterator[str]:
        """Secret values that are on the machine and in no document."""

    def console(self, message: Mapping[str, object]) -> Mapping[str, Any]:
        """What the console proxy answers; MachineFailed where none runs."""

    def console_reports(self) -> Iterator[Mapping[str, Any] | None]:
        """Its reports, and None at least once a second. Raises MachineFailed where it ends."""

    def put_blob(self, sha256: str, content: bytes) -> bool:
        """Keep a blob, durably; was it new? Raises HostFull."""

    def blob(self, sha256: str) -> bytes | None:
        """A blob's content, or None where there is none of that name."""
