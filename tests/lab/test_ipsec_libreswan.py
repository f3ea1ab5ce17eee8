"""IPsec between a system VM and libreswan as Debian ships it, which goes by its own defaults.

How the lab does without ESP in its kernel: tests/lab/sites.py, appliance/lab/libreswan.py. Ours is
within UDP there, which libreswan takes for a NAT on the way.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.lab import Lab
from appliance.lab.libreswan import CONNECTION, Ends, Libreswan, libreswan
from appliance.lab.topologies import Nic
from appliance.lab.wait import wait_until
from tests.lab.conftest import Boot
from tests.lab.helpers import settle
from tests.lab.sites import (
    GUEST_A,
    GUEST_B,
    NET_A,
    NET_B,
    OTHER_SECRET,
    SECRET,
    A,
    B,
    Site,
    connection,
    document,
    prepared,
)

ENDS = Ends(own=B, peer=A, here=NET_B, there=NET_A, behind=GUEST_B, gateway="203.0.113.1")


@dataclass(frozen=True, slots=True)
class Pair:
    """The system VM, and the peer."""

    lab: Lab
    site: Site
    peer: Libreswan


@pytest.fixture(scope="module")
def pair(boot_lab: Boot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    lab = boot_lab()
    vm = prepared(lab.vm)
    settle(lab.guests["vm1"], GUEST_A)
    site = Site(vm, document(vm, "10.1", A))
    nic = Nic("eth0", "public", "1e:00:cb:00:71:14")
    folder: Path = tmp_path_factory.mktemp("libreswan")
    with libreswan(lab.name, nic, ENDS, folder) as peer:
        peer.begin(ENDS, SECRET)
        site.connection("branch", connection(A, B, NET_A, NET_B))
        yield Pair(lab, site, peer)


def pings(pair: Pair) -> bool:
    """From the peer's side."""
    argv = ("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", "-I", GUEST_B, GUEST_A)
    return " 0% packet loss" in pair.peer.run(*argv, check=False)


def test_tunnel_carries_packets_both_ways(pair: Pair) -> None:
    row = pair.site.wait("branch")
    assert row["ike"].startswith("IKEv2 ")
    assert pair.lab.guests["vm1"].pings(GUEST_B, count=3)
    assert pings(pair)
    assert re.search(r"inBytes=[1-9]\d*, outBytes=[1-9]", pair.peer.run("ipsec", "trafficstatus"))
    states = pair.peer.run("ip", "xfrm", "state")
    assert states.count("espinudp") == 2, states


def ours(pair: Pair, what: str) -> None:
    pair.site.vm.run(["swanctl", "--rekey", f"--{what}", "branch"])


def theirs(pair: Pair, what: str) -> None:
    pair.peer.run("ipsec", "whack", "--name", CONNECTION, f"--rekey-{what}")


@pytest.mark.parametrize("renew", [ours, theirs])
def test_keys_are_renewed_under_traffic(pair: Pair, renew: Callable[[Pair, str], None]) -> None:
    pair.site.wait("branch")
    for what in ("child", "ike", "child"):
        old = pair.site.spis()["branch"]
        argv = ["ping", "-n", "-q", "-i", "0.05", "-c", "60", "-W", "1", GUEST_B]
        with pair.lab.guests["vm1"].popen(argv) as ping:
            renew(pair, what)
            said = ping.communicate(timeout=30)[0].decode()
        assert int(re.findall(r"(\d+) received", said)[0]) >= 59, said
        if what == "child":
            wait_until(lambda old=old: not pair.site.spis()["branch"] & old, 15, "other keys")  # type: ignore[misc] # bound now
    assert pings(pair)


def test_other_secret_is_refused_and_the_right_one_taken_again(pair: Pair) -> None:
    pair.site.connection("branch", {"psk": OTHER_SECRET})
    reason = wait_until(lambda: pair.site.tunnel("branch")["reason"], 15, "a reason")
    assert reason.startswith("authentication failed")
    assert not pair.lab.guests["vm1"].pings(GUEST_B)
    assert not pings(pair)
    pair.site.connection("branch", {"psk": SECRET})
    pair.site.wait("branch")
    assert pair.lab.guests["vm1"].pings(GUEST_B)
