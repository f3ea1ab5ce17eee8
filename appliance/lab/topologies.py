"""The clouds that the lab can boot, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Nic:
    """A node's network card: its final name, its network, and its fixed MAC address.

    `addresses` are set by the lab, with prefix length; a system VM's NICs have none and stay
    down, for its agent alone brings them up.
    """

    name: str
    network: str
    mac: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SystemVm:
    """The VM under test. The control NIC's address travels in its boot configuration."""

    role: str
    hostname: str
    nics: tuple[Nic, ...]
    control_nic: str
    control_address: str
    control_port: int


@dataclass(frozen=True, slots=True)
class GuestVm:
    """A tenant's VM: one NIC, configured by DHCP when a test or a person says so."""

    nics: tuple[Nic, ...]


@dataclass(frozen=True, slots=True)
class World:
    """The internet: a router's neighbour with a web server and a DNS zone.

    It has no route to the guests' networks: whatever reaches it and is answered was translated.
    `services` are more of its own addresses; `zone` names some of them.
    """

    nics: tuple[Nic, ...]
    services: tuple[str, ...]
    zone: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Management:
    """Where pushes come from: a host on the control network."""

    nics: tuple[Nic, ...]


@dataclass(frozen=True, slots=True)
class Kvm:
    """A hypervisor, as far as a console proxy sees of one: guests' screens, by VNC."""

    nics: tuple[Nic, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """Somebody else's router between networks; whether it translates, a test says."""

    nics: tuple[Nic, ...]


Spec = SystemVm | GuestVm | World | Management | Kvm | Box


@dataclass(frozen=True, slots=True)
class Topology:
    """Networks (each one an Ethernet of its own) and what is plugged into them."""

    name: str
    networks: tuple[str, ...]
    nodes: Mapping[str, Spec]


_WORLD = World(
    nics=(Nic("eth0", "public", "1e:00:cb:00:71:01", ("203.0.113.1/24",)),),
    services=("198.51.100.10", "198.51.100.20", "198.51.100.53"),
    zone={
        "www.example.test": "198.51.100.10",
        "shop.example.test": "198.51.100.20",
        "ns.example.test": "198.51.100.53",
    },
)

ROUTER = Topology(
    name="router",
    networks=("guest", "control", "public"),
    nodes={
        "vm": SystemVm(
            role="router",
            hostname="r-1-vm",
            nics=(
                Nic("eth0", "guest", "02:00:0a:01:01:01"),
                Nic("eth1", "control", "0e:00:a9:fe:0a:02"),
                Nic("eth2", "public", "1e:00:cb:00:71:02"),
            ),
            control_nic="eth1",
            control_address="169.254.10.2/16",
            control_port=8443,
        ),
        "vm1": GuestVm(nics=(Nic("eth0", "guest", "02:00:0a:01:01:0a"),)),
        "vm2": GuestVm(nics=(Nic("eth0", "guest", "02:00:0a:01:01:0b"),)),
        "internet": _WORLD,
        "management": Management(
            nics=(Nic("eth0", "control", "0e:00:a9:fe:00:01", ("169.254.0.1/16",)),)
        ),
    },
)
"""An isolated network's router, two guests behind it, the internet before it.

The public network is 203.0.113.0/24 with the internet's host as its gateway; the guest network
is whatever the document says (10.1.1.0/24 in the example).
"""

SITES = Topology(
    name="sites",
    networks=("guest", "guestb", "control", "public"),
    nodes={
        "vm": ROUTER.nodes["vm"],
        "vmb": SystemVm(
            role="router",
            hostname="r-2-vm",
            nics=(
                Nic("eth0", "guestb", "02:00:0a:02:01:01"),
                Nic("eth1", "control", "0e:00:a9:fe:0a:03"),
                Nic("eth2", "public", "1e:00:cb:00:71:03"),
            ),
            control_nic="eth1",
            control_address="169.254.10.3/16",
            control_port=8443,
        ),
        "vm1": ROUTER.nodes["vm1"],
        "vm3": GuestVm(nics=(Nic("eth0", "guestb", "02:00:0a:02:01:0a"),)),
        "internet": ROUTER.nodes["internet"],
        "management": ROUTER.nodes["management"],
    },
)
"""Two isolated networks, each behind a router of its own, on the same public network."""

_BEHIND = {"vm": "inner", "vmb": "innerb"}  # instead of the public network

NAT = Topology(
    name="nat",
    networks=("guest", "guestb", "control", "inner", "innerb", "public"),
    nodes={
        **{
            name: replace(
                spec,
                nics=tuple(
                    replace(nic, network=_BEHIND[name]) if nic.network == "public" else nic
                    for nic in spec.nics
                ),
            )
            if name in _BEHIND
            else spec
            for name, spec in SITES.nodes.items()
        },
        "box": Box(
            nics=(
                Nic("eth0", "public", "1e:00:cb:00:71:28", ("203.0.113.40/24",)),
                Nic("eth1", "inner", "1e:00:c0:00:02:01", ("192.0.2.1/25",)),
            )
        ),
        "boxb": Box(
            nics=(
                Nic("eth0", "public", "1e:00:cb:00:71:32", ("203.0.113.50/24",)),
                Nic("eth1", "innerb", "1e:00:c0:00:02:81", ("192.0.2.129/25",)),
            )
        ),
    },
)
"""The two sites, each with a box of somebody else's between it and the public network."""

_PROXY = SystemVm(
    role="console-proxy",
    hostname="v-2-vm",
    nics=(
        Nic("eth0", "control", "0e:00:a9:fe:0a:04"),
        Nic("eth1", "private", "06:00:0a:02:00:02"),
        Nic("eth2", "public", "1e:00:cb:00:71:14"),
    ),
    control_nic="eth0",
    control_address="169.254.10.4/16",
    control_port=8443,
)

PROXY = Topology(
    name="proxy",
    networks=("guest", "control", "private", "public"),
    nodes={
        "vm": _PROXY,
        "vm1": GuestVm(nics=(Nic("eth0", "guest", "02:00:0a:01:01:0a", ("10.1.1.10/24",)),)),
        "kvm": Kvm(
            nics=(
                Nic("eth0", "private", "06:00:0a:02:00:07", ("10.2.0.7/24",)),
                Nic("eth1", "guest", "02:00:0a:01:01:fe", ("10.1.1.254/24",)),
            )
        ),
        "internet": World(
            nics=(Nic("eth0", "public", "1e:00:cb:00:71:01", ("203.0.113.1/24",)),),
            services=("198.51.100.10", "198.51.100.53"),
            zone={
                "www.example.test": "198.51.100.10",
                "ns.example.test": "198.51.100.53",
                "203-0-113-20.console.example.test": "203.0.113.20",
            },
        ),
        "management": ROUTER.nodes["management"],
    },
)
"""A console proxy between browsers on the internet and a hypervisor in the private network.

The hypervisor could route to the guests' network: what keeps the proxy out is its own wall.
"""

DEMO = Topology(
    name="demo",
    networks=(*ROUTER.networks, "private"),
    nodes={
        **ROUTER.nodes,
        "proxy": _PROXY,
        "kvm": Kvm(nics=(Nic("eth0", "private", "06:00:0a:02:00:07", ("10.2.0.7/24",)),)),
    },
)
"""The router's cloud, with a console proxy that shows its guests' screens."""

_PROXY_B = SystemVm(
    role="console-proxy",
    hostname="v-3-vm",
    nics=(
        Nic("eth0", "control", "0e:00:a9:fe:0a:05"),
        Nic("eth1", "private", "06:00:0a:02:00:03"),
        Nic("eth2", "public", "1e:00:cb:00:71:15"),
    ),
    control_nic="eth0",
    control_address="169.254.10.5/16",
    control_port=8443,
)

CONSOLE = Topology(
    name="console",
    networks=DEMO.networks,
    nodes={
        **DEMO.nodes,
        "proxyb": _PROXY_B,
        "vm3": GuestVm(nics=(Nic("eth0", "guest", "02:00:0a:01:01:0c"),)),
        "internet": replace(
            _WORLD,
            zone={
                **_WORLD.zone,
                "203-0-113-20.console.example.test": "203.0.113.20",
                "203-0-113-21.console.example.test": "203.0.113.21",
            },
        ),
    },
)
"""A cloud as an operator has it: a router, three guests, two console proxies for their screens.

`appliance.lab.estate` starts a manager in it that knows all of them.
"""

TOPOLOGIES: Mapping[str, Topology] = {
    topology.name: topology for topology in (ROUTER, SITES, NAT, PROXY, DEMO, CONSOLE)
}
