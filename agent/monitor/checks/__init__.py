"""Health checks: one small module per concern, discovered as services are.

A module has `CHECKS`. A check is a function from a `Round` to a `Finding`: it reads what it needs
through `Round.machine` and `Round.drift`, and a pure function beside it judges what was read. Names
are stable, for operators exclude checks by them, and management goes by them.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol

from agent.document.document import Document
from agent.engine.model import Desired, IPAddress, Plan
from agent.monitor.health import Level, Result, Verdict
from agent.services.monitoring import Thresholds

NAMED = 20  # things missing that a result names at most; more are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check has to say; the runner adds when, how long, and of which revision."""

    verdict: Verdict
    message: str
    missing: tuple[str, ...] = ()
    path: str = ""
    value: float | None = None
    threshold: float | None = None
    unit: str = ""


def passed(message: str) -> Finding:
    return Finding(verdict=Verdict.PASSED, message=message)


def skipped(why: str) -> Finding:
    """It does not apply: no failure."""
    return Finding(verdict=Verdict.SKIPPED, message=why)


def unknown(why: str) -> Finding:
    return Finding(verdict=Verdict.UNKNOWN, message=why)


def warning(message: str, missing: Iterable[str] = (), path: str = "") -> Finding:
    return Finding(verdict=Verdict.WARNING, message=message, missing=shortened(missing), path=path)


def failed(message: str, missing: Iterable[str] = (), path: str = "") -> Finding:
    return Finding(verdict=Verdict.FAILED, message=message, missing=shortened(missing), path=path)


def shortened(missing: Iterable[str]) -> tuple[str, ...]:
    """The first things missing, and how many more there are."""
    whole = tuple(missing)
    more = len(whole) - NAMED
    return (*whole[:NAMED], f"and {more} more") if more > 0 else whole


# -- what is read ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Room:
    """A file system: bytes and inodes. One without a fixed number of inodes has none to run out."""

    free: int
    total: int
    inodes_free: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Chrony:
    """What chronyd says of the clock (chronyc(1), tracking)."""

    synchronised: bool
    offset: float  # seconds, of the clock from the true time as far as chronyd knows it
    sources: int
    reference: str  # whom it goes by


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How the clock is, and what became of it since it was last looked at."""

    chrony: Chrony | None  # None: it does not answer
    may_be_set: bool  # does the machine have a clock of its own to set?
    kernel_synchronised: bool | None  # adjtimex(2); None where it cannot be told
    stepped: (
        float  # seconds that it was set forward (or back, negative) since it was last looked at
    )


@dataclass(frozen=True, slots=True)
class ServiceState:
    """How a unit is. `ready` is None where nobody asked it; `held` says why it is left alone."""

    alive: bool
    ready: bool | None = None
    said: str = ""  # the unit's state, or what its probe said
    held: str = ""
    starting: bool = False  # and need not be alive or answer yet


@dataclass(frozen=True, slots=True)
class Lent:
    """A lease that dnsmasq has given out."""

    mac: str
    address: str


@dataclass(frozen=True, slots=True)
class Question:
    """A name that one of our name servers is asked for; `kind` is A or AAAA."""

    server: IPAddress
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Balanced:
    """A listener that haproxy has, or a server behind one with its address."""

    listener: str
    server: str  # FRONTEND for the listener itself
    status: str  # OPEN of a listener that listens; UP or DOWN of a server
    address: str = ""  # address:port


@dataclass(frozen=True, slots=True)
class Versions:
    """What runs, and what is installed."""

    agent: str
    installed: str
    kernel: str
    system: str


@dataclass(frozen=True, slots=True)
class Custom:
    """An operator's own check; `refused` says why it is not run."""

    name: str
    refused: str = ""


@dataclass(frozen=True, slots=True)
class CustomRun:
    """How an operator's check ended. `code` is None where it was killed; `limit` says by what."""

    code: int | None
    output: bytes
    limit: str = ""


class CannotTell(Exception):
    """The machine does not say what was asked; the text says why, for a person."""


class Machine(Protocol):
    """What checks read of this machine. Every call ends within seconds. Raises CannotTell."""

    def cpu(self) -> tuple[float, float] | None:
        """The share of all cores that was in use, 0 to 1, and over how many seconds."""

    def memory(self) -> tuple[int, int]:
        """Bytes that are available to whoever asks for more, and all there are."""

    def room(self) -> Room:
        """The file system of the state partition."""

    def connections(self) -> tuple[int, int]:
        """Tracked connections, and as many as the table holds."""

    def write(self) -> str:
        """Write a file on the state partition, durably; what keeps it from that, or nothing."""

    def state_problem(self) -> str:
        """Why nothing that is stored outlives this boot; empty where it does."""

    def clock(self) -> ClockReading:
        """The clock."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def services(self, units: Collection[str]) -> Mapping[str, ServiceState]:
        """How these units are."""

    def answers(self, neighbours: Mapping[IPAddress, str]) -> Mapping[IPAddress, str]:
        """How each neighbour answers on its NIC, such as "ping"; empty where it does not."""

    def versions(self) -> Versions:
        """What runs here."""

    def file(self, path: str) -> bytes:
        """A file of the running revision, as daemons find it."""

    def leases(self) -> tuple[Lent, ...]:
        """Leases that dnsmasq has given out."""

    def offered(self, server: IPv4Address, mac: str) -> str:
        """The address that DHCP would offer a guest; empty where there is no offer."""

    def resolve(self, questions: Sequence[Question]) -> tuple[frozenset[str] | str, ...]:
        """The addresses that each is answered with, or why there is no answer."""

    def balanced(self, path: str) -> tuple[Balanced, ...]:
        """What a haproxy says of its listeners and servers."""

    def customs(self) -> tuple[Custom, ...]:
        """Operators' own checks."""

    def run_custom(self, name: str, level: Level) -> CustomRun:
        """Run one of them, within its limits."""


# -- checks ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Round:
    """What the checks of one round look at: the machine, and what the running revision wants.

    `desired` and `document` are None where nothing has been applied. `before` has each check's
    last result, for hysteresis; `turn` counts rounds, for checks that take samples.
    """

    machine: Machine
    thresholds: Thresholds = field(default_factory=Thresholds)
    agent_version: str | None = None
    revision: int | None = None
    desired: Desired | None = None
    document: Document | None = None
    before: Mapping[str, Result] = field(default_factory=dict)
    look: Callable[[], Plan] = lambda: Plan(())
    standby: bool = False  # another VM of its pair serves: what only it has is not looked for
    turn: int = 0
    _plan: Plan | None = None

    @property
    def drift(self) -> Plan:
        """How the machine differs from what the revision says; looked at once in a round."""
        if self._plan is None:
            self._plan = self.look()
        return self._plan

    def wants(self, unit: str) -> bool:
        """Does the document want this unit to run?"""
        return self.desired is not None and unit in self.desired.units

    def absent(self, unit: str) -> Finding | None:
        """What there is to say of a daemon's work where it is not to do any, or cannot."""
        if not self.wants(unit):
            return skipped(f"the document wants no {unit}")
        state = self.machine.services([unit])[unit]
        if state.held:
            return skipped(f"{unit} is held: {state.held}")
        if state.starting:
            return skipped(f"{unit} is just starting")
        if not state.alive:
            return failed(f"{unit} does not run ({state.said})", [unit])
        return None


@dataclass(frozen=True, slots=True)
class Check:
    """A check. Without `bare`, it is skipped where no document has been applied yet."""

    name: str
    level: Level
    run: Callable[[Round], Finding]
    bare: bool = False


class CheckModule(Protocol):
    """What a module of this package offers."""

    CHECKS: tuple[Check, ...]


@functools.cache
def discover() -> Mapping[str, Check]:
    """Every check by its name, those of a module in its order."""
    found: dict[str, Check] = {}
    for info in pkgutil.iter_modules(__path__):
        module: CheckModule = importlib.import_module(f"{__name__}.{info.name}")
        for check in module.CHECKS:
            if found.setdefault(check.name, check) is not check:
                raise TypeError(f"two checks have the name {check.name}")
    return found
