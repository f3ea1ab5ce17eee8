"""The nouns of the engine: what is wanted, what is there, what to do, and how it ended.

Everything here is a frozen value without behaviour that reaches outside: no file, socket or
clock. The document's own types live in `agent.document`; these are what services make of it.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TypedDict

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong with a document, where it stands, and what would be right.

    `path` is a JSON pointer (RFC 6901) into the document; empty for the document as a whole.
    """

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.path or '/'}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


def pointer(*parts: object) -> str:
    """The JSON pointer (RFC 6901) to the member that `parts` name."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


# -- files and units ---------------------------------------------------------------------------


class Reaction(enum.IntEnum):
    """What a unit has to do when one of its files changes; the greatest of a unit's wins."""

    NONE = 0
    RELOAD = 1
    RESTART = 2


@dataclass(frozen=True, slots=True)
class File:
    """A file of a revision.

    `path` is relative to the revision's folder, which daemons know as `/run/sysvm/current`.
    `mode` and `owner` (user:group) hold for the file; the folders on the way to it are made
    0755 root, so that a daemon that re-reads as its own user reaches it. `unit` reacts to a
    change by `reaction`; files without a unit change silently.
    """

    path: str
    content: bytes
    unit: str | None = None
    reaction: Reaction = Reaction.NONE
    mode: int = 0o644
    owner: str = "root:root"

    def __repr__(self) -> str:  # contents may be secret
        return f"File({self.path!r}, {len(self.content)} bytes, unit={self.unit!r})"


class Reload(enum.Enum):
    """How a unit is told to read its files again."""

    SYSTEMD = "systemd"  # ReloadUnit: the unit's own ExecReload
    HAPROXY_MASTER = "haproxy-master"  # `reload` on the master's socket, which answers how it went


@dataclass(frozen=True, slots=True)
class Keep:
    """What a daemon is asked at `socket` just before it reloads, and where the answer is kept.

    With `columns`, lines of so many words are kept only if those words are one of `rows`.
    """

    socket: str
    command: str
    path: str
    columns: tuple[int, ...] = ()
    rows: frozenset[tuple[str, ...]] = frozenset()


@dataclass(frozen=True, slots=True)
class Bind:
    """A TCP address and port that a daemon listens on; `path` is where the document says so."""

    address: IPAddress
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit that has to run. Units that a service owns and does not want are stopped.

    Where it only holds together others, `daemon` is the one whose process answers. `process` is
    what operators know that by, where it is not the unit's own name.
    """

    name: str
    reload: Reload = Reload.SYSTEMD
    socket: str = ""  # the haproxy master's socket, for Reload.HAPROXY_MASTER
    keeps: tuple[Keep, ...] = ()
    binds: tuple[Bind, ...] = ()
    daemon: str = ""
    process: str = ""

    @property
    def main(self) -> str:
        """The unit of the process that answers."""
        return self.daemon or self.name

    @property
    def known_as(self) -> str:
        """What operators know its process by."""
        return self.process or self.main.removesuffix(".service")


# -- what the kernel holds ---------------------------------------------------------------------


class Family(enum.IntEnum):
    """Internet protocol version."""

    V4 = 4
    V6 = 6


class Protocol(enum.StrEnum):
    """Transport protocols that rules may name."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"
    ESP = "esp"
    AH = "ah"
    GRE = "gre"


@dataclass(frozen=True, slots=True, order=True)
class Ports:
    """An inclusive range of ports, 1 to 65535."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A network interface; `name` is the kernel's, `mtu` in bytes."""

    name: str
    mac: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a NIC. `announce`: tell the neighbours when it is new."""

    nic: str
    interface: IPInterface
    owner: str = field(default="", compare=False)
    announce: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route; `table` 254 is main."""

    destination: IPNetwork
    via: IPAddress | None
    nic: str
    table: int = 254
    owner: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A routing policy rule (ip-rule(8))."""

    priority: int
    family: Family
    table: int
    source: IPNetwork | None = None
    mark: int | None = None
    in_nic: str | None = None
    owner: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting, its key dotted as in sysctl(8); dots inside a NIC's name become '/'."""

    key: str
    value: str
    owner: str = field(default="", compare=False)


class SetType(enum.StrEnum):
    """Types of ipset(8) in use. Members are written as ipset prints them."""

    NET = "hash:net"
    IP = "hash:ip"
    IP_PORT = "hash:ip,port"
    IP_MAC = "hash:ip,mac"


@dataclass(frozen=True, slots=True)
class AddressSet:
    """A named list of addresses that one firewall rule can match (ipset(8)); name at most 27."""

    name: str
    family: Family
    type: SetType
    members: frozenset[str]
    owner: str = field(default="", compare=False)


class Table(enum.StrEnum):
    """Tables of the firewall, in the order in which a change is made."""

    RAW = "raw"
    MANGLE = "mangle"
    FILTER = "filter"
    NAT = "nat"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of ours; a built-in one carries its policy. Every chain has one owner."""

    family: Family
    table: Table
    name: str
    owner: str
    policy: str | None = None  # ACCEPT or DROP, for built-in chains only


@dataclass(frozen=True, slots=True)
class SetMatch:
    """A rule's `-m set`: directions as in ipset(8), such as "src" or "dst,dst"."""

    name: str
    directions: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """ACCEPT, DROP or RETURN."""

    name: str


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in another chain of ours."""

    chain: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse with an ICMP error, or with a reset for TCP."""

    how: str = ""  # as in `--reject-with`; the kernel's default if empty


@dataclass(frozen=True, slots=True)
class Snat:
    """Rewrite the source."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class Dnat:
    """Rewrite the destination, with its ports if given."""

    address: IPAddress
    ports: Ports | None = None
    base: int | None = None  # the port that `ports.first` stands for, to shift a range by as much


@dataclass(frozen=True, slots=True)
class ClampMss:
    """Set TCP's maximum segment size, bytes; to the path's MTU where `size` is None."""

    size: int | None = None


@dataclass(frozen=True, slots=True)
class NoTrack:
    """Leave the packet out of connection tracking."""


Target = Verdict | Jump | Reject | Snat | Dnat | ClampMss | NoTrack

ACCEPT = Verdict("ACCEPT")
DROP = Verdict("DROP")
RETURN = Verdict("RETURN")


class IpsecPolicy(enum.Enum):
    """A rule's `-m policy`: whether IPsec has decapsulated a packet, or will encapsulate it."""

    CAME_IN = ("in", "ipsec")
    GOES_OUT = ("out", "ipsec")
    GOES_OUT_CLEAR = ("out", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One firewall rule, every field typed, so that none can carry another rule inside.

    `comment` is the rule's identity for counters and error messages: a JSON pointer into the
    document where it comes from one, else words such as "sysvm: established". Rules of a chain
    stand in the order in which their owner gives them.
    """

    family: Family
    table: Table
    chain: str
    target: Target
    owner: str
    comment: str = ""
    in_nic: str | None = None
    out_nic: str | None = None
    source: IPNetwork | None = None
    destination: IPNetwork | None = None
    protocol: Protocol | None = None
    ports: Ports | None = None  # destination ports, tcp and udp
    icmp_type: int | None = None
    icmp_code: int | None = None
    syn: bool = False  # TCP SYN only
    states: tuple[str, ...] = ()  # conntrack's: NEW, ESTABLISHED, RELATED, INVALID, DNAT, SNAT
    original_destination: IPAddress | None = None  # where the packet was sent before DNAT
    original_ports: Ports | None = None
    source_mac: str | None = None
    user: str | None = None  # whose processes send it, by name; in OUTPUT and chains below it
    sets: tuple[SetMatch, ...] = ()
    policy: IpsecPolicy | None = None
    # Not matched by the rule itself, for its chain is only reached by these: which flows it is
    # about, by their original direction, for them to be forgotten when it goes.
    flow_sources: tuple[IPNetwork, ...] = ()
    flow_destination: IPNetwork | None = None


class RuleMatch(TypedDict, total=False):
    """What a rule matches: the fields of Rule that its builders pass through."""

    in_nic: str | None
    out_nic: str | None
    source: IPNetwork | None
    destination: IPNetwork | None
    protocol: Protocol | None
    ports: Ports | None
    icmp_type: int | None
    icmp_code: int | None
    syn: bool
    states: tuple[str, ...]
    original_destination: IPAddress | None
    original_ports: Ports | None
    user: str | None
    sets: tuple[SetMatch, ...]
    policy: IpsecPolicy | None
    flow_sources: tuple[IPNetwork, ...]
    flow_destination: IPNetwork | None


@dataclass(frozen=True, slots=True)
class Opening:
    """A port of the VM itself that a service wants reachable from one NIC, or from any.

    With `gate`, packets that match go on in that chain (an ingress chain decides); without,
    they are accepted. `sets` narrows further (an address with its MAC, say).
    """

    nic: str | None
    protocol: Protocol
    ports: Ports | None
    owner: str
    comment: str
    families: tuple[Family, ...] = (Family.V4, Family.V6)
    destination: IPAddress | None = None
    sets: tuple[SetMatch, ...] = ()
    gate: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose a port of an address is. Two claims that overlap are a Problem at both paths.

    `ports` None claims the whole address (static NAT); protocol None claims every protocol.
    """

    address: IPAddress
    protocol: Protocol | None
    ports: Ports | None
    path: str


@dataclass(frozen=True, slots=True)
class Connection:
    """An IPsec connection as charon is to hold it.

    `content` is what charon is told, as JSON, its secrets included; `digest` is of all of it, and
    charon is told that too, so that it can be asked. `unit` is charon's; `path` is where the
    document says so.
    """

    name: str
    digest: str
    content: bytes = field(default=b"", compare=False, repr=False)
    unit: str = field(default="", compare=False)
    path: str = field(default="", compare=False)
    owner: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """A DHCP lease that is promised to a MAC address."""

    mac: str
    address: IPAddress


# -- effects as data ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: a daemon's own checker, or what a diagnostics bundle takes.

    It runs where `/run/sysvm/current` is the staged revision. `path` is where in the document
    to look when it fails; `reads` are the revision's files that decide its answer (compose
    fills them in: all files of the service).
    """

    argv: tuple[str, ...]
    path: str = ""
    timeout: float = 10.0  # seconds
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitActive:
    """systemd calls the unit active."""

    unit: str


@dataclass(frozen=True, slots=True)
class DnsAnswers:
    """A name server answers for a name; with the given addresses, where any are given."""

    unit: str
    server: IPAddress
    name: str
    expect: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TcpAccepts:
    """A TCP connection is accepted."""

    unit: str
    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class HttpReturns:
    """A page over plain HTTP has this status, and this body where one is given."""

    unit: str
    address: IPAddress
    port: int
    path: str
    status: int = 200
    body: str | None = None


@dataclass(frozen=True, slots=True)
class HaproxyRuns:
    """The running haproxy's `show info` has this description: the witness of its files."""

    unit: str
    socket: str
    description: str


@dataclass(frozen=True, slots=True)
class RouteExists:
    """The kernel holds the route."""

    unit: str
    route: Route


@dataclass(frozen=True, slots=True)
class DhcpAnswers:
    """A DHCP server at one of our own addresses tells what it would tell a guest (DHCPINFORM)."""

    unit: str
    server: IPv4Address


@dataclass(frozen=True, slots=True)
class SshGreets:
    """An SSH server says who it is (RFC 4253, 4.2)."""

    unit: str
    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class CharonAnswers:
    """charon says its version over vici."""

    unit: str


Probe = (
    UnitActive
    | DnsAnswers
    | TcpAccepts
    | HttpReturns
    | HaproxyRuns
    | RouteExists
    | DhcpAnswers
    | SshGreets
    | CharonAnswers
)

# Asked of a service that runs, by the monitor alone: no push is undone for them.
LATER = (TcpAccepts, DhcpAnswers, SshGreets, CharonAnswers)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found; `detail` is for a person."""

    probe: Probe
    passed: bool
    detail: str = ""
    answered: bool = False  # it did, though wrongly
    blameless: bool = False  # nobody could have: the address is not there, say


# -- composed ----------------------------------------------------------------------------------


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


# -- the plan ----------------------------------------------------------------------------------


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


# -- how it ended ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Committed:
    revision: int
    plan: Plan
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provisional:
    """Applied, and undone unless confirmed within `seconds`."""

    revision: int
    seconds: float
    plan: Plan
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Tried, did not hold, and put back; `revision` runs again."""

    revision: int
    cause: str
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Never touched anything."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    revision: int


@dataclass(frozen=True, slots=True)
class Degraded:
    """Neither the new revision nor the old one holds; established flows only, management open."""

    cause: str


Outcome = Committed | Provisional | RolledBack | Refused | Unchanged | Degraded
