"""IPsec by way of somebody else's NAT: one site behind it, or both.

Each site has a box of somebody else's before it. Site B's translates, as a home's does: to its own
address and to ports of its choosing. Site A's lets everything through as it is, or translates too
and hands on the two ports of the key exchange. How the lab does without ESP in its kernel:
tests/lab/sites.py; it knows ESP within UDP alone, which is what NAT needs.
"""

import re
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from appliance.lab import Lab
from appliance.lab.node import Node
from appliance.lab.wait import wait_until
from tests.lab.conftest import Boot
from tests.lab.helpers import Document, frames, settle, wire
from tests.lab.sites import (
    GUEST_A,
    GUEST_B,
    NET_A,
    NET_B,
    Site,
    begin,
    connection,
    document,
    prepared,
)

OWN_A, OWN_B = "192.0.2.10", "192.0.2.140"
BOX_A, BOX_B = "203.0.113.40", "203.0.113.50"
NAMES_A = {"local_identity": "a.example", "peer_identity": "b.example"}
NAMES_B = {"local_identity": "b.example", "peer_identity": "a.example"}
DPD = {"dpd": {"delay": 2}}
PORTS, OTHER_PORTS = range(20000, 21000), range(30000, 31000)
UDP, ESP = 17, 50


def translates(box: Node, ports: range) -> None:
    """What comes from behind the box leaves from its own address and these ports."""
    to = ["--to-ports", f"{ports.start}-{ports.stop - 1}"]
    box.run(["iptables", "-t", "nat", "-F", "POSTROUTING"])
    nat = ["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0"]
    box.run([*nat, "-p", "udp", "-j", "MASQUERADE", *to])
    box.run([*nat, "-j", "MASQUERADE"])


@pytest.fixture(scope="module")
def sites(boot_lab: Boot) -> tuple[Site, Site]:
    lab = boot_lab("nat")
    vms = prepared(lab.vms["vm"]), prepared(lab.vms["vmb"])
    for box in lab.boxes.values():
        box.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    translates(lab.boxes["boxb"], PORTS)
    settle(lab.guests["vm1"], GUEST_A)
    settle(lab.guests["vm3"], GUEST_B, "10.2.1.1")
    return (
        Site(vms[0], document(vms[0], "10.1", OWN_A, "192.0.2.1", 25)),
        Site(vms[1], document(vms[1], "10.2", OWN_B, "192.0.2.129", 25)),
    )


@pytest.fixture
def lab(sites: tuple[Site, Site]) -> Lab:
    return Lab.find(sites[0].vm.lab)


@pytest.fixture
def one(lab: Lab, sites: tuple[Site, Site]) -> Iterator[str]:
    """B alone is behind NAT; where it finds A."""
    route = ["192.0.2.0/25", "via", BOX_A]
    lab.boxes["boxb"].run(["ip", "route", "add", *route])
    yield OWN_A
    lab.boxes["boxb"].run(["ip", "route", "del", *route])
    forget(sites)


@pytest.fixture
def both(lab: Lab, sites: tuple[Site, Site]) -> Iterator[str]:
    """Both are behind NAT; where B finds A."""
    box = lab.boxes["box"]
    nat = ["iptables", "-t", "nat", "-A", "PREROUTING", "-i", "eth0", "-p", "udp"]
    for port in ("500", "4500"):
        box.run([*nat, "--dport", port, "-j", "DNAT", "--to-destination", OWN_A])
    box.run(["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE"])
    yield BOX_A
    box.run(["iptables", "-t", "nat", "-F"])
    forget(sites)


def forget(sites: tuple[Site, Site]) -> None:
    for site in reversed(sites):
        site.push({"ipsec": None})


def begun(sites: tuple[Site, Site], found: str) -> None:
    """B begins a tunnel to where it finds A, which sees B's box."""
    a, b = sites
    here = connection(OWN_A, BOX_B, NET_A, NET_B, start="passive", **NAMES_A, **DPD)
    a.connection("branch", here)
    b.connection("head", connection(OWN_B, found, NET_B, NET_A, **NAMES_B, **DPD))
    b.wait("head")
    a.wait("branch")


def carries(lab: Lab) -> None:
    """Packets and connections both ways, and nobody's address is another."""
    assert lab.guests["vm1"].pings(GUEST_B, count=3)
    assert lab.guests["vm3"].pings(GUEST_A, count=3)
    for server, client, address in (("vm3", "vm1", GUEST_B), ("vm1", "vm3", GUEST_A)):
        with lab.guests[server].serve(80):
            said = lab.guests[client].get(f"http://{address}/").text.strip()
        assert said == f"{server} sees {GUEST_A if client == 'vm1' else GUEST_B}"


def passing(box: Node, lab: Lab) -> list[tuple[int, str, str, int, int]]:
    """What is on the public wire while guests ping: protocol, addresses, ports of UDP."""
    with wire(box) as public:
        assert lab.guests["vm1"].pings(GUEST_B, count=3)
        seen = [frame for frame in frames(public) if frame[12:14] == b"\x08\x00"]
    found = []
    for frame in seen:
        source, destination = (str(IPv4Address(frame[at : at + 4])) for at in (26, 30))
        ports = struct.unpack("!HH", frame[34:38]) if frame[23] == UDP else (0, 0)
        found.append((frame[23], source, destination, *ports))
    return found


def port_of_peer(site: Site) -> int:
    """The port that the peer's packets come from."""
    said = site.vm.run(["swanctl", "--list-sas"]).text
    found = re.search(rf"remote +'b.example' @ {re.escape(BOX_B)}\[(\d+)\]", said)
    assert found, said
    return int(found[1])


def renewed(lab: Lab, site: Site, child: str) -> None:
    """Keys are renewed by a site, while guests ping."""
    old = site.spis()[child]
    argv = ["ping", "-n", "-q", "-i", "0.05", "-c", "100", "-W", "1", GUEST_B]
    with lab.guests["vm1"].popen(argv) as ping:
        for what in (["--child", child], ["--ike", child], ["--child", child]):
            site.vm.run(["swanctl", "--rekey", *what])
        said = ping.communicate(timeout=30)[0].decode()
    assert int(re.findall(r"(\d+) received", said)[0]) >= 99, said
    wait_until(lambda: not site.spis()[child] & old, 15, "the old keys being gone")


def test_one_site_behind_nat(lab: Lab, sites: tuple[Site, Site], one: str) -> None:
    a, b = sites
    begun(sites, one)
    carries(lab)
    row = a.tunnel("branch")
    assert (row["peer"], row["remote_identity"]) == (BOX_B, "b.example")
    assert port_of_peer(a) in PORTS
    packets = passing(lab.boxes["boxb"], lab)
    assert {packet[0] for packet in packets} == {UDP}
    assert {packet[1] for packet in packets} == {OWN_A, BOX_B}
    assert {packet[4] for packet in packets if packet[1] == BOX_B} == {4500}
    assert {packet[3] for packet in packets if packet[1] == BOX_B} <= set(PORTS)
    renewed(lab, a, "branch")
    renewed(lab, b, "head")
    carries(lab)


def test_nat_that_forgets_and_chooses_another_port(
    lab: Lab, sites: tuple[Site, Site], one: str
) -> None:
    a, _ = sites
    begun(sites, one)
    box = lab.boxes["boxb"]
    translates(box, OTHER_PORTS)
    box.run(["conntrack", "-F"])
    wait_until(lambda: port_of_peer(a) in OTHER_PORTS, 30, "the other port")
    wait_until(lambda: lab.guests["vm1"].pings(GUEST_B), 10, "a packet to the other port")
    carries(lab)
    translates(box, PORTS)


def test_both_sites_behind_nat(lab: Lab, sites: tuple[Site, Site], both: str) -> None:
    a, b = sites
    begun(sites, both)
    carries(lab)
    assert a.tunnel("branch")["peer"] == BOX_B
    assert b.tunnel("head")["peer"] == BOX_A
    packets = passing(lab.boxes["boxb"], lab)
    assert {packet[0] for packet in packets} == {UDP}
    assert {packet[1] for packet in packets} == {BOX_A, BOX_B}
    renewed(lab, a, "branch")
    renewed(lab, b, "head")
    carries(lab)


def test_peer_behind_another_box_is_not_let_in(
    lab: Lab, sites: tuple[Site, Site], both: str
) -> None:
    """What comes in for a connection comes from the peer's address: that of its box."""
    a, b = sites
    begun(sites, both)
    wrong: Document = {"peer_address": "203.0.113.51"}
    a.connection("branch", wrong)
    b.wait("head", "down")
    begin(b, "head")
    assert a.tunnel("branch")["state"] == "down"
    assert not lab.guests["vm3"].pings(GUEST_A)
    a.connection("branch", {"peer_address": BOX_B})
    begin(b, "head")
    a.wait("branch")
    carries(lab)
