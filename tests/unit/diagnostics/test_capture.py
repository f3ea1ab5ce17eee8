"""The command line and the filter of a capture, and its file in whole packets."""

from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.diagnostics.capture import Capture, Direction, Kind, Records, command
from agent.diagnostics.refusal import DiagnosticRefused
from agent.diagnostics.requests import Nics

NICS: Nics = {
    "eth0": (ip_interface("10.1.1.1/24"),),
    "eth1": (ip_interface("169.254.10.2/16"),),
    "eth2": (ip_interface("203.0.113.10/24"),),
}
CONTROL = {"eth1": 9443}
ON = Capture(nic="eth2")
FIRST = "tcpdump -i eth2 -n -p -U -w - -s 256 -c 10000 -Q inout"


def line(wanted: Capture) -> str:
    return " ".join(command(wanted, NICS, CONTROL))


@pytest.mark.parametrize(
    ("change", "expression"),
    [
        ({}, ""),
        ({"hosts": ("10.1.1.10",)}, "host 10.1.1.10"),
        ({"hosts": ("10.1.1.10", "fd00::1")}, "host 10.1.1.10 and host fd00::1"),
        ({"network": "10.1.1.0/24"}, "net 10.1.1.0/24"),
        ({"network": "fd00::/64"}, "net fd00::/64"),
        ({"protocol": "tcp", "ports": (80, 443)}, "tcp and (port 80 or port 443)"),
        ({"ports": (53,)}, "(port 53)"),
        ({"protocol": "esp"}, "proto 50"),
        ({"protocol": "arp"}, "arp"),
        (
            {"hosts": ("10.1.1.10",), "network": "10.1.0.0/16", "protocol": "udp", "ports": (53,)},
            "host 10.1.1.10 and net 10.1.0.0/16 and udp and (port 53)",
        ),
    ],
)
def test_fields_become_a_filter(change: dict[str, Any], expression: str) -> None:
    wanted = FIRST + (f" -- {expression}" if expression else "")
    assert line(replace(ON, **change)) == wanted


def test_bounds_and_direction() -> None:
    wanted = replace(ON, snaplen=96, packets=5, direction="in", seconds=240, bytes=1)
    assert line(wanted) == "tcpdump -i eth2 -n -p -U -w - -s 96 -c 5 -Q in"


def test_a_capture_does_not_see_itself() -> None:
    left_out = "not (tcp port 3922 or tcp port 8443 or tcp port 9443)"
    for nic in ("eth1", "any"):
        assert line(replace(ON, nic=nic)).endswith(f" -- {left_out}")
    assert line(replace(ON, nic="any", protocol="tcp")).endswith(f" -- tcp and {left_out}")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"nic": "eth9"}, "/nic"),
        ({"nic": "-w/etc/passwd"}, "/nic"),
        ({"nic": ""}, "/nic"),
        ({"hosts": ("vm1",)}, "/hosts/0"),
        ({"hosts": ("10.1.1.1", "10.1.1.2 or port 22")}, "/hosts/1"),
        ({"hosts": ("10.1.1.1",) * 3}, "/hosts"),
        ({"network": "10.1.1.1/24"}, "/network"),
        ({"network": "10.1.1.0/24 -w x"}, "/network"),
        ({"protocol": "tcp or udp"}, "/protocol"),
        ({"protocol": "icmp", "ports": (1,)}, "/ports"),
        ({"ports": (0,)}, "/ports"),
        ({"ports": tuple(range(1, 10))}, "/ports"),
        ({"direction": "out -z id"}, "/direction"),
        ({"snaplen": 0}, "/snaplen"),
        ({"snaplen": 65536}, "/snaplen"),
        ({"packets": 100_001}, "/packets"),
        ({"seconds": 241}, "/seconds"),
        ({"bytes": 64 * 2**20 + 1}, "/bytes"),
    ],
)
def test_what_is_refused(change: dict[str, Any], path: str) -> None:
    with pytest.raises(DiagnosticRefused) as refused:
        line(replace(ON, **change))
    assert refused.value.path == path


@given(
    hosts=st.lists(st.text(max_size=12), max_size=2),
    network=st.none() | st.text(max_size=12),
    protocol=st.none() | st.sampled_from(Kind) | st.text(max_size=6),
    direction=st.sampled_from(Direction) | st.text(max_size=6),
    nic=st.sampled_from(sorted(NICS)) | st.text(max_size=6),
)
def test_no_text_reaches_tcpdump_as_it_was_written(
    hosts: list[str], network: str | None, protocol: str | None, direction: str, nic: str
) -> None:
    wanted = Capture(
        nic=nic, hosts=tuple(hosts), network=network, protocol=protocol, direction=direction
    )
    try:
        argv = command(wanted, NICS, CONTROL)
    except DiagnosticRefused:
        return
    assert argv[2] in {*NICS, "any"}
    assert [word for word in argv if word.startswith("-")] == [
        "-i", "-n", "-p", "-U", "-w", "-", "-s", "-c", "-Q", *(["--"] if "--" in argv else []),
    ]  # fmt: skip


def record(size: int) -> bytes:
    return bytes(8) + size.to_bytes(4, "little") + bytes(4) + bytes([size % 256]) * size


@given(
    sizes=st.lists(st.integers(0, 40), max_size=5),
    cuts=st.lists(st.integers(1, 30), max_size=20),
    lost=st.integers(0, 30),
)
def test_file_is_of_whole_packets_however_it_comes(
    sizes: list[int], cuts: list[int], lost: int
) -> None:
    header = bytes(range(24))
    file = header + b"".join(map(record, sizes))
    came = file[: len(file) - lost] if lost else file
    records, out, rest = Records(), b"", came
    for cut in [*cuts, len(came) + 1]:
        out += records.whole(rest[:cut])
        rest = rest[cut:]
    ends = [0, 24]
    for size in sizes:
        ends.append(ends[-1] + 16 + size)
    assert out == file[: max(end for end in ends if end <= len(came))]
