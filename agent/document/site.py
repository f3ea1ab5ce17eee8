"""The site: who this VM is and where it stands in the network."""

import enum
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from agent.document.types import (
    AnyAddress,
    AnyInterface,
    AnyNetwork,
    DomainName,
    HostName,
    Int,
    Ipv4,
    Ipv6,
    Mac,
    Section,
)


class NicRole(enum.StrEnum):
    """Which network a NIC stands in."""

    GUEST = "guest"
    CONTROL = "control"
    PUBLIC = "public"
    STORAGE = "storage"  # of the secondary storage's servers


class NicAddress(Section):
    """An address on a NIC; there is nothing more to say of it yet."""


class NicSection(Section):
    """One network interface, found by its MAC address, whatever the kernel calls it."""

    role: Annotated[NicRole, Field(description="The network that the NIC stands in.")]
    addresses: Annotated[
        Mapping[AnyInterface, NicAddress],
        Field(
            description="The NIC's addresses with their networks' prefix lengths. The lowest one "
            "of each family is the one that the VM speaks from.",
            examples=[{"10.1.1.1/24": {}}],
        ),
    ] = {}
    mtu: Annotated[
        Int,
        Field(
            ge=576,
            le=9216,
            description="Largest packet, in bytes. TCP through the NIC has its segment size "
            "clamped to fit, and guests are told by DHCP.",
        ),
    ] = 1500
    gateway: Annotated[
        Ipv4 | None, Field(description="The IPv4 default gateway, within one of the networks.")
    ] = None
    gateway_ipv6: Annotated[Ipv6 | None, Field(description="The IPv6 default gateway.")] = None


class RouteSection(Section):
    """A static route."""

    via: Annotated[
        AnyAddress,
        Field(description="The next hop, an address within one of the NICs' networks."),
    ]


class Site(Section):
    """Host name, NICs by MAC address, static routes."""

    hostname: Annotated[HostName, Field(description="The VM's own name.")]
    domain: Annotated[
        DomainName, Field(description="The domain of the guests; their names end in it.")
    ] = "internal"
    nics: Annotated[
        Mapping[Mac, NicSection],
        Field(min_length=1, description="Network interfaces by MAC address."),
    ]
    routes: Annotated[
        Mapping[AnyNetwork, RouteSection],
        Field(
            description="Static routes by destination network.",
            examples=[{"192.168.50.0/24": {"via": "10.1.1.254"}}],
        ),
    ] = {}
