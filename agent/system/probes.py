"""Probes: ask a service what a client would ask, until it answers rightly or time is over.

They are also what the monitor asks every two seconds: none starts a process, here.
"""

import errno
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import assert_never

from agent.engine.host import StepFailed
from agent.engine.model import (
    CharonAnswers,
    DhcpAnswers,
    DnsAnswers,
    HaproxyRuns,
    HttpReturns,
    IPAddress,
    Probe,
    ProbeResult,
    RouteExists,
    SshGreets,
    TcpAccepts,
    UnitActive,
)
from agent.system import dhcp, dns, haproxy
from agent.system.netlink import Netlink
from agent.system.units import Units
from agent.system.vici import Charon, CharonFailed

_AT_ONCE = 16  # threads
_FIRST_PAUSE = 0.01  # seconds, doubled up to the longest
_LONGEST_PAUSE = 0.05
_SHORTEST_TRY = 0.05
_LONGEST_TRY = 1.0
_LONGEST_LINE = 8192  # bytes of a head
_LARGEST_BODY = 1024 * 1024  # bytes


# Of an address that is not there, or of us having no descriptor left: nobody else's fault.
_OURS = frozenset(
    {
        errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN,
        errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRINUSE, errno.EPERM,
    }
)  # fmt: skip


class _NotYet(Exception):
    """There was no answer, or not the right one; the text says why, for a person."""


class _Wrong(_NotYet):
    """There was an answer, and it was not the right one."""


@dataclass(frozen=True, slots=True)
class Prober:
    """Runs probes against this machine."""

    netlink: Netlink
    units: Units
    charon: Charon = field(default_factory=Charon)

    def run(self, probes: Sequence[Probe], timeout: float) -> tuple[ProbeResult, ...]:
        """Each probe's last answer, in their order; all are asked at once."""
        if not probes:
            return ()
        deadline = time.monotonic() + timeout
        with ThreadPoolExecutor(min(_AT_ONCE, len(probes)), "probe") as pool:
            return tuple(pool.map(lambda probe: self._until(probe, deadline), probes))

    def once(self, probe: Probe, timeout: float) -> ProbeResult:
        """Ask once."""
        try:
            self._ask(probe, timeout)
        except _Wrong as error:
            return ProbeResult(probe, passed=False, detail=_words(error), answered=True)
        except (_NotYet, StepFailed, OSError, CharonFailed) as error:
            blameless = isinstance(error, OSError) and error.errno in _OURS
            return ProbeResult(probe, passed=False, detail=_words(error), blameless=blameless)
        return ProbeResult(probe, passed=True, answered=True)

    def _until(self, probe: Probe, deadline: float) -> ProbeResult:
        pause = _FIRST_PAUSE
        while True:
            left = deadline - time.monotonic()
            try:
                self._ask(probe, min(max(left, _SHORTEST_TRY), _LONGEST_TRY))
            except (_NotYet, StepFailed, OSError, CharonFailed) as error:
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
                _connected(probe.address, probe.port, timeout).close()
            case HttpReturns():
                _http(probe, timeout)
            case HaproxyRuns():
                _haproxy(probe, timeout)
            case RouteExists():
                if probe.route not in self.netlink.routes():
                    raise _NotYet(f"the kernel has no route to {probe.route.destination}")
            case DhcpAnswers():
                if not dhcp.informs(probe.server, timeout):
                    raise _NotYet(f"{probe.server} does not answer DHCP")
            case SshGreets():
                _ssh(probe, timeout)
            case CharonAnswers():
                self.charon.version(timeout)
            case _:
                assert_never(probe)

    def _unit(self, probe: UnitActive) -> None:
        state = self.units.states([probe.unit])[probe.unit]
        if state.active != "active":
            raise _NotYet(f"{probe.unit} is {state.active} ({state.sub})")


def _dns(probe: DnsAnswers, timeout: float) -> None:
    wanted = {ip_address(one) for one in probe.expect}
    kinds = {"A" if one.version == 4 else "AAAA" for one in wanted} or {"A"}
    found: set[IPAddress] = set()
    for kind in kinds:
        found |= _addresses(probe, kind, timeout)
    if wanted and found != wanted:
        told = ", ".join(sorted(map(str, found))) or "nothing"
        raise _Wrong(
            f"{probe.server} answers {told} for {probe.name}, not {', '.join(probe.expect)}"
        )


def _addresses(probe: DnsAnswers, kind: str, timeout: float) -> frozenset[IPAddress]:
    """What the server says."""
    try:
        answer = dns.ask(probe.server, probe.name, kind, timeout)
    except (TimeoutError, ConnectionRefusedError) as error:
        raise _NotYet(f"{probe.server} does not answer for {probe.name}") from error
    except dns.NotDns as error:
        raise _NotYet(f"{probe.server} does not speak DNS: {error}") from error
    if not answer.well:
        raise _Wrong(f"{probe.server} answers {answer.code} for {probe.name}")
    return answer.addresses


def _http(probe: HttpReturns, timeout: float) -> None:
    """Ask as HTTP/1.0 does, to which the answer ends with the connection.

    http.client does more, with TLS and e-mail: 2 MiB that the agent would never give back.
    """
    with _connected(probe.address, probe.port, timeout) as connection:
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
        raise _Wrong(f"{probe.path} has status {int(words[1])}, not {probe.status}")
    if probe.body is not None and body != probe.body.encode():
        raise _Wrong(f"{probe.path} has {body[:80]!r}, not {probe.body!r}")


def _ssh(probe: SshGreets, timeout: float) -> None:
    with _connected(probe.address, probe.port, timeout) as connection:
        greeting = connection.recv(255)
    if not greeting.startswith(b"SSH-2.0-"):
        raise _NotYet(f"{probe.address} port {probe.port} does not speak SSH")


def _connected(address: IPAddress, port: int, timeout: float) -> socket.socket:
    """A connection from the very address, which so has to be ours: else nobody is to blame."""
    return socket.create_connection((str(address), port), timeout, (str(address), 0))


def _haproxy(probe: HaproxyRuns, timeout: float) -> None:
    description = haproxy.info(probe.socket, timeout).get("description", "")
    if description != probe.description:
        raise _Wrong(f"haproxy runs {description or 'nothing known'}, not {probe.description}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
