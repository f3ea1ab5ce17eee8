"""Network address translation: how guests go out, and what leads in to them.

A forward or a static NAT translates and opens nothing: what may come in is the firewall's
ingress section alone. Guests reach a public address of their own network as outsiders do
(hairpin), under the same ingress rules.
"""

import enum
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Unpack
from typing import Protocol as TypingProtocol

from pydantic import Field

from agent.document.site import NicRole
from agent.document.types import Id, Ipv4, Ipv4Net, PortRange
from agent.document.types import Section as Base
from agent.engine.model import (
    AddressSet,
    Artifacts,
    Chain,
    Claim,
    Command,
    Dnat,
    Family,
    Jump,
    Ports,
    Probe,
    Problem,
    Protocol,
    Rule,
    RuleMatch,
    SetMatch,
    Snat,
    Table,
    Target,
    pointer,
)
from agent.roles import ROUTERS
from agent.services import TUNNELS_CHAIN, Context, host_network, sources

SECTION = "nat"
ROLES = ROUTERS
UNITS: frozenset[str] = frozenset()


class ForwardProtocol(enum.StrEnum):
    """What has ports to forward."""

    TCP = "tcp"
    UDP = "udp"


class StaticNat(Base):
    """One public address that is one guest's: in and out, every protocol and port."""

    to: Annotated[Ipv4, Field(description="The guest's address.")]


class Forward(Base):
    """Ports of a public address that lead to a guest."""

    address: Annotated[Ipv4, Field(description="The public address.")]
    protocol: Annotated[ForwardProtocol, Field(description="tcp or udp.")]
    ports: Annotated[PortRange, Field(description="Port or range at the public address.")]
    to: Annotated[Ipv4, Field(description="The guest's address.")]
    to_ports: Annotated[
        PortRange | None,
        Field(
            description="Port or range at the guest: a single one, or as many as `ports` has, "
            "first to first. The same as `ports` by default."
        ),
    ] = None
    sources: Annotated[
        tuple[Ipv4Net, ...],
        Field(description="Whom it is for; everybody where the list is empty."),
    ] = ()


class Section(Base):
    """Source NAT, static NAT and port forwarding, all of IPv4."""

    source_address: Annotated[
        Ipv4 | None,
        Field(
            description="The public address that guests without static NAT go out with. Without "
            "one they go out with their own."
        ),
    ] = None
    static: Annotated[
        Mapping[Ipv4, StaticNat],
        Field(
            description="Static NAT by public address.",
            examples=[{"203.0.113.12": {"to": "10.1.1.12"}}],
        ),
    ] = {}
    forwards: Annotated[
        Mapping[Id, Forward],
        Field(
            description="Port forwards by id.",
            examples=[
                {
                    "ssh": {
                        "address": "203.0.113.10",
                        "protocol": "tcp",
                        "ports": 2222,
                        "to": "10.1.1.10",
                        "to_ports": 22,
                    }
                }
            ],
        ),
    ] = {}


ABSENT = Section()


def lint(section: Section, context: Context) -> Iterator[Problem]:
    if section.source_address is not None:
        yield from _lint_public(section.source_address, context, (SECTION, "source_address"))
    taken: dict[IPv4Address, IPv4Address] = {}
    for address, static in section.static.items():
        path = (SECTION, "static", address)
        yield from _lint_public(address, context, path)
        yield from _lint_guest(static.to, context, (*path, "to"))
        if static.to in taken:
            yield Problem(pointer(*path, "to"), f"{static.to} has {taken[static.to]} already")
        taken[static.to] = address
        if address == section.source_address:
            yield Problem(pointer(*path), "is the address of source NAT, and so everybody's")
    for name, forward in section.forwards.items():
        entry = (SECTION, "forwards", name)
        yield from _lint_public(forward.address, context, (*entry, "address"))
        yield from _lint_guest(forward.to, context, (*entry, "to"))
        there = forward.to_ports
        if there is not None and there.first != there.last and _size(there) != _size(forward.ports):
            yield Problem(
                pointer(*entry, "to_ports"),
                f"has {_size(there)} ports for {_size(forward.ports)}",
                "one port, or as many",
            )


def _lint_public(
    address: IPv4Address, context: Context, path: tuple[object, ...]
) -> Iterator[Problem]:
    public = context.public_addresses()
    if address not in public:
        known = ", ".join(str(a) for a in public if a.version == 4)
        yield Problem(
            pointer(*path),
            f"{address} is not an address of a public NIC",
            f"one of {known}" if known else "there is none",
        )


def _lint_guest(
    address: IPv4Address, context: Context, path: tuple[object, ...]
) -> Iterator[Problem]:
    nic = context.guest_nic_reaching(address)
    if nic is None:
        yield Problem(pointer(*path), f"{address} is not in a guest network")
    elif nic.holds(address):
        yield Problem(pointer(*path), f"{address} is the VM's own address")


def _size(ports: Ports) -> int:
    return ports.last - ports.first + 1


def render(section: Section, context: Context) -> Artifacts:
    chains: dict[str, Chain] = {}
    rules: list[Rule] = []
    claims: list[Claim] = []
    sets: dict[str, AddressSet] = {}

    def rule(chain: str, target: Target, comment: str, **match: Unpack[RuleMatch]) -> None:
        rules.append(
            Rule(
                family=Family.V4,
                table=Table.NAT,
                chain=chain,
                target=target,
                owner=SECTION,
                comment=comment,
                **match,
            )
        )

    for name in ("PREROUTING", "POSTROUTING"):
        chains[name] = Chain(Family.V4, Table.NAT, name, SECTION, "ACCEPT")
    chains[TUNNELS_CHAIN] = Chain(Family.V4, Table.NAT, TUNNELS_CHAIN, SECTION)
    rule("POSTROUTING", Jump(TUNNELS_CHAIN), "sysvm: tunnels")
    translated = {forward.address for forward in section.forwards.values()} | set(section.static)
    for address in sorted(translated):
        chains[_chain(address)] = Chain(Family.V4, Table.NAT, _chain(address), SECTION)
        rule(
            "PREROUTING",
            Jump(_chain(address)),
            f"sysvm: to {address}",
            destination=host_network(address),
        )
    for key, forward in sorted(section.forwards.items()):
        path = pointer(SECTION, "forwards", key)
        protocol = Protocol(forward.protocol.value)
        network, address_set = sources(forward.sources, Family.V4, SECTION) or (None, None)
        if address_set:
            sets[address_set.name] = address_set
        rule(
            _chain(forward.address),
            _translation(forward),
            path,
            source=network,
            protocol=protocol,
            ports=forward.ports,
            sets=(SetMatch(address_set.name, "src"),) if address_set else (),
            flow_destination=host_network(forward.address),
        )
        claims.append(Claim(forward.address, protocol, forward.ports, path))
    for address, static in sorted(section.static.items()):
        path = pointer(SECTION, "static", address)
        rule(_chain(address), Dnat(static.to), path, flow_destination=host_network(address))
        claims.append(Claim(address, None, None, path))
    _outbound(section, context, rule)
    return Artifacts(
        chains=tuple(chains.values()),
        rules=tuple(rules),
        sets=tuple(sets.values()),
        claims=tuple(claims),
    )


class _AddRule(TypingProtocol):
    """The type of `render`'s inner function."""

    def __call__(
        self, chain: str, target: Target, comment: str, **match: Unpack[RuleMatch]
    ) -> None: ...


def _outbound(section: Section, context: Context, rule: "_AddRule") -> None:
    """Hairpin first (it stays inside), then static NAT, then everybody."""
    for nic in context.nics_of(NicRole.GUEST):
        own = nic.address(Family.V4)
        if own is None:
            continue
        for network in nic.networks(Family.V4):
            rule(
                "POSTROUTING",
                Snat(own),
                f"sysvm: hairpin {network}",
                source=network,
                destination=network,
                out_nic=nic.name,
                states=("DNAT",),
            )
    for address, static in sorted(section.static.items()):
        public = context.nic_of_address(address)
        rule(
            "POSTROUTING",
            Snat(address),
            pointer(SECTION, "static", address, "to"),
            source=host_network(static.to),
            out_nic=public.name if public else None,
        )
    if section.source_address is None:
        return
    public = context.nic_of_address(section.source_address)
    for nic in context.nics_of(NicRole.GUEST):
        routed = [n for n in context.routed.get(nic.name, ()) if isinstance(n, IPv4Network)]
        for network in (*nic.networks(Family.V4), *routed):
            rule(
                "POSTROUTING",
                Snat(section.source_address),
                pointer(SECTION, "source_address"),
                source=network,
                out_nic=public.name if public else None,
            )


def _translation(forward: Forward) -> Dnat:
    there = forward.to_ports
    if there is None or there == forward.ports:
        return Dnat(forward.to)
    if there.first == there.last:
        return Dnat(forward.to, there)
    return Dnat(forward.to, there, base=forward.ports.first)


def _chain(address: IPv4Address) -> str:
    return f"to4-{address}"


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    return ()  # the rehearsal is the checker


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    return ()  # reading the tables back is the proof


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (Command(("conntrack", "-L", "-o", "extended")),)
