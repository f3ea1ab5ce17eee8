"""What the VM has and does, as rows: wanted, observed and counted, joined.

All pure; the endpoint collects what they need.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TypedDict

from agent.api.answers import timestamp
from agent.api.ports import (
    Association,
    BalancerRow,
    DhcpLease,
    TunnelHistory,
    UnitReport,
    Vpn,
)
from agent.document.document import Document
from agent.document.site import NicRole, Site
from agent.engine import firewall
from agent.engine.model import (
    Address,
    Count,
    CounterKey,
    Desired,
    Dnat,
    IPAddress,
    IPNetwork,
    Lease,
    Link,
    Observed,
    Route,
    Rule,
    Snat,
    Table,
    pointer,
)
from agent.monitor.model import Row
from agent.services import dhcp_dns, ipsec


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceRow:
    """A network interface."""

    name: str
    mac: str
    role: str  # guest, control, public; empty where the document does not have it
    up: bool
    mtu: int
    addresses: tuple[str, ...]
    missing: tuple[str, ...]  # addresses that the document wants and the kernel has not


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRow:
    """A route, wanted or there."""

    destination: str
    via: str | None
    nic: str
    table: int
    owner: str
    present: bool
    wanted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow:
    """A firewall rule with what it counted since it first was."""

    family: int
    table: str
    chain: str
    number: int  # within its chain, from 1
    rule: str  # in the language of iptables, without chain and comment
    comment: str  # where in the document it comes from
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NatRow:
    """A translation of addresses."""

    kind: str  # source, destination
    family: int
    nic: str | None
    protocol: str | None
    original: str  # what is translated: the packet's destination, or its source
    translated: str
    comment: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpRow:
    """A host that DHCP knows: promised an address, or holding a lease, or both."""

    mac: str
    address: str
    name: str
    state: str  # leased, promised, dynamic (a lease that the document does not promise)
    expires: str | None


@dataclass(frozen=True, slots=True)
class DnsRow:
    """A name that the resolver answers for, or a server that it asks."""

    kind: str  # host, record, upstream
    name: str
    value: str
    source: str  # where in the document it comes from


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    """A unit of this VM's services."""

    unit: str
    wanted: bool
    active: str
    sub: str
    main_pid: int
    uptime: float | None  # seconds
    memory: int | None  # bytes
    state: str  # as the monitor has it: running, down, crash-loop, held ..., not-wanted
    alive: bool | None  # it runs; null where nobody watches
    ready: bool | None  # it answers; null where it was not asked
    correct: bool | None  # it runs with what the document says; null where it cannot say
    reason: str  # why it is not running
    detail: str
    since: str | None  # when it came into this state
    restarts: int  # within the last ten minutes
    held_until: str | None
    held_by: str
    held_why: str


def services(
    wanted: Iterable[str],
    reports: Mapping[str, UnitReport],
    watched: Mapping[str, Row] | None = None,
) -> tuple[ServiceRow, ...]:
    """Units, those that are wanted first."""
    names, known = frozenset(wanted), watched or {}
    return tuple(
        ServiceRow(
            unit=unit,
            wanted=unit in names,
            active=report.active,
            sub=report.sub,
            main_pid=report.main_pid,
            uptime=report.uptime,
            memory=report.memory,
            **_watched(known.get(unit) if unit in names else None, wanted=unit in names),
        )
        for unit, report in sorted(reports.items(), key=lambda item: (item[0] not in names, item))
    )


class _Watched(TypedDict):
    state: str
    alive: bool | None
    ready: bool | None
    correct: bool | None
    reason: str
    detail: str
    since: str | None
    restarts: int
    held_until: str | None
    held_by: str
    held_why: str


def _watched(row: Row | None, *, wanted: bool) -> _Watched:
    """A row's part that the monitor knows."""
    hold = row.hold if row else None
    return {
        "state": str(row.state) if row else ("unknown" if wanted else "not-wanted"),
        "alive": row.alive if row else None,
        "ready": row.ready if row else None,
        "correct": row.correct if row else None,
        "reason": row.reason if row else "",
        "detail": row.detail if row else "",
        "since": timestamp(row.since) if row else None,
        "restarts": row.restarts if row else 0,
        "held_until": timestamp(hold.until) if hold else None,
        "held_by": hold.by if hold else "",
        "held_why": hold.why if hold else "",
    }


def interfaces(
    site: Site | None, desired: Desired | None, observed: Observed
) -> tuple[InterfaceRow, ...]:
    """Interfaces by name, with what they lack."""
    links: dict[str, Link] = dict(desired.links) if desired else {}
    links |= observed.links
    roles = {mac: str(nic.role) for mac, nic in site.nics.items()} if site else {}
    there = _by_nic(observed.addresses)
    wanted = _by_nic(desired.addresses if desired else ())
    return tuple(
        InterfaceRow(
            name=name,
            mac=link.mac,
            role=roles.get(link.mac, ""),
            up=link.up and name in observed.links,
            mtu=link.mtu,
            addresses=tuple(there.get(name, ())),
            missing=tuple(a for a in wanted.get(name, ()) if a not in there.get(name, ())),
        )
        for name, link in sorted(links.items())
    )


def _by_nic(addresses: Iterable[Address]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for address in sorted(addresses, key=lambda a: (a.interface.version, int(a.interface.ip))):
        found.setdefault(address.nic, []).append(str(address.interface))
    return found


def routes(desired: Desired, observed: Observed) -> tuple[RouteRow, ...]:
    """Routes by table and destination; those that should not be there too."""
    wanted = {_route_key(route): route for route in desired.routes}
    there = {_route_key(route): route for route in observed.routes}
    return tuple(
        RouteRow(
            destination="default" if key[2] == 0 else str(route.destination),
            via=None if route.via is None else str(route.via),
            nic=route.nic,
            table=route.table,
            owner=wanted[key].owner if key in wanted else "",
            present=key in there,
            wanted=key in wanted,
        )
        for key, route in sorted((there | wanted).items())
    )


def _route_key(route: Route) -> tuple[int, int, int, int, str, str]:
    network = route.destination
    address = int(network.network_address)
    return (network.version, route.table, network.prefixlen, address, str(route.via), route.nic)


def rules(desired: Desired, counters: Mapping[CounterKey, Count]) -> tuple[RuleRow, ...]:
    """Every rule in the order in which packets meet it, but for NAT's."""
    numbers: Counter[tuple[int, str, str]] = Counter()
    found = []
    for rule in desired.rules:
        place = rule.family, rule.table, rule.chain
        numbers[place] += 1
        if rule.table is Table.NAT:
            continue
        counted = _count(rule, counters)
        found.append(
            RuleRow(
                family=int(rule.family),
                table=str(rule.table),
                chain=rule.chain,
                number=numbers[place],
                rule=_text(rule),
                comment=rule.comment,
                packets=counted.packets,
                bytes=counted.bytes,
            )
        )
    order = {table: place for place, table in enumerate(map(str, Table))}
    found.sort(key=lambda row: (row.family, order[row.table], row.chain, row.number))
    return tuple(found)


def _text(rule: Rule) -> str:
    return firewall.line(replace(rule, comment="")).removeprefix(f"-A {rule.chain} ")


def _count(rule: Rule, counters: Mapping[CounterKey, Count]) -> Count:
    key = CounterKey(rule.family, rule.table, rule.chain, rule.comment)
    return counters.get(key, Count(0, 0))


def nat(desired: Desired, counters: Mapping[CounterKey, Count]) -> tuple[NatRow, ...]:
    """Translations: destinations first, then sources."""
    return tuple(
        sorted(_nat(desired, counters), key=lambda row: (row.kind, row.family, row.comment))
    )


def _nat(desired: Desired, counters: Mapping[CounterKey, Count]) -> Iterator[NatRow]:
    for rule in desired.rules:
        match rule.target:
            case Dnat():
                kind, nic, ports = "destination", rule.in_nic, rule.target.ports
                original = _network(rule.destination or rule.flow_destination)
            case Snat():
                kind, nic, ports = "source", rule.out_nic, None
                original = _network(rule.source)
            case _:
                continue
        counted = _count(rule, counters)
        yield NatRow(
            kind=kind,
            family=int(rule.family),
            nic=nic,
            protocol=None if rule.protocol is None else str(rule.protocol),
            original=original if rule.ports is None else f"{original} port {rule.ports}",
            translated=f"{rule.target.address}" + (f" port {ports}" if ports else ""),
            comment=rule.comment,
            packets=counted.packets,
            bytes=counted.bytes,
        )


def _network(network: IPNetwork | IPAddress | None) -> str:
    """A network, as an address where it is a single one."""
    return "any" if network is None else str(network).removesuffix("/32").removesuffix("/128")


def load_balancer(rows: Iterable[BalancerRow]) -> tuple[BalancerRow, ...]:
    """haproxy's rows, each listener's own before its servers'."""
    order = {"FRONTEND": 0, "BACKEND": 1}
    return tuple(sorted(rows, key=lambda r: (r.listener, order.get(r.server, 2), r.server)))


def dhcp(
    promised: Iterable[Lease], leases: Iterable[DhcpLease], document: Document
) -> tuple[DhcpRow, ...]:
    """Hosts by address; a host of the document has the name that it has there."""
    section = document.sections.get(dhcp_dns.SECTION)
    hosts = section.hosts if isinstance(section, dhcp_dns.Section) else {}
    held = {(lease.mac, lease.address): lease for lease in leases}
    promises = {(lease.mac, str(lease.address)) for lease in promised}
    found = []
    for mac, address in promises | held.keys():
        lease = held.get((mac, address))
        said = lease.name if lease else ""
        found.append(
            DhcpRow(
                mac=mac,
                address=address,
                name=hosts[mac].name if mac in hosts else said,
                state=_lease_state((mac, address) in promises, lease is not None),
                expires=timestamp(lease.expires) if lease else None,
            )
        )
    return tuple(sorted(found, key=lambda row: (":" in row.address, int(ip_address(row.address)))))


def _lease_state(promised: bool, held: bool) -> str:
    if promised:
        return "leased" if held else "promised"
    return "dynamic"


def dns(document: Document) -> tuple[DnsRow, ...]:
    """Names of our own and upstream servers, as the document has them."""
    section = document.sections.get(dhcp_dns.SECTION)
    if not isinstance(section, dhcp_dns.Section) or not section.dns.enabled:
        return ()
    return tuple(_dns(section, document.site))


def _dns(section: dhcp_dns.Section, site: Site) -> Iterator[DnsRow]:
    place = (dhcp_dns.SECTION, "dns")
    for address in section.dns.upstreams:
        yield DnsRow("upstream", ".", str(address), pointer(*place, "upstreams"))
    for address in _data_servers(section, site):
        name = f"{dhcp_dns.DATA_SERVER}.{site.domain}"
        yield DnsRow("record", name, str(address), pointer(*place, "data_server"))
    for name, record in sorted(section.dns.records.items()):
        for value in record.addresses:
            yield DnsRow("record", name, str(value), pointer(*place, "records", name))
    for mac, host in sorted(section.hosts.items(), key=lambda item: item[1].address):
        source = pointer(dhcp_dns.SECTION, "hosts", mac)
        name = f"{host.name}.{site.domain}"
        yield DnsRow("host", name, str(host.address), source)
        if host.address_ipv6 is not None:
            yield DnsRow("host", name, str(host.address_ipv6), source)


def _data_servers(section: dhcp_dns.Section, site: Site) -> Iterable[IPAddress]:
    """The one that the document names, or the VM's own address in each guest network."""
    if section.dns.data_server is not None:
        return [section.dns.data_server]
    guests = (nic for nic in site.nics.values() if nic.role is NicRole.GUEST)
    return [address.ip for nic in guests for address in nic.addresses if address.version == 4]


@dataclass(frozen=True, slots=True, kw_only=True)
class VpnRow:
    """A tunnel that the document wants; or a handshake that belongs to none, as `refused`."""

    connection: str = ""
    child: str = ""
    state: str  # installed, connecting, trap, down, not loaded, refused
    since: str | None = None  # when it came up
    rekeyed: str | None = None  # when its keys were last renewed
    peer: str = ""
    local_identity: str = ""
    remote_identity: str = ""
    local: tuple[str, ...] = ()  # subnets
    remote: tuple[str, ...] = ()
    ike: str = ""  # version and algorithms of the key exchange
    esp: str = ""  # algorithms of the traffic
    bytes_in: int = 0  # with the present keys, as the other counts
    packets_in: int = 0
    bytes_out: int = 0
    packets_out: int = 0
    reason: str = ""  # of the last failure since it came up
    failed: str | None = None  # when that was
    certificate_expires: str | None = None


# Of these there may be two for a moment, while keys are renewed; the older one is going.
_UP = frozenset({"INSTALLED", "REKEYING", "UPDATING"})
_COMING = frozenset({"CREATED", "CONNECTING", "INSTALLING", "RETRYING"})


def vpn(document: Document, found: Vpn) -> tuple[VpnRow, ...]:
    """Tunnels by connection and child, then whoever knocked and was none of them."""
    section = document.sections.get(ipsec.SECTION)
    connections = section.connections if isinstance(section, ipsec.Section) else {}
    rows = [
        _tunnel(name, tunnel, child, found)
        for name, tunnel in sorted(connections.items())
        for child in ipsec.children(name, tunnel)
    ]
    rows += [
        VpnRow(state="refused", reason=stranger.reason, failed=timestamp(stranger.at))
        for stranger in found.strangers
    ]
    return tuple(rows)


def _tunnel(name: str, tunnel: ipsec.Tunnel, child: ipsec.Child, found: Vpn) -> VpnRow:
    own = [one for one in found.associations if one.connection == name]
    up = [one for one in own if one.child == child.name and one.state in _UP]
    newest = max(up, key=lambda one: one.installed, default=None)
    known = newest or (own[0] if own else None)
    me, peer = ipsec.identities(tunnel)
    history = found.histories.get((name, child.name), TunnelHistory())
    failure = found.failures.get(name)
    since = (history.up_since or newest.installed) if newest else None
    certificates = tunnel.certificates
    return VpnRow(
        connection=name,
        child=child.name,
        state=_state(name, tunnel, own, found, up=newest is not None),
        since=timestamp(since),
        rekeyed=timestamp(history.rekeyed),
        peer=known.peer if known else str(tunnel.peer_address or tunnel.peer_name or "any"),
        local_identity=known.local_identity if known and known.local_identity else me,
        remote_identity=newest.remote_identity if newest else peer,
        local=tuple(map(str, child.local)),
        remote=tuple(map(str, child.remote)),
        ike=known.ike if known else "",
        esp=newest.esp if newest else "",
        bytes_in=newest.bytes_in if newest else 0,
        packets_in=newest.packets_in if newest else 0,
        bytes_out=newest.bytes_out if newest else 0,
        packets_out=newest.packets_out if newest else 0,
        reason=failure.reason if failure else "",
        failed=timestamp(failure.at) if failure else None,
        certificate_expires=timestamp(ipsec.expiry(certificates)) if certificates else None,
    )


def _state(
    name: str, tunnel: ipsec.Tunnel, own: Sequence[Association], found: Vpn, *, up: bool
) -> str:
    if name not in found.loaded:
        return "not loaded"
    if up:
        return "installed"
    if any(one.state in _COMING for one in own):
        return "connecting"
    return "trap" if tunnel.start is ipsec.Start.TRAP else "down"
