"""An engine and a machine in memory, with real values, for the endpoint and the command line."""

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import flask

from agent.api.app import create_app
from agent.api.ports import (
    BalancerRow,
    DhcpLease,
    Facts,
    LegacyRule,
    MachineFailed,
    UnitReport,
    Vpn,
)
from agent.api.streams import Streams
from agent.document.document import (
    Document,
    InvalidDocument,
    canonical,
    merge,
    parse,
    parse_value,
)
from agent.document.json import NotJson, loads
from agent.engine.errors import (
    GenerationConflict,
    NoSuchRevision,
    NothingApplied,
    NotProvisional,
    PreconditionFailed,
    StaleGeneration,
)
from agent.engine.model import (
    ACCEPT,
    AddAddress,
    Address,
    Command,
    Committed,
    Count,
    CounterKey,
    Desired,
    Dnat,
    Family,
    IPInterface,
    Lease,
    Link,
    Observed,
    Outcome,
    Plan,
    Protocol,
    Provisional,
    Route,
    Rule,
    Snat,
    Table,
    Unchanged,
    Unit,
    UnitState,
)
from agent.engine.model import Ports as PortRange
from agent.engine.store import Revision, RevisionInfo, State
from agent.monitor.events import Cursor, Event, Kind, Page, Severity, Stored, Unknown, stamp
from agent.monitor.model import Hold, Row
from agent.monitor.model import State as WatchState
from agent.system.run import Running
from tests.unit.api.fake_health import FakeHealth

NOW = 1_800_000_000.0
UP = 86_400.0  # by the monotonic clock
BLOB = b"#cloud-config\n"

ADDRESS = Address("eth2", IPv4Interface("203.0.113.5/24"))
PLAN = Plan((AddAddress(ADDRESS),))


def value(generation: int = 1, hostname: str = "vm1") -> dict[str, object]:
    """A small document."""
    return {
        "schema": 1,
        "generation": generation,
        "role": "router",
        "site": {
            "hostname": hostname,
            "nics": {
                "02:00:4c:00:00:01": {"role": "guest", "addresses": {"10.1.1.1/24": {}}},
                "02:00:4c:00:00:03": {"role": "public", "addresses": {"203.0.113.5/24": {}}},
            },
        },
    }


def document(generation: int = 1, hostname: str = "vm1") -> bytes:
    return canonical(value(generation, hostname))


LINKS = {
    "eth0": Link("eth0", "02:00:4c:00:00:01", 1500, up=True),
    "eth2": Link("eth2", "02:00:4c:00:00:03", 1500, up=True),
}
DEFAULT = Route(IPv4Network("0.0.0.0/0"), IPv4Address("203.0.113.1"), "eth2", owner="site")
RULES = (
    Rule(
        family=Family.V4, table=Table.FILTER, chain="INPUT", target=ACCEPT, owner="baseline",
        comment="sysvm: established", states=("ESTABLISHED", "RELATED"),
    ),
    Rule(
        family=Family.V4, table=Table.FILTER, chain="INPUT", target=ACCEPT, owner="firewall",
        comment="/firewall/ingress/203.0.113.5/web", protocol=Protocol.TCP,
        ports=PortRange(8000, 8100), source=IPv4Network("198.51.100.0/24"), in_nic="eth2",
    ),
    Rule(
        family=Family.V4, table=Table.NAT, chain="PREROUTING",
        target=Dnat(IPv4Address("10.1.1.10"), PortRange(22, 22)), owner="nat",
        comment="/nat/forwards/ssh", protocol=Protocol.TCP, ports=PortRange(2222, 2222),
        destination=IPv4Network("203.0.113.5/32"),
    ),
    Rule(
        family=Family.V4, table=Table.NAT, chain="POSTROUTING",
        target=Snat(IPv4Address("203.0.113.5")), owner="nat", comment="/nat/source_address",
        source=IPv4Network("10.1.1.0/24"), out_nic="eth2",
    ),
)  # fmt: skip
COUNTS = {CounterKey(Family.V4, Table.FILTER, "INPUT", "sysvm: established"): Count(12, 3456)}
LEASES = frozenset(
    {
        Lease("02:00:4c:00:01:0a", IPv4Address("10.1.1.10")),
        Lease("02:00:4c:00:01:0b", IPv4Address("10.1.1.11")),
    }
)
DESIRED = Desired(
    files={},
    objects={},
    blobs=frozenset(),
    units={"dnsmasq.service": Unit("dnsmasq.service")},
    owned_units=frozenset({"haproxy.service", "dnsmasq.service"}),
    links=LINKS,
    addresses=frozenset({Address("eth0", IPv4Interface("10.1.1.1/24")), ADDRESS}),
    routes=frozenset({DEFAULT}),
    policy_rules=frozenset(),
    sysctls={},
    sets={},
    chains=(),
    rules=RULES,
    connections={},
    leases=LEASES,
    commands=(),
    probes=(),
)
OBSERVED = Observed(
    links=LINKS,
    addresses=frozenset({Address("eth0", IPv4Interface("10.1.1.1/24"))}),
    routes=frozenset({DEFAULT, Route(IPv4Network("192.0.2.0/24"), None, "eth0")}),
    policy_rules=frozenset(),
    sysctls={},
    sets={},
    firewall={},
    units={"haproxy.service": UnitState("active")},
    files={},
)


class FakeEngine:
    """Documents in memory. `fails` is raised, and `ends` returned, by the next change."""

    def __init__(self) -> None:
        self.kept: dict[int, Revision] = {}
        self.now = NOW
        self.fails: Exception | None = None
        self.ends: Outcome | None = None
        self.drifted = Plan(())
        self.calls: list[str] = []
        self._state = State()
        self._lock = threading.Lock()

    # changing

    def push(
        self, data: bytes, *, if_match: str | None = None, confirm_within: float | None = None
    ) -> Outcome:
        with self._lock:
            self._begin("push")
            self._match(if_match)
            return self._apply(parse(data), "push", confirm_within)

    def patch(
        self, data: bytes, *, if_match: str | None, confirm_within: float | None = None
    ) -> Outcome:
        with self._lock:
            self._begin("patch")
            self._match(if_match)
            return self._apply(self._merged(data), "patch", confirm_within)

    def plan(self, data: bytes, *, patch: bool = False, if_match: str | None = None) -> Plan:
        self._begin("plan")
        self._match(if_match)
        _ = self._merged(data) if patch else parse(data)
        return PLAN

    def confirm(self, revision: int) -> Outcome:
        self._begin("confirm")
        if not self._state.provisional or self._state.current != revision:
            raise NotProvisional(revision)
        self._state = replace(self._state, confirmed=revision, deadline=None)
        return Committed(revision, Plan(()))

    def roll_back(self, revision: int | None = None, *, if_unconfirmed: bool = False) -> Outcome:
        self._begin("roll_back")
        if revision is None:
            earlier = [n for n in self.kept if n < (self._state.current or 0)]
            if not earlier:
                raise NoSuchRevision(None)
            revision = max(earlier)
        again = self.revision(revision).document
        number = self._keep(again, "rollback", revision)
        self._state = replace(self._state, current=number, confirmed=number, deadline=None)
        return Committed(number, PLAN)

    # asking

    def state(self) -> State:
        return self._state

    def revisions(self) -> tuple[RevisionInfo, ...]:
        return tuple(self.kept[number].info for number in sorted(self.kept, reverse=True))

    def revision(self, n: int) -> Revision:
        if n not in self.kept:
            raise NoSuchRevision(n)
        return self.kept[n]

    def current(self) -> Revision:
        if self._state.current is None:
            raise NothingApplied
        return self.kept[self._state.current]

    def drift(self) -> Plan:
        self.current()
        return self.drifted

    def counters(self) -> Mapping[CounterKey, Count]:
        return COUNTS

    def inspections(self) -> Mapping[str, tuple[Command, ...]]:
        self.current()
        return {"nat": (Command(("conntrack", "-L")),)}

    def observed(self) -> Observed:
        self.current()
        return OBSERVED

    def desired(self) -> Desired:
        self.current()
        return DESIRED

    # inside

    def current_is_of_the_boot(self) -> None:
        """As it is before the first push: the boot configuration's own document runs."""
        current = self.current()
        info = replace(current.info, cause="boot")
        self.kept[info.number] = Revision(info, current.document)

    def degrade(self, why: str) -> None:
        self._state = replace(self._state, degraded=why)

    def _begin(self, call: str) -> None:
        self.calls.append(call)
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error

    def _match(self, wanted: str | None) -> None:
        digest = self.current().info.digest if self._state.current else ""
        if wanted is not None and (wanted not in {"*", digest} or not digest):
            raise PreconditionFailed(wanted, digest)

    def _merged(self, data: bytes) -> Document:
        try:
            change = loads(data)
        except NotJson as error:
            raise InvalidDocument([error.problem]) from error
        return parse_value(merge(self.current().document.value, change))

    def _apply(self, new: Document, cause: str, wait: float | None) -> Outcome:
        if self.ends is not None:
            outcome, self.ends = self.ends, None
            return outcome
        state = self._state
        if new.generation < state.generation:
            raise StaleGeneration(new.generation, state.generation)
        if new.generation == state.generation and new.digest != state.digest:
            raise GenerationConflict(new.generation, new.digest, state.digest)
        if state.current and self.current().info.digest == new.digest:
            return Unchanged(state.current)
        number = self._keep(new, cause)
        self._state = replace(
            self._state,
            current=number,
            confirmed=state.confirmed if wait else number,
            deadline=UP + wait if wait else None,
            generation=new.generation,
            digest=new.digest,
        )
        if wait:
            return Provisional(number, wait, PLAN)
        return Committed(number, PLAN, ("haproxy.service was down before",))

    def _keep(self, new: Document, cause: str, origin: int | None = None) -> int:
        number = self._state.last + 1
        self._state = replace(self._state, last=number)
        info = RevisionInfo(number, new.generation, new.digest, self.now - 60, cause, origin)
        self.kept[number] = Revision(info, new)
        return number


CONSOLE_ROW: Mapping[str, Any] = {
    "id": "s1",
    "vm": "i-2-10-VM",
    "user": "alice",
    "state": "open",
    "source": "192.0.2.7",
    "target": "10.2.0.7:5901",
    "view_only": False,
    "opened_ago": 12.5,
    "input_ago": 1.0,
    "to_guest": 10,
    "from_guest": 2000,
    "connections": 1,
    "resume_sha256": None,
}


class FakeWatch:
    """A monitor that watches dnsmasq, and remembers holds."""

    def __init__(self) -> None:
        self.holds: dict[str, Hold] = {}
        self.cleared: list[str] = []
        self.released: list[tuple[str, str]] = []

    def rows(self) -> Mapping[str, Row]:
        hold = self.holds.get("dnsmasq.service")
        state = WatchState.HELD if hold else WatchState.RUNNING
        return {
            "dnsmasq.service": Row(
                state=state, alive=True, ready=True, correct=True, since=NOW - 60, restarts=1,
                hold=hold,
            )
        }  # fmt: skip

    def hold(self, hold: Hold) -> None:
        self.holds[hold.unit] = hold

    def release(self, unit: str, by: str) -> bool:
        self.released.append((unit, by))
        return self.holds.pop(unit, None) is not None

    def clear(self, unit: str) -> None:
        self.cleared.append(unit)


class FakeMachine:
    """A machine whose blobs, leases and units are what a test says."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.fails: Exception | None = None
        self.restarted: list[str] = []
        self.consoles: list[Mapping[str, object]] = []  # what the proxy was asked
        self.console_says: Mapping[str, Any] = {
            "draining": False,
            "cap": 50,
            "held": 0,
            "workers": 2,
            "sessions": [],
            "session": CONSOLE_ROW,
            "result": "created",
        }
        self.state_problem = ""
        self.legacy: tuple[LegacyRule, ...] = (
            LegacyRule(4, "filter", "-A INPUT -p tcp --dport 22 -j ACCEPT"),
        )
        self.tunnels = Vpn(frozenset(), (), {}, (), {})
        # Instead of a tool, this is run; every one of them is kept.
        self.script = ["sh", "-c", "echo out; echo err >&2; exit 1"]
        # Instead of each command of a bundle, this is run.
        self.says = ["echo", "all is well"]
        self.inspected: list[tuple[str, ...]] = []
        self.others: tuple[str, ...] = ()
        self.tried: list[tuple[tuple[str, ...], float]] = []
        self.running: list[Running] = []
        self.lines: tuple[str, ...] = ("2026-11-22T10:00:00+0000 vm1 haproxy[7]: ready",)

    def facts(self) -> Facts:
        return Facts("booted", 86_400.0, 3600.0, 31 * 1024 * 1024, self.state_problem)

    def units(self, names: Sequence[str]) -> Mapping[str, UnitReport]:
        return {name: UnitReport("active", "running", 77, 3600.0, 6 * 2**20) for name in names}

    def restart(self, unit: str) -> None:
        self._begin()
        self.restarted.append(unit)

    def log(self, unit: str, lines: int) -> tuple[str, ...]:
        self._begin()
        return self.lines[-lines:]

    def leases(self) -> tuple[DhcpLease, ...]:
        return (
            DhcpLease("02:00:4c:00:01:0a", "10.1.1.10", "web", NOW + 3600),
            DhcpLease("02:00:4c:00:01:99", "10.1.1.99", "", None),
        )

    def balancer(self) -> tuple[BalancerRow, ...]:
        return (
            BalancerRow("web", "vm2", "DOWN", 1, 0, 9, 900, 9000, "L4CON"),
            BalancerRow("web", "FRONTEND", "OPEN", None, 1, 20, 2000, 20000, ""),
        )

    def vpn(self) -> Vpn:
        self._begin()
        return self.tunnels

    def legacy_rules(self) -> tuple[LegacyRule, ...]:
        self._begin()
        return self.legacy

    def remove_legacy_rules(self) -> tuple[LegacyRule, ...]:
        removed, self.legacy = self.legacy, ()
        return removed

    def inspect(self, argv: tuple[str, ...], seconds: float, longest: int) -> Running:
        self.inspected.append(argv)
        return Running(self.says, timeout=seconds, longest=longest)

    def secrets(self) -> Iterator[str]:
        yield from self.others

    def nics(self) -> Mapping[str, tuple[IPInterface, ...]]:
        return {"eth2": (IPv4Interface("10.1.1.1/24"),)}

    def start(self, argv: tuple[str, ...], seconds: float, longest: int) -> Running:
        self._begin()
        self.tried.append((argv, seconds))
        tool = Running(self.script, timeout=seconds, longest=longest)
        tool.argv = argv
        self.running.append(tool)
        return tool

    def console(self, message: Mapping[str, object]) -> Mapping[str, Any]:
        self._begin()
        self.consoles.append(message)
        return self.console_says

    def console_reports(self) -> Iterator[Mapping[str, Any] | None]:
        self._begin()
        yield self.console_says
        yield None
        ended = {**CONSOLE_ROW, "state": "ended", "why": "closed by the user"}
        yield {**self.console_says, "ended": [ended]}
        raise MachineFailed("watch the console proxy", "it ended")

    def put_blob(self, sha256: str, content: bytes) -> bool:
        self._begin()
        new = sha256 not in self.blobs
        self.blobs[sha256] = content
        return new

    def blob(self, sha256: str) -> bytes | None:
        return self.blobs.get(sha256)

    def _begin(self) -> None:
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error


class FakeEvents:
    """Events in memory, with the outbox's own cursors."""

    def __init__(self) -> None:
        self.events: list[Stored] = []
        self.acknowledged = 0
        self.name = "s1"
        self.waiting = 0
        self._news = threading.Condition()

    def say(self, message: str = "it happened", kind: Kind = Kind.DRIFT_FOUND) -> None:
        event = Event(kind=kind, subject="drift", message=message)
        stored = stamp(event, boot="b1", at=NOW + 0.25, monotonic=1.5)
        with self._news:
            self.events.append(replace(stored, seq=len(self.events) + 1))
            self._news.notify_all()

    def read(self, cursor: Cursor, limit: int = 1000, least: Severity = Severity.INFO) -> Page:
        after = cursor.seq if cursor.stream in {"", self.name} else 0
        rows = [e for e in self.events if e.seq > after and e.severity.rank >= least.rank]
        last = len(self.events)
        end = rows[limit - 1].seq if len(rows) >= limit else last
        return Page(
            stream=self.name,
            oldest=1 if last else None,
            last=last,
            acknowledged=self.acknowledged,
            next=Cursor(end, self.name),
            events=tuple(rows[:limit]),
        )

    def wait(self, cursor: Cursor, seconds: float) -> bool:
        with self._news:
            self.waiting += 1
            try:
                return self._news.wait_for(lambda: len(self.events) > cursor.seq, seconds)
            finally:
                self.waiting -= 1

    def before(self, count: int, least: Severity = Severity.INFO) -> Cursor:
        return Cursor(max(0, len(self.events) - count), self.name)

    def acknowledge(self, cursor: Cursor) -> int:
        if cursor.stream != self.name or cursor.seq > len(self.events):
            raise Unknown("not there")
        self.acknowledged = max(self.acknowledged, cursor.seq)
        return self.acknowledged


def app(
    engine: FakeEngine,
    machine: FakeMachine,
    events: FakeEvents | None = None,
    streams: Streams | None = None,
    health: FakeHealth | None = None,
    watch: "FakeWatch | None" = None,
) -> flask.Flask:
    """The endpoint on both, with clocks that stand still."""
    events = events or FakeEvents()
    return create_app(
        engine,
        machine,
        events,
        now=lambda: NOW,
        monotonic=lambda: UP,
        streams=streams,
        health=health or FakeHealth(),
        watch=watch or FakeWatch(),
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
