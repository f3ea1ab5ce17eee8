"""What the kernel and charon hold: links, addresses, routes, settings, connections, leases."""

import enum
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


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
