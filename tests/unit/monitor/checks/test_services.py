"""Each service's checks: what the document wants against what is read, item by item."""

import json
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from agent.engine.firewall import tables
from agent.engine.model import (
    AddAddress,
    Address,
    AddressSet,
    AddRoute,
    Family,
    Lease,
    Plan,
    PutSet,
    PutTable,
    RemoveAddress,
    RemoveSet,
    Route,
    SetSysctl,
    SetType,
    Sysctl,
    Table,
)
from agent.monitor.checks import NAMED, Balanced, Lent, Round, ServiceState, discover
from agent.monitor.checks.dhcp import sample
from agent.monitor.checks.dns import AT_MOST
from agent.monitor.health import Level, Verdict
from tests.bench import documents
from tests.unit.engine.documents import ROUTER, router
from tests.unit.engine.memory import GUEST, PUBLIC
from tests.unit.monitor.checks.machine import VERSIONS, FakeMachine, found, given

MACS = ("02:00:0a:01:01:0a", "02:00:0a:01:01:0b")
SECTIONS: dict[str, Any] = {
    "dhcp_dns": {
        "hosts": {
            MACS[0]: {"address": "10.1.1.10", "name": "vm1"},
            MACS[1]: {"address": "10.1.1.11", "name": "vm2"},
        },
        "dns": {"records": {"db": {"addresses": ["10.1.1.11", "192.0.2.9", "2001:db8::9"]}}},
    },
    "nat": {
        "source_address": "203.0.113.10",
        "static": {"203.0.113.11": {"to": "10.1.1.11"}},
        "forwards": {
            "web": {"address": "203.0.113.10", "protocol": "tcp", "ports": 80, "to": "10.1.1.10"}
        },
    },
    "load_balancer": {
        "listeners": {
            "shop": {
                "address": "203.0.113.10",
                "port": 8080,
                "servers": {"a": {"address": "10.1.1.10", "port": 80}},
            },
            "old": {"address": "203.0.113.10", "port": 8081},
        }
    },
}
WHOLE = router(**SECTIONS)
BARE = json.dumps(
    {name: ROUTER[name] for name in ("schema", "generation", "role", "site")}
).encode()


def machine(about: Round) -> FakeMachine:
    assert isinstance(about.machine, FakeMachine)
    return about.machine


def text(about: Round, path: str) -> bytes:
    assert about.desired is not None
    return about.desired.files[path].content


# -- all of them -------------------------------------------------------------------------------


def test_names_are_stable() -> None:
    """Operators exclude checks by name: one that is renamed or goes is told in the changelog."""
    assert {name: check.level.value for name, check in discover().items()} == {
        **dict.fromkeys(
            (
                "services", "gateways", "versions", "writable", "disk", "inodes", "cpu", "memory",
                "connections", "clock", "certificates",
            ),
            "basic",
        ),
        **dict.fromkeys(
            ("dhcp", "dns", "load-balancer", "forwards", "firewall", "network"), "advanced"
        ),
    }  # fmt: skip


@pytest.mark.parametrize("document", [WHOLE, router(), BARE], ids=["whole", "no guests", "bare"])
def test_a_vm_that_is_as_asked_is_well_whatever_it_has(document: bytes) -> None:
    for name in discover():
        finding = found(name, given(document))
        assert finding.verdict in {Verdict.PASSED, Verdict.SKIPPED}, (name, finding)
        assert finding.message


def test_without_guests_or_a_service_checks_do_not_apply_and_say_why() -> None:
    about = given(router())
    reasons = {name: found(name, about) for name in ("dhcp", "dns", "load-balancer")}
    assert {f.verdict for f in reasons.values()} == {Verdict.SKIPPED}
    assert "wants no" in reasons["load-balancer"].message
    empty = given(router(dhcp_dns={}))
    assert found("dhcp", empty).verdict is Verdict.SKIPPED
    assert found("dns", empty).verdict is Verdict.PASSED, "its own name is asked for"
    assert found("forwards", given(BARE)).verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("name", "unit"),
    [("dhcp", "dnsmasq"), ("dns", "dnsmasq"), ("load-balancer", "haproxy")],
)
def test_a_held_service_is_no_failure_and_a_dead_one_is(name: str, unit: str) -> None:
    about = given(WHOLE)
    states = machine(about).states
    states[f"{unit}.service"] = ServiceState(alive=False, said="inactive", held="by ops: repair")
    assert found(name, about).verdict is Verdict.SKIPPED
    assert "by ops: repair" in found(name, about).message
    states[f"{unit}.service"] = ServiceState(alive=False, said="failed (failed)")
    finding = found(name, about)
    assert (finding.verdict, finding.missing) == (Verdict.FAILED, (f"{unit}.service",))


# -- services, gateways, versions --------------------------------------------------------------


def test_services_name_the_unit_that_is_down_or_silent_and_leave_held_ones() -> None:
    about = given(WHOLE)
    assert found("services", about).verdict is Verdict.PASSED
    states = machine(about).states
    states["haproxy.service"] = ServiceState(alive=False, said="failed (failed)")
    finding = found("services", about)
    assert finding.missing == ("haproxy.service",)
    assert (finding.verdict, finding.path) == (Verdict.FAILED, "/load_balancer")
    states["haproxy.service"] = ServiceState(alive=True, ready=False, said="no answer")
    assert "no answer" in found("services", about).message
    states["haproxy.service"] = ServiceState(alive=False, held="until noon")
    finding = found("services", about)
    assert finding.verdict is Verdict.PASSED
    assert "haproxy.service is held (until noon)" in finding.message


def test_a_daemon_that_is_just_starting_is_no_failure() -> None:
    about = given(WHOLE)
    starting = ServiceState(alive=False, ready=False, said="starting", starting=True)
    machine(about).states["dnsmasq.service"] = starting
    finding = found("services", about)
    assert (finding.verdict, "dnsmasq.service is starting" in finding.message) == (
        Verdict.PASSED,
        True,
    )
    assert found("dns", about).verdict is Verdict.SKIPPED


def test_a_gateway_that_is_silent_is_named_with_its_place() -> None:
    about = given(WHOLE)
    assert found("gateways", about).verdict is Verdict.PASSED
    machine(about).silent.add(IPv4Address("203.0.113.1"))
    finding = found("gateways", about)
    assert finding.verdict is Verdict.FAILED
    assert finding.path.startswith("/site/nics/")
    assert finding.path.endswith("/gateway")
    assert finding.missing == (f"203.0.113.1 on eth2 ({finding.path})",)


def test_a_next_hop_of_a_static_route_is_one_too() -> None:
    site = {**ROUTER["site"], "routes": {"192.168.9.0/24": {"via": "10.1.1.254"}}}
    about = given(router(site=site))
    machine(about).silent.add(IPv4Address("10.1.1.254"))
    assert found("gateways", about).path == "/site/routes/192.168.9.0~124/via"


def test_the_standby_of_a_pair_does_not_look_for_gateways() -> None:
    about = given(WHOLE)
    machine(about).silent.add(IPv4Address("203.0.113.1"))
    about.standby = True
    finding = found("gateways", about)
    assert (finding.verdict, "pair" in finding.message) == (Verdict.SKIPPED, True)


def test_versions_are_those_that_are_installed_and_expected() -> None:
    about = given(WHOLE)
    assert found("versions", about).verdict is Verdict.PASSED
    about.agent_version = "1.0"
    assert found("versions", about).verdict is Verdict.PASSED
    about.agent_version = "2.0"
    finding = found("versions", about)
    assert (finding.verdict, finding.path) == (Verdict.FAILED, "/monitoring/agent_version")
    assert finding.missing == ("agent 2.0",)
    about.agent_version = None
    machine(about).version = replace(VERSIONS, installed="1.1")
    assert found("versions", about).verdict is Verdict.WARNING


# -- DHCP --------------------------------------------------------------------------------------


def test_a_host_that_dnsmasq_was_not_given_is_named_with_its_place() -> None:
    about = given(WHOLE)
    assert found("dhcp", about).verdict is Verdict.PASSED
    lines = text(about, "dnsmasq/hosts").splitlines(keepends=True)
    machine(about).files["dnsmasq/hosts"] = b"".join(x for x in lines if b"vm2" not in x)
    finding = found("dhcp", about)
    path = f"/dhcp_dns/hosts/{MACS[1]}"
    assert (finding.verdict, finding.path) == (Verdict.FAILED, path)
    assert finding.missing == (f"{path} ({MACS[1]} 10.1.1.11 vm2)",)


def test_a_host_that_somebody_added_fails_too() -> None:
    about = given(WHOLE)
    added = text(about, "dnsmasq/hosts") + b"02:00:00:00:00:99,10.1.1.99,evil\n"
    machine(about).files["dnsmasq/hosts"] = added
    assert found("dhcp", about).verdict is Verdict.FAILED


def test_files_that_dnsmasq_has_not_read_fail_the_witness() -> None:
    about = given(WHOLE)
    witness = text(about, "dnsmasq/names").decode().splitlines()[-1].split()[1]
    machine(about).names[witness] = "NXDOMAIN"
    finding = found("dhcp", about)
    assert (finding.verdict, "NXDOMAIN" in finding.message) == (Verdict.FAILED, True)


def test_a_host_that_is_offered_another_address_or_none_is_named() -> None:
    about = given(WHOLE)
    machine(about).offers[MACS[1]] = "10.1.1.222"
    path = f"/dhcp_dns/hosts/{MACS[1]}/address"
    finding = found("dhcp", about)
    assert (finding.verdict, finding.path) == (Verdict.FAILED, path)
    assert finding.missing == (f"{path} (is offered 10.1.1.222, not 10.1.1.11)",)
    machine(about).offers[MACS[1]] = ""
    assert "offered nothing" in found("dhcp", about).message
    machine(about).lent = (Lent("02:00:00:00:00:99", "10.1.1.11"),)
    assert found("dhcp", about).verdict is Verdict.WARNING, "another holds it: told as such"


def test_of_many_hosts_a_few_are_asked_for_others_each_time() -> None:
    leases = [Lease(f"02:00:00:00:00:{n:02x}", IPv4Address(f"10.1.1.{n}")) for n in range(2, 102)]
    turns = [sample(leases, turn) for turn in range(13)]
    assert all(len(one) <= 8 for one in turns)
    assert {lease for one in turns for lease in one} == set(leases)
    assert sample(leases[:3], 7) == tuple(leases[:3])


def test_an_address_that_is_lent_to_another_is_a_warning() -> None:
    about = given(WHOLE)
    machine(about).lent = (Lent(MACS[0].upper(), "10.1.1.10"), Lent(MACS[0], "10.1.1.200"))
    assert found("dhcp", about).verdict is Verdict.PASSED
    machine(about).lent = (Lent("02:00:00:00:00:99", "10.1.1.11"),)
    finding = found("dhcp", about)
    path = f"/dhcp_dns/hosts/{MACS[1]}/address"
    assert (finding.verdict, finding.path) == (Verdict.WARNING, path)


# -- DNS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer", "path"),
    [
        ("vm1.net1.example.internal", "NXDOMAIN", f"/dhcp_dns/hosts/{MACS[0]}/name"),
        ("db.net1.example.internal", frozenset({"6.6.6.6"}), "/dhcp_dns/dns/records/db"),
        ("r-1.net1.example.internal", frozenset[str](), "/site/hostname"),
        ("data-server.net1.example.internal", "no answer", "/dhcp_dns/dns/data_server"),
    ],
)
def test_a_wrong_answer_is_named_with_its_place(name: str, answer: Any, path: str) -> None:
    about = given(WHOLE)
    machine(about).names[name] = answer
    finding = found("dns", about)
    assert (finding.verdict, finding.path) == (Verdict.FAILED, path)
    assert finding.missing[0].startswith(f"{path} ({name} at 10.1.1.1: ")


def test_a_guest_is_told_the_addresses_of_its_own_network() -> None:
    """localise-queries: of a name's addresses those that are near, where there are any."""
    about = given(WHOLE)
    name = "db.net1.example.internal"
    asked = [q for q in _asked(about) if q.name == name]
    assert [q.kind for q in asked] == ["A", "AAAA"]
    machine(about).names[name] = frozenset({"10.1.1.11", "192.0.2.9"})
    assert found("dns", about).verdict is Verdict.FAILED


def _asked(about: Round) -> list[Any]:
    machine(about).names["db.net1.example.internal"] = "refused"
    found("dns", about)
    return machine(about).asked


def test_of_many_names_a_sample_is_asked_another_one_each_time() -> None:
    sections = documents.router(1000)
    hosts = sections["dhcp_dns"]["hosts"]
    site = {**ROUTER["site"], "nics": {**ROUTER["site"]["nics"]}}
    site["nics"][GUEST] = {"role": "guest", "addresses": {"10.1.0.1/16": {}}}
    data = router(site=site, dhcp_dns={"hosts": hosts})
    seen: set[str] = set()
    for turn in range(6):
        about = given(data)
        about.turn = turn
        finding = found("dns", about)
        assert finding.verdict is Verdict.PASSED
        assert "a sample of" in finding.message
        asked = machine(about).asked
        assert len(asked) <= AT_MOST
        seen |= {question.name for question in asked}
    assert len(seen) > 990


# -- the load balancer -------------------------------------------------------------------------


def rows(about: Round) -> tuple[Balanced, ...]:
    return machine(about).balanced("")


def test_a_listener_that_does_not_listen_and_a_server_that_is_missing_are_named() -> None:
    about = given(WHOLE)
    assert found("load-balancer", about).verdict is Verdict.PASSED
    good = rows(about)
    machine(about).rows = tuple(r for r in good if r.listener != "old")
    finding = found("load-balancer", about)
    assert (finding.verdict, finding.path) == (Verdict.FAILED, "/load_balancer/listeners/old")
    machine(about).rows = tuple(r for r in good if r.server != "a")
    finding = found("load-balancer", about)
    path = "/load_balancer/listeners/shop/servers/a"
    assert finding.missing == (f"{path} (10.1.1.10:80 is not there)",)
    machine(about).rows = tuple(
        replace(r, address="10.1.1.66:80") if r.server == "a" else r for r in good
    )
    assert "is 10.1.1.66:80, not 10.1.1.10:80" in found("load-balancer", about).missing[0]


def test_a_server_that_is_down_is_told_and_is_no_failure_of_this_vm() -> None:
    about = given(WHOLE)
    machine(about).rows = tuple(
        replace(r, status="DOWN") if r.server == "a" else r for r in rows(about)
    )
    finding = found("load-balancer", about)
    assert (finding.verdict, "no server is up for shop" in finding.message) == (
        Verdict.PASSED,
        True,
    )


# -- the kernel --------------------------------------------------------------------------------


def plan(about: Round, table: Table, was: Mapping[str, str]) -> Plan:
    """The plan that makes the wanted table of what is left when lines are replaced."""
    assert about.desired is not None
    now = tables(about.desired.chains, about.desired.rules)[Family.V4, table]
    before = now
    for old, new in was.items():
        assert old in before
        before = "".join(new if old in line else line for line in before.splitlines(keepends=True))
    return Plan((PutTable(Family.V4, table, now, before),))


def test_a_forward_that_is_gone_is_named_and_the_firewall_is_not_to_blame() -> None:
    about = given(WHOLE)
    gone = plan(about, Table.NAT, {"/nat/forwards/web": ""})
    about = given(WHOLE, gone)
    finding = found("forwards", about)
    assert (finding.verdict, finding.path) == (Verdict.FAILED, "/nat/forwards/web")
    assert finding.missing[0].startswith("/nat/forwards/web (ipv4 nat: -A to4-203.0.113.10")
    assert found("firewall", about).verdict is Verdict.PASSED


def test_a_rule_of_the_frame_that_is_gone_is_named_too() -> None:
    about = given(WHOLE)
    finding = found("firewall", given(WHOLE, plan(about, Table.FILTER, {"sysvm: established": ""})))
    assert finding.verdict is Verdict.FAILED
    assert all(item.startswith("ipv4 filter: -A") for item in finding.missing)


def test_a_rule_that_somebody_added_is_a_warning() -> None:
    about = given(WHOLE)
    added = {"COMMIT": "-A INPUT -p tcp --dport 23 -j ACCEPT\nCOMMIT\n"}
    finding = found("firewall", given(WHOLE, plan(about, Table.FILTER, added)))
    assert finding.verdict is Verdict.WARNING
    assert finding.missing == ("ipv4 filter: -A INPUT -p tcp --dport 23 -j ACCEPT",)


def test_members_of_sets_are_named() -> None:
    wanted = AddressSet("s", Family.V4, SetType.IP, frozenset({"192.0.2.1", "192.0.2.2"}))
    there = replace(wanted, members=frozenset({"192.0.2.1"}))
    finding = found("firewall", given(WHOLE, Plan((PutSet(wanted, there),))))
    assert (finding.verdict, finding.missing) == (Verdict.FAILED, ("set s: 192.0.2.2",))
    assert found("firewall", given(WHOLE, Plan((PutSet(there, wanted),)))).verdict is (
        Verdict.WARNING
    )
    assert found("firewall", given(WHOLE, Plan((RemoveSet(there),)))).verdict is Verdict.WARNING


def test_what_the_network_lacks_is_named_with_its_place() -> None:
    steps = (
        AddAddress(Address("eth2", IPv4Interface("203.0.113.11/24"))),
        AddRoute(Route(IPv4Network("0.0.0.0/0"), IPv4Address("203.0.113.1"), "eth2")),
        SetSysctl(Sysctl("net.ipv4.ip_forward", "1"), "0"),
    )
    finding = found("network", given(WHOLE, Plan(steps)))
    nic = f"/site/nics/{PUBLIC}"
    assert finding.verdict is Verdict.FAILED
    assert finding.path == f"{nic}/addresses/203.0.113.11~124"
    assert finding.missing == (
        f"{finding.path} (+ address 203.0.113.11/24 on eth2)",
        f"{nic}/gateway (+ route 0.0.0.0/0 via 203.0.113.1 on eth2)",
        "~ sysctl net.ipv4.ip_forward: 0 -> 1",
    )
    extra = Plan((RemoveAddress(Address("eth2", IPv4Interface("203.0.113.99/24"))),))
    assert found("network", given(WHOLE, extra)).verdict is Verdict.WARNING


def test_what_is_missing_is_bounded_and_counted() -> None:
    wanted = AddressSet("s", Family.V4, SetType.IP, frozenset(f"192.0.2.{n}" for n in range(50)))
    finding = found("firewall", given(WHOLE, Plan((PutSet(wanted, None),))))
    assert len(finding.missing) == NAMED + 1
    assert finding.missing[-1] == f"and {50 - NAMED} more"


def test_levels() -> None:
    assert discover()["firewall"].level is Level.ADVANCED
