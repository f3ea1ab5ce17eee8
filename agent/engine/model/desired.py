"""What is wanted of the machine, and what is there, in the same words."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.engine.model.firewall import AddressSet, Chain, Claim, Opening, Rule, Table
from agent.engine.model.network import (
    Address,
    Connection,
    Family,
    Lease,
    Link,
    PolicyRule,
    Route,
    Sysctl,
)
from agent.engine.model.probes import Command, Probe
from agent.engine.model.units import File, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """What one owner (a service, or the role's baseline) wants to be there."""

    files: tuple[File, ...] = ()
    objects: Mapping[str, bytes] = field(default_factory=dict)  # small files by their SHA-256
    blobs: frozenset[str] = frozenset()  # uploaded blobs, by SHA-256, that have to be there
    units: tuple[Unit, ...] = ()
    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    policy_rules: tuple[PolicyRule, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    sets: tuple[AddressSet, ...] = ()
    chains: tuple[Chain, ...] = ()
    rules: tuple[Rule, ...] = ()
    openings: tuple[Opening, ...] = ()
    claims: tuple[Claim, ...] = ()
    connections: tuple[Connection, ...] = ()
    leases: tuple[Lease, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """All artifacts composed: one owner for every path, address, port and chain."""

    files: Mapping[str, File]
    objects: Mapping[str, bytes]
    blobs: frozenset[str]
    units: Mapping[str, Unit]
    owned_units: frozenset[str]  # every unit that some service could want; the others are stopped
    links: Mapping[str, Link]
    addresses: frozenset[Address]
    routes: frozenset[Route]
    policy_rules: frozenset[PolicyRule]
    sysctls: Mapping[str, Sysctl]
    sets: Mapping[str, AddressSet]
    chains: tuple[Chain, ...]
    rules: tuple[Rule, ...]
    connections: Mapping[str, Connection]
    leases: frozenset[Lease]
    commands: tuple[Command, ...]
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class UnitState:
    """A unit as systemd sees it: `active`, `inactive`, `failed`, `activating` …"""

    active: str
    sub: str = ""
    main_pid: int = 0

    @property
    def running(self) -> bool:
        return self.active in {"active", "reloading", "activating"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is on the machine, in the same words, and only what is ours to change."""

    links: Mapping[str, Link]
    addresses: frozenset[Address]
    routes: frozenset[Route]
    policy_rules: frozenset[PolicyRule]
    sysctls: Mapping[str, str]
    sets: Mapping[str, AddressSet]
    firewall: Mapping[tuple[Family, Table], str]  # canonical text: iptables-save, no counters
    units: Mapping[str, UnitState]
    files: Mapping[str, str]  # path -> SHA-256 of content, of the current revision
    connections: Mapping[str, str] = field(default_factory=dict)  # name -> digest; "" if unknown
    revision: int | None = None  # what /run/sysvm/current points at


@dataclass(frozen=True, slots=True)
class Count:
    """Packets and bytes, since the rule first was."""

    packets: int
    bytes: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True, order=True)
class CounterKey:
    """Which rule a count belongs to; the comment is its identity inside the chain."""

    family: Family
    table: Table
    chain: str
    comment: str
