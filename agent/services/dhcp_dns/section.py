"""The section: hosts, ranges, options and names, as a document has them."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from agent.document.types import (
    AnyAddress,
    Bool,
    DomainName,
    HostName,
    Id,
    Int,
    Ipv4,
    Ipv4Net,
    Ipv6,
    Mac,
    Text,
)
from agent.document.types import Section as Base

SECTION = "dhcp_dns"
DATA_SERVER = "data-server"
# The witness' domain, which no other server can know (RFC 6761).
WITNESS_DOMAIN = "witness.invalid"

LeaseSeconds = Annotated[
    Annotated[Int, Field(ge=120, le=0xFFFF_FFFE)] | Literal["infinite"],
    Field(
        description="How long an address is lent before it has to be asked for again, in seconds, "
        'or "infinite".',
        examples=[86400],
    ),
]
FilePath = Annotated[
    str,
    Text(r"^[A-Za-z0-9._/-]{1,127}$", max_length=127),
    Field(examples=["pxelinux.0"]),
]
TimeZone = Annotated[
    str,
    Text(r"^[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+){0,2}$", max_length=64),
    Field(examples=["Europe/Zurich"]),
]


class DhcpOptions(Base):
    """What guests are told by DHCP besides their address (RFC 2132); null leaves it out."""

    routers: Annotated[
        tuple[Ipv4, ...] | None,
        Field(
            max_length=8,
            description="Default gateways, option 3. The VM's address in the guest's network by "
            "default; an empty list sends none.",
        ),
    ] = None
    dns_servers: Annotated[
        tuple[Ipv4, ...] | None,
        Field(
            max_length=8,
            description="Name servers, option 6. The VM's address in the guest's network by "
            "default; an empty list sends none.",
        ),
    ] = None
    domain_search: Annotated[
        tuple[DomainName, ...] | None,
        Field(max_length=16, description="Domains to look names up in, option 119."),
    ] = None
    classless_routes: Annotated[
        Mapping[Ipv4Net, Ipv4] | None,
        Field(
            max_length=24,
            description="Routes: next hop by destination network, option 121. Guests that take "
            "it ignore the default gateway of option 3 (RFC 3442), so that one is added as "
            "0.0.0.0/0 where the map has none.",
            examples=[{"192.168.50.0/24": "10.1.1.254"}],
        ),
    ] = None
    ntp_servers: Annotated[
        tuple[Ipv4, ...] | None, Field(max_length=8, description="NTP servers, option 42.")
    ] = None
    time_servers: Annotated[
        tuple[Ipv4, ...] | None,
        Field(max_length=8, description="RFC 868 time servers, option 4."),
    ] = None
    log_servers: Annotated[
        tuple[Ipv4, ...] | None, Field(max_length=8, description="Syslog servers, option 7.")
    ] = None
    netbios_servers: Annotated[
        tuple[Ipv4, ...] | None, Field(max_length=8, description="WINS servers, option 44.")
    ] = None
    tftp_server: Annotated[
        Ipv4 | None, Field(description="Where to fetch a boot file, option 66.")
    ] = None
    bootfile_name: Annotated[FilePath | None, Field(description="Boot file's name, option 67.")] = (
        None
    )
    timezone: Annotated[
        TimeZone | None, Field(description="Time zone of the tz database, option 101 (RFC 4833).")
    ] = None


class DhcpHost(Base):
    """A guest that always gets the same address and name."""

    address: Annotated[Ipv4, Field(description="The guest's address, in a guest network.")]
    address_ipv6: Annotated[
        Ipv6 | None,
        Field(description="The guest's IPv6 address, for its name only: nothing hands it out."),
    ] = None
    name: Annotated[
        HostName,
        Field(description="The guest's name, without domain; no other guest has it."),
    ]
    lease_seconds: LeaseSeconds = 86400
    options: Annotated[
        DhcpOptions, Field(description="Options of this guest; they replace the network's.")
    ] = DhcpOptions()


class DhcpRange(Base):
    """Addresses for guests that are not among the hosts."""

    first: Annotated[Ipv4, Field(description="The first address, in a guest network.")]
    last: Annotated[Ipv4, Field(description="The last address, in the same network.")]
    lease_seconds: LeaseSeconds = 3600


class DhcpSettings(Base):
    """Whether guests get their addresses here."""

    enabled: Annotated[
        Bool,
        Field(
            description="Serve DHCP on the guest NICs. Only hosts are answered, unless ranges "
            "are given; a guest that asks for an address that is not its own is told so."
        ),
    ] = True


class DnsRecord(Base):
    """A name of our own."""

    addresses: Annotated[
        tuple[AnyAddress, ...],
        Field(
            min_length=1,
            max_length=32,
            description="What the name resolves to. A guest gets those of its own network only, "
            "where there are any.",
        ),
    ]


class DnsSettings(Base):
    """The resolver on the guest NICs."""

    enabled: Annotated[
        Bool, Field(description="Answer DNS queries on the guest NICs, and tell guests so by DHCP.")
    ] = True
    upstreams: Annotated[
        tuple[AnyAddress, ...],
        Field(
            max_length=16,
            description="Name servers that are asked for everything else. Where the list is "
            "empty, only names of our own are known.",
            examples=[["192.0.2.53", "2001:db8::53"]],
        ),
    ] = ()
    records: Annotated[
        Mapping[DomainName, DnsRecord],
        Field(
            description="Names of our own. A name without a dot is known with the guests' domain "
            "as well.",
            examples=[{"db.example.internal": {"addresses": ["10.1.1.20"]}}],
        ),
    ] = {}
    data_server: Annotated[
        Ipv4 | None,
        Field(
            description=f"What the name {DATA_SERVER} resolves to, where guests fetch their user "
            "data. The VM's address in the guest's network by default."
        ),
    ] = None
    rebind_protection: Annotated[
        Bool,
        Field(
            description="Refuse private addresses in answers of the upstreams. Off by default, "
            "because upstreams of a private cloud rightly know private addresses."
        ),
    ] = False


class Section(Base):
    """DHCP and DNS for the guests, by dnsmasq, on guest NICs only."""

    dhcp: Annotated[DhcpSettings, Field(description="DHCP.")] = DhcpSettings()
    hosts: Annotated[
        Mapping[Mac, DhcpHost],
        Field(
            description="Guests by MAC address. Their names resolve, with the guests' domain and "
            "without, and their addresses resolve back.",
            examples=[{"02:00:4c:00:00:01": {"address": "10.1.1.10", "name": "vm1"}}],
        ),
    ] = {}
    ranges: Annotated[
        Mapping[Id, DhcpRange],
        Field(
            description="Ranges for guests that are not among the hosts.",
            examples=[{"pool": {"first": "10.1.1.100", "last": "10.1.1.199"}}],
        ),
    ] = {}
    options: Annotated[DhcpOptions, Field(description="Options of every guest.")] = DhcpOptions()
    dns: Annotated[DnsSettings, Field(description="DNS.")] = DnsSettings()
