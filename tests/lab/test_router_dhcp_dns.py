"""Guests get their addresses and names from the VM, and nobody else does."""

import dns.exception
import dns.rdatatype
import pytest

from appliance.lab import Lab
from appliance.lab.node import NoLease
from appliance.lab.wait import wait_until
from tests.lab.helpers import VM1, VM1_MAC, VM2, VM2_MAC, WWW, Router, with_mac

DOMAIN = "net1.example.internal"
STRANGER = "02:00:0a:01:01:99"


@pytest.fixture(scope="module")
def router(lab: Lab) -> Router:
    """The example runs."""
    router = Router(lab)
    router.push(router.document)
    return router


@pytest.fixture
def guests(lab: Lab, router: Router) -> None:
    """Both guests have what DHCP gave them."""
    for guest in lab.guests.values():
        guest.dhcp()


def leases(router: Router) -> dict[str, tuple[str, str]]:
    """Address and state by MAC."""
    return {row["mac"]: (row["address"], row["state"]) for row in router.show("dhcp")}


def resolves(lab: Lab, name: str, server: str = "10.1.1.1", kind: str = "A") -> list[str]:
    """What the VM answers a guest, without what the guest's own programs make of it."""
    answer = lab.guests["vm1"].query(name, kind, server=server)
    return sorted(entry.to_text() for rrset in answer.answer for entry in rrset)


def test_hosts_get_their_address_and_what_goes_with_it(lab: Lab, router: Router) -> None:
    lease = lab.guests["vm1"].dhcp()
    assert (lease.address, lease.prefix, lease.seconds) == (VM1, 24, 86400)
    assert (lease.server, lease.routers, lease.nameservers) == (
        "10.1.1.1",
        ("10.1.1.1",),
        ("10.1.1.1",),
    )
    assert (lease.domain, lease.hostname, lease.mtu) == (DOMAIN, "vm1", 1500)
    assert lab.guests["vm2"].dhcp().address == VM2
    assert leases(router) == {VM1_MAC: (VM1, "leased"), VM2_MAC: (VM2, "leased")}


@pytest.mark.usefixtures("guests")
def test_names_resolve_with_and_without_domain_and_back(lab: Lab) -> None:
    vm1, vm2 = lab.guests["vm1"], lab.guests["vm2"]
    for name in ("vm1", f"vm1.{DOMAIN}"):
        assert vm2.lookup(name) == (VM1,)
    assert vm1.lookup("vm2") == (VM2,)
    assert vm1.lookup("r-1-vm") == ("10.1.1.1",)
    assert vm1.lookup("data-server") == ("10.1.1.1",)
    assert vm1.lookup(f"db.{DOMAIN}") == vm1.lookup("db") == (VM2,)
    assert resolves(lab, "10.1.1.10.in-addr.arpa", kind="PTR") == [f"vm1.{DOMAIN}."]
    assert resolves(lab, "vm1", kind="AAAA") == []


@pytest.mark.usefixtures("guests")
def test_other_names_are_asked_of_the_upstream_and_our_own_never(lab: Lab) -> None:
    vm1 = lab.guests["vm1"]
    assert vm1.lookup("www.example.test") == (WWW,)
    assert vm1.lookup(f"nobody.{DOMAIN}") == ()
    asked = lab.internet.dns_log.read_text()
    assert "www.example.test" in asked
    assert DOMAIN not in asked
    assert "vm1" not in asked
    assert "witness" not in asked


@pytest.mark.usefixtures("guests")
def test_upstreams_can_be_taken_away_and_given_back(lab: Lab, router: Router) -> None:
    before = router.daemons(), router.firewall()
    with router.changed({"dhcp_dns": {"dns": {"upstreams": []}}}):
        assert resolves(lab, "shop.example.test") == []
        assert resolves(lab, "vm2") == [VM2]
    assert resolves(lab, "shop.example.test") == ["198.51.100.20"]
    assert (router.daemons(), router.firewall()) == before


@pytest.mark.usefixtures("guests")
def test_record_comes_and_goes_and_nothing_else_moves(lab: Lab, router: Router) -> None:
    before = router.daemons(), router.firewall()
    record = {"cache": {"addresses": ["10.1.1.21", "2001:db8::21"]}}
    with router.changed({"dhcp_dns": {"dns": {"records": record}}}) as plan:
        assert "~ reload dnsmasq.service" in plan
        assert not any("restart" in line or "ipv4" in line for line in plan)
        assert resolves(lab, f"cache.{DOMAIN}") == ["10.1.1.21"]
        assert resolves(lab, "cache", kind="AAAA") == ["2001:db8::21"]
        assert (router.daemons(), router.firewall()) == before
    assert resolves(lab, "cache") == []
    assert (router.daemons(), router.firewall()) == before


@pytest.mark.usefixtures("guests")
def test_data_server_can_be_another(lab: Lab, router: Router) -> None:
    with router.changed({"dhcp_dns": {"dns": {"data_server": "10.1.1.77"}}}):
        assert resolves(lab, "data-server") == ["10.1.1.77"]
    assert resolves(lab, "data-server") == ["10.1.1.1"]


def test_strangers_get_an_address_of_a_range_if_there_is_one(lab: Lab, router: Router) -> None:
    guest = lab.guests["vm2"]
    with with_mac(guest, STRANGER):
        lease = guest.dhcp(hostname="stranger")
        assert 200 <= int(lease.address.rpartition(".")[2]) <= 250
        assert lease.seconds == 3600
        assert leases(router)[STRANGER] == (lease.address, "dynamic")
        assert guest.lookup("vm1") == (VM1,)
        # dnsmasq forgets nothing when it is told to read its files again, or is started again.
        with router.changed({"dhcp_dns": {"dns": {"records": {"x": {"addresses": [VM1]}}}}}):
            assert guest.dhcp().address == lease.address
        lab.vm.run(["systemctl", "restart", "dnsmasq"])
        assert leases(router)[STRANGER] == (lease.address, "dynamic")
        assert guest.dhcp().address == lease.address
        with router.changed({"dhcp_dns": {"ranges": None}}):
            guest.forget()
            with pytest.raises(NoLease):
                guest.dhcp(attempts=1)
        assert guest.dhcp(attempts=8).address


def test_host_that_is_removed_leaves_nothing_behind(lab: Lab, router: Router) -> None:
    vm2 = lab.guests["vm2"]
    assert vm2.dhcp().address == VM2
    lab.guests["vm1"].dhcp()
    without = {"dhcp_dns": {"hosts": {VM2_MAC: None}, "ranges": None}}
    with router.changed(without) as plan:
        assert f"- lease {VM2} of {VM2_MAC}" in plan
        assert VM2_MAC not in leases(router)
        assert VM2.encode() not in lab.vm.read("/var/lib/sysvm/leases/dnsmasq.leases")
        assert leases(router)[VM1_MAC] == (VM1, "leased")
        assert resolves(lab, "vm2") == []
        with pytest.raises(NoLease):
            vm2.dhcp(attempts=1)
        # The address is free for somebody else at once.
        heir = {STRANGER: {"address": VM2, "name": "heir"}}
        with router.changed({"dhcp_dns": {"hosts": heir}}), with_mac(vm2, STRANGER):
            assert vm2.dhcp().address == VM2
            assert resolves(lab, "heir") == [VM2]
    assert vm2.dhcp().address == VM2
    assert resolves(lab, "vm2") == [VM2]


def test_host_gets_its_new_address_and_not_the_old_one(lab: Lab, router: Router) -> None:
    vm2 = lab.guests["vm2"]
    assert vm2.dhcp().address == VM2
    moved = {"dhcp_dns": {"hosts": {VM2_MAC: {"address": "10.1.1.30"}}}}
    with router.changed(moved):
        # It asks for the address that it had.
        assert vm2.dhcp(options=["-r", VM2]).address == "10.1.1.30"
        assert resolves(lab, "vm2") == ["10.1.1.30"]
        assert leases(router)[VM2_MAC] == ("10.1.1.30", "leased")
    assert vm2.dhcp().address == VM2


def test_options_reach_the_guest_and_only_the_one_they_are_for(lab: Lab, router: Router) -> None:
    for_all = {
        "domain_search": ["a.example", "b.example"],
        "ntp_servers": ["10.1.1.5", "10.1.1.6"],
        "time_servers": ["10.1.1.5"],
        "log_servers": ["10.1.1.7"],
        "netbios_servers": ["10.1.1.8"],
        "classless_routes": {"192.168.50.0/24": "10.1.1.254"},
        "tftp_server": "10.1.1.9",
        "bootfile_name": "images/pxelinux.0",
        "timezone": "Europe/Zurich",
    }
    for_vm2 = {"routers": ["10.1.1.99"], "dns_servers": ["10.1.1.98"]}
    hosts = {VM2_MAC: {"options": for_vm2, "lease_seconds": 600}}
    names = ("ntpsrv", "4", "7", "wins", "tftp", "bootfile", "search", "101")
    asked = [f"-O{name}" for name in names]
    vm1, vm2 = lab.guests["vm1"], lab.guests["vm2"]
    with router.changed({"dhcp_dns": {"options": for_all, "hosts": hosts}}) as plan:
        assert "~ reload dnsmasq.service" in plan
        lease = vm1.dhcp(options=asked)
        raw = lease.raw
        assert raw["search"].split() == ["a.example", "b.example"]
        assert raw["ntpsrv"].split() == ["10.1.1.5", "10.1.1.6"]
        assert (raw["opt4"], raw["opt7"], raw["wins"]) == ("0a010105", "0a010107", "10.1.1.8")
        assert (raw["tftp"], raw["bootfile"]) == ("10.1.1.9", "images/pxelinux.0")
        assert raw["tzdbstr"] == "Europe/Zurich"
        assert dict(lease.routes) == {"192.168.50.0/24": "10.1.1.254", "0.0.0.0/0": "10.1.1.1"}
        other = vm2.dhcp(options=asked)
        assert (other.seconds, other.nameservers) == (600, ("10.1.1.98",))
        assert dict(other.routes) == {"192.168.50.0/24": "10.1.1.254", "0.0.0.0/0": "10.1.1.99"}
    again = vm1.dhcp(options=asked)
    assert not {"search", "ntpsrv", "tftp", "staticroutes", "tzdbstr"} & again.raw.keys()
    assert vm2.dhcp().routers == ("10.1.1.1",)


def test_mtu_of_the_nic_is_told_to_guests(lab: Lab, router: Router) -> None:
    with router.changed({"site": {"nics": {"02:00:0a:01:01:01": {"mtu": 1400}}}}):
        assert lab.guests["vm1"].dhcp().mtu == 1400
        assert "mtu 1400" in lab.vm.run(["ip", "link", "show", "eth0"]).text
    assert lab.guests["vm1"].dhcp().mtu == 1500


@pytest.mark.usefixtures("guests")
def test_dns_is_for_guests_alone(lab: Lab, router: Router) -> None:
    internet, manager = lab.internet, lab.manager
    # Even for who knows the way to the guests' side.
    internet.run(["ip", "route", "replace", "10.1.1.0/24", "via", "203.0.113.10"])
    manager.run(["ip", "route", "replace", "10.1.1.0/24", "via", "169.254.10.2"])
    try:
        for node, address in (
            (internet, "203.0.113.10"),
            (internet, "10.1.1.1"),
            (manager, "169.254.10.2"),
            (manager, "10.1.1.1"),
        ):
            with pytest.raises(dns.exception.Timeout):
                node.query("vm1", server=address, timeout=0.3)
            assert not node.reaches(address, 53, timeout=0.3)
    finally:
        internet.run(["ip", "route", "del", "10.1.1.0/24"])
        manager.run(["ip", "route", "del", "10.1.1.0/24"])
    assert resolves(lab, "vm2") == [VM2]
    assert lab.guests["vm1"].reaches("10.1.1.1", 53)
    for nobody in (internet, manager):
        asked = ["busybox", "udhcpc", "-n", "-q", "-f", "-t1", "-T1", "-ieth0", "-s/bin/true"]
        assert nobody.run(asked, check=False).returncode != 0


@pytest.mark.usefixtures("guests")
def test_resolver_can_be_switched_off_and_on(lab: Lab, router: Router) -> None:
    vm1 = lab.guests["vm1"]
    with router.changed({"dhcp_dns": {"dns": {"enabled": False}}}):
        with pytest.raises(dns.exception.Timeout):
            vm1.query("vm2", server="10.1.1.1", timeout=0.3)
        assert vm1.dhcp().nameservers == ()
    assert resolves(lab, "vm2") == [VM2]
    assert vm1.dhcp().nameservers == ("10.1.1.1",)


def test_dhcp_can_be_switched_off_and_on(lab: Lab, router: Router) -> None:
    vm1 = lab.guests["vm1"]
    vm1.dhcp()
    with router.changed({"dhcp_dns": {"dhcp": {"enabled": False}, "ranges": None}}):
        assert resolves(lab, "vm2") == [VM2]
        with pytest.raises(NoLease):
            vm1.dhcp(attempts=1)
    assert vm1.dhcp().address == VM1


def test_section_that_is_not_there_is_not_running(lab: Lab, router: Router) -> None:
    with router.changed({"dhcp_dns": None}) as plan:
        assert "- stop dnsmasq.service" in plan
        assert router.daemons()["dnsmasq"] == frozenset()
        listening = lab.vm.run(["ss", "-Hlntup"]).text
        assert ":53 " not in listening
        assert ":67 " not in listening
    wait_until(lambda: resolves(lab, "vm2") == [VM2], 5, "the names")
