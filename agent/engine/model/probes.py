"""Effects as data: programs to run, and what a service is asked."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.engine.model.network import IPAddress, Route


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: a daemon's own checker, or what a diagnostics bundle takes.

    It runs where `/run/sysvm/current` is the staged revision. `path` is where in the document
    to look when it fails; `reads` are the revision's files that decide its answer (compose
    fills them in: all files of the service).
    """

    argv: tuple[str, ...]
    path: str = ""
    timeout: float = 10.0  # seconds
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitActive:
    """systemd calls the unit active."""

    unit: str


@dataclass(frozen=True, slots=True)
class DnsAnswers:
    """A name server answers for a name; with the given addresses, where any are given."""

    unit: str
    server: IPAddress
    name: str
    expect: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TcpAccepts:
    """A TCP connection is accepted."""

    unit: str
    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class HttpReturns:
    """A page over plain HTTP has this status, and this body where one is given."""

    unit: str
    address: IPAddress
    port: int
    path: str
    status: int = 200
    body: str | None = None


@dataclass(frozen=True, slots=True)
class HaproxyRuns:
    """The running haproxy's `show info` has this description: the witness of its files."""

    unit: str
    socket: str
    description: str


@dataclass(frozen=True, slots=True)
class RouteExists:
    """The kernel holds the route."""

    unit: str
    route: Route


@dataclass(frozen=True, slots=True)
class DhcpAnswers:
    """A DHCP server at one of our own addresses tells what it would tell a guest (DHCPINFORM)."""

    unit: str
    server: IPv4Address


@dataclass(frozen=True, slots=True)
class SshGreets:
    """An SSH server says who it is (RFC 4253, 4.2)."""

    unit: str
    address: IPAddress
    port: int


@dataclass(frozen=True, slots=True)
class CharonAnswers:
    """charon says its version over vici."""

    unit: str


Probe = (
    UnitActive
    | DnsAnswers
    | TcpAccepts
    | HttpReturns
    | HaproxyRuns
    | RouteExists
    | DhcpAnswers
    | SshGreets
    | CharonAnswers
)

# Asked of a service that runs, by the monitor alone: no push is undone for them.
LATER = (TcpAccepts, DhcpAnswers, SshGreets, CharonAnswers)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found; `detail` is for a person."""

    probe: Probe
    passed: bool
    detail: str = ""
    answered: bool = False  # it did, though wrongly
    blameless: bool = False  # nobody could have: the address is not there, say
