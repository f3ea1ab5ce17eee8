"""What has to be done, step by step."""

from dataclasses import dataclass

from agent.engine.model.firewall import AddressSet, Table
from agent.engine.model.network import (
    Address,
    Connection,
    Family,
    IPNetwork,
    Lease,
    Link,
    PolicyRule,
    Ports,
    Protocol,
    Route,
    Sysctl,
)
from agent.engine.model.units import Bind, Unit


@dataclass(frozen=True, slots=True)
class SetSysctl:
    sysctl: Sysctl
    was: str | None


@dataclass(frozen=True, slots=True)
class PutSet:
    """Create a set or replace its members at once."""

    set: AddressSet
    was: AddressSet | None


@dataclass(frozen=True, slots=True)
class RemoveSet:
    set: AddressSet


@dataclass(frozen=True, slots=True)
class PutTable:
    """Make one table of the firewall this canonical text, at once.

    `edits` is the same as a change of `was` (iptables-restore --noflush), where there are few:
    faster, and rules that stay go on counting.
    """

    family: Family
    table: Table
    text: str
    was: str
    edits: str | None = None


@dataclass(frozen=True, slots=True)
class SetLink:
    link: Link
    was: Link


@dataclass(frozen=True, slots=True)
class AddAddress:
    address: Address


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    address: Address


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Add a route, or replace the one of ours with the same destination and table."""

    route: Route


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class AddPolicyRule:
    rule: PolicyRule


@dataclass(frozen=True, slots=True)
class RemovePolicyRule:
    rule: PolicyRule


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that the flip changes; None where it was not, or will not be."""

    path: str
    was: str | None  # SHA-256
    now: str | None
    unit: str | None


@dataclass(frozen=True, slots=True)
class Flip:
    """Point /run/sysvm/current at the staged revision."""

    changes: tuple[FileChange, ...]


@dataclass(frozen=True, slots=True)
class StartUnit:
    unit: Unit


@dataclass(frozen=True, slots=True)
class StopUnit:
    name: str


@dataclass(frozen=True, slots=True)
class ReloadUnit:
    """Have a daemon read its files again; `new` binds are tried first, for somebody may have them.

    haproxy closes its listeners for seconds while it tries to bind what it cannot.
    """

    unit: Unit
    new: tuple[Bind, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartUnit:
    unit: Unit


@dataclass(frozen=True, slots=True)
class LoadConnection:
    """Have charon hold a connection; where it holds another of that name, that one ends first."""

    connection: Connection
    was: str | None  # digest


@dataclass(frozen=True, slots=True)
class UnloadConnection:
    """End a connection, its tunnel included."""

    name: str


@dataclass(frozen=True, slots=True)
class FlowMatch:
    """Tracked connections, by their original direction; None matches any."""

    family: Family
    protocol: Protocol | None = None
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    ports: Ports | None = None


@dataclass(frozen=True, slots=True)
class ForgetFlows:
    """Drop tracked connections whose mapping or permission is gone; others stay."""

    matches: tuple[FlowMatch, ...]


@dataclass(frozen=True, slots=True)
class ForgetLeases:
    """Delete DHCP leases that are no longer promised to that MAC address."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the neighbours of new addresses (gratuitous ARP, neighbour advertisement)."""

    addresses: tuple[Address, ...]


Step = (
    SetSysctl
    | PutSet
    | RemoveSet
    | PutTable
    | SetLink
    | AddAddress
    | RemoveAddress
    | AddRoute
    | RemoveRoute
    | AddPolicyRule
    | RemovePolicyRule
    | Flip
    | StartUnit
    | StopUnit
    | ReloadUnit
    | RestartUnit
    | LoadConnection
    | UnloadConnection
    | ForgetFlows
    | ForgetLeases
    | Announce
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done, in order; empty when there is nothing to do."""

    steps: tuple[Step, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)
