"""What types cannot say of the section."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from agent.engine.model import IPAddress, Problem, pointer
from agent.services import Context
from agent.services.dhcp_dns.networks import Served, served_networks
from agent.services.dhcp_dns.section import (
    DATA_SERVER,
    SECTION,
    WITNESS_DOMAIN,
    DhcpOptions,
    Section,
)

_LONGEST_OPTION = 255  # bytes (RFC 2132); what is longer would have to be split


def lint(section: Section, context: Context) -> Iterator[Problem]:
    served = served_networks(context)
    yield from _lint_hosts(section, context, served)
    yield from _lint_ranges(section, context, served)
    yield from _lint_names(section, context)
    yield from _lint_options(section.options, (SECTION, "options"))
    for mac, host in section.hosts.items():
        yield from _lint_options(host.options, (SECTION, "hosts", mac, "options"))


def _lint_address(
    address: IPv4Address, context: Context, served: Iterable[Served], path: str
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
    section: Section, context: Context, served: tuple[Served, ...]
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
    section: Section, context: Context, served: tuple[Served, ...]
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
