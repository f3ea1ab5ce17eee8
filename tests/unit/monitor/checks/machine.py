"""A machine for checks to read, that is well until a test says otherwise."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.document.document import Document, parse
from agent.engine.compose import Composer
from agent.engine.model import Desired, IPAddress, Plan
from agent.monitor.checks import (
    Balanced,
    CannotTell,
    Chrony,
    ClockReading,
    Custom,
    CustomRun,
    Finding,
    Lent,
    Question,
    Room,
    Round,
    ServiceState,
    Versions,
    discover,
)
from agent.monitor.gauges import Gauges
from agent.monitor.health import Level
from tests.unit.engine.memory import MemoryHost

MIB = 1024 * 1024
NOW = 1_800_000_000.0
CLOCK = ClockReading(
    Chrony(synchronised=True, offset=0.001, sources=1, reference="192.0.2.1"),
    may_be_set=True,
    kernel_synchronised=None,
    stepped=0.0,
)
VERSIONS = Versions("1.0", "1.0", "6.12", "Debian")


def desired_of(data: bytes) -> tuple[Document, Desired]:
    """A document, and what it wants of the machine in memory."""
    document = parse(data)
    return document, Composer().compose(document, MemoryHost().links(), None)


@dataclass
class FakeMachine:
    """Implements agent.monitor.checks.Machine, and what the runner needs besides."""

    desired: Desired | None = None
    share: float | None = 0.1
    available: int = 512 * MIB
    free: int = 900 * MIB
    inodes_free: int = 9000
    inodes: int = 10000
    connection_count: int = 10
    trouble: str = ""
    problem: str = ""
    reading: ClockReading = CLOCK
    wall: float = NOW
    states: dict[str, ServiceState] = field(default_factory=dict)
    silent: set[IPAddress] = field(default_factory=set)
    version: Versions = VERSIONS
    files: dict[str, bytes] = field(default_factory=dict)
    lent: tuple[Lent, ...] = ()
    offers: dict[str, str] = field(default_factory=dict)
    discovered: list[str] = field(default_factory=list)
    names: dict[str, frozenset[str] | str] = field(default_factory=dict)
    rows: tuple[Balanced, ...] | None = None
    mine: dict[str, CustomRun] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)
    before: Callable[[], None] = lambda: None  # what happens while the machine is being read

    def sample(self) -> None:
        pass

    def gauges(self, units: Collection[str]) -> Gauges:
        return Gauges(
            cpu_busy=1, cpu_idle=2, memory_available=1, memory_total=2, interfaces={},
            restarts=dict.fromkeys(units, 0),
        )  # fmt: skip

    def cpu(self) -> tuple[float, float] | None:
        self.before()
        return None if self.share is None else (self.share, 60.0)

    def memory(self) -> tuple[int, int]:
        return self.available, 1024 * MIB

    def room(self) -> Room:
        return Room(self.free, 1000 * MIB, self.inodes_free, self.inodes)

    def connections(self) -> tuple[int, int]:
        return self.connection_count, 1000

    def write(self) -> str:
        return self.trouble

    def state_problem(self) -> str:
        return self.problem

    def clock(self) -> ClockReading:
        return self.reading

    def now(self) -> float:
        return self.wall

    def services(self, units: Collection[str]) -> Mapping[str, ServiceState]:
        well = ServiceState(alive=True, said="active (running)")
        return {unit: self.states.get(unit, well) for unit in units}

    def answers(self, neighbours: Mapping[IPAddress, str]) -> Mapping[IPAddress, str]:
        return {one: "" if one in self.silent else "ping" for one in neighbours}

    def versions(self) -> Versions:
        return self.version

    def file(self, path: str) -> bytes:
        self.before()
        if path in self.files:
            return self.files[path]
        if self.desired is None:
            raise CannotTell(f"{path}: No such file or directory")
        return self.desired.files[path].content

    def leases(self) -> tuple[Lent, ...]:
        return self.lent

    def offered(self, server: IPv4Address, mac: str) -> str:
        self.discovered.append(mac)
        leases = self.desired.leases if self.desired else ()
        own = {lease.mac: str(lease.address) for lease in leases}
        return self.offers.get(mac, own.get(mac, ""))

    def resolve(self, questions: Sequence[Question]) -> tuple[frozenset[str] | str, ...]:
        self.asked += questions
        return tuple(self.names.get(one.name, self._told(one)) for one in questions)

    def _told(self, question: Question) -> frozenset[str] | str:
        content = self.desired.files["dnsmasq/names"].content.decode() if self.desired else ""
        lines = [line.split() for line in content.splitlines() if not line.startswith("#")]
        found = [words[0] for words in lines if question.name in words[1:]]
        right = [a for a in found if (":" in a) == (question.kind == "AAAA")]
        return frozenset([a for a in right if a.startswith("10.1.1.")] or right)

    def balanced(self, path: str) -> tuple[Balanced, ...]:
        if self.rows is not None:
            return self.rows
        assert self.desired is not None
        unit = self.desired.units["haproxy.service"]
        names = [bind.path.rpartition("/")[2] for bind in unit.binds]
        return (
            *(Balanced(name, "FRONTEND", "OPEN") for name in names),
            *(
                Balanced(row[0], row[1], "UP", f"{row[2]}:{row[3]}")
                for keep in unit.keeps
                for row in sorted(keep.rows)
            ),
        )

    def customs(self) -> tuple[Custom, ...]:
        return (
            *(Custom(name) for name in self.mine),
            *(Custom(name, why) for name, why in self.refused.items()),
        )

    def run_custom(self, name: str, level: Level) -> CustomRun:
        return self.mine[name]


def given(data: bytes | None = None, plan: Plan | None = None, **fields: object) -> Round:
    """A round about this document, on a machine that is well; `fields` are the machine's."""
    document, desired = (None, None) if data is None else desired_of(data)
    machine = FakeMachine(desired, **fields)  # type: ignore[arg-type]  # named by the tests
    return Round(
        machine=machine,
        revision=None if data is None else 1,
        desired=desired,
        document=document,
        look=lambda: plan or Plan(()),
    )


def found(name: str, about: Round) -> Finding:
    """What a check finds."""
    return discover()[name].run(about)
