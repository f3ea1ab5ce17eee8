"""What a VM has whatever its services are: its name, links, addresses, routes, kernel settings."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from agent.document.boot import BootConfig
from agent.document.document import Document
from agent.document.site import NicRole, NicSection, Site
from agent.engine.model import (
    Address,
    Artifacts,
    IPInterface,
    IPNetwork,
    Link,
    Problem,
    Route,
    Sysctl,
    pointer,
)
from agent.services import Context, Nic

OWNER = "site"

_DEFAULT: Mapping[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}

# A VM believes no redirects, source routes or advertisements, and answers for an address on the
# NIC that has it only; routers forward. Spoofing is the firewall's (raw table), so the reverse
# path is checked loosely: several public NICs make strict checks wrong.
_FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
_SYSCTLS = {
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.all.accept_source_route": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv6.conf.all.accept_redirects": "0",
    "net.ipv6.conf.all.accept_ra": "0",
}
_NIC_SYSCTLS = {
    "net.ipv4.conf.{}.rp_filter": "2",
    "net.ipv4.conf.{}.accept_redirects": "0",
    "net.ipv4.conf.{}.send_redirects": "0",
    "net.ipv4.conf.{}.arp_ignore": "1",
    "net.ipv4.conf.{}.arp_announce": "2",
    "net.ipv6.conf.{}.accept_ra": "0",
    "net.ipv6.conf.{}.accept_redirects": "0",
}


def context(document: Document, links: Sequence[Link], boot: BootConfig | None) -> Context:
    """The document's NICs under the names that the kernel gave them.

    A NIC that the machine does not have gets no name and is left out; `lint` reports it.
    """
    names = {link.mac: link.name for link in links}
    nics = [
        _nic(names[mac], mac, section)
        for mac, section in document.site.nics.items()
        if mac in names
    ]
    nics.sort(key=lambda nic: nic.name)
    return Context(
        role=document.role,
        hostname=document.site.hostname,
        domain=document.site.domain,
        nics=tuple(nics),
        routed=_routed(document.site, nics),
        boot=boot,
    )


def _nic(name: str, mac: str, section: NicSection) -> Nic:
    return Nic(
        name=name,
        mac=mac,
        role=section.role,
        addresses=tuple(sorted(section.addresses, key=lambda a: (a.version, a.ip, a.network))),
        mtu=section.mtu,
        gateway=section.gateway,
        gateway_ipv6=section.gateway_ipv6,
    )


def _routed(site: Site, nics: Sequence[Nic]) -> Mapping[str, tuple[IPNetwork, ...]]:
    found: dict[str, list[IPNetwork]] = {}
    for network, route in site.routes.items():
        for nic in nics:
            if nic.reaches(route.via):
                found.setdefault(nic.name, []).append(network)
    return {name: tuple(networks) for name, networks in found.items()}


def lint(document: Document, links: Sequence[Link], boot: BootConfig | None) -> Iterator[Problem]:
    site = document.site
    present = {link.mac for link in links}
    for mac in site.nics.keys() - present:
        yield Problem(
            pointer("site", "nics", mac),
            "is not a NIC of this machine",
            f"it has {', '.join(sorted(present)) or 'none'}",
        )
    yield from _lint_addresses(site)
    yield from _lint_gateways(site)
    for network, route in site.routes.items():
        path = pointer("site", "routes", network, "via")
        if route.via.version != network.version:
            yield Problem(path, f"{route.via} is not of the destination's family")
        elif not any(route.via in a.network for nic in site.nics.values() for a in nic.addresses):
            yield Problem(path, f"{route.via} is not in the network of any NIC")
    yield from _lint_control(site, boot)


def _lint_addresses(site: Site) -> Iterator[Problem]:
    """Every address is usable, and no network is on two NICs or within another."""
    seen: list[tuple[str, IPInterface]] = []
    for mac, nic in sorted(site.nics.items()):
        for interface in nic.addresses:
            path = pointer("site", "nics", mac, "addresses", interface)
            yield from _lint_address(interface, path)
            for other_mac, other in seen:
                if other.version != interface.version:
                    continue
                if other.ip == interface.ip:
                    yield Problem(path, f"{interface.ip} is also on {other_mac}")
                elif other_mac != mac and _overlap(other.network, interface.network):
                    yield Problem(
                        path, f"{interface.network} overlaps {other.network} of {other_mac}"
                    )
            seen.append((mac, interface))


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.network_address in other or other.network_address in one


def _lint_address(interface: IPInterface, path: str) -> Iterator[Problem]:
    address, network = interface.ip, interface.network
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        yield Problem(path, "is not an address that a NIC can have")
    elif address.version == 4 and network.prefixlen < 31:
        if address == network.network_address:
            yield Problem(path, "is the network's own address")
        elif address == network.broadcast_address:
            yield Problem(path, "is the network's broadcast address")


def _lint_gateways(site: Site) -> Iterator[Problem]:
    for name in ("gateway", "gateway_ipv6"):
        with_one = [mac for mac, nic in sorted(site.nics.items()) if getattr(nic, name) is not None]
        for mac in with_one:
            path = pointer("site", "nics", mac, name)
            nic = site.nics[mac]
            gateway = getattr(nic, name)
            if mac != with_one[0]:
                yield Problem(path, f"{with_one[0]} has a default gateway already")
            if gateway.is_link_local and gateway.version == 6:
                continue
            if not any(gateway in a.network for a in nic.addresses):
                yield Problem(path, f"{gateway} is not in a network of this NIC")
            elif any(gateway == a.ip for a in nic.addresses):
                yield Problem(path, f"{gateway} is the VM's own address")


def _lint_control(site: Site, boot: BootConfig | None) -> Iterator[Problem]:
    """A document must not take away the way that it came by."""
    if boot is None:
        return
    for mac, section in boot.nics.items():
        if section.role is not NicRole.CONTROL:
            continue
        nic = site.nics.get(mac)
        if nic is None or nic.role is not NicRole.CONTROL:
            yield Problem(
                pointer("site", "nics"),
                f"leaves out the control NIC {mac}, by which management reaches the VM",
            )


def render(document: Document, context: Context) -> Artifacts:
    sysctls = dict.fromkeys(_FORWARDING, "1" if context.role.routes else "0") | _SYSCTLS
    for nic in context.nics:
        sysctls |= {key.format(nic.name): value for key, value in _NIC_SYSCTLS.items()}
    sysctls["kernel.hostname"] = context.hostname
    return Artifacts(
        links=tuple(Link(nic.name, nic.mac, nic.mtu, up=True) for nic in context.nics),
        addresses=tuple(
            Address(nic.name, interface, OWNER)
            for nic in context.nics
            for interface in nic.addresses
        ),
        routes=tuple(_routes(document.site, context)),
        sysctls=tuple(Sysctl(key, value, OWNER) for key, value in sysctls.items()),
    )


def _routes(site: Site, context: Context) -> Iterator[Route]:
    for nic in context.nics:
        for gateway in (nic.gateway, nic.gateway_ipv6):
            if gateway is not None:
                yield Route(_DEFAULT[gateway.version], gateway, nic.name, owner=OWNER)
    for network, route in sorted(site.routes.items(), key=lambda item: str(item[0])):
        via = ip_address(str(route.via))
        nic_name = next((nic.name for nic in context.nics if nic.reaches(via)), None)
        if nic_name is not None:
            yield Route(network, via, nic_name, owner=OWNER)
