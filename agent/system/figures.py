"""What health checks read of this machine: `agent.monitor.checks.Machine`, as it really is."""

import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import psutil

from agent import __file__ as agent_file
from agent import __version__
from agent.engine.host import StepFailed
from agent.engine.model import IPAddress
from agent.monitor.checks import (
    Balanced,
    CannotTell,
    Chrony,
    ClockReading,
    Custom,
    CustomRun,
    Lent,
    Question,
    Room,
    ServiceState,
    Versions,
    discover,
)
from agent.monitor.gauges import Gauges, InterfaceCounts
from agent.monitor.health import Level
from agent.services import dhcp_dns
from agent.system import chrony, custom_checks, dhcp, dns, dnsmasq, files, haproxy, neighbour
from agent.system.bus import BusError, DBusAddress, connect
from agent.system.paths import Paths
from agent.system.units import Units

SAMPLE = 15.0  # seconds between two looks at the CPU
_WINDOW = 60.0  # seconds
_SHORTEST = 45.0  # less would tell of the boot, or of the agent's own start
_TABLE = Path("/proc/sys/net/netfilter")
_TIMEDATE = DBusAddress(
    "/org/freedesktop/timedate1",
    bus_name="org.freedesktop.timedate1",
    interface="org.freedesktop.timedate1",
)
_DNS_TIMEOUT = 1.0  # seconds
_DNS_DEADLINE = 10.0
_DHCP_TIMEOUT = 3.0
_AT_ONCE = 8  # neighbours; each that is silent takes some seconds

Services = Callable[[Collection[str]], Mapping[str, ServiceState]]


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    busy: float  # seconds, of all cores
    total: float


class LinuxFigures:
    """This machine. `services` says how units are, where somebody knows it better than systemd."""

    def __init__(
        self,
        paths: Paths | None = None,
        units: Units | None = None,
        services: Services | None = None,
    ) -> None:
        self.paths = paths or Paths()
        self._units = units or Units()
        self._services = services
        self._samples: deque[_Sample] = deque(maxlen=int(_WINDOW / SAMPLE) + 2)
        self._lock = threading.Lock()
        self._clock = time.time() - time.monotonic()

    # -- resources --------------------------------------------------------------------------

    def sample(self) -> None:
        """Look at the CPU, for `cpu` to tell its use over a minute without waiting for it."""
        now = _look_at_cpu()
        with self._lock:
            if not self._samples or now.at - self._samples[-1].at > SAMPLE / 2:
                self._samples.append(now)

    def cpu(self) -> tuple[float, float] | None:
        last = _look_at_cpu()
        with self._lock:
            samples = tuple(self._samples) or (last,)
        # The one nearest to a minute ago.
        first = min(samples, key=lambda one: abs(last.at - one.at - _WINDOW))
        if last.at - first.at < _SHORTEST or last.total <= first.total:
            return None
        share = (last.busy - first.busy) / (last.total - first.total)
        return min(max(share, 0.0), 1.0), last.at - first.at

    def memory(self) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def room(self) -> Room:
        try:
            status = os.statvfs(self.paths.state)
        except OSError as error:
            raise CannotTell(f"{self.paths.state}: {error.strerror}") from error
        size = status.f_frsize
        return Room(status.f_bavail * size, status.f_blocks * size, status.f_favail, status.f_files)

    def connections(self) -> tuple[int, int]:
        try:
            count, most = (
                int((_TABLE / f"nf_conntrack_{name}").read_text()) for name in ("count", "max")
            )
        except OSError as error:
            raise CannotTell(f"the table of connections: {error.strerror}") from error
        return count, most

    def write(self) -> str:
        path = self.paths.state / ".writable"
        try:
            files.write(path, f"{time.time()}\n".encode())
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def state_problem(self) -> str:
        return files.note(self.paths.state_problem)

    def gauges(self, units: Collection[str]) -> Gauges:
        """What metrics tell of the machine, and how often systemd started these units again."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        memory = psutil.virtual_memory()
        room: Room | None = None
        count: tuple[int, int] | None = None
        with contextlib.suppress(CannotTell):
            room = self.room()
        with contextlib.suppress(CannotTell):
            count = self.connections()
        restarts: dict[str, int] = {}
        for unit in units:
            with contextlib.suppress(StepFailed, KeyError):
                restarts[unit] = self._units.detail(unit).restarts
        return Gauges(
            cpu_busy=sum(times[:8]) - idle,
            cpu_idle=idle,
            memory_available=memory.available,
            memory_total=memory.total,
            state_free=room.free if room else None,
            state_total=room.total if room else None,
            state_inodes_free=room.inodes_free if room and room.inodes else None,
            connections=count[0] if count else None,
            connections_limit=count[1] if count else None,
            interfaces={
                name: InterfaceCounts(
                    one.bytes_recv, one.bytes_sent, one.packets_recv, one.packets_sent,
                    one.dropin + one.dropout, one.errin + one.errout,
                )
                for name, one in psutil.net_io_counters(pernic=True).items()
                if name != "lo"
            },
            restarts=restarts,
        )  # fmt: skip

    # -- the clock --------------------------------------------------------------------------

    def now(self) -> float:
        return time.time()

    def clock(self) -> ClockReading:
        base = time.time() - time.monotonic()
        stepped, self._clock = base - self._clock, base
        told = None
        with contextlib.suppress(chrony.NoAnswer):
            found = chrony.tracking(self.paths.run)
            told = Chrony(found.synchronised, found.offset, found.sources, found.reference)
        if told is not None:
            return ClockReading(told, may_be_set=True, kernel_synchronised=None, stepped=stepped)
        return ClockReading(None, self._may_set_clock(), _kernel_synchronised(), stepped)

    def _may_set_clock(self) -> bool:
        """chrony's unit is skipped where the clock is not the machine's own (a container)."""
        try:
            return self._units.condition_met("chrony.service")
        except StepFailed as error:
            raise CannotTell(str(error)) from error

    # -- daemons and neighbours -------------------------------------------------------------

    def services(self, units: Collection[str]) -> Mapping[str, ServiceState]:
        known = dict(self._services(units)) if self._services is not None else {}
        try:
            states = self._units.states([u for u in units if u not in known], pids=False)
        except StepFailed as error:
            raise CannotTell(str(error)) from error
        return known | {
            unit: ServiceState(alive=state.running, said=f"{state.active} ({state.sub})")
            for unit, state in states.items()
        }

    def answers(self, neighbours: Mapping[IPAddress, str]) -> Mapping[IPAddress, str]:
        with ThreadPoolExecutor(_AT_ONCE, "neighbour") as pool:
            said = pool.map(lambda one: neighbour.answers(*one), neighbours.items())
            return dict(zip(neighbours, said, strict=True))

    def versions(self) -> Versions:
        try:
            text = Path(agent_file).read_text()
        except OSError as error:  # it is just being replaced
            raise CannotTell(f"{agent_file}: {error.strerror}") from error
        installed = re.search(r'__version__ = "([^"]+)"', text)
        release = re.search(
            r'^PRETTY_NAME="?([^"\n]*)', files.note(Path("/etc/os-release")), re.MULTILINE
        )
        return Versions(
            agent=__version__,
            installed=installed[1] if installed else "?",
            kernel=os.uname().release,
            system=release[1] if release else "?",
        )

    def file(self, path: str) -> bytes:
        try:
            return (self.paths.current / path).read_bytes()
        except OSError as error:
            raise CannotTell(f"{path}: {error.strerror}") from error

    def leases(self) -> tuple[Lent, ...]:
        try:
            rows = dnsmasq.leases(Path(dhcp_dns.LEASES))
        except (OSError, ValueError) as error:
            raise CannotTell(f"{dhcp_dns.LEASES}: {error}") from error
        now = time.time()
        return tuple(
            Lent(row.mac, str(row.address)) for row in rows if not row.expires or row.expires > now
        )

    def offered(self, server: IPv4Address, mac: str) -> str:
        try:
            return str(dhcp.offered(server, mac, _DHCP_TIMEOUT) or "")
        except OSError as error:
            raise CannotTell(f"DHCP at {server}: {error.strerror}") from error

    def resolve(self, questions: Sequence[Question]) -> tuple[frozenset[str] | str, ...]:
        deadline = time.monotonic() + _DNS_DEADLINE
        return tuple(_resolve(one, deadline - time.monotonic()) for one in questions)

    def balanced(self, path: str) -> tuple[Balanced, ...]:
        try:
            rows = [Balanced(name, "FRONTEND", status) for name, status in haproxy.frontends(path)]
            rows += [
                Balanced(one.listener, one.server, "UP" if one.up else "DOWN", one.address)
                for one in haproxy.states(path)
            ]
        except (OSError, ValueError) as error:
            raise CannotTell(f"haproxy does not say: {error}") from error
        return tuple(rows)

    # -- operators' own ---------------------------------------------------------------------

    def customs(self) -> tuple[Custom, ...]:
        return custom_checks.find(taken=tuple(discover()))

    def run_custom(self, name: str, level: Level) -> CustomRun:
        scratch = self.paths.run / "checks"
        files.make_folder(scratch, 0o700)
        return custom_checks.run_one(name, level, scratch)


def _look_at_cpu() -> _Sample:
    times = psutil.cpu_times()
    total = sum(times[:8])  # guest times are in those of user and nice already
    return _Sample(time.monotonic(), total - times.idle - getattr(times, "iowait", 0.0), total)


def _kernel_synchronised() -> bool | None:
    """adjtimex(2), which the agent's sandbox forbids it and timedated may call."""
    try:
        with connect() as bus:
            return bool(bus.get(_TIMEDATE, "NTPSynchronized"))
    except BusError:
        return None


def _resolve(question: Question, left: float) -> frozenset[str] | str:
    """What the server answers. Who is asked without any time left was not asked."""
    if left <= 0:
        return "was not asked, for others took too long"
    try:
        answer = _asked(question, left)
    except TimeoutError:
        return "no answer"
    except (dns.NotDns, OSError) as error:
        return str(error) or type(error).__name__
    return frozenset(map(str, answer.addresses)) if answer.well else answer.code


def _asked(question: Question, left: float) -> dns.Answer:
    """The answer to a question, which a busy machine may lose once. Raises TimeoutError."""
    given = question.server, question.name, question.kind, min(left, _DNS_TIMEOUT)
    try:
        return dns.ask(*given)
    except TimeoutError:
        return dns.ask(*given)
