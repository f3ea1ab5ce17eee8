"""A machine in memory, for tests of the engine: obeys every step, and dies where it is told to.

What it stands for is proved right by tests/lab, where the same transactions run on Linux.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.engine.errors import Busy
from agent.engine.host import CheckFailed, HostFull, Scope, StepFailed
from agent.engine.model import (
    AddAddress,
    AddPolicyRule,
    Address,
    AddressSet,
    AddRoute,
    Announce,
    Command,
    Count,
    CounterKey,
    Desired,
    Family,
    Flip,
    ForgetFlows,
    ForgetLeases,
    Link,
    LoadConnection,
    Observed,
    PolicyRule,
    Probe,
    ProbeResult,
    PutSet,
    PutTable,
    ReloadUnit,
    RemoveAddress,
    RemovePolicyRule,
    RemoveRoute,
    RemoveSet,
    RestartUnit,
    Route,
    SetLink,
    SetSysctl,
    StartUnit,
    Step,
    StopUnit,
    Table,
    UnitState,
    UnloadConnection,
)

CHARON = "strongswan.service"
GUEST, CONTROL, PUBLIC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
NOTHING = Desired(
    files={},
    objects={},
    blobs=frozenset(),
    units={},
    owned_units=frozenset(),
    links={},
    addresses=frozenset(),
    routes=frozenset(),
    policy_rules=frozenset(),
    sysctls={},
    sets={},
    chains=(),
    rules=(),
    connections={},
    leases=frozenset(),
    commands=(),
    probes=(),
)


class Died(BaseException):
    """The process was killed here."""


@dataclass
class MemoryHost:
    """Implements agent.engine.host.Host."""

    present: dict[str, Link] = field(
        default_factory=lambda: {
            name: Link(name, mac, 1500, up=False)
            for name, mac in (("eth0", GUEST), ("eth1", CONTROL), ("eth2", PUBLIC))
        }
    )
    addresses: set[Address] = field(default_factory=set)
    routes: set[Route] = field(default_factory=set)
    policy_rules: set[PolicyRule] = field(default_factory=set)
    sysctls: dict[str, str] = field(default_factory=dict)
    sets: dict[str, AddressSet] = field(default_factory=dict)
    tables: dict[tuple[Family, Table], str] = field(
        default_factory=lambda: {(f, t): "" for f in Family for t in Table}
    )
    units: dict[str, str] = field(default_factory=dict)
    connections: dict[str, str] = field(default_factory=dict)
    staged: dict[int, dict[str, str]] = field(default_factory=dict)
    current: int | None = None
    ahead: dict[str, str] = field(default_factory=dict)  # files before the first revision
    blobs: set[str] = field(default_factory=set)
    counts: dict[CounterKey, Count] = field(default_factory=dict)
    armed: tuple[int, float] | None = None
    log: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)  # fault points at which to die, in order
    points: list[str] = field(default_factory=list)  # fault points that were passed
    failing_steps: set[str] = field(default_factory=set)  # names of steps that fail
    failing_units: set[str] = field(default_factory=set)
    failing_probes: set[str] = field(default_factory=set)  # units
    refusing: str = ""  # what a daemon's checker says
    full: bool = False

    def links(self) -> tuple[Link, ...]:
        return tuple(self.present.values())

    def observe(self, scope: Scope) -> Observed:
        return Observed(
            links=dict(self.present),
            addresses=frozenset(self.addresses),
            routes=frozenset(self.routes),
            policy_rules=frozenset(self.policy_rules),
            sysctls={key: self.sysctls[key] for key in scope.sysctls if key in self.sysctls},
            sets=dict(self.sets),
            firewall=dict(self.tables),
            units={name: UnitState(self.units.get(name, "inactive")) for name in scope.units},
            files=self.ahead if self.current is None else self.staged.get(self.current, {}),
            connections=dict(self.connections),
            revision=self.current,
        )

    def snapshot(self) -> Observed:
        """All that traffic could notice."""
        return replace(
            self.observe(Scope(frozenset(self.units), frozenset(self.sysctls))),
            revision=0,
        )

    def unit_states(self, names: Collection[str]) -> Mapping[str, UnitState]:
        self.log.append("ask systemd")
        return {name: UnitState(self.units.get(name, "inactive")) for name in names}

    def wait_until_closed(self) -> None:
        self.log.append("wait until closed")

    def look_ahead(self) -> None:
        pass

    def require_room(self) -> None:
        pass  # the disk is the store's affair here

    def stage(self, revision: int, desired: Desired) -> None:
        if self.full:
            raise HostFull("no space left on the device")
        self.staged[revision] = {
            path: hashlib.sha256(file.content).hexdigest() for path, file in desired.files.items()
        }

    def check(self, revision: int, commands: Sequence[Command]) -> None:
        assert revision in self.staged
        self.log += [f"check {command.argv[0]}" for command in commands]
        if self.refusing:
            raise CheckFailed("checker", self.refusing, "/somewhere")

    def rehearse(
        self,
        sets: Mapping[str, AddressSet],
        tables: Mapping[tuple[Family, Table], str],
    ) -> Mapping[tuple[Family, Table], str]:
        self.log.append(f"rehearse {len(tables)}")
        return dict(tables)

    def perform(self, step: Step, revision: int) -> None:  # noqa: C901 - a flat list of kinds
        kind = type(step).__name__
        if kind in self.failing_steps:
            raise StepFailed(kind, "it was told to fail")
        self.log.append(kind)
        match step:
            case SetSysctl(sysctl, _):
                self.sysctls[sysctl.key] = sysctl.value
            case PutSet(address_set, _):
                self.sets[address_set.name] = address_set
            case RemoveSet(address_set):
                self.sets.pop(address_set.name, None)
            case PutTable(family, table, text, _, _):
                self.tables[family, table] = text
            case SetLink(link, _):
                self.present[link.name] = link
            case AddAddress(address):
                self.addresses.add(address)
            case RemoveAddress(address):
                self.addresses.discard(address)
            case AddRoute(route):
                self.routes = {
                    r
                    for r in self.routes
                    if (r.destination, r.table) != (route.destination, route.table)
                } | {route}
            case RemoveRoute(route):
                self.routes.discard(route)
            case AddPolicyRule(rule):
                self.policy_rules.add(rule)
            case RemovePolicyRule(rule):
                self.policy_rules.discard(rule)
            case Flip(_):
                assert revision in self.staged
                self.current = revision
            case StartUnit(unit) | RestartUnit(unit) | ReloadUnit(unit, _):
                if unit.name in self.failing_units:
                    self.units[unit.name] = "failed"
                    raise StepFailed(kind, f"{unit.name} does not start")
                self.units[unit.name] = "active"
            case StopUnit(name):
                self.units[name] = "inactive"
                if name == CHARON:
                    self.connections.clear()
            case LoadConnection(connection, _):
                if self.units.get(CHARON) != "active":
                    raise StepFailed(kind, "charon does not run")
                self.connections[connection.name] = connection.digest
            case UnloadConnection(connection_name):
                self.connections.pop(connection_name, None)
            case ForgetFlows() | ForgetLeases() | Announce():
                pass

    def probe(self, probes: Sequence[Probe], timeout: float) -> tuple[ProbeResult, ...]:
        return tuple(
            ProbeResult(probe, probe.unit not in self.failing_probes, "does not answer")
            for probe in probes
        )

    def counters(self) -> Mapping[CounterKey, Count]:
        return dict(self.counts)

    def missing_blobs(self, wanted: Collection[str]) -> frozenset[str]:
        return frozenset(wanted) - self.blobs

    def discard(self, keep: Sequence[int], blobs: Collection[str]) -> None:
        self.blobs &= set(blobs)
        wanted = {*keep, self.current}
        self.staged = {n: files for n, files in self.staged.items() if n in wanted}

    def arm(self, revision: int, seconds: float) -> None:
        self.armed = (revision, seconds)

    def disarm(self) -> None:
        self.armed = None

    def is_armed(self) -> bool:
        return self.armed is not None

    def fault(self, point: str) -> None:
        self.points.append(point)
        if self.deaths and self.deaths[0] == f"{len(self.points)}":
            self.deaths.pop(0)
            raise Died(point)


@dataclass
class PlainDisk:
    """Writes like the real one, less the fsync."""

    full: bool = False
    dies_after: int | None = None  # the agent, after so many writes in all
    full_at: int | None = None  # for this write alone
    full_from: int | None = None  # for this write, and all that follow
    memory: Path | None = None  # a folder on another file system, which is never full
    writes: int = 0
    slow: dict[Path, bytes | None] = field(default_factory=dict)  # as a power cut leaves it

    def write(self, path: Path, content: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
        self.writes += 1
        full = self.full or self.writes == self.full_at
        full = full or (self.full_from is not None and self.writes >= self.full_from)
        if full and path.parent != self.memory:
            raise HostFull("no space left on the device")
        path.parent.mkdir(parents=True, exist_ok=True)
        if durable:
            self.slow.pop(path, None)
        else:
            self.slow.setdefault(path, path.read_bytes() if path.exists() else None)
        temporary = path.with_name(path.name + ".new")
        temporary.write_bytes(content)
        temporary.rename(path)
        if self.writes == self.dies_after:
            raise Died(path.name)

    def lose(self) -> None:
        """The power is cut, and no write has reached the disk that need not have."""
        for path, content in self.slow.items():
            path.unlink() if content is None else path.write_bytes(content)
        self.slow.clear()

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


@dataclass
class StillClock:
    """Moves when it is told to."""

    time: float = 1_000_000.0  # the monotonic clock's
    ahead: float = 500_000_000.0  # of it, the time of day

    def now(self) -> float:
        return self.time + self.ahead

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class OneWriter:
    """A lock that nobody may take twice, like the flock it stands for."""

    def __init__(self) -> None:
        self._taken = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._taken:
            raise Busy
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
