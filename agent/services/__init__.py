"""Services: one module, one template folder and one test file each.

A service module (a file, or a package where it is large) declares its section of the document and
five functions over it; `discover` finds the modules, and the document's type is assembled from what
is found, so that nothing else is edited to add a service. See docs/developing.md.
"""

import functools
import hashlib
import importlib
import pkgutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Protocol

import jinja2

from agent.document.boot import BootConfig
from agent.document.site import NicRole
from agent.engine.model import (
    ACCEPT,
    AddressSet,
    Artifacts,
    Claim,
    Command,
    Family,
    IPAddress,
    IPInterface,
    IPNetwork,
    Opening,
    Ports,
    Probe,
    Problem,
    Rule,
    SetType,
    Table,
    pointer,
)
from agent.engine.model import Protocol as IpProtocol
from agent.roles import Role

# Where daemons find the running revision's files. While a revision is checked, the checker runs
# in a mount namespace in which this already is the staged one.
CURRENT = "/run/sysvm/current"
# Small files by their SHA-256 (Artifacts.objects) and uploaded blobs, for services that serve them.
OBJECTS = "/run/sysvm/objects"
BLOBS = "/var/lib/sysvm/blobs"


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC of the document together with the name that the kernel gave it."""

    name: str
    mac: str
    role: NicRole
    addresses: tuple[IPInterface, ...]  # in ascending order, IPv4 first
    mtu: int = 1500
    gateway: IPv4Address | None = None
    gateway_ipv6: IPv6Address | None = None

    def networks(self, family: Family) -> tuple[IPNetwork, ...]:
        return tuple(a.network for a in self.addresses if a.version == family)

    def address(self, family: Family) -> IPAddress | None:
        """The NIC's first address of a family: the one that its neighbours know the VM by."""
        return next((a.ip for a in self.addresses if a.version == family), None)

    def holds(self, address: IPAddress) -> bool:
        """Is this one of the NIC's own addresses?"""
        return any(a.ip == address for a in self.addresses)

    def reaches(self, address: IPAddress) -> bool:
        """Is this address in one of the NIC's networks?"""
        return any(address in a.network for a in self.addresses)


@dataclass(frozen=True, slots=True)
class Context:
    """What every service may know besides its own section."""

    role: Role
    hostname: str
    domain: str
    nics: tuple[Nic, ...]  # in the order of their names
    routed: Mapping[str, tuple[IPNetwork, ...]] = field(default_factory=dict)  # by NIC: routes
    boot: BootConfig | None = None  # what the VM was told at boot, where it was told anything

    def nics_of(self, role: NicRole) -> tuple[Nic, ...]:
        return tuple(nic for nic in self.nics if nic.role is role)

    def public_addresses(self) -> tuple[IPAddress, ...]:
        return tuple(a.ip for nic in self.nics_of(NicRole.PUBLIC) for a in nic.addresses)

    def nic_of_address(self, address: IPAddress) -> Nic | None:
        """The NIC that has this address as its own."""
        return next((nic for nic in self.nics if nic.holds(address)), None)

    def guest_nic_reaching(self, address: IPAddress) -> Nic | None:
        """The guest NIC in whose network this address lies."""
        return next((n for n in self.nics_of(NicRole.GUEST) if n.reaches(address)), None)


class Service(Protocol):
    """What a module in this package offers. Modules are checked against it by mypy in the tests.

    All five functions are pure. Paths of problems are whole JSON pointers, made with
    `agent.engine.model.pointer`. A sixth, `untimely(section, now)`, is there where something in a
    section has its time: what it finds is refused in a push, and never of what ran before.
    """

    SECTION: str  # the document's key
    ROLES: frozenset[Role]
    UNITS: frozenset[str]  # systemd units that this service alone starts and stops
    Section: type[Any]  # the section's type, a subclass of document.types.Section
    ABSENT: Any  # the section that a document without it has, or None: the service is not wanted

    def lint(self, section: Any, context: Context) -> Iterable[Problem]:
        """What the types cannot say: references, overlaps, what is not in a network."""

    def render(self, section: Any, context: Context) -> Artifacts:
        """What has to be there. Called only when no service's `lint` found a problem."""

    def check(self, section: Any, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
        """The daemon's own checker, on the staged files under `CURRENT`."""

    def probe(self, section: Any, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
        """How we know that it works with these very files, now and later."""

    def inspect(self, section: Any, context: Context) -> tuple[Command, ...]:
        """What a diagnostics bundle takes."""


@functools.cache
def discover() -> Mapping[str, Service]:
    """Every service module of this package, by its section's key, in order of the module's name."""
    found: dict[str, Service] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module: Any = importlib.import_module(f"{__name__}.{module_info.name}")
        found[module.SECTION] = module
    return found


# Templates as Python, beside this file, where the agent was installed: to compile them takes a
# tenth of the time that a VM needs for itself at boot.
_COMPILED = f"{__path__[0]}/compiled"


@functools.cache
def _environment() -> jinja2.Environment:
    compiled = jinja2.ModuleLoader(_COMPILED)
    return _reading(jinja2.ChoiceLoader([compiled, jinja2.PackageLoader("agent", "templates")]))


def _reading(loader: jinja2.BaseLoader) -> jinja2.Environment:
    return jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - nothing here is HTML; types keep every value harmless
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )


def compile_templates() -> None:
    """Compile all templates where this package lies; for whoever installs the agent."""
    sources = _reading(jinja2.PackageLoader("agent", "templates"))
    sources.compile_templates(_COMPILED, zip=None, ignore_errors=False)


# The chains (filter, nat) that come before what guests send out is judged or translated: what
# goes through a tunnel is neither. The firewall and NAT own them, services with tunnels fill them.
TUNNELS_CHAIN = "tunnels"


@functools.lru_cache(64)
def host_network(address: IPAddress) -> IPNetwork:
    """An address as a network of one; many rules are about the same few."""
    return IPv4Network(address) if address.version == 4 else IPv6Network(address)


def ingress_chain(address: IPAddress) -> str:
    """The chain that decides what may come in for a public address; the firewall owns it."""
    if address.version == 4:
        return f"in4-{address}"
    return f"in6-{hashlib.sha256(address.packed).hexdigest()[:16]}"


# Where a service listens: NICs with one of their addresses each.
Listening = tuple[tuple[Nic, IPAddress], ...]


def control_addresses(context: Context) -> Listening:
    """Every address of the control NICs that a service can be bound to."""
    return tuple(
        (nic, interface.ip)
        for nic in context.nics_of(NicRole.CONTROL)
        for interface in nic.addresses
        if not interface.is_link_local or interface.version == 4
    )


def guest_addresses(context: Context) -> Listening:
    """Every IPv4 address of the guest NICs."""
    return tuple(
        (nic, interface.ip)
        for nic in context.nics_of(NicRole.GUEST)
        for interface in nic.addresses
        if interface.version == 4
    )


def openings(
    listening: Listening, port: int, owner: str, what: str, gate: str = ""
) -> tuple[Opening, ...]:
    """A TCP port at these addresses alone; with `gate`, for whom that chain lets through."""
    return tuple(
        Opening(
            nic.name,
            IpProtocol.TCP,
            Ports(port, port),
            owner,
            f"sysvm: {what} at {address}",
            families=(Family(address.version),),
            destination=address,
            gate=gate,
        )
        for nic, address in listening
    )


def claims(listening: Listening, port: int, section: str) -> tuple[Claim, ...]:
    """A TCP port of these addresses, for this section."""
    return tuple(
        Claim(address, IpProtocol.TCP, Ports(port, port), pointer(section))
        for _, address in listening
    )


def with_its_mac(chain: str, owner: str, address: IPv4Address, mac: str) -> Rule:
    """An address of `/OWNER/guests` comes in with its MAC.

    A rule for each: ipset's hash:ip,mac is not in every kernel.
    """
    return Rule(
        family=Family.V4,
        table=Table.FILTER,
        chain=chain,
        target=ACCEPT,
        owner=owner,
        comment=f"/{owner}/guests/{address}",
        source=IPv4Network(int(address)),
        source_mac=mac,
    )


def sources(
    networks: Collection[IPNetwork], family: Family, owner: str
) -> tuple[IPNetwork | None, AddressSet | None] | None:
    """How a rule of this family matches any of `networks`: by itself, or by a set.

    None where the list has no network of this family and so nothing matches; an empty list
    matches everything. Equal lists share a set, which is named for what is in it.
    """
    if not networks:
        return None, None
    own = sorted({network for network in networks if network.version == family}, key=str)
    if not own:
        return None
    if any(network.prefixlen == 0 for network in own):  # which a set cannot hold
        return None, None
    if len(own) == 1:
        return own[0], None
    members = frozenset(_set_member(network) for network in own)
    digest = hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()[:20]
    name = f"list{int(family)}-{digest}"
    return None, AddressSet(name, family, SetType.NET, members, owner)


def _set_member(network: IPNetwork) -> str:
    """A network as ipset(8) prints it: a host without its prefix length."""
    alone = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if alone else str(network)


def fill(template: str, **values: object) -> bytes:
    """The text of `templates/<template>` with these values; an undefined name is an error."""
    return _environment().get_template(template).render(**values).encode()
