"""Links, addresses, routes, policy rules and tracked connections, over rtnetlink(7).

Routes and policy rules of ours carry the protocol number 77; no other is ever changed. The only
module that imports pyroute2.
"""

import contextlib
import errno
import importlib.util
import re
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar

from agent.engine.host import StepFailed
from agent.engine.model import Address, Family, IPAddress, IPNetwork, Link, PolicyRule, Route

if "pyroute2" not in sys.modules:
    # pyroute2's own __init__ imports everything that it has (NDB, SQLite, unittest …), 6 MiB of it
    # for nothing: the package is made known without running that.
    _found = importlib.util.find_spec("pyroute2")
    if _found is not None:
        sys.modules["pyroute2"] = importlib.util.module_from_spec(_found)

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

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
_FR_ACT_TO_TBL = 1

T = TypeVar("T")


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
        self._socket: IPRoute | None = None

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
            for message in self._read(lambda kernel: kernel.get_links())
            if not message["flags"] & _IFF_LOOPBACK and _MAC.match(_mac(message))
        ]
        return tuple(sorted(found))

    def addresses(self, nics: Collection[str]) -> frozenset[Address]:
        """Permanent addresses of global scope on these NICs."""
        names = {index: name for index, name in socket.if_nameindex() if name in nics}
        return frozenset(
            Address(names[message["index"]], _interface(message))
            for message in self._read(lambda kernel: kernel.get_addr())
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
            for message in self._read(_routes_of(af))
            if message["proto"] == OURS and message["type"] == _RTN_UNICAST
        )

    def policy_rules(self) -> frozenset[PolicyRule]:
        """The policy rules of ours."""
        return frozenset(
            _policy_rule(message)
            for af in _AF.values()
            for message in self._read(_rules_of(af))
            if message.get_attr("FRA_PROTOCOL") == OURS and message["action"] == _FR_ACT_TO_TBL
        )

    # -- change --------------------------------------------------------------------------------

    def set_link(self, link: Link) -> None:
        """Set a NIC's MTU, and put it up or down."""
        with self._changing(f"set link {link.name}") as kernel:
            index = _index(link.name)
            kernel.link("set", index=index, mtu=link.mtu, state="up" if link.up else "down")

    def add_address(self, address: Address) -> None:
        """Add an address. IPv6 skips duplicate address detection: it is usable at once."""
        with self._changing(f"add address {address.interface} to {address.nic}", errno.EEXIST) as k:
            k.addr("add", **self._address(address), **_extras(address))

    def remove_address(self, address: Address) -> None:
        """Remove an address; fine where it, or its NIC, is not there."""
        step = f"remove address {address.interface} from {address.nic}"
        with self._changing(step, errno.EADDRNOTAVAIL, errno.ENODEV) as kernel:
            kernel.addr("delete", **self._address(address))

    def add_route(self, route: Route) -> None:
        """Add a route, or replace that of ours to the same destination in the same table."""
        with self._changing(f"add route to {route.destination}") as kernel:
            message = self._route(route)
            try:
                kernel.route("add", **message)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                self._replace_route(kernel, route, message)

    def remove_route(self, route: Route) -> None:
        """Remove a route of ours; fine where it is not there."""
        with self._changing(
            f"remove route to {route.destination}", errno.ESRCH, errno.ENODEV
        ) as kernel:
            kernel.route("delete", **self._route(route))

    def add_policy_rule(self, rule: PolicyRule) -> None:
        """Add a policy rule; the kernel keeps it apart from an equal one of somebody else."""
        with self._changing(f"add policy rule {rule.priority}", errno.EEXIST) as kernel:
            kernel.rule("add", **_rule(rule))

    def remove_policy_rule(self, rule: PolicyRule) -> None:
        with self._changing(
            f"remove policy rule {rule.priority}", errno.ENOENT, errno.EAFNOSUPPORT
        ) as kernel:
            kernel.rule("delete", **_rule(rule))

    # -- inside --------------------------------------------------------------------------------

    def _kernel(self) -> IPRoute:
        if self._socket is None:
            self._socket = IPRoute(strict_check=True)  # lets the kernel filter
        return self._socket

    def _read(self, ask: Callable[[Any], Iterable[Any]]) -> tuple[Any, ...]:
        """Ask; where the socket has lost messages or is broken, once more on a new one."""
        with self._lock:
            try:
                return tuple(ask(self._kernel()))
            except NetlinkError as error:
                raise StepFailed("read the network", _said(error)) from error
            except OSError:
                self.close()
            try:
                return tuple(ask(self._kernel()))
            except (NetlinkError, OSError) as error:
                raise StepFailed("read the network", str(error)) from error

    @contextlib.contextmanager
    def _changing(self, step: str, *fine: int) -> Iterator[Any]:
        """Change something; errors whose number is in `fine` say that it is so already."""
        with self._lock:
            try:
                yield self._kernel()
            except NetlinkError as error:
                if error.code not in fine:
                    raise StepFailed(step, _said(error)) from error
            except OSError as error:
                self.close()
                if error.errno not in fine:
                    raise StepFailed(step, str(error)) from error

    def _address(self, address: Address) -> Mapping[str, Any]:
        return {
            "index": _index(address.nic),
            "family": _AF[Family(address.interface.version)],
            "address": str(address.interface.ip),
            "prefixlen": address.interface.network.prefixlen,
        }

    def _route(self, route: Route) -> Mapping[str, Any]:
        message: dict[str, Any] = {
            "family": _AF[Family(route.destination.version)],
            "dst": str(route.destination),
            "oif": _index(route.nic),
            "table": route.table,
            "proto": OURS,
        }
        if route.via is not None:
            message["gateway"] = str(route.via)
        elif route.destination.version == 4:
            message["scope"] = _SCOPE_LINK
        return message

    def _replace_route(self, kernel: Any, route: Route, message: Mapping[str, Any]) -> None:
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
            kernel.route("replace", **message)


def _mac(message: Any) -> str:
    return str(message.get_attr("IFLA_ADDRESS") or "")


def _index(nic: str) -> int:
    try:
        return socket.if_nametoindex(nic)
    except OSError as error:
        raise NetlinkError(errno.ENODEV, f"there is no NIC {nic}") from error


def forget_flows(tuples: Iterable[Tuple]) -> int:
    """Drop tracked connections by their original direction; how many were still there."""
    count = 0
    for family in Family:
        mine = [one for one in tuples if one.family is family]
        if mine:
            with NFCTSocket(nfgen_family=_AF[family]) as kernel:
                count += sum(_forget(kernel, one) for one in mine)
    return count


def _forget(kernel: Any, flow: Tuple) -> bool:
    source, destination = flow.ports or (None, None)
    number, kind, code = flow.icmp or (None, None, None)
    original = NFCTAttrTuple(
        family=_AF[flow.family],
        saddr=str(flow.source),
        daddr=str(flow.destination),
        proto=flow.protocol,
        sport=source,
        dport=destination,
        icmp_id=number,
        icmp_type=kind,
        icmp_code=code,
    )
    try:
        kernel.entry("del", tuple_orig=original)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise StepFailed("forget flows", _said(error)) from error
    return True


def _routes_of(af: socket.AddressFamily) -> Callable[[Any], Iterable[Any]]:
    """Only those of ours: a VM with 1,000 addresses has 3,000 routes that are the kernel's."""

    def ask(kernel: Any) -> Iterable[Any]:
        return kernel.route("dump", family=af, proto=OURS, table=0, dump_filter=lambda _: True)  # type: ignore[no-any-return]

    return ask


def _rules_of(af: socket.AddressFamily) -> Callable[[Any], Iterable[Any]]:
    return lambda kernel: kernel.get_rules(family=af)


def _said(error: NetlinkError) -> str:
    return str(error.args[1] if len(error.args) > 1 else error)


def _is_permanent(message: Any) -> bool:
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    temporary = message["family"] == socket.AF_INET6 and flags & _IFA_F_TEMPORARY
    return bool(flags & _IFA_F_PERMANENT) and not temporary


def _interface(message: Any) -> Any:
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ip_interface(f"{address}/{message['prefixlen']}")


def _extras(address: Address) -> Mapping[str, Any]:
    interface = address.interface
    if interface.version == 6:
        return {"flags": _IFA_F_NODAD}
    if interface.network.prefixlen >= 31:
        return {}
    return {"broadcast": str(interface.network.broadcast_address)}


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


def _rule(rule: PolicyRule) -> Mapping[str, Any]:
    message: dict[str, Any] = {
        "family": _AF[rule.family],
        "priority": rule.priority,
        "table": rule.table,
        "protocol": OURS,
    }
    if rule.source is not None:
        message["src"] = str(rule.source.network_address)
        message["src_len"] = rule.source.prefixlen
    if rule.mark is not None:
        message["fwmark"] = rule.mark
    if rule.in_nic is not None:
        message["iifname"] = rule.in_nic
    return message
