"""A capture of packets: typed fields, and the tcpdump command line that they become.

The filter is made here of addresses, protocols and ports, so that nothing which somebody wrote
reaches libpcap's compiler as it was written. On a control NIC, and on all NICs at once, what the
endpoint itself sends is left out: a capture must not see itself.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from agent.diagnostics.refusal import DiagnosticRefused
from agent.diagnostics.requests import Nics

ANY = "any"
MEDIA_TYPE = "application/vnd.tcpdump.pcap"

LONGEST_SECONDS = 240  # the front waits for five minutes
MOST_PACKETS = 100_000
MOST_BYTES = 64 * 1024 * 1024
LONGEST_SNAPLEN = 65_535
CONTROL_PORTS = (8443, 3922)  # of the endpoint, and of ssh to it, by default


class Kind(enum.StrEnum):
    """Protocols that a capture can be narrowed to, in libpcap's words (pcap-filter(7))."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMP6 = "icmp6"
    ARP = "arp"
    ESP = "esp"
    GRE = "gre"
    VRRP = "vrrp"
    IP = "ip"
    IP6 = "ip6"


_EXPRESSIONS: Mapping[Kind, str] = {Kind.ESP: "proto 50", Kind.GRE: "proto 47"}
_WITH_PORTS = frozenset({Kind.TCP, Kind.UDP})


class Direction(enum.StrEnum):
    IN = "in"
    OUT = "out"
    BOTH = "inout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is to be captured. `hosts` are two addresses at most: then what passes between them."""

    nic: str
    hosts: tuple[str, ...] = ()
    network: str | None = None
    protocol: str | None = None
    ports: tuple[int, ...] = ()
    direction: str = Direction.BOTH
    snaplen: int = 256
    packets: int = 10_000
    seconds: int = 30
    bytes: int = 8 * 1024 * 1024


def command(capture: Capture, nics: Nics, control: Mapping[str, int]) -> tuple[str, ...]:
    """tcpdump's command line; `control` are the control NICs, with the endpoint's port on each.

    Raises DiagnosticRefused.
    """
    if capture.nic != ANY and capture.nic not in nics:
        raise DiagnosticRefused("/nic", f"is one of {', '.join((*sorted(nics), ANY))}")
    if capture.direction not in set(Direction):
        raise DiagnosticRefused("/direction", f"is one of {', '.join(Direction)}")
    for path, value, most in (
        ("/snaplen", capture.snaplen, LONGEST_SNAPLEN),
        ("/packets", capture.packets, MOST_PACKETS),
        ("/seconds", capture.seconds, LONGEST_SECONDS),
        ("/bytes", capture.bytes, MOST_BYTES),
    ):
        if not 1 <= value <= most:
            raise DiagnosticRefused(path, f"is a number from 1 to {most}")
    parts = filters(capture)
    ports = sorted({*CONTROL_PORTS, *control.values()})
    if capture.nic == ANY or capture.nic in control:
        parts.append("not (" + " or ".join(f"tcp port {port}" for port in ports) + ")")
    argv = [
        *("tcpdump", "-i", capture.nic, "-n", "-p", "-U", "-w", "-"),
        *("-s", str(capture.snaplen), "-c", str(capture.packets), "-Q", capture.direction),
    ]
    return (*argv, "--", " and ".join(parts)) if parts else tuple(argv)


def filters(capture: Capture) -> list[str]:
    """The parts of the filter's expression (pcap-filter(7)). Raises DiagnosticRefused."""
    parts = []
    if len(capture.hosts) > 2:
        raise DiagnosticRefused("/hosts", "are two at most")
    for place, host in enumerate(capture.hosts):
        parts.append(f"host {_host(host, f'/hosts/{place}')}")
    if capture.network is not None:
        parts.append(f"net {_network(capture.network)}")
    kind = _kind(capture.protocol)
    if kind is not None:
        parts.append(_EXPRESSIONS.get(kind, str(kind)))
    if capture.ports:
        parts.append(_ports(capture.ports, kind))
    return parts


def _host(text: str, path: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise DiagnosticRefused(path, "is not an IP address") from None
    return str(address).partition("%")[0]


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        hint = "such as 10.1.1.0/24, without bits beyond the prefix"
        raise DiagnosticRefused("/network", "is not an IP network", hint) from None


def _kind(text: str | None) -> Kind | None:
    try:
        return None if text is None else Kind(text)
    except ValueError:
        raise DiagnosticRefused("/protocol", f"is one of {', '.join(Kind)}") from None


def _ports(ports: tuple[int, ...], kind: Kind | None) -> str:
    if kind is not None and kind not in _WITH_PORTS:
        raise DiagnosticRefused("/ports", f"{kind} has none")
    if len(ports) > 8 or not all(1 <= port <= 65535 for port in ports):
        raise DiagnosticRefused("/ports", "are at most 8 numbers from 1 to 65535")
    return "(" + " or ".join(f"port {port}" for port in ports) + ")"


class Records:
    """Hands on a capture file (pcap-savefile(5)) in whole packets, however it comes and ends."""

    _HEADER, _RECORD = 24, 16

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def whole(self, data: bytes) -> bytes:
        """What is complete by now."""
        data = self._rest + data
        end = 0
        if not self._begun:
            if len(data) < self._HEADER:
                self._rest = data
                return b""
            self._begun, end = True, self._HEADER
        while len(data) >= end + self._RECORD:
            length = int.from_bytes(data[end + 8 : end + 12], "little")  # as it was captured
            if len(data) < end + self._RECORD + length:
                break
            end += self._RECORD + length
        self._rest = data[end:]
        return data[:end]
