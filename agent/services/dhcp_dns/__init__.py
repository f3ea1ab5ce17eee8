"""DHCP and DNS for the guests, by dnsmasq.

Structure (NICs, ranges, how names are resolved) stands in dnsmasq.conf, which dnsmasq reads when
it starts; hosts, names, options and upstream servers stand in files that one SIGHUP reads again
(dnsmasq(8): --dhcp-hostsfile, --addn-hosts, --dhcp-optsfile, --servers-file). So a host more is
one SIGHUP. Leases are kept on disk over reload, restart and reboot.

dnsmasq skips a line of these files that it does not understand, and its `--test` does not read
them: what keeps them right are the types here.
"""

import hashlib
from collections.abc import Iterator, Mapping

from agent.document.site import NicRole
from agent.engine.model import (
    Artifacts,
    Claim,
    Command,
    DhcpAnswers,
    DnsAnswers,
    Family,
    File,
    Lease,
    Opening,
    Ports,
    Probe,
    Protocol,
    Reaction,
    Unit,
    UnitActive,
    pointer,
)
from agent.roles import GUEST_SERVERS
from agent.services import CURRENT, Context, fill
from agent.services.dhcp_dns.networks import (
    Served,
    leasable_networks,
    own_addresses,
    served_networks,
)
from agent.services.dhcp_dns.options import NO_OPTIONS, host_tag, option_lines
from agent.services.dhcp_dns.problems import lint
from agent.services.dhcp_dns.section import DATA_SERVER, SECTION, WITNESS_DOMAIN, Section

__all__ = [
    "ABSENT", "DATA_SERVER", "FOLDER", "LEASES", "ROLES", "SECTION", "UNIT", "UNITS", "Section",
    "check", "inspect", "lint", "probe", "render",
]  # fmt: skip

ROLES = GUEST_SERVERS
UNIT = "dnsmasq.service"
UNITS: frozenset[str] = frozenset({UNIT})

FOLDER = "dnsmasq"
LEASES = "/var/lib/sysvm/leases/dnsmasq.leases"
WITNESS_ADDRESS = "192.0.2.1"  # what the witness resolves to: an address that nobody has (RFC 5737)
ABSENT = None


def render(section: Section, context: Context) -> Artifacts:
    own = own_addresses(context)
    if not own:
        return Artifacts()  # nobody to serve
    leasable = leasable_networks(section, context)
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
    options = fill("dhcp_dns/options", lines=option_lines(section, leasable))
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
        units=(Unit(UNIT, ahead=True),),
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


def _ranges(section: Section, leasable: tuple[Served, ...]) -> Iterator[Mapping[str, object]]:
    for name, extent in sorted(section.ranges.items()):
        network = next((s for s in leasable if extent.first in s.network), None)
        if network is not None:
            yield {"path": pointer(SECTION, "ranges", name), "network": network, "range": extent}


def _hosts(section: Section) -> Iterator[str]:
    for mac, host in sorted(section.hosts.items()):
        tag = f",set:{host_tag(mac)}" if host.options != NO_OPTIONS else ""
        yield f"{mac}{tag},{host.address},{host.name},{host.lease_seconds}"


def _names(section: Section, context: Context) -> Iterator[str]:
    """Lines of the names' file, the full name first: it is what an address resolves back to."""
    domain = context.domain
    for _, address in own_addresses(context):
        yield f"{address} {context.hostname}.{domain} {context.hostname}"
    if section.dns.data_server is not None:
        yield f"{section.dns.data_server} {DATA_SERVER}.{domain} {DATA_SERVER}"
    else:
        for served in served_networks(context):
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
            for _, address in own_addresses(context)
        ),
        *(DhcpAnswers(UNIT, served.own.ip) for served in leasable_networks(section, context)),
    )


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("systemctl", "status", "--no-pager", "--full", UNIT)),
        Command(("cat", LEASES)),
    )
