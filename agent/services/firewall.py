"""The firewall: closed by itself, and open to what the document names.

What comes in is decided by one chain for each public address, which matches the address and port
that a packet was sent to (its original destination), whether a forward, a static NAT or a
listener of the VM takes it. Established flows come first, so that a packet of theirs costs the
same whatever the number of rules.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Unpack

from pydantic import Field

from agent.document.site import NicRole
from agent.document.types import AnyAddress, AnyNetwork, Bool, Id, Int, PortRange
from agent.document.types import Section as Base
from agent.engine.model import (
    ACCEPT,
    DROP,
    RETURN,
    AddressSet,
    Artifacts,
    Chain,
    ClampMss,
    Command,
    Family,
    IPAddress,
    IPNetwork,
    Jump,
    Probe,
    Problem,
    Protocol,
    Rule,
    RuleMatch,
    SetMatch,
    Table,
    Verdict,
    pointer,
)
from agent.roles import EVERY_ROLE
from agent.services import TUNNELS_CHAIN, Context, Nic, host_network, ingress_chain, sources

SECTION = "firewall"
ROLES = EVERY_ROLE
UNITS: frozenset[str] = frozenset()

# The chain that openings of services go to; `agent.engine.compose` fills it.
SERVICES_CHAIN = "services"


class RuleProtocol(enum.StrEnum):
    """What a rule is about. `all` is every protocol."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"
    ESP = "esp"
    AH = "ah"
    GRE = "gre"
    ALL = "all"


class Policy(enum.StrEnum):
    """What happens to what no rule names."""

    ALLOW = "allow"
    DENY = "deny"


class TrafficMatch(Base):
    """Protocol, ports and ICMP types, as every rule of the firewall matches them."""

    protocol: Annotated[RuleProtocol, Field(description="The protocol; `all` is every one.")]
    ports: Annotated[
        PortRange | None,
        Field(description="Destination port or range, for tcp and udp. Every port by default."),
    ] = None
    icmp_type: Annotated[
        Int | None, Field(ge=0, le=255, description="ICMP type, such as 8. All by default.")
    ] = None
    icmp_code: Annotated[
        Int | None, Field(ge=0, le=255, description="ICMP code, with a type. All by default.")
    ] = None


class IngressRule(TrafficMatch):
    """What may come in for a public address."""

    sources: Annotated[
        tuple[AnyNetwork, ...],
        Field(description="Where it may come from; from everywhere where the list is empty."),
    ] = ()


class EgressRule(TrafficMatch):
    """What guests may send out, where the policy is `deny`; or may not, where it is `allow`."""

    sources: Annotated[
        tuple[AnyNetwork, ...],
        Field(description="Guests that it is about; all of them where the list is empty."),
    ] = ()
    destinations: Annotated[
        tuple[AnyNetwork, ...],
        Field(description="Where to; everywhere where the list is empty."),
    ] = ()


class Egress(Base):
    """What guests may send out."""

    policy: Annotated[
        Policy, Field(description="For what no rule names; the rules are its exceptions.")
    ] = Policy.ALLOW
    rules: Annotated[Mapping[Id, EgressRule], Field(description="Exceptions, by id.")] = {}


class Section(Base):
    """What may come in, by public address, and what guests may send out."""

    ingress: Annotated[
        Mapping[AnyAddress, Mapping[Id, IngressRule]],
        Field(
            description="Rules by public address and id; what none of them names is dropped. "
            "They match the address and port that a packet was sent to, before any translation.",
            examples=[{"203.0.113.10": {"web": {"protocol": "tcp", "ports": 80}}}],
        ),
    ] = {}
    egress: Annotated[Egress, Field(description="What guests may send out.")] = Egress()
    anti_spoofing: Annotated[
        Bool,
        Field(
            description="Drop packets from guests that do not carry an address of their network, "
            "and packets from elsewhere that do."
        ),
    ] = True


ABSENT = Section()


def lint(section: Section, context: Context) -> Iterator[Problem]:
    public = set(context.public_addresses())
    for address, rules in section.ingress.items():
        if address not in public:
            yield Problem(
                pointer(SECTION, "ingress", address),
                "is not an address of a public NIC",
                f"one of {', '.join(sorted(map(str, public)))}" if public else "there is none",
            )
        for name, rule in rules.items():
            path = (SECTION, "ingress", address, name)
            yield from _lint_match(rule, path)
            yield from _lint_family(rule, address.version, path)
            for source in rule.sources:
                if source.version != address.version:
                    yield Problem(
                        pointer(*path, "sources"), f"{source} is not of the address's family"
                    )
    for name, exception in section.egress.rules.items():
        yield from _lint_egress(exception, (SECTION, "egress", "rules", name))


def _lint_egress(rule: EgressRule, path: tuple[object, ...]) -> Iterator[Problem]:
    yield from _lint_match(rule, path)
    versions = {4, 6}
    for networks in (rule.sources, rule.destinations):
        if networks:
            versions &= {network.version for network in networks}
    if not versions:
        yield Problem(pointer(*path), "has sources and destinations of no common family")
    for version in versions if len(versions) == 1 else ():
        yield from _lint_family(rule, version, path)


def _lint_match(rule: TrafficMatch, path: tuple[object, ...]) -> Iterator[Problem]:
    ported = rule.protocol in {RuleProtocol.TCP, RuleProtocol.UDP}
    if rule.ports is not None and not ported:
        yield Problem(pointer(*path, "ports"), f"{rule.protocol} has no ports")
    echo = rule.protocol in {RuleProtocol.ICMP, RuleProtocol.ICMPV6}
    if rule.icmp_type is not None and not echo:
        yield Problem(pointer(*path, "icmp_type"), f"{rule.protocol} has no ICMP types")
    if rule.icmp_code is not None and rule.icmp_type is None:
        yield Problem(pointer(*path, "icmp_code"), "needs an icmp_type")


def _lint_family(rule: TrafficMatch, version: int, path: tuple[object, ...]) -> Iterator[Problem]:
    wrong = {4: RuleProtocol.ICMPV6, 6: RuleProtocol.ICMP}[version]
    if rule.protocol is wrong:
        right = {4: RuleProtocol.ICMP, 6: RuleProtocol.ICMPV6}[version]
        yield Problem(pointer(*path, "protocol"), f"is not one of IPv{version}'s", right)


def render(section: Section, context: Context) -> Artifacts:
    chains: list[Chain] = []
    rules: list[Rule] = []
    sets: dict[str, AddressSet] = {}
    for family in Family:
        builder = _Builder(family, chains, rules, sets)
        _input(builder, context)
        _forward(builder, context)
        for address in context.public_addresses():
            if address.version == family:
                _ingress(builder, address, section.ingress.get(address, {}))
        _egress(builder, section.egress, context)
        if section.anti_spoofing:
            _anti_spoofing(builder, context)
        builder.chain(Table.MANGLE, "FORWARD", "ACCEPT")
        builder.rule(
            Table.MANGLE, "FORWARD", ClampMss(), "sysvm: clamp MSS", protocol=Protocol.TCP, syn=True
        )
    return Artifacts(chains=tuple(chains), rules=tuple(rules), sets=tuple(sets.values()))


def check(section: Section, context: Context, artifacts: Artifacts) -> tuple[Command, ...]:
    return ()  # the rehearsal is the checker


def probe(section: Section, context: Context, artifacts: Artifacts) -> tuple[Probe, ...]:
    return ()  # reading the tables back is the proof


def inspect(section: Section, context: Context) -> tuple[Command, ...]:
    return (
        Command(("iptables-nft-save", "-c")),
        Command(("ip6tables-nft-save", "-c")),
        Command(("ipset", "list", "-terse")),
        Command(("conntrack", "-S")),
    )


class _Builder:
    """Collects chains, rules and sets of one family under the firewall's name."""

    def __init__(
        self,
        family: Family,
        chains: list[Chain],
        rules: list[Rule],
        sets: dict[str, AddressSet],
    ) -> None:
        self.family = family
        self._chains = chains
        self._rules = rules
        self._sets = sets

    def chain(self, table: Table, name: str, policy: str | None = None) -> None:
        self._chains.append(Chain(self.family, table, name, SECTION, policy))

    def rule(
        self,
        table: Table,
        chain: str,
        target: Verdict | Jump | ClampMss,
        comment: str,
        **match: Unpack[RuleMatch],
    ) -> None:
        self._rules.append(
            Rule(
                family=self.family,
                table=table,
                chain=chain,
                target=target,
                owner=SECTION,
                comment=comment,
                **match,
            )
        )

    def put(self, address_set: AddressSet, direction: str) -> SetMatch:
        self._sets[address_set.name] = address_set
        return SetMatch(address_set.name, direction)


def _input(builder: _Builder, context: Context) -> None:
    """The VM itself: established, its own, neighbours, pings from guests, then its services."""

    def rule(target: Verdict | Jump, comment: str, **match: Unpack[RuleMatch]) -> None:
        builder.rule(Table.FILTER, "INPUT", target, comment, **match)

    builder.chain(Table.FILTER, "INPUT", "DROP")
    builder.chain(Table.FILTER, SERVICES_CHAIN)
    rule(ACCEPT, "sysvm: established", states=("RELATED", "ESTABLISHED"))
    rule(ACCEPT, "sysvm: loopback", in_nic="lo")
    rule(DROP, "sysvm: invalid", states=("INVALID",))
    six = builder.family is Family.V6
    icmp = Protocol.ICMPV6 if six else Protocol.ICMP
    if six:  # neighbour discovery (RFC 4861), without which there is no IPv6 at all
        for kind in (133, 134, 135, 136):
            rule(ACCEPT, f"sysvm: neighbour discovery {kind}", protocol=icmp, icmp_type=kind)
    for nic in context.nics_of(NicRole.GUEST):
        rule(
            ACCEPT,
            f"sysvm: ping from guests of {nic.name}",
            in_nic=nic.name,
            protocol=icmp,
            icmp_type=128 if six else 8,
        )
    rule(Jump(SERVICES_CHAIN), "sysvm: services")
    for address in context.public_addresses():
        if address.version == builder.family:
            rule(
                Jump(ingress_chain(address)),
                f"sysvm: ping to {address}",
                destination=host_network(address),
                protocol=icmp,
            )


def _forward(builder: _Builder, context: Context) -> None:
    """Through the VM: established, what was translated on its way in, what guests send out.

    And what stays in a guest network, to and from the networks that are routed by way of a guest.
    """

    def rule(target: Verdict | Jump, comment: str, **match: Unpack[RuleMatch]) -> None:
        builder.rule(Table.FILTER, "FORWARD", target, comment, **match)

    builder.chain(Table.FILTER, "FORWARD", "DROP")
    builder.chain(Table.FILTER, "egress")
    builder.chain(Table.FILTER, TUNNELS_CHAIN)
    rule(ACCEPT, "sysvm: established", states=("RELATED", "ESTABLISHED"))
    rule(DROP, "sysvm: invalid", states=("INVALID",))
    rule(Jump(TUNNELS_CHAIN), "sysvm: tunnels")
    for address in context.public_addresses():
        if address.version == builder.family:
            rule(
                Jump(ingress_chain(address)),
                f"sysvm: translated from {address}",
                states=("DNAT",),
                original_destination=address,
            )
    for guest in context.nics_of(NicRole.GUEST):
        for public in context.nics_of(NicRole.PUBLIC):
            rule(
                Jump("egress"),
                f"sysvm: egress {guest.name} to {public.name}",
                in_nic=guest.name,
                out_nic=public.name,
            )
        name = guest.name
        for network in context.routed.get(name, ()):
            if network.version == builder.family:
                rule(ACCEPT, f"sysvm: to {network}", in_nic=name, out_nic=name, destination=network)
                rule(ACCEPT, f"sysvm: from {network}", in_nic=name, out_nic=name, source=network)


def _ingress(builder: _Builder, address: IPAddress, rules: Mapping[str, IngressRule]) -> None:
    name = ingress_chain(address)
    builder.chain(Table.FILTER, name)
    for key, rule in sorted(rules.items()):
        match = sources(rule.sources, builder.family, SECTION)
        if match is None:
            continue
        traffic = _traffic(rule, original=True)
        traffic["source"] = match[0]
        traffic["sets"] = (builder.put(match[1], "src"),) if match[1] else ()
        traffic["flow_destination"] = host_network(address)
        path = pointer(SECTION, "ingress", address, key)
        builder.rule(Table.FILTER, name, ACCEPT, path, **traffic)
    builder.rule(Table.FILTER, name, DROP, pointer(SECTION, "ingress", address))


def _egress(builder: _Builder, egress: Egress, context: Context) -> None:
    guests = tuple(
        network
        for nic in context.nics_of(NicRole.GUEST)
        for network in _own_networks(nic, context, builder.family)
    )
    exception, otherwise = (DROP, ACCEPT) if egress.policy is Policy.ALLOW else (ACCEPT, DROP)
    for key, rule in sorted(egress.rules.items()):
        if rule.protocol in {RuleProtocol.ICMP, RuleProtocol.ICMPV6} and (
            (rule.protocol is RuleProtocol.ICMPV6) is not (builder.family is Family.V6)
        ):
            continue
        source = sources(rule.sources, builder.family, SECTION)
        destination = sources(rule.destinations, builder.family, SECTION)
        if source is None or destination is None:
            continue
        traffic = _traffic(rule, original=False)
        traffic["source"], traffic["destination"] = source[0], destination[0]
        traffic["sets"] = tuple(
            builder.put(address_set, direction)
            for address_set, direction in ((source[1], "src"), (destination[1], "dst"))
            if address_set
        )
        traffic["flow_sources"] = guests
        path = pointer(SECTION, "egress", "rules", key)
        builder.rule(Table.FILTER, "egress", exception, path, **traffic)
    builder.rule(
        Table.FILTER,
        "egress",
        otherwise,
        pointer(SECTION, "egress", "policy"),
        flow_sources=guests,
    )


def _traffic(rule: TrafficMatch, *, original: bool) -> RuleMatch:
    if rule.protocol is RuleProtocol.ALL:
        return {}
    match: RuleMatch = {
        "protocol": Protocol(rule.protocol.value),
        "icmp_type": rule.icmp_type,
        "icmp_code": rule.icmp_code,
    }
    match["original_ports" if original else "ports"] = rule.ports
    return match


def _anti_spoofing(builder: _Builder, context: Context) -> None:
    """Guests speak with addresses of their networks only, and nobody else does (RFC 2827)."""
    builder.chain(Table.RAW, "PREROUTING", "ACCEPT")
    guests = context.nics_of(NicRole.GUEST)
    for nic in guests:
        own = tuple(_own_networks(nic, context, builder.family))
        chain = f"spoof-{nic.name}"
        builder.chain(Table.RAW, chain)
        builder.rule(
            Table.RAW,
            "PREROUTING",
            Jump(chain),
            f"sysvm: anti-spoofing {nic.name}",
            in_nic=nic.name,
        )
        for network in (*own, *_UNNUMBERED[builder.family]):
            builder.rule(Table.RAW, chain, RETURN, f"sysvm: own network {network}", source=network)
        builder.rule(Table.RAW, chain, DROP, "sysvm: spoofed by a guest")
    for nic in context.nics:
        if nic.role is NicRole.GUEST:
            continue
        for guest in guests:
            for network in guest.networks(builder.family):
                builder.rule(
                    Table.RAW,
                    "PREROUTING",
                    DROP,
                    f"sysvm: {network} from {nic.name}",
                    in_nic=nic.name,
                    source=network,
                )


# Who has no address yet: DHCP's client (RFC 2131), and IPv6's own ways of finding one.
_UNNUMBERED: Mapping[Family, tuple[IPNetwork, ...]] = {
    Family.V4: (IPv4Network("0.0.0.0/32"),),
    Family.V6: (IPv6Network("fe80::/10"), IPv6Network("::/128")),
}


def _own_networks(nic: Nic, context: Context, family: Family) -> Iterable[IPNetwork]:
    yield from nic.networks(family)
    yield from (n for n in context.routed.get(nic.name, ()) if n.version == family)
