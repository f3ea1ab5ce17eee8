"""CloudStack's boot arguments: `key=value` words, as its management hands them to a system VM.

    template=domP type=router name=r-42-VM eth0ip=10.1.1.1 eth0mask=255.255.255.0 …

What `ethN` means depends on `type`; which NIC it is, on the order of the machine's NICs, or on
`nic_macs` where that is given. Everything after the first `=` is the value: base64 keeps its
padding. Keys that say nothing about where this VM stands (`ignored` lists them) are left alone.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from typing import Any

from agent.document.boot import BootConfig, InvalidBootConfig, NoSuchNic, parse_value
from agent.document.site import NicRole
from agent.engine.model import Link, Problem, pointer
from agent.roles import Role

MARK = "template=domP"  # what every such command line has

_GUEST, _CONTROL, _PUBLIC, _STORAGE = (
    NicRole.GUEST,
    NicRole.CONTROL,
    NicRole.PUBLIC,
    NicRole.STORAGE,
)
# The role, and what eth0, eth1 … are; further ones are public. The management NIC of the console
# proxy and of the secondary storage is a control NIC: CloudStack comes by it on VMware and Hyper-V.
_TYPES: Mapping[str, tuple[Role, tuple[NicRole, ...]]] = {
    "router": (Role.ROUTER, (_GUEST, _CONTROL, _PUBLIC)),
    "vpcrouter": (Role.VPC_ROUTER, (_CONTROL, _PUBLIC)),
    "dhcpsrvr": (Role.DHCP_SERVER, (_GUEST, _CONTROL)),
    "elbvm": (Role.LOAD_BALANCER, (_GUEST, _CONTROL)),
    "ilbvm": (Role.LOAD_BALANCER, (_GUEST, _CONTROL)),
    "consoleproxy": (Role.CONSOLE_PROXY, (_CONTROL, _CONTROL, _PUBLIC)),
    "secstorage": (Role.SECONDARY_STORAGE, (_CONTROL, _CONTROL, _PUBLIC, _STORAGE)),
}

_NIC_KEY = re.compile(r"eth([0-9]|[12][0-9]|3[01])(ip|mask|ip6|ip6prelen)")
_RESOLVERS = ("internaldns1", "internaldns2", "dns1", "dns2", "ip6dns1", "ip6dns2")
_MTUS = {_GUEST: "privateMtu", _PUBLIC: "publicMtu", _STORAGE: "mtu"}
_UNDERSTOOD = frozenset(
    {
        "template", "type", "name", "domain", "gateway", "ip6gateway", "localgw", "mgmtcidr",
        "nic_macs", "authorized_key", "ntpserverlist", "storageip", "storagenetmask",
        *_RESOLVERS, *_MTUS.values(),
    }
)  # fmt: skip
# Where a value of the resulting configuration came from.
_KEYS = {
    "/hostname": "name",
    "/domain": "domain",
    "/authorized_keys": "authorized_key",
    "/time": "ntpserverlist",
    "/routes": "mgmtcidr",
}
_ABSENT = ("", "null", "0.0.0.0", "::")  # noqa: S104 - nothing is bound to it
_HINT_MACS = "such as 02:00:4c:00:00:01|02:00:4c:00:00:02"


def ignored(text: str) -> tuple[str, ...]:
    """The keys that `parse` leaves alone, in order of their names."""
    keys = {word.partition("=")[0] for word in text.split()}
    return tuple(sorted(key for key in keys if not _is_understood(key)))


def _is_understood(key: str) -> bool:
    return key in _UNDERSTOOD or _NIC_KEY.fullmatch(key) is not None


def parse(text: str, links: Sequence[Link]) -> BootConfig:
    """The boot configuration that these words are on a machine with these NICs.

    Raises InvalidBootConfig with every problem, each at its key; NoSuchNic where the machine
    has fewer NICs than the words speak of.
    """
    return _Words(text, links).configuration()


class _Words:
    """One command line while it is being understood: collects problems."""

    def __init__(self, text: str, links: Sequence[Link]) -> None:
        self.problems: list[Problem] = []
        self.missing: list[Problem] = []
        self.values: dict[str, str] = {}
        for word in text.split():
            key, equals, value = word.partition("=")
            if not equals:
                continue
            if self.values.setdefault(key, value) != value and _is_understood(key):
                self.wrong(key, "is there twice, with different values")
        self.macs = self._macs(links)
        self.found = ", ".join(f"{link.name} {link.mac}" for link in links) or "none"

    def wrong(self, key: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(pointer(key), message, hint))

    def get(self, key: str) -> str | None:
        """A key's value; None where it says nothing."""
        value = self.values.get(key, "")
        return None if value in _ABSENT else value

    def configuration(self) -> BootConfig:
        kind = self.values.get("type", "")
        if kind not in _TYPES:
            hint = f"one of {', '.join(_TYPES)}"
            self.wrong("type", "is not a type that is known" if kind else "is missing", hint)
            raise InvalidBootConfig(tuple(sorted(set(self.problems))))
        role, order = _TYPES[kind]
        if "name" not in self.values:
            self.wrong("name", "is missing")
        nics = self._nics(order)
        self._gateways(nics)
        value = {
            "role": role.value,
            "hostname": self.values.get("name", "unknown"),
            "domain": self.get("domain"),
            "nics": {mac: nic for _, mac, nic in nics},
            "routes": self._routes(nics),
            "authorized_keys": self._authorized_keys(),
            "resolver": self._resolver(),
            "time": self._time(),
        }
        config = self._validated(value, {mac: number for number, mac, _ in nics})
        if self.problems:
            raise InvalidBootConfig(tuple(sorted(set(self.problems))))
        if self.missing or config is None:
            raise NoSuchNic(tuple(self.missing))
        return config

    def _validated(self, value: dict[str, Any], numbers: Mapping[str, int]) -> BootConfig | None:
        """Check what is left to the types, and name the keys that it came from."""
        try:
            return parse_value(value)
        except InvalidBootConfig as error:
            for problem in error.problems:
                key = next((k for p, k in _KEYS.items() if problem.path.startswith(p)), "type")
                for mac, number in numbers.items():
                    if problem.path.startswith(pointer("nics", mac)):
                        mtu = problem.path.endswith("/mtu")
                        role = NicRole(value["nics"][mac]["role"])
                        key = _MTUS.get(role, "mtu") if mtu else f"eth{number}ip"
                # A NIC that could not be made has been complained of already.
                if problem.path != pointer("nics") or not (self.missing or self.problems):
                    self.wrong(key, problem.message, problem.hint)
        return None

    # -- NICs -------------------------------------------------------------------------------

    def _macs(self, links: Sequence[Link]) -> Sequence[str]:
        """The MAC addresses of eth0, eth1 …"""
        given = self.get("nic_macs")
        if given is None:
            return [link.mac for link in sorted(links, key=lambda link: _natural(link.name))]
        macs = [mac.lower() for mac in given.strip("|").split("|")]
        if not all(re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac) for mac in macs):
            self.wrong("nic_macs", "is not a list of MAC addresses", _HINT_MACS)
            return []
        if len(set(macs)) != len(macs):
            self.wrong("nic_macs", "has the same MAC address twice")
        for mac in sorted(set(macs) - {link.mac for link in links}):
            self.missing.append(Problem(pointer("nic_macs"), f"{mac} is not a NIC of this machine"))
        return macs

    def _nics(self, order: Sequence[NicRole]) -> list[tuple[int, str, dict[str, Any]]]:
        """Number, MAC address and section of each NIC that the words speak of."""
        numbers = {int(m[1]) for key in self.values if (m := _NIC_KEY.fullmatch(key))}
        if self.get("storageip") and _STORAGE in order:
            numbers.add(order.index(_STORAGE))
        nics = []
        for number in sorted(numbers):
            role = order[number] if number < len(order) else _PUBLIC
            nic: dict[str, Any] = {
                "role": role.value,
                "addresses": {address: {} for address in self._addresses(number, role)},
            }
            mtu = self.get(_MTUS[role]) if role in _MTUS else None
            if mtu is not None:
                if re.fullmatch(r"[0-9]{1,5}", mtu):
                    nic["mtu"] = int(mtu)
                else:
                    self.wrong(_MTUS[role], "is not a number of bytes")
            if number < len(self.macs):
                nics.append((number, self.macs[number], nic))
            elif not any(problem.path == pointer("nic_macs") for problem in self.problems):
                message = f"this machine has no NIC eth{number}"
                hint = f"it has {self.found}"
                self.missing.append(Problem(pointer(f"eth{number}ip"), message, hint))
        return nics

    def _addresses(self, number: int, role: NicRole) -> Iterator[str]:
        nic = f"eth{number}"
        names = f"{nic}ip", f"{nic}mask"
        if role is _STORAGE and names[0] not in self.values:
            names = "storageip", "storagenetmask"
        address, mask = self._address(names[0], 4), self.get(names[1])
        if address is not None:
            length = _prefix_length(mask) if mask is not None else None
            if length is None:
                self.wrong(names[1], "is missing" if mask is None else "is not a network mask")
            else:
                yield f"{address}/{length}"
        address, prefix = self._address(f"{nic}ip6", 6), self.get(f"{nic}ip6prelen")
        if address is not None:
            if prefix is None:
                self.wrong(f"{nic}ip6prelen", "is missing")
            elif not re.fullmatch(r"[0-9]{1,3}", prefix) or int(prefix) > 128:
                self.wrong(f"{nic}ip6prelen", "is not a prefix length")
            else:
                yield f"{address}/{int(prefix)}"

    def _address(self, key: str, version: int) -> IPv4Address | IPv6Address | None:
        value = self.get(key)
        if value is None:
            return None
        try:
            address = ip_address(value)
        except ValueError:
            self.wrong(key, f"is not an IPv{version} address")
            return None
        if address.version != version or getattr(address, "scope_id", None):
            self.wrong(key, f"is not an IPv{version} address")
            return None
        return address

    def _gateways(self, nics: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
        """Give each gateway to the NIC in whose network it is, a public one first."""
        first = (_PUBLIC, _GUEST, _CONTROL, _STORAGE)
        for key, version, name in (("gateway", 4, "gateway"), ("ip6gateway", 6, "gateway_ipv6")):
            gateway = self._address(key, version)
            if gateway is None:
                continue
            ordered = sorted(nics, key=lambda nic: first.index(NicRole(nic[2]["role"])))
            nic = next((nic for _, _, nic in ordered if _reaches(nic, gateway)), None)
            if nic is None and gateway.version == 6 and gateway.is_link_local:
                nic = next((nic for _, _, nic in ordered if nic["role"] == _PUBLIC), None)
            if nic is not None:
                nic[name] = str(gateway)
            elif not self.missing and all(_has(nic, version) for _, _, nic in ordered):
                self.wrong(key, "is not in the network of any NIC")

    def _routes(self, nics: Sequence[tuple[int, str, dict[str, Any]]]) -> dict[str, Any]:
        """The way back to management (`mgmtcidr`) by its gateway (`localgw`).

        Where that gateway is not in a control network, management is not behind it.
        """
        control = [nic for _, _, nic in nics if nic["role"] == _CONTROL]
        gateway, networks = self._address("localgw", 4), self.get("mgmtcidr")
        routes: dict[str, Any] = {}
        for text in networks.split(",") if networks else ():
            try:
                network = ip_network(text, strict=False)
            except ValueError:
                self.wrong("mgmtcidr", "is not a list of networks", "such as 192.0.2.0/24")
                continue
            reached = gateway is not None and any(_reaches(nic, gateway) for nic in control)
            if reached and not any(_reaches(nic, network.network_address) for nic in control):
                routes[str(network)] = {"via": str(gateway)}
        return routes

    # -- the rest ---------------------------------------------------------------------------

    def _authorized_keys(self) -> list[str]:
        encoded = self.get("authorized_key")
        if encoded is None:
            return []
        try:
            lines = base64.b64decode(_padded(encoded), validate=True).decode("ascii").splitlines()
        except (binascii.Error, ValueError):
            self.wrong("authorized_key", "is not the base64 of OpenSSH public keys")
            return []
        keys = (line.strip() for line in lines)
        return [key for key in keys if key and not key.startswith("#")]

    def _resolver(self) -> dict[str, Any] | None:
        found: dict[str, None] = {}
        for key in _RESOLVERS:
            if address := self._address(key, 6 if key.startswith("ip6") else 4):
                found[str(address)] = None
        return {"servers": list(found)} if found else None

    def _time(self) -> dict[str, Any] | None:
        servers = [name for name in (self.get("ntpserverlist") or "").split(",") if name]
        return {"ntp_servers": servers} if servers else None


def _natural(name: str) -> tuple[object, ...]:
    """Sorts eth2 before eth10, as the kernel numbers them."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name))


def _padded(encoded: str) -> str:
    """base64 with the padding that some tools on the way cut off."""
    bare = encoded.rstrip("=")
    return bare + "=" * (-len(bare) % 4)


def _prefix_length(mask: str) -> int | None:
    """The length that a netmask in dotted form is; None where it is none."""
    try:
        network = IPv4Network(f"0.0.0.0/{mask}")
    except ValueError:
        return None
    return network.prefixlen if str(network.netmask) == mask else None


def _networks(nic: Mapping[str, Any]) -> Iterable[Any]:
    return (ip_network(address, strict=False) for address in nic["addresses"])


def _has(nic: Mapping[str, Any], version: int) -> bool:
    """An address of this family; CloudStack names gateways of NICs that have none, too."""
    return any(network.version == version for network in _networks(nic))


def _reaches(nic: Mapping[str, Any], address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in _networks(nic))
