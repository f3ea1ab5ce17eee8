"""Links, addresses, routes, policy rules and tracked connections, over rtnetlink(7).

Routes and policy rules of ours carry the protocol number 77; no other is ever changed. The only
module that imports pyroute2, and of it only how messages are laid out.
"""

import contextlib
import errno
import re
import socket
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from agent import lean
from agent.engine.host import StepFailed
from agent.engine.model import Address, Family, IPAddress, IPNetwork, Link, PolicyRule, Route
from agent.system import netlink_socket
from agent.system.netlink_socket import CREATE, EXCLUSIVE, REPLACE, Channel, KernelRefused

if "pyroute2" not in sys.modules:
    # Its own __init__ imports everything that it has: NDB, SQLite, unittest …, 16 MiB of it.
    lean.know("pyroute2")

from pyroute2.netlink import nla, nlmsg
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

OURS = 77  # rtm_protocol and FRA_PROTOCOL: below 4, the kernel; numbers as in /etc/iproute2

_AF = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_MAC = re.compile(r"(?!00:00:00:00:00:00)(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
_EVERYWHERE = {Family.V4: "0.0.0.0/0", Family.V6: "::/0"}
_FAMILY = {int(af): family for family, af in _AF.items()}
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFA_F_NODAD = 0x02
_IFA_F_TEMPORARY = 0x01  # on IPv4 the same bit says "secondary"
_IFA_F_PERMANENT = 0x80
_SCOPE_GLOBAL = 0
_SCOPE_LINK = 253
_RTN_UNICAST = 1
_RT_SCOPE_NOWHERE = 255  # of a route that is removed: whatever its scope is
_FR_ACT_TO_TBL = 1
_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS

# Kinds of messages (rtnetlink(7)): new; the next numbers remove and get.
_LINK, _ADDRESS, _ROUTE, _RULE = 16, 20, 24, 32
_REMOVE, _GET = 1, 2
_DELETE_FLOW = 0x102  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE

Attributes = Sequence[tuple[str, Any]]


class _LinkMessage(nlmsg):  # type: ignore[misc]  # pyroute2 comes without types
    """ifinfomsg, of which we read a few attributes (pyroute2's own loads each kind of link)."""

    prefix = "IFLA_"
    fields = (
        ("family", "B"), ("pad", "B"), ("type", "H"), ("index", "i"), ("flags", "I"),
        ("change", "I"),
    )  # fmt: skip
    nla_map = (
        (1, "IFLA_ADDRESS", "l2addr"),
        (3, "IFLA_IFNAME", "asciiz"),
        (4, "IFLA_MTU", "uint32"),
        (29, "IFLA_EXT_MASK", "uint32"),
    )


class _FlowMessage(nlmsg):  # type: ignore[misc]  # pyroute2 comes without types
    """nfgenmsg, and what names a tracked connection (linux/netfilter/nfnetlink_conntrack.h)."""

    prefix = "CTA_"
    fields = (("family", "B"), ("version", "B"), ("resource", "H"))
    nla_map = ((1, "CTA_TUPLE_ORIG", "tuple_"),)

    class tuple_(nla):  # type: ignore[misc]  # noqa: N801 - pyroute2 finds it by its name
        nla_flags = 0x8000  # NLA_F_NESTED
        nla_map = ((1, "CTA_TUPLE_IP", "addresses"), (2, "CTA_TUPLE_PROTO", "protocol"))

        class addresses(nla):  # type: ignore[misc]  # noqa: N801
            nla_flags = 0x8000
            nla_map = (
                (1, "CTA_IP_V4_SRC", "ipaddr"),
                (2, "CTA_IP_V4_DST", "ipaddr"),
                (3, "CTA_IP_V6_SRC", "ipaddr"),
                (4, "CTA_IP_V6_DST", "ipaddr"),
            )

        class protocol(nla):  # type: ignore[misc]  # noqa: N801
            nla_flags = 0x8000
            nla_map = (
                (1, "CTA_PROTO_NUM", "uint8"),
                (2, "CTA_PROTO_SRC_PORT", "be16"),
                (3, "CTA_PROTO_DST_PORT", "be16"),
                (4, "CTA_PROTO_ICMP_ID", "be16"),
                (5, "CTA_PROTO_ICMP_TYPE", "uint8"),
                (6, "CTA_PROTO_ICMP_CODE", "uint8"),
                (7, "CTA_PROTO_ICMPV6_ID", "be16"),
                (8, "CTA_PROTO_ICMPV6_TYPE", "uint8"),
                (9, "CTA_PROTO_ICMPV6_CODE", "uint8"),
            )


@dataclass(frozen=True, slots=True)
class Tuple:
    """One direction of a tracked connection; ports, or ICMP's id, type and code."""

    family: Family
    protocol: int
    source: IPAddress
    destination: IPAddress
    ports: tuple[int, int] | None = None
    icmp: tuple[int, int, int] | None = None


class Netlink:
    """One long-lived socket to the kernel, shared by threads; opened again when it breaks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._socket: Channel | None = None

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None

    # -- read ----------------------------------------------------------------------------------

    def links(self) -> tuple[Link, ...]:
        """Every Ethernet interface, by name; loopback and bare tunnels have no MAC address."""
        found = [
            Link(
                name=message.get_attr("IFLA_IFNAME"),
                mac=_mac(message),
                mtu=message.get_attr("IFLA_MTU"),
                up=bool(message["flags"] & _IFF_UP),
            )
            for message in self._list(
                _LINK, _LinkMessage, attrs=[("IFLA_EXT_MASK", _SKIP_STATISTICS)]
            )
            if not message["flags"] & _IFF_LOOPBACK and _MAC.match(_mac(message))
        ]
        return tuple(sorted(found))

    def addresses(self, nics: Collection[str]) -> frozenset[Address]:
        """Permanent addresses of global scope on these NICs."""
        names = {index: name for index, name in socket.if_nameindex() if name in nics}
        return frozenset(
            Address(names[message["index"]], _interface(message))
            for message in self._list(_ADDRESS, ifaddrmsg)
            if message["index"] in names
            and message["family"] in _FAMILY
            and message["scope"] == _SCOPE_GLOBAL
            and _is_permanent(message)
        )

    def routes(self) -> frozenset[Route]:
        """The routes of ours."""
        names = dict(socket.if_nameindex())
        return frozenset(
            _route(message, names)
            for af in _AF.values()
            # The kernel lists ours alone: a VM with 1,000 addresses has 3,000 that are its own.
            for message in self._list(_ROUTE, rtmsg, family=af, proto=OURS)
            if message["proto"] == OURS and message["type"] == _RTN_UNICAST
        )

    def policy_rules(self) -> frozenset[PolicyRule]:
        """The policy rules of ours."""
        return frozenset(
            _policy_rule(message)
            for af in _AF.values()
            for message in self._list(_RULE, fibmsg, family=af)
            if message.get_attr("FRA_PROTOCOL") == OURS and message["action"] == _FR_ACT_TO_TBL
        )

    # -- change --------------------------------------------------------------------------------

    def set_link(self, link: Link) -> None:
        """Set a NIC's MTU, and put it up or down."""
        with self._changing(f"set link {link.name}") as kernel:
            message = _encode(
                _LinkMessage,
                [("IFLA_MTU", link.mtu)],
                index=_index(link.name),
                flags=_IFF_UP if link.up else 0,
                change=_IFF_UP,
            )
            kernel.change(_LINK, message)

    def add_address(self, address: Address) -> None:
        """Add an address. IPv6 skips duplicate address detection: it is usable at once."""
        step = f"add address {address.interface} to {address.nic}"
        with self._changing(step, errno.EEXIST) as kernel:
            kernel.change(_ADDRESS, _address(address, _extras(address)), CREATE | EXCLUSIVE)

    def remove_address(self, address: Address) -> None:
        """Remove an address; fine where it, or its NIC, is not there."""
        step = f"remove address {address.interface} from {address.nic}"
        with self._changing(step, errno.EADDRNOTAVAIL, errno.ENODEV) as kernel:
            kernel.change(_ADDRESS + _REMOVE, _address(address, ()))

    def add_route(self, route: Route) -> None:
        """Add a route, or replace that of ours to the same destination in the same table."""
        with self._changing(f"add route to {route.destination}") as kernel:
            message = _route_message(route)
            try:
                kernel.change(_ROUTE, message, CREATE | EXCLUSIVE)
            except KernelRefused as error:
                if error.code != errno.EEXIST:
                    raise
                self._replace_route(kernel, route, message)

    def remove_route(self, route: Route) -> None:
        """Remove a route of ours; fine where it is not there."""
        step = f"remove route to {route.destination}"
        with self._changing(step, errno.ESRCH, errno.ENODEV) as kernel:
            kernel.change(_ROUTE + _REMOVE, _route_message(route, scope=_RT_SCOPE_NOWHERE))

    def add_policy_rule(self, rule: PolicyRule) -> None:
        """Add a policy rule; the kernel keeps it apart from an equal one of somebody else."""
        with self._changing(f"add policy rule {rule.priority}", errno.EEXIST) as kernel:
            kernel.change(_RULE, _rule(rule), CREATE | EXCLUSIVE)

    def remove_policy_rule(self, rule: PolicyRule) -> None:
        step = f"remove policy rule {rule.priority}"
        with self._changing(step, errno.ENOENT, errno.EAFNOSUPPORT) as kernel:
            kernel.change(_RULE + _REMOVE, _rule(rule))

    # -- inside --------------------------------------------------------------------------------

    def _kernel(self) -> Channel:
        if self._socket is None:
            self._socket = Channel(netlink_socket.ROUTE)
        return self._socket

    def _list(
        self, kind: int, message: type[Any], *, attrs: Attributes = (), **fields: int
    ) -> Iterator[Any]:
        """Ask; where the socket has lost messages or is broken, once more on a new one."""
        body = _encode(message, attrs, **fields)
        with self._lock:
            try:
                answers = self._kernel().listing(kind + _GET, body)
            except KernelRefused as error:
                raise StepFailed("read the network", str(error)) from error
            except OSError:
                self.close()
                try:
                    answers = self._kernel().listing(kind + _GET, body)
                except (KernelRefused, OSError) as error:
                    raise StepFailed("read the network", str(error)) from error
        return (_decode(message, answer) for answer in answers)

    @contextlib.contextmanager
    def _changing(self, step: str, *fine: int) -> Iterator[Channel]:
        """Change something; errors whose number is in `fine` say that it is so already."""
        with self._lock:
            try:
                yield self._kernel()
            except KernelRefused as error:
                if error.code not in fine:
                    raise StepFailed(step, str(error)) from error
            except OSError as error:
                self.close()
                if error.errno not in fine:
                    raise StepFailed(step, str(error)) from error

    def _replace_route(self, kernel: Channel, route: Route, message: bytes) -> None:
        """The kernel has a route to there: replace it if it is ours, leave it if it is not."""
        mine = [
            held
            for held in self.routes()
            if (held.destination, held.table) == (route.destination, route.table)
        ]
        if not mine:
            raise StepFailed(
                f"add route to {route.destination}",
                f"table {route.table} has a route to there that is not ours",
            )
        if route not in mine:
            kernel.change(_ROUTE, message, CREATE | REPLACE)


_HEADER = 16  # bytes of nlmsghdr, which pyroute2 counts as the message's own


def _encode(kind: type[Any], attrs: Attributes = (), **fields: int) -> bytes:
    """A message's body."""
    message = kind()
    message.update(fields)
    message["attrs"] = list(attrs)
    message.encode()
    return bytes(message.data[_HEADER:])


def _decode(kind: type[Any], body: bytes) -> Any:
    """A message, of which attributes are read when they are asked for."""
    message = kind((_HEADER + len(body)).to_bytes(4, sys.byteorder) + bytes(_HEADER - 4) + body)
    message.decode()
    return message


def _mac(message: Any) -> str:
    return str(message.get_attr("IFLA_ADDRESS") or "")


def _index(nic: str) -> int:
    try:
        return socket.if_nametoindex(nic)
    except OSError as error:
        raise KernelRefused(errno.ENODEV, f"there is no NIC {nic}") from error


def forget_flows(tuples: Iterable[Tuple]) -> int:
    """Drop tracked connections by their original direction; how many were still there."""
    with contextlib.closing(Channel(netlink_socket.NETFILTER)) as kernel:
        return sum(_forget(kernel, one) for one in tuples)


def _forget(kernel: Channel, flow: Tuple) -> bool:
    try:
        kernel.change(_DELETE_FLOW, _flow(flow))
    except KernelRefused as error:
        if error.code == errno.ENOENT:
            return False
        raise StepFailed("forget flows", str(error)) from error
    return True


def _flow(flow: Tuple) -> bytes:
    version = f"CTA_IP_V{int(flow.family)}"
    addresses = [(f"{version}_SRC", str(flow.source)), (f"{version}_DST", str(flow.destination))]
    protocol: list[tuple[str, int]] = [("CTA_PROTO_NUM", flow.protocol)]
    if flow.ports is not None:
        source, destination = flow.ports
        protocol += [("CTA_PROTO_SRC_PORT", source), ("CTA_PROTO_DST_PORT", destination)]
    if flow.icmp is not None:
        icmp = "CTA_PROTO_ICMP" if flow.family is Family.V4 else "CTA_PROTO_ICMPV6"
        number, kind, code = flow.icmp
        protocol += [(f"{icmp}_ID", number), (f"{icmp}_TYPE", kind), (f"{icmp}_CODE", code)]
    parts = [("CTA_TUPLE_IP", {"attrs": addresses}), ("CTA_TUPLE_PROTO", {"attrs": protocol})]
    return _encode(_FlowMessage, [("CTA_TUPLE_ORIG", {"attrs": parts})], family=_AF[flow.family])


def _address(address: Address, more: Attributes) -> bytes:
    interface = address.interface
    attrs = [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip)), *more]
    return _encode(
        ifaddrmsg,
        attrs,
        family=_AF[Family(interface.version)],
        prefixlen=interface.network.prefixlen,
        index=_index(address.nic),
    )


def _route_message(route: Route, **fields: int) -> bytes:
    destination = route.destination
    family = _AF[Family(destination.version)]
    attrs = [("RTA_OIF", _index(route.nic)), ("RTA_TABLE", route.table)]
    fields = {
        "family": family,
        "dst_len": destination.prefixlen,
        "table": route.table if route.table < 256 else 0,
        "proto": OURS,
        "type": _RTN_UNICAST,
        **fields,
    }
    texts = []
    if destination.prefixlen:
        texts.append(("RTA_DST", str(destination.network_address)))
    if route.via is not None:
        texts.append(("RTA_GATEWAY", str(route.via)))
    elif destination.version == 4:
        fields.setdefault("scope", _SCOPE_LINK)
    return _encode(rtmsg, [*attrs, *texts], **fields)


def _is_permanent(message: Any) -> bool:
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    temporary = message["family"] == socket.AF_INET6 and flags & _IFA_F_TEMPORARY
    return bool(flags & _IFA_F_PERMANENT) and not temporary


def _interface(message: Any) -> Any:
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ip_interface(f"{address}/{message['prefixlen']}")


def _extras(address: Address) -> Attributes:
    interface = address.interface
    if interface.version == 6:
        return [("IFA_FLAGS", _IFA_F_NODAD)]
    if interface.network.prefixlen >= 31:
        return ()
    return [("IFA_BROADCAST", str(interface.network.broadcast_address))]


def _route(message: Any, names: Mapping[int, str]) -> Route:
    via = message.get_attr("RTA_GATEWAY")
    return Route(
        destination=_network(message.get_attr("RTA_DST"), message["dst_len"], message["family"]),
        via=None if via is None else ip_address(via),
        nic=names.get(message.get_attr("RTA_OIF"), ""),
        table=message.get_attr("RTA_TABLE") or message["table"],
    )


def _network(address: str | None, length: int, af: int) -> IPNetwork:
    return ip_network(f"{address}/{length}" if address else _EVERYWHERE[_FAMILY[af]])


def _policy_rule(message: Any) -> PolicyRule:
    source = message.get_attr("FRA_SRC")
    return PolicyRule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        family=_FAMILY[message["family"]],
        table=message.get_attr("FRA_TABLE") or message["table"],
        source=_network(source, message["src_len"], message["family"]) if source else None,
        mark=message.get_attr("FRA_FWMARK"),
        in_nic=message.get_attr("FRA_IIFNAME"),
    )


def _rule(rule: PolicyRule) -> bytes:
    attrs: list[tuple[str, Any]] = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_TABLE", rule.table),
        ("FRA_PROTOCOL", OURS),
    ]
    if rule.source is not None:
        attrs.append(("FRA_SRC", str(rule.source.network_address)))
    if rule.mark is not None:
        attrs.append(("FRA_FWMARK", rule.mark))
    if rule.in_nic is not None:
        attrs.append(("FRA_IIFNAME", rule.in_nic))
    return _encode(
        fibmsg,
        attrs,
        family=_AF[rule.family],
        table=rule.table if rule.table < 256 else 0,
        src_len=0 if rule.source is None else rule.source.prefixlen,
        action=_FR_ACT_TO_TBL,
    )
