"""Where the proxy may connect to: a hypervisor's screen, and nothing else.

A target comes from management alone, and still has to lie within the networks and ports that the
document allows. What is always refused: loopback, link-local and multicast addresses, the VM's
own addresses, and guests' networks. There are no names here, so nothing is resolved that could
be answered otherwise at the second time.
"""

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_RDP = frozenset({2179, 3389})

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class TargetKind(enum.StrEnum):
    """How a screen is reached."""

    VNC = "vnc"  # RFB over TCP (KVM, QEMU; ESXi before 7)
    CONNECT = "connect"  # RFB after an HTTP CONNECT over TLS (XenServer, XCP-ng)
    WEBSOCKET = "websocket"  # RFB in a WebSocket over TLS, admitted by a ticket (ESXi 7 and later)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A screen. `path` is the ticket's, or that of the console; `name` is the certificate's."""

    kind: TargetKind
    address: Address
    port: int
    path: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class PortSpan:
    """Ports from the first to the last."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRules:
    """What a target has to lie in, and what it must not lie in."""

    networks: tuple[Network, ...]
    ports: tuple[PortSpan, ...]
    forbidden: tuple[Network, ...] = ()  # guests' networks, and the VM's own addresses


def objection(target: Target, rules: TargetRules) -> str | None:
    """Why the proxy does not connect to this target, or None where it may."""
    address = target.address
    if isinstance(address, IPv6Address) and (
        address.ipv4_mapped is not None
        or address.sixtofour is not None
        or address.teredo is not None
    ):
        return f"{address} is an IPv4 address in IPv6 clothing"
    for refused, what in (
        (address.is_loopback, "a loopback address"),
        (address.is_link_local, "a link-local address"),
        (address.is_multicast, "a multicast address"),
        (address.is_unspecified, "no address"),
        (address == IPv4Address("255.255.255.255"), "a broadcast address"),
    ):
        if refused:
            return f"{address} is {what}"
    if any(address in network for network in rules.forbidden):
        return f"{address} is in a guest network, or the VM's own"
    if not any(address in network for network in rules.networks):
        return f"{address} is in none of the hypervisors' networks"
    if not any(span.first <= target.port <= span.last for span in rules.ports):
        if target.port in _RDP:
            return f"port {target.port} is RDP's (Hyper-V), which is not built"
        return f"port {target.port} is none of the allowed ones"
    return None
