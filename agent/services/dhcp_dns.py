"""DHCP and DNS for the guests, by dnsmasq.

Structure (NICs, ranges, how names are resolved) stands in dnsmasq.conf, which dnsmasq reads when
it starts; hosts, names, options and upstream servers stand in files that one SIGHUP reads again
(dnsmasq(8): --dhcp-hostsfile, --addn-hosts, --dhcp-optsfile, --servers-file). So a host more is
one SIGHUP. Leases are kept on disk over reload, restart and reboot.

dnsmasq skips a line of these files that it does not understand, and its `--test` does not read
them: what keeps them right are the types here.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Annotated, Literal

from pydantic import Field

from agent.document.site import NicRole
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
from agent.engine.model import (
    Artifacts,
    Claim,
    Command,
    DhcpAnswers,
    DnsAnswers,
    Family,
    File,
    IPAddress,
    Lease,
    Opening,
    Ports,
    Probe,
    Problem,
    Protocol,
    Reaction,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import GUEST_SERVERS
from agent.services import CURRENT, Context, Nic, fill

SECTION = "dhcp_dns"
ROLES = GUEST_SERVERS
UNIT = "dnsmasq.service"
UNITS: frozenset[str] = frozenset({UNIT})

DATA_SERVER = "data-server"
FOLDER = "dnsmasq"
LEASES = "/var/lib/sysvm/leases/dnsmasq.leases"
# What the witness resolves to: an address that nobody has (RFC 5737), under a name that no
# other server can know (RFC 6761).
WITNESS_ADDRESS = "192.0.2.1"
WITNESS_DOMAIN = "witness.invalid"
_LONGEST_OPTION = 255  # bytes (RFC 2132); what is longer would have to be split

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


ABSENT = None


@dataclass(frozen=True, slots=True)
class _Served:
    """A guest network with the VM's own address in it."""

    nic: Nic
    own: IPv4Interface

    @property
    def network(self) -> IPv4Network:
        return self.own.network

    @property
    def tag(self) -> str:
        return f"net-{self.network.network_address}"

    @property
    def leasable(self) -> bool:
        """Has it room for a guest beside the VM, the network's address and broadcast?"""
        return self.network.prefixlen <= 30


def _served(context: Context) -> tuple[_Served, ...]:
    found: dict[IPv4Network, _Served] = {}
    for nic in context.nics_of(NicRole.GUEST):
        for interface in nic.addresses:
            if isinstance(interface, IPv4Interface):
                found.setdefault(interface.network, _Served(nic, interface))
    return tuple(found.values())


def _leasable(section: Section, context: Context) -> tuple[_Served, ...]:
    """The networks whose guests get their addresses here."""
    return tuple(s for s in _served(context) if s.leasable) if section.dhcp.enabled else ()


def _own_addresses(context: Context) -> tuple[tuple[Nic, IPAddress], ...]:
    return tuple(
        (nic, interface.ip)
        for nic in context.nics_of(NicRole.GUEST)
        for interface in nic.addresses
        if not interface.is_link_local
    )


# -- lint --------------------------------------------------------------------------------------


def lint(section: Section, context: Context) -> Iterator[Problem]:
    served = _served(context)
    yield from _lint_hosts(section, context, served)
    yield from _lint_ranges(section, context, served)
    yield from _lint_names(section, context)
    yield from _lint_options(section.options, (SECTION, "options"))
    for mac, host in section.hosts.items():
        yield from _lint_options(host.options, (SECTION, "hosts", mac, "options"))


def _lint_address(
    address: IPv4Address, context: Context, served: Iterable[_Served], path: str
) -> Iterator[Problem]:
    """Could a guest have this address?"""
    found = next((s for s in served if address in s.network), None)
    if found is None:
        networks = ", ".join(str(s.network) for s in served)
        hint = f"one of {networks}" if networks else "no guest NIC has an IPv4 address"
        yield Problem(path, f"{address} is in no guest network", hint)
    elif not found.leasable:
        yield Problem(path, f"{found.network} is too small for DHCP", "a /30 or larger")
    elif any(nic.holds(address) for nic in context.nics):
        yield Problem(path, f"{address} is the VM's own address")
    elif address in (found.network.network_address, found.network.broadcast_address):
        yield Problem(path, f"{address} is not a host's address in {found.network}")


def _lint_hosts(
    section: Section, context: Context, served: tuple[_Served, ...]
) -> Iterator[Problem]:
    seen: dict[IPAddress, str] = {}
    for mac, host in section.hosts.items():
        path = pointer(SECTION, "hosts", mac, "address")
        yield from _lint_address(host.address, context, served, path)
        for field, address in (("address", host.address), ("address_ipv6", host.address_ipv6)):
            if address is not None and seen.setdefault(address, mac) != mac:
                yield Problem(
                    pointer(SECTION, "hosts", mac, field),
                    f"{address} is the address of {seen[address]} already",
                )


def _lint_ranges(
    section: Section, context: Context, served: tuple[_Served, ...]
) -> Iterator[Problem]:
    if section.ranges and not section.dhcp.enabled:
        yield Problem(pointer(SECTION, "ranges"), "needs DHCP", "/dhcp_dns/dhcp/enabled is false")
    whole: list[tuple[IPv4Address, IPv4Address, str]] = []
    for name, extent in section.ranges.items():
        path = pointer(SECTION, "ranges", name)
        if extent.first > extent.last:
            yield Problem(path, "ends before it begins", f"{extent.last} to {extent.first}")
            continue
        found = next((s for s in served if extent.first in s.network), None)
        yield from _lint_address(extent.first, context, served, f"{path}/first")
        if found is None:
            continue
        if extent.last not in found.network:
            yield Problem(f"{path}/last", f"{extent.last} is not in {found.network}")
            continue
        if extent.last != extent.first:
            yield from _lint_address(extent.last, context, served, f"{path}/last")
        for interface in found.nic.addresses:
            if interface.version == 4 and extent.first < interface.ip < extent.last:
                yield Problem(path, f"contains the VM's own address {interface.ip}")
        whole.append((extent.first, extent.last, name))
    whole.sort()
    reached: tuple[IPv4Address, str] | None = None  # the end of what lies before, and whose it is
    for first, last, name in whole:
        if reached is not None and first <= reached[0]:
            yield Problem(pointer(SECTION, "ranges", name), f"overlaps the range {reached[1]}")
        if reached is None or last > reached[0]:
            reached = last, name


def _lint_names(section: Section, context: Context) -> Iterator[Problem]:
    taken = {context.hostname.lower(): "the VM itself", DATA_SERVER: "the VM's user data"}
    for mac, host in section.hosts.items():
        owner = taken.setdefault(host.name.lower(), mac)
        if owner != mac:
            path = pointer(SECTION, "hosts", mac, "name")
            yield Problem(path, f"{host.name} is the name of {owner} already")
    suffix = f".{context.domain.lower()}"
    seen: dict[str, str] = {}
    for name in section.dns.records:
        path = pointer(SECTION, "dns", "records", name)
        short = name.lower().removesuffix(suffix)
        if short in taken:
            yield Problem(path, f"is the name of {taken[short]} already")
        if seen.setdefault(short, name) != name:
            yield Problem(path, f"is the same name as {seen[short]}")
        if f".{name.lower()}".endswith(f".{WITNESS_DOMAIN}"):
            yield Problem(path, f"is in the domain {WITNESS_DOMAIN}, which is the VM's own")


def _lint_options(options: DhcpOptions, path: tuple[object, ...]) -> Iterator[Problem]:
    if sum(len(name) + 2 for name in options.domain_search or ()) > _LONGEST_OPTION:
        yield Problem(
            pointer(*path, "domain_search"),
            "is too long for a DHCP option",
            f"at most {_LONGEST_OPTION} bytes",
        )


# -- render ------------------------------------------------------------------------------------


def render(section: Section, context: Context) -> Artifacts:
    own = _own_addresses(context)
    if not own:
        return Artifacts()  # nobody to serve
    leasable = _leasable(section, context)
    conf = fill(
        "dhcp_dns/dnsmasq.conf",
        folder=f"{CURRENT}/{FOLDER}",
        leases=LEASES,
        domain=context.domain,
        nics=[nic.name for nic in context.nics_of(NicRole.GUEST)],
        networks=leasable,
        ranges=_ranges(section, leasable),
        rebind_protection=section.dns.rebind_protection,
    )
    hosts = fill("dhcp_dns/hosts", hosts=_hosts(section) if leasable else ())
    options = fill("dhcp_dns/options", lines=_options(section, leasable))
    servers = fill(
        "dhcp_dns/servers", upstreams=section.dns.upstreams if section.dns.enabled else ()
    )
    names = fill("dhcp_dns/names", names=_names(section, context) if section.dns.enabled else ())
    witness = hashlib.sha256(b"\0".join((conf, hosts, options, servers, names))).hexdigest()[:32]
    names += f"{WITNESS_ADDRESS} {witness}.{WITNESS_DOMAIN}\n".encode()

    def file(name: str, content: bytes, reaction: Reaction) -> File:
        return File(f"{FOLDER}/{name}", content, UNIT, reaction)

    return Artifacts(
        files=(
            file("dnsmasq.conf", conf, Reaction.RESTART),
            file("hosts", hosts, Reaction.RELOAD),
            file("options", options, Reaction.RELOAD),
            file("servers", servers, Reaction.RELOAD),
            file("names", names, Reaction.RELOAD),
        ),
        units=(Unit(UNIT),),
        openings=tuple(_openings(section, context)),
        claims=tuple(
            Claim(address, protocol, Ports(53, 53), pointer(SECTION))
            for _, address in own
            for protocol in (Protocol.TCP, Protocol.UDP)
        ),
        leases=tuple(Lease(mac, host.address) for mac, host in sorted(section.hosts.items()))
        if leasable
        else (),
    )


def _ranges(section: Section, leasable: tuple[_Served, ...]) -> Iterator[Mapping[str, object]]:
    for name, extent in sorted(section.ranges.items()):
        network = next((s for s in leasable if extent.first in s.network), None)
        if network is not None:
            yield {"path": pointer(SECTION, "ranges", name), "network": network, "range": extent}


def _hosts(section: Section) -> Iterator[str]:
    for mac, host in sorted(section.hosts.items()):
        tag = f",set:{_host_tag(mac)}" if host.options != _NO_OPTIONS else ""
        yield f"{mac}{tag},{host.address},{host.name},{host.lease_seconds}"


def _host_tag(mac: str) -> str:
    return f"host-{mac.replace(':', '')}"


def _options(section: Section, leasable: tuple[_Served, ...]) -> Iterator[str]:
    """Lines of the options' file.

    A guest's own options go by a tag of its host, the others by the tag of its network: dnsmasq
    prefers the former (rfc2131.c, option_filter: tags of the range count last).
    """
    for network in leasable:
        here = network.own.ip
        options = section.options
        defaults = {
            "routers": (here,) if options.routers is None else options.routers,
            "dns_servers": options.dns_servers,
        }
        if options.dns_servers is None:
            defaults["dns_servers"] = (here,) if section.dns.enabled else ()
        for line in _option_lines(options.model_copy(update=defaults), here):
            yield f"tag:{network.tag},{line}"
        yield f"tag:{network.tag},option:mtu,{network.nic.mtu}"
    for mac, host in sorted(section.hosts.items()):
        if host.options == _NO_OPTIONS:
            continue
        home = next((s for s in leasable if host.address in s.network), None)
        if home is None:
            continue
        options = host.options
        routers = _first(options.routers, section.options.routers, (home.own.ip,))
        if options.routers is not None and options.classless_routes is None:
            # The network's routes name the network's gateway, which this guest does not take.
            routes = {"classless_routes": section.options.classless_routes}
            options = options.model_copy(update=routes)
        for line in _option_lines(options, routers[0] if routers else None):
            yield f"tag:{_host_tag(mac)},{line}"


def _first(*given: tuple[IPv4Address, ...] | None) -> tuple[IPv4Address, ...]:
    return next(addresses for addresses in given if addresses is not None)


_NO_OPTIONS = DhcpOptions()
# dnsmasq's words for options (dnsmasq --help dhcp; it has no name for option 4). Options 3 and 6
# are sent by default, and an empty one keeps dnsmasq from that (dnsmasq.conf.example).
_ADDRESS_LISTS = {
    "routers": "option:router",
    "dns_servers": "option:dns-server",
    "ntp_servers": "option:ntp-server",
    "time_servers": "4",
    "log_servers": "option:log-server",
    "netbios_servers": "option:netbios-ns",
}
_SINGLE_VALUES = {
    "tftp_server": "option:tftp-server",
    "bootfile_name": "option:bootfile-name",
    "timezone": "option:tzdb-timezone",
}


def _option_lines(options: DhcpOptions, router: IPv4Address | None) -> Iterator[str]:
    for field, name in _ADDRESS_LISTS.items():
        addresses = getattr(options, field)
        if addresses:
            yield f"{name},{','.join(map(str, addresses))}"
        elif addresses is not None and field in {"routers", "dns_servers"}:
            yield name
    if options.domain_search:
        yield f"option:domain-search,{','.join(options.domain_search)}"
    if options.classless_routes:
        routes = dict(options.classless_routes)
        if router is not None:
            routes.setdefault(IPv4Network("0.0.0.0/0"), router)
        pairs = ",".join(f"{network},{via}" for network, via in sorted(routes.items()))
        yield f"option:classless-static-route,{pairs}"
    for field, name in _SINGLE_VALUES.items():
        value = getattr(options, field)
        if value is not None:
            yield f"{name},{value}"


def _names(section: Section, context: Context) -> Iterator[str]:
    """Lines of the names' file, the full name first: it is what an address resolves back to."""
    domain = context.domain
    for _, address in _own_addresses(context):
        yield f"{address} {context.hostname}.{domain} {context.hostname}"
    if section.dns.data_server is not None:
        yield f"{section.dns.data_server} {DATA_SERVER}.{domain} {DATA_SERVER}"
    else:
        for served in _served(context):
            yield f"{served.own.ip} {DATA_SERVER}.{domain} {DATA_SERVER}"
    for _, host in sorted(section.hosts.items()):
        yield f"{host.address} {host.name}.{domain} {host.name}"
        if host.address_ipv6 is not None:
            yield f"{host.address_ipv6} {host.name}.{domain} {host.name}"
    for name, record in sorted(section.dns.records.items()):
        for address in record.addresses:
            yield f"{address} {name}" if "." in name else f"{address} {name}.{domain} {name}"


def _openings(section: Section, context: Context) -> Iterator[Opening]:
    for nic in context.nics_of(NicRole.GUEST):
        v4 = (Family.V4,)
        if section.dhcp.enabled:
            yield Opening(
                nic.name, Protocol.UDP, Ports(67, 67), SECTION, f"sysvm: DHCP from {nic.name}", v4
            )
        if section.dns.enabled:
            for protocol in (Protocol.UDP, Protocol.TCP):
                yield Opening(
                    nic.name,
                    protocol,
                    Ports(53, 53),
                    SECTION,
                    f"sysvm: DNS over {protocol} from {nic.name}",
                )


# -- check, probe, inspect ---------------------------------------------------------------------


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    if not artifacts.units:
        return ()
    conf = f"--conf-file={CURRENT}/{FOLDER}/dnsmasq.conf"
    return (Command(("dnsmasq", "--test", conf), path=pointer(SECTION)),)


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    if not artifacts.units:
        return ()
    names = next(f for f in artifacts.files if f.path == f"{FOLDER}/names")
    witness = names.content.decode().splitlines()[-1].split()[1]
    return (
        UnitActive(UNIT),
        *(
            DnsAnswers(UNIT, address, witness, (WITNESS_ADDRESS,))
            for _, address in _own_addresses(context)
        ),
        *(DhcpAnswers(UNIT, served.own.ip) for served in _leasable(section, context)),
    )


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("cat", LEASES)),
    )
