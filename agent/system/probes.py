"""Probes: ask a service what a client would ask, until it answers rightly or time is over."""

import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import assert_never

from agent.engine.host import StepFailed
from agent.engine.model import (
    DnsAnswers,
    HaproxyRuns,
    HttpReturns,
    Probe,
    ProbeResult,
    RouteExists,
    TcpAccepts,
    UnitActive,
)
from agent.system import haproxy
from agent.system.netlink import Netlink
from agent.system.units import Units

_AT_ONCE = 16  # threads
_FIRST_PAUSE = 0.01  # seconds, doubled up to the longest
_LONGEST_PAUSE = 0.05
_SHORTEST_TRY = 0.05
_LONGEST_TRY = 1.0
_LONGEST_LINE = 8192  # bytes of a head
_LARGEST_BODY = 1024 * 1024  # bytes


class _NotYet(Exception):
    """The answer, if any, was not the right one; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class Prober:
    """Runs probes against this machine."""

    netlink: Netlink
    units: Units

    def run(self, probes: Sequence[Probe], timeout: float) -> tuple[ProbeResult, ...]:
        """Each probe's last answer, in their order; all are asked at once."""
        if not probes:
            return ()
        deadline = time.monotonic() + timeout
        with ThreadPoolExecutor(min(_AT_ONCE, len(probes)), "probe") as pool:
            return tuple(pool.map(lambda probe: self._until(probe, deadline), probes))

    def _until(self, probe: Probe, deadline: float) -> ProbeResult:
        pause = _FIRST_PAUSE
        while True:
            left = deadline - time.monotonic()
            try:
                self._ask(probe, min(max(left, _SHORTEST_TRY), _LONGEST_TRY))
            except (_NotYet, StepFailed, OSError) as error:
                if deadline - time.monotonic() <= pause:
                    return ProbeResult(probe, passed=False, detail=_words(error))
            else:
                return ProbeResult(probe, passed=True)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _ask(self, probe: Probe, timeout: float) -> None:
        """Return if the answer is right, raise if it is not."""
        match probe:
            case UnitActive():
                self._unit(probe)
            case DnsAnswers():
                _dns(probe, timeout)
            case TcpAccepts():
                socket.create_connection((str(probe.address), probe.port), timeout).close()
            case HttpReturns():
                _http(probe, timeout)
            case HaproxyRuns():
                _haproxy(probe)
            case RouteExists():
                if probe.route not in self.netlink.routes():
                    raise _NotYet(f"the kernel has no route to {probe.route.destination}")
            case _:
                assert_never(probe)

    def _unit(self, probe: UnitActive) -> None:
        state = self.units.states([probe.unit])[probe.unit]
        if state.active != "active":
            raise _NotYet(f"{probe.unit} is {state.active} ({state.sub})")


def _dns(probe: DnsAnswers, timeout: float) -> None:
    import dns.exception
    import dns.message
    import dns.query
    import dns.rcode
    import dns.rdatatype

    wanted = {ip_address(one) for one in probe.expect}
    kinds = {"A" if one.version == 4 else "AAAA" for one in wanted} or {"A"}
    found = set()
    for kind in kinds:
        query = dns.message.make_query(probe.name, kind)
        try:
            reply = dns.query.udp(query, str(probe.server), timeout=timeout)
        except dns.exception.DNSException as error:
            raise _NotYet(f"{probe.server} does not answer for {probe.name}: {error}") from error
        if reply.rcode() != dns.rcode.NOERROR:
            raise _NotYet(
                f"{probe.server} answers {dns.rcode.to_text(reply.rcode())} for {probe.name}"
            )
        found |= {
            ip_address(item.to_text())
            for answer in reply.answer
            if answer.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA}
            for item in answer
        }
    if wanted and found != wanted:
        told = ", ".join(sorted(map(str, found))) or "nothing"
        raise _NotYet(
            f"{probe.server} answers {told} for {probe.name}, not {', '.join(probe.expect)}"
        )


def _http(probe: HttpReturns, timeout: float) -> None:
    """Ask as HTTP/1.0 does, to which the answer ends with the connection.

    http.client does more, with TLS and e-mail: 2 MiB that the agent would never give back.
    """
    with socket.create_connection((str(probe.address), probe.port), timeout) as connection:
        head = f"GET {probe.path} HTTP/1.0\r\nHost: {probe.address}\r\n\r\n"
        connection.sendall(head.encode())
        with connection.makefile("rb") as reply:
            words = reply.readline(_LONGEST_LINE).split(maxsplit=2)
            if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
                raise _NotYet(f"{probe.address} port {probe.port} does not speak HTTP")
            while reply.readline(_LONGEST_LINE) not in {b"\r\n", b"\n", b""}:
                pass
            body = reply.read(_LARGEST_BODY)
    if int(words[1]) != probe.status:
        raise _NotYet(f"{probe.path} has status {int(words[1])}, not {probe.status}")
    if probe.body is not None and body != probe.body.encode():
        raise _NotYet(f"{probe.path} has {body[:80]!r}, not {probe.body!r}")


def _haproxy(probe: HaproxyRuns) -> None:
    description = haproxy.info(probe.socket).get("description", "")
    if description != probe.description:
        raise _NotYet(f"haproxy runs {description or 'nothing known'}, not {probe.description}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
