"""Forgetting tracked connections: those that are meant, and no other."""

from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest

from agent.engine.model import Family, FlowMatch, Ports, Protocol
from agent.system import conntrack
from agent.system.namespaces import Scratch
from agent.system.run import run

Forget = Callable[..., set[str]]

GUEST, SERVER = "10.1.1.5", "192.0.2.1"
GUEST_SIX, SERVER_SIX = "2001:db8:1::5", "2001:db8::1"


def track(
    name: str, protocol: str, source: str, destination: str, port: int = 0, answers: str = ""
) -> tuple[str, list[str]]:
    """A connection to be tracked: its name and conntrack's arguments."""
    argv = ["-p", protocol, "-s", source, "-d", destination, "-t", "600"]
    if protocol in {"tcp", "udp"}:
        argv += ["--sport", "40000", "--dport", str(port)]
    if protocol == "tcp":
        argv += ["--state", "ESTABLISHED"]
    if protocol == "icmp":
        argv += ["--icmp-type", "8", "--icmp-code", "0", "--icmp-id", "77"]
    if answers:
        argv += ["--dst-nat", answers]
    return name, argv


FLOWS = dict(
    [
        track("web", "tcp", "198.51.100.7", SERVER, 80, answers=GUEST),
        track("alt", "tcp", "198.51.100.7", SERVER, 8080, answers=GUEST),
        track("far", "tcp", "203.0.113.9", SERVER, 80, answers=GUEST),
        track("elsewhere", "tcp", "198.51.100.7", "192.0.2.2", 80, answers=GUEST),
        track("dns", "udp", GUEST, "198.51.100.53", 53),
        track("ping", "icmp", GUEST, "198.51.100.7"),
        track("six", "tcp", "2001:db8:2::7", SERVER_SIX, 80),
        track("six-alt", "tcp", "2001:db8:2::7", SERVER_SIX, 8080),
    ]
)


def tracked() -> set[str]:
    """The names of the connections that are tracked."""
    found = set()
    for name, argv in FLOWS.items():
        wanted = argv[: argv.index("-t")]
        wanted += (
            argv[argv.index("--sport") : argv.index("--sport") + 4] if "--sport" in argv else []
        )
        listed = run(["conntrack", "-L", *family(argv), *wanted], timeout=10, check=False)
        if listed.stdout.strip():
            found.add(name)
    return found


def family(argv: list[str]) -> list[str]:
    return ["-f", "ipv6" if ":" in argv[3] else "ipv4"]


@pytest.fixture
def forget() -> Iterator[Forget]:
    """Forget matches among FLOWS; gives the names that are gone."""
    scratch = Scratch("test")

    def fill() -> None:
        for argv in FLOWS.values():
            run(["conntrack", "-I", *argv], timeout=10)
        assert tracked() == FLOWS.keys()
        assert conntrack.count() == len(FLOWS)

    def do(*matches: FlowMatch) -> set[str]:
        conntrack.forget(matches)
        return FLOWS.keys() - tracked()

    scratch.do(fill)
    yield lambda *matches: scratch.do(lambda: do(*matches))
    scratch.close()


SERVER_NETWORK = ip_network(SERVER)

CASES = [
    (FlowMatch(Family.V4, Protocol.TCP, None, SERVER_NETWORK, Ports(80, 80)), {"web", "far"}),
    (FlowMatch(Family.V4, Protocol.TCP, None, SERVER_NETWORK), {"web", "far", "alt"}),
    (
        FlowMatch(Family.V4, Protocol.TCP, None, SERVER_NETWORK, Ports(80, 8080)),
        {"web", "far", "alt"},
    ),
    (FlowMatch(Family.V4, Protocol.TCP, None, SERVER_NETWORK, Ports(81, 8080)), {"alt"}),
    (
        FlowMatch(Family.V4, None, ip_network("198.51.100.0/24"), SERVER_NETWORK),
        {"web", "alt"},
    ),
    (FlowMatch(Family.V4, None, ip_network("10.1.1.0/24")), {"dns", "ping"}),
    (FlowMatch(Family.V4, Protocol.ICMP), {"ping"}),
    (FlowMatch(Family.V4, Protocol.UDP, None, None, Ports(53, 53)), {"dns"}),
    (FlowMatch(Family.V6, Protocol.TCP, None, ip_network(SERVER_SIX), Ports(80, 80)), {"six"}),
    (
        FlowMatch(Family.V6, Protocol.TCP, None, ip_network("2001:db8::/64"), Ports(1, 9000)),
        {"six", "six-alt"},
    ),
    (FlowMatch(Family.V4, None, None, None, Ports(80, 80)), {"web", "far", "elsewhere"}),
    (FlowMatch(Family.V4), FLOWS.keys() - {"six", "six-alt"}),
    (FlowMatch(Family.V4, Protocol.UDP, None, SERVER_NETWORK), set()),
]
# Matches that match nothing: with many, the table is listed once instead of walked for each.
CHAFF = tuple(
    FlowMatch(family, Protocol.TCP, None, None, Ports(port, port))
    for family in Family
    for port in (1, 2)
)


@pytest.mark.parametrize("chaff", [(), CHAFF], ids=["few", "many"])
@pytest.mark.parametrize(("match", "gone"), CASES, ids=range(len(CASES)))
def test_what_matches_is_forgotten_and_nothing_else(
    forget: Forget, match: FlowMatch, gone: set[str], chaff: tuple[FlowMatch, ...]
) -> None:
    assert forget(match, *chaff) == gone
    assert forget(match, *chaff) == gone


def test_matches_add_up(forget: Forget) -> None:
    assert forget(*(match for match, _ in CASES if match.family is Family.V6)) == {
        "six",
        "six-alt",
    }


def test_nothing_to_forget_forgets_nothing(forget: Forget) -> None:
    assert forget() == set()
