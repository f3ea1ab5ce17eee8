from ipaddress import ip_address

import pytest

from agent.engine.model import Family
from agent.system.conntrack import parse
from agent.system.netlink import Tuple

TCP = (
    "tcp      6 431999 ESTABLISHED src=198.51.100.7 dst=192.0.2.1 sport=40000 dport=80"
    " src=10.1.1.5 dst=198.51.100.7 sport=8080 dport=40000 [ASSURED] mark=0 use=1"
)
UNREPLIED = (
    "udp      17 29 src=2001:db8::7 dst=2001:db8::1 sport=5353 dport=53 [UNREPLIED]"
    " src=2001:db8::1 dst=2001:db8::7 sport=53 dport=5353 mark=0 use=1"
)
PING = (
    "icmp     1 29 src=10.1.1.5 dst=198.51.100.7 type=8 code=0 id=4711"
    " src=198.51.100.7 dst=192.0.2.1 type=0 code=0 id=4711 mark=0 use=1"
)
GRE = (
    "gre      47 179 timeout=180, stream_timeout=180 src=10.1.1.5 dst=198.51.100.7 srckey=0x0"
    " dstkey=0x1f src=198.51.100.7 dst=192.0.2.1 srckey=0x1f dstkey=0x0 mark=0 use=1"
)
ESP = "unknown  50 599 src=10.1.1.5 dst=198.51.100.7 src=198.51.100.7 dst=192.0.2.1 mark=0 use=1"


@pytest.mark.parametrize(
    ("family", "line", "expected"),
    [
        (
            Family.V4,
            TCP,
            Tuple(
                Family.V4,
                6,
                ip_address("198.51.100.7"),
                ip_address("192.0.2.1"),
                ports=(40000, 80),
            ),
        ),
        (
            Family.V6,
            UNREPLIED,
            Tuple(
                Family.V6,
                17,
                ip_address("2001:db8::7"),
                ip_address("2001:db8::1"),
                ports=(5353, 53),
            ),
        ),
        (
            Family.V4,
            PING,
            Tuple(
                Family.V4,
                1,
                ip_address("10.1.1.5"),
                ip_address("198.51.100.7"),
                icmp=(4711, 8, 0),
            ),
        ),
        (
            Family.V4,
            GRE,
            Tuple(Family.V4, 47, ip_address("10.1.1.5"), ip_address("198.51.100.7"), ports=(0, 31)),
        ),
        (
            Family.V4,
            ESP,
            Tuple(Family.V4, 50, ip_address("10.1.1.5"), ip_address("198.51.100.7")),
        ),
    ],
    ids=["tcp", "udp", "icmp", "gre", "esp"],
)
def test_original_direction_is_read(family: Family, line: str, expected: Tuple) -> None:
    assert parse(family, line) == expected
