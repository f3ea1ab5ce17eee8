"""Tracked connections: how many there are, and forgetting exactly those whose reason is gone."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from agent.engine.model import Family, FlowMatch, Protocol
from agent.system import netlink
from agent.system.files import told_as
from agent.system.run import CommandFailed, run

_TIMEOUT = 30.0  # seconds; a table of 256,000 lists in about one
_FEW = 2  # as many matches are left to the tool, which walks the whole table for each
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_WORDS = {Family.V4: "ipv4", Family.V6: "ipv6"}
_NUMBERS = {
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.ICMP: 1,
    Protocol.ICMPV6: 58,
    Protocol.ESP: 50,
    Protocol.AH: 51,
    Protocol.GRE: 47,
}
_NONE_DELETED = re.compile(rb"\b0 flow entries have been deleted")
_Place = tuple[str | None, str | None]
_TARGET = re.compile(r" dst=(\S+)(?: sport=\d+ dport=(\d+))?")
_PAIR = re.compile(r"(\w+)=(\S+)")


def count() -> int:
    """How many connections are tracked."""
    with told_as("count connections"):
        return int(_COUNT.read_text())


def forget(matches: Sequence[FlowMatch]) -> None:
    """Drop the tracked connections that any of the matches describes, and no other."""
    direct = [_arguments(match) for match in matches]
    if len(matches) <= _FEW and all(direct):
        for arguments in direct:
            _delete(arguments or ())
        return
    for family in Family:
        mine = [match for match in matches if match.family is family]
        if mine:
            netlink.forget_flows(list(_matching(family, mine)))


def _delete(arguments: Sequence[str]) -> None:
    """Exit code 1 says that nothing matched, and that something is wrong as well."""
    done = run(["conntrack", "-D", *arguments], timeout=_TIMEOUT, check=False)
    if done.returncode != 0 and not _NONE_DELETED.search(done.stderr):
        raise CommandFailed(done.argv, f"exit code {done.returncode}", stderr=done.stderr)


def _arguments(match: FlowMatch) -> Sequence[str] | None:
    """The match as conntrack(8) takes it; None where it cannot say it."""
    if match.ports is not None and (match.ports.first != match.ports.last or not match.protocol):
        return None
    words = ["-f", _WORDS[match.family]]
    if match.protocol is not None:
        words += ["-p", match.protocol]
    if match.source is not None:
        words += ["-s", str(match.source)]
    if match.destination is not None:
        words += ["-d", str(match.destination)]
    if match.ports is not None:
        words += ["--dport", str(match.ports.first)]
    return words


def _matching(family: Family, matches: Sequence[FlowMatch]) -> Iterable[netlink.Tuple]:
    """The flows that a match fits. Each is held only against matches of its own place."""
    places: dict[_Place, list[FlowMatch]] = {}
    for match in matches:
        places.setdefault(_place(match), []).append(match)
    listed = run(["conntrack", "-L", "-f", _WORDS[family]], timeout=_TIMEOUT).text
    for line in listed.splitlines():
        found = _TARGET.search(line)
        address, port = found.groups() if found else (None, None)
        near = [
            match
            for place in {(address, port), (address, None), (None, port), (None, None)}
            for match in places.get(place, ())
        ]
        if near:
            flow = parse(family, line)
            if any(_fits(match, flow) for match in near):
                yield flow


def _place(match: FlowMatch) -> _Place:
    """The one address and the one port that a match is about, as conntrack prints them."""
    network, ports = match.destination, match.ports
    return (
        str(network[0]) if network is not None and network.num_addresses == 1 else None,
        str(ports) if ports is not None and ports.first == ports.last else None,
    )


def parse(family: Family, line: str) -> netlink.Tuple:
    """The original direction of a connection, from a line of `conntrack -L`."""
    original: dict[str, str] = {}
    for key, value in _PAIR.findall(line):
        if key == "src" and "src" in original:  # from here on, the reply's direction
            break
        original[key] = value
    return netlink.Tuple(
        family=family,
        protocol=int(line.split(maxsplit=2)[1]),
        source=ip_address(original["src"]),
        destination=ip_address(original["dst"]),
        ports=_ports(original),
        icmp=_icmp(original),
    )


def _ports(original: dict[str, str]) -> tuple[int, int] | None:
    for source, destination in (("sport", "dport"), ("srckey", "dstkey")):
        if source in original:
            return int(original[source], 0), int(original[destination], 0)
    return None


def _icmp(original: dict[str, str]) -> tuple[int, int, int] | None:
    if "type" not in original:
        return None
    return int(original["id"]), int(original["type"]), int(original["code"])


def _fits(match: FlowMatch, flow: netlink.Tuple) -> bool:
    ports = match.ports
    return (
        (match.protocol is None or _NUMBERS[match.protocol] == flow.protocol)
        and (match.source is None or flow.source in match.source)
        and (match.destination is None or flow.destination in match.destination)
        and (
            ports is None or (flow.ports is not None and ports.first <= flow.ports[1] <= ports.last)
        )
    )
