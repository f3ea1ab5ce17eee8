"""NICs, addresses, routes and IPv6 of the router, as its neighbours see them."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from appliance.lab import Lab
from appliance.lab.wait import wait_until
from tests.lab.helpers import (
    INTERNET,
    PUBLIC_MAC,
    ROUTER_MAC,
    VM1,
    VM2,
    WWW,
    Document,
    Router,
    frames,
    mss,
    reached,
    seen,
    settle,
    wire,
)

GUEST_SIX, PUBLIC_SIX, CONTROL_SIX = "2001:db8:1::1", "2001:db8:2::10", "2001:db8:3::2"
SIX: Document = {
    "site": {
        "nics": {
            ROUTER_MAC: {"addresses": {f"{GUEST_SIX}/64": {}}},
            "0e:00:a9:fe:0a:02": {"addresses": {f"{CONTROL_SIX}/64": {}}},
            PUBLIC_MAC: {
                "addresses": {f"{PUBLIC_SIX}/64": {}},
                "gateway_ipv6": "2001:db8:2::1",
            },
        }
    }
}


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example runs, and the guests have their addresses."""
    router = Router(lab)
    router.push(router.document)
    settle(lab.guests["vm1"], VM1)
    settle(lab.guests["vm2"], VM2)
    return router


def nic(mac: str, **fields: object) -> Document:
    return {"site": {"nics": {mac: fields}}}


def test_host_name_is_what_the_document_says(router: Router, lab: Lab) -> None:
    assert lab.vm.run(["hostname"]).text.strip() == "r-1-vm"
    with router.changed({"site": {"hostname": "r-2-vm"}}):
        assert lab.vm.run(["hostname"]).text.strip() == "r-2-vm"
    assert lab.vm.run(["hostname"]).text.strip() == "r-1-vm"


# -- IPv4 --------------------------------------------------------------------------------------


def test_new_address_is_announced_answers_and_goes_again(lab: Lab, router: Router) -> None:
    internet, address = lab.internet, "203.0.113.20"
    ping = {"firewall": {"ingress": {address: {"ping": {"protocol": "icmp"}}}}}
    mac = bytes.fromhex(PUBLIC_MAC.replace(":", ""))

    def is_announcement(frame: bytes) -> bool:
        """Gratuitous ARP (RFC 5227): the address is both sender's and target's."""
        told = IPv4Address(address).packed
        return (
            frame[:14] == b"\xff" * 6 + mac + b"\x08\x06"
            and frame[28:32] == told
            and frame[38:42] == told
        )

    # Somebody had the address before, and the neighbour remembers that.
    stale = ["ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:99", "nud", "stale"]
    internet.run([*stale, "dev", "eth0"])
    before = router.daemons()
    with wire(internet) as sock:
        with router.changed(nic(PUBLIC_MAC, addresses={f"{address}/24": {}}) | ping) as plan:
            assert f"~ announce {address}" in plan
            seen(sock, is_announcement, "the announcement")
            assert PUBLIC_MAC in internet.run(["ip", "neigh", "show", address]).text
            assert internet.pings(address)
            assert router.daemons() == before
            # What was there before is not announced again.
            list(frames(sock))
            with router.changed({"dhcp_dns": {"dns": {"records": {"x": {"addresses": [VM1]}}}}}):
                assert not any(map(is_announcement, frames(sock)))
        assert not internet.pings(address, timeout=0.3)
    rows = {row["name"]: row for row in router.show("interfaces")}
    assert f"{address}/24" not in rows["eth2"]["addresses"]
    assert internet.pings("203.0.113.10")


def test_first_address_can_go_without_taking_the_others_along(lab: Lab, router: Router) -> None:
    """The kernel drops a subnet's later addresses with its first."""
    addresses = {"203.0.113.10/24": None}
    without = nic(PUBLIC_MAC, addresses=addresses) | {
        "nat": {"source_address": "203.0.113.11", "forwards": None},
        "firewall": {"ingress": {"203.0.113.10": None}},
    }
    with router.changed(without):
        shown = lab.vm.run(["ip", "-4", "address", "show", "dev", "eth2"]).text
        assert "203.0.113.10/" not in shown
        assert "203.0.113.11/24" in shown
        assert "203.0.113.12/24" in shown
        assert lab.guests["vm1"].get(f"http://{WWW}/").headers["x-client"] == "203.0.113.11"
        assert router.drift() == []
    assert lab.guests["vm1"].get(f"http://{WWW}/").headers["x-client"] == "203.0.113.10"


def test_address_of_the_vm_answers_on_its_own_nic_only(lab: Lab, router: Router) -> None:
    """ARP for the guest's gateway is not answered on the public network."""
    internet = lab.internet
    asked = ["busybox", "arping", "-f", "-c1", "-w1", "-I", "eth0"]
    assert internet.run([*asked, "203.0.113.10"], check=False).returncode == 0
    assert internet.run([*asked, "10.1.1.1"], check=False).returncode != 0
    assert internet.run([*asked, "169.254.10.2"], check=False).returncode != 0


def test_segments_are_clamped_to_the_smaller_mtu(lab: Lab, router: Router) -> None:
    def offered() -> int:
        with wire(lab.internet) as sock:
            lab.guests["vm1"].connect(WWW, 80).close()
            return mss(seen(sock, lambda frame: mss(frame) is not None, "a SYN")) or 0

    assert offered() == 1460
    with router.changed(nic(PUBLIC_MAC, mtu=1300)):
        assert "mtu 1300" in lab.vm.run(["ip", "link", "show", "eth2"]).text
        assert offered() == 1260
        # The other way as well: what the internet's server offers.
        with wire(lab.guests["vm1"]) as sock:
            lab.guests["vm1"].connect(WWW, 80).close()

            def is_answer(frame: bytes) -> bool:
                return mss(frame) is not None and frame[26:30] == IPv4Address(WWW).packed

            assert mss(seen(sock, is_answer, "a SYN-ACK")) == 1260
    assert offered() == 1460


def test_route_is_added_moved_and_removed(lab: Lab, router: Router) -> None:
    internet = lab.internet
    internet.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])
    try:
        via: dict[str, object] = {"192.0.2.0/24": {"via": "203.0.113.7"}}
        assert lab.guests["vm1"].pings("192.0.2.1")  # by the default gateway
        with router.changed({"site": {"routes": via}}) as plan:
            assert "+ route 192.0.2.0/24 via 203.0.113.7 on eth2" in plan
            assert not lab.guests["vm1"].pings("192.0.2.1", timeout=0.3)
            moved = {"site": {"routes": {"192.0.2.0/24": {"via": INTERNET}}}}
            with router.changed(moved):
                assert lab.guests["vm1"].pings("192.0.2.1")
                rows = {row["destination"]: row for row in router.show("routes")}
                assert rows["192.0.2.0/24"]["via"] == INTERNET
                assert rows["192.0.2.0/24"]["present"]
        assert lab.guests["vm1"].pings("192.0.2.1")
        assert "192.0.2.0" not in lab.vm.run(["ip", "route"]).text
    finally:
        internet.run(["ip", "address", "del", "192.0.2.1/32", "dev", "lo"])


def test_what_somebody_changes_by_hand_is_drift_and_put_right(lab: Lab, router: Router) -> None:
    assert router.drift() == []
    lab.vm.run(["ip", "address", "add", "203.0.113.77/24", "dev", "eth2"])
    lab.vm.run(["ip", "address", "del", "203.0.113.12/24", "dev", "eth2"])
    lab.vm.run(["ip", "link", "set", "eth0", "mtu", "1280"])
    lab.vm.run(["ip", "route", "del", "default"])
    lab.vm.run(["sysctl", "-qw", "net.ipv4.ip_forward=0"])
    found = router.drift()
    assert "- address 203.0.113.77/24 on eth2" in found
    assert "+ address 203.0.113.12/24 on eth2" in found
    assert "~ link eth0: mtu 1280 -> 1500" in found
    assert "+ route 0.0.0.0/0 via 203.0.113.1 on eth2" in found
    assert "~ sysctl net.ipv4.ip_forward: 0 -> 1" in found
    assert not any(" filter: " in entry or "unit" in entry for entry in found)
    before = router.daemons()
    answer = router.put(router.document)  # the same again
    assert answer.status == 200
    assert router.drift() == []
    assert router.daemons() == before
    assert lab.guests["vm1"].reaches(WWW, 80)


# -- IPv6 --------------------------------------------------------------------------------------


@pytest.fixture
def six(lab: Lab, router: Router) -> Iterator[None]:
    """IPv6 on every NIC of the VM, and on everybody's."""
    given = (
        (lab.guests["vm1"], "2001:db8:1::a", GUEST_SIX),
        (lab.internet, "2001:db8:2::1", PUBLIC_SIX),
        (lab.manager, "2001:db8:3::1", CONTROL_SIX),
    )
    for node, address, router_address in given:
        node.run(["ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad"])
        node.run(["ip", "-6", "route", "add", "default", "via", router_address])
    with router.changed(SIX):
        yield
    for node, address, _ in given:
        node.run(["ip", "-6", "route", "del", "default"])
        node.run(["ip", "address", "del", f"{address}/64", "dev", "eth0"])


@pytest.mark.usefixtures("six")
def test_addresses_and_routes_are_set_and_neighbours_found(lab: Lab, router: Router) -> None:
    text = lab.vm.run(["ip", "-6", "-o", "address"]).text
    for address in (GUEST_SIX, PUBLIC_SIX, CONTROL_SIX):
        assert f"{address}/64" in text
    assert "default via 2001:db8:2::1 dev eth2" in lab.vm.run(["ip", "-6", "route"]).text
    # Neighbour discovery works both ways: an address of the link is found.
    assert lab.guests["vm1"].pings(GUEST_SIX)
    assert lab.vm.run(["ping", "-6", "-c1", "-W1", "2001:db8:2::1"]).returncode == 0
    for node, address in ((lab.internet, PUBLIC_SIX), (lab.manager, CONTROL_SIX)):
        assert not node.pings(address, timeout=0.3)  # closed
        known = node.run(["ip", "-6", "neigh", "show", address]).text
        assert "lladdr" in known  # but a neighbour
    assert router.drift() == []


@pytest.mark.usefixtures("six")
def test_nothing_but_what_is_asked_for_is_open_over_ipv6(lab: Lab, router: Router) -> None:
    ports = (22, 53, 80, 443, 8080)
    found = reached(lab.guests["vm1"], GUEST_SIX, tcp=(*ports, 8443), udp=(53, 67, 547))
    assert found == {"tcp 53", "ping"}  # a datagram of no query is not answered
    assert reached(lab.internet, PUBLIC_SIX, tcp=(*ports, 8443), udp=(53, 547)) == set()
    assert reached(lab.manager, CONTROL_SIX, tcp=(*ports, 8443), udp=(53,)) == {"tcp 8443"}
    assert lab.guests["vm1"].query("data-server", server=GUEST_SIX).answer
    # Link-local addresses are no way round it.
    for node, name in ((lab.internet, "eth2"), (lab.guests["vm1"], "eth0")):
        shown = lab.vm.run(["ip", "-6", "-o", "address", "show", "dev", name]).text.split()
        local = next(word for word in shown if word.startswith("fe80")).partition("/")[0]
        argv = ["nmap", "-6", "-n", "-Pn", "-sS", "--open", "-p22,80,8443,8080", "-oG", "-"]
        assert "Ports:" not in node.run([*argv, f"{local}%eth0"]).text


@pytest.mark.usefixtures("six")
def test_guests_go_out_and_nobody_comes_in_over_ipv6(lab: Lab, router: Router) -> None:
    vm1, internet = lab.guests["vm1"], lab.internet
    with vm1.serve(80):
        assert vm1.get("http://[2001:db8:2::1]/").headers["x-client"] == "2001:db8:1::a"
        assert vm1.pings("2001:db8:2::1")
        assert reached(internet, "2001:db8:1::a", tcp=(80,)) == set()
        with router.changed({"firewall": {"egress": {"policy": "deny", "rules": None}}}):
            assert not vm1.pings("2001:db8:2::1", timeout=0.3)
            only = {"six": {"protocol": "icmpv6", "icmp_type": 128}}
            with router.changed({"firewall": {"egress": {"rules": only}}}):
                assert vm1.pings("2001:db8:2::1")
                assert not vm1.reaches("2001:db8:2::1", 80, timeout=0.3)
        assert vm1.reaches("2001:db8:2::1", 80)


@pytest.mark.usefixtures("six")
def test_ping_of_a_public_ipv6_address_only_if_told(lab: Lab, router: Router) -> None:
    rule = {"ping": {"protocol": "icmpv6", "icmp_type": 128, "sources": ["2001:db8:2::/64"]}}
    assert not lab.internet.pings(PUBLIC_SIX, timeout=0.3)
    with router.changed({"firewall": {"ingress": {PUBLIC_SIX: rule}}}):
        assert lab.internet.pings(PUBLIC_SIX)
    assert not lab.internet.pings(PUBLIC_SIX, timeout=0.3)


@pytest.mark.usefixtures("six")
def test_guest_speaks_with_ipv6_addresses_of_its_network_only(lab: Lab, router: Router) -> None:
    vm1 = lab.guests["vm1"]
    vm1.run(["ip", "address", "add", "2001:db8:99::1/64", "dev", "eth0", "nodad"])
    lab.internet.run(["ip", "-6", "route", "add", "2001:db8:99::/64", "via", PUBLIC_SIX])
    try:
        argv = ["ping", "-6", "-n", "-c1", "-W0.4", "-I", "2001:db8:99::1", "2001:db8:2::1"]
        assert vm1.run(argv, check=False).returncode != 0
        assert vm1.pings("2001:db8:2::1")
    finally:
        vm1.run(["ip", "address", "del", "2001:db8:99::1/64", "dev", "eth0"])
        lab.internet.run(["ip", "-6", "route", "del", "2001:db8:99::/64"])


@pytest.mark.usefixtures("six")
def test_new_ipv6_address_is_advertised(lab: Lab, router: Router) -> None:
    address = IPv6Address("2001:db8:2::20")

    def is_advertisement(frame: bytes) -> bool:
        return (
            frame[12:14] == struct.pack("!H", 0x86DD)
            and frame[20] == socket.IPPROTO_ICMPV6
            and frame[54] == 136
            and frame[62:78] == address.packed
        )

    with (
        wire(lab.internet) as sock,
        router.changed(nic(PUBLIC_MAC, addresses={f"{address}/64": {}})),
    ):
        seen(sock, is_advertisement, "the advertisement")


def test_without_ipv6_addresses_there_is_no_ipv6(lab: Lab, router: Router) -> None:
    wait_until(lambda: router.drift() == [], 5, "no drift")
    text = lab.vm.run(["ip", "-6", "-o", "address", "show", "scope", "global"]).text
    assert "2001:" not in text
    saved = lab.vm.run(["ip6tables-save"]).text
    assert ":INPUT DROP" in saved
    assert ":FORWARD DROP" in saved
