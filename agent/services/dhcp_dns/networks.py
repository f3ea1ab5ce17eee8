"""The networks whose guests are served, and the VM's own addresses in them."""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from agent.document.site import NicRole
from agent.engine.model import IPAddress
from agent.services import Context, Nic
from agent.services.dhcp_dns.section import Section


@dataclass(frozen=True, slots=True)
class Served:
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


def served_networks(context: Context) -> tuple[Served, ...]:
    found: dict[IPv4Network, Served] = {}
    for nic in context.nics_of(NicRole.GUEST):
        for interface in nic.addresses:
            if isinstance(interface, IPv4Interface):
                found.setdefault(interface.network, Served(nic, interface))
    return tuple(found.values())


def leasable_networks(section: Section, context: Context) -> tuple[Served, ...]:
    """The networks whose guests get their addresses here."""
    return tuple(s for s in served_networks(context) if s.leasable) if section.dhcp.enabled else ()


def own_addresses(context: Context) -> tuple[tuple[Nic, IPAddress], ...]:
    return tuple(
        (nic, interface.ip)
        for nic in context.nics_of(NicRole.GUEST)
        for interface in nic.addresses
        if not interface.is_link_local
    )
