"""The firewall's part of connections: what comes in for them, what passes, what never leaves."""

from typing import Unpack

from agent.document.site import NicRole
from agent.engine.model import (
    ACCEPT,
    DROP,
    RETURN,
    AddressSet,
    Chain,
    ClampMss,
    Family,
    IPNetwork,
    IpsecPolicy,
    Jump,
    Ports,
    Protocol,
    Rule,
    RuleMatch,
    SetMatch,
    Table,
    Target,
    pointer,
)
from agent.services import TUNNELS_CHAIN, Context, Nic, host_network, sources
from agent.services.firewall import SERVICES_CHAIN
from agent.services.ipsec.section import SECTION, Section, Tunnel

IKE, NAT_T = Ports(500, 500), Ports(4500, 4500)
_CLEAR, _MSS = "tunnels-clear", "tunnels-mss"
_IN, _OUT = "tunnels-in", "tunnels-out"

# The most that a tunnel adds to a packet, bytes, besides an IP header: UDP 8, ESP 8,
# initialisation vector 16, padding and trailer 17, integrity check value 32 (RFC 4303).
_OVERHEAD = 8 + 8 + 16 + 17 + 32


class Rules:
    """The firewall's part of all connections."""

    def __init__(self, section: Section, context: Context) -> None:
        self._section = section
        self._context = context
        self.chains: list[Chain] = []
        self.rules: list[Rule] = []
        self.sets: dict[str, AddressSet] = {}

    def render(self) -> None:
        for family in Family:
            self._frame(family)
            for name, tunnel in sorted(self._section.connections.items()):
                path = pointer(SECTION, "connections", name)
                if tunnel.local_address.version == family:
                    self._exchange(family, tunnel, path)
                for number, remote in enumerate(tunnel.remote_subnets):
                    if remote.version == family:
                        where = f"{path}/remote_subnets/{number}"
                        self._passage(family, tunnel, remote, where)

    def _rule(
        self,
        family: Family,
        table: Table,
        chain: str,
        target: Target,
        comment: str,
        **match: Unpack[RuleMatch],
    ) -> None:
        self.rules.append(
            Rule(
                family=family,
                table=table,
                chain=chain,
                target=target,
                owner=SECTION,
                comment=comment,
                **match,
            )
        )

    def _frame(self, family: Family) -> None:
        """What came out of a tunnel, and what goes into one; and what would leave without one."""
        for chain in (_IN, _OUT):
            self.chains.append(Chain(family, Table.FILTER, chain, SECTION))
        for chain in (_CLEAR, _MSS):
            self.chains.append(Chain(family, Table.MANGLE, chain, SECTION))
        self.chains.append(Chain(family, Table.MANGLE, "POSTROUTING", SECTION, "ACCEPT"))
        filtered = family, Table.FILTER, TUNNELS_CHAIN
        self._rule(*filtered, Jump(_IN), "sysvm: out of a tunnel", policy=IpsecPolicy.CAME_IN)
        self._rule(*filtered, Jump(_OUT), "sysvm: into a tunnel", policy=IpsecPolicy.GOES_OUT)
        mangled = family, Table.MANGLE, "POSTROUTING"
        self._rule(
            *mangled, Jump(_MSS), "sysvm: clamp MSS of tunnels", protocol=Protocol.TCP, syn=True
        )
        for nic in self._context.nics_of(NicRole.PUBLIC):
            self._rule(
                *mangled,
                Jump(_CLEAR),
                f"sysvm: not in clear by {nic.name}",
                out_nic=nic.name,
                policy=IpsecPolicy.GOES_OUT_CLEAR,
            )
        # A peer may stand in a network that it has a tunnel for.
        clear = family, Table.MANGLE, _CLEAR
        self._rule(*clear, RETURN, "sysvm: ESP itself", protocol=Protocol.ESP)
        for ports in (IKE, NAT_T):
            self._rule(*clear, RETURN, f"sysvm: IKE to {ports}", protocol=Protocol.UDP, ports=ports)

    def _exchange(self, family: Family, tunnel: Tunnel, path: str) -> None:
        """IKE and ESP, from the peer alone where its address is known."""
        nic = self._context.nic_of_address(tunnel.local_address)
        peer = tunnel.peer_address
        match = RuleMatch(
            in_nic=nic.name if nic else None,
            source=host_network(peer) if peer else None,
            destination=host_network(tunnel.local_address),
        )
        services = family, Table.FILTER, SERVICES_CHAIN
        for ports in (IKE, NAT_T):
            exchange = match | RuleMatch(protocol=Protocol.UDP, ports=ports)
            self._rule(*services, ACCEPT, f"{path} UDP {ports}", **exchange)
        traffic = match | RuleMatch(protocol=Protocol.ESP)
        self._rule(*services, ACCEPT, f"{path} ESP", **traffic)

    def _passage(self, family: Family, tunnel: Tunnel, remote: IPNetwork, path: str) -> None:
        """What one remote subnet and the local ones say to each other."""
        own = tuple(network for network in tunnel.local_subnets if network.version == family)
        network, address_set = sources(own, family, SECTION) or (None, None)
        if address_set is not None:
            self.sets[address_set.name] = address_set
        incoming = RuleMatch(source=remote, destination=network, flow_sources=(remote,))
        outgoing = RuleMatch(source=network, destination=remote, flow_sources=own)
        if address_set is not None:
            incoming["sets"] = (SetMatch(address_set.name, "dst"),)
            outgoing["sets"] = (SetMatch(address_set.name, "src"),)
        clear = RuleMatch(destination=remote, flow_sources=own)
        self._rule(family, Table.FILTER, _IN, ACCEPT, path, **incoming)
        self._rule(family, Table.FILTER, _OUT, ACCEPT, path, **outgoing)
        self._pings(family, remote, path)
        self._rule(family, Table.MANGLE, _CLEAR, DROP, path, **clear)
        size = ClampMss(tunnel.mss or self._mss(family, tunnel))
        out = RuleMatch(protocol=Protocol.TCP, syn=True, destination=remote)
        back = RuleMatch(protocol=Protocol.TCP, syn=True, source=remote)
        self._rule(family, Table.MANGLE, _MSS, size, f"{path} out", **out)
        self._rule(family, Table.MANGLE, _MSS, size, f"{path} in", **back)
        if family is Family.V4:
            self._rule(family, Table.NAT, TUNNELS_CHAIN, ACCEPT, path, **outgoing)

    def _pings(self, family: Family, remote: IPNetwork, path: str) -> None:
        """The VM's own addresses in guest networks answer who looks whether a tunnel works."""
        six = family is Family.V6
        for nic in self._context.nics_of(NicRole.GUEST):
            for address in nic.addresses:
                if address.version == family:
                    self._rule(
                        family,
                        Table.FILTER,
                        SERVICES_CHAIN,
                        ACCEPT,
                        f"{path} ping to {address.ip}",
                        source=remote,
                        destination=host_network(address.ip),
                        protocol=Protocol.ICMPV6 if six else Protocol.ICMP,
                        icmp_type=128 if six else 8,
                        policy=IpsecPolicy.CAME_IN,
                    )

    def _mss(self, inner: Family, tunnel: Tunnel) -> int:
        nic: Nic | None = self._context.nic_of_address(tunnel.local_address)
        mtu = nic.mtu if nic else 1500
        outer = tunnel.local_address.version
        headers = {Family.V4: 40, Family.V6: 60}[inner]
        return mtu - {4: 20, 6: 40}[outer] - _OVERHEAD - headers
