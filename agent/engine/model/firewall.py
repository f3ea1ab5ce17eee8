"""The firewall, typed: tables, chains, address sets, rules, and what services ask of it."""

import enum
from dataclasses import dataclass, field
from typing import TypedDict

from agent.engine.model.network import Family, IPAddress, IPNetwork, Ports, Protocol


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
