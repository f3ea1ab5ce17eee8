"""dnsmasq's files: as looked at, parsed back, and refused where they would be wrong."""

import shutil
import subprocess
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.document.site import NicRole
from agent.engine.model import DnsAnswers, Lease, Protocol, Reaction
from agent.services import CURRENT, Nic, dhcp_dns
from tests.unit.services.conftest import Golden
from tests.unit.services.sites import context, lines, linted, rendered, texts

NAME = "dhcp_dns"
WHOLE: dict[str, Any] = {
    "hosts": {
        "02:00:4c:00:00:01": {
            "address": "10.1.1.10",
            "address_ipv6": "2001:db8:1::10",
            "name": "vm1",
        },
        "02:00:4c:00:00:02": {
            "address": "10.1.1.11",
            "name": "vm2",
            "lease_seconds": "infinite",
            "options": {"routers": [], "ntp_servers": ["10.1.1.5"]},
        },
    },
    "ranges": {"pool": {"first": "10.1.1.100", "last": "10.1.1.199"}},
    "options": {
        "domain_search": ["a.example", "b.example"],
        "classless_routes": {"192.168.50.0/24": "10.1.1.254"},
        "time_servers": ["10.1.1.6"],
        "tftp_server": "10.1.1.7",
        "bootfile_name": "pxelinux.0",
        "timezone": "Europe/Zurich",
    },
    "dns": {
        "upstreams": ["192.0.2.53", "2001:db8::53"],
        "records": {"db": {"addresses": ["10.1.1.20"]}, "www.example": {"addresses": ["::1"]}},
        "rebind_protection": True,
    },
}


def changed(**sections: Any) -> dict[str, Any]:
    return WHOLE | sections


def reactions(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Reaction]:
    """What the files that differ between two sections ask of dnsmasq."""
    old, new = texts(rendered(NAME, before)), rendered(NAME, after)
    return {f.path: f.reaction for f in new.files if old[f.path] != f.content.decode()}


def test_whole_section_renders_as_looked_at(golden: Golden) -> None:
    golden(NAME, rendered(NAME, WHOLE))


def test_empty_section_serves_names_and_no_upstream() -> None:
    artifacts = rendered(NAME, {})
    found = texts(artifacts)
    assert lines(found["dnsmasq/servers"]) == []
    assert lines(found["dnsmasq/hosts"]) == []
    assert "10.1.1.1 data-server.net1.example data-server" in found["dnsmasq/names"]
    assert {o.nic for o in artifacts.openings} == {"eth1"}
    assert {(str(o.protocol), str(o.ports)) for o in artifacts.openings} == {
        ("udp", "67"),
        ("udp", "53"),
        ("tcp", "53"),
    }


def test_absent_section_and_no_guest_nic_want_nothing() -> None:
    assert dhcp_dns.ABSENT is None
    nothing = rendered(NAME, {}, context(Nic("eth0", "02:00:00:00:00:01", NicRole.PUBLIC, ())))
    assert nothing.units == ()
    assert nothing.files == ()


def test_listens_on_guest_nics_only() -> None:
    conf = lines(texts(rendered(NAME, WHOLE))["dnsmasq/dnsmasq.conf"])
    assert [line for line in conf if line.startswith("interface=")] == ["interface=eth1"]
    assert "except-interface=lo" in conf


def test_one_host_more_is_a_reload_and_no_restart() -> None:
    more = {**WHOLE["hosts"], "02:00:4c:00:00:03": {"address": "10.1.1.12", "name": "vm3"}}
    asked = reactions(WHOLE, changed(hosts=more))
    assert asked == {"dnsmasq/hosts": Reaction.RELOAD, "dnsmasq/names": Reaction.RELOAD}


def test_first_host_is_a_reload() -> None:
    host = {"02:00:4c:00:00:03": {"address": "10.1.1.12", "name": "vm3"}}
    assert set(reactions({}, {"hosts": host}).values()) == {Reaction.RELOAD}


def test_upstreams_are_a_reload_and_ranges_are_a_restart() -> None:
    upstreams = reactions(WHOLE, changed(dns={**WHOLE["dns"], "upstreams": ["192.0.2.54"]}))
    assert set(upstreams.values()) == {Reaction.RELOAD}
    assert reactions(WHOLE, changed(ranges={}))["dnsmasq/dnsmasq.conf"] is Reaction.RESTART


def test_same_section_renders_the_same_bytes_whatever_its_order() -> None:
    turned = changed(hosts=dict(reversed(WHOLE["hosts"].items())))
    assert texts(rendered(NAME, turned)) == texts(rendered(NAME, WHOLE))


def test_witness_changes_with_any_file() -> None:
    names = set()
    for value in (WHOLE, changed(ranges={}), changed(hosts={}), changed(options={})):
        artifacts = rendered(NAME, value)
        section = dhcp_dns.Section.model_validate(value)
        probes = list(dhcp_dns.probe(section, context(), artifacts))
        answers = [p for p in probes if isinstance(p, DnsAnswers)]
        assert {str(p.server) for p in answers} == {"10.1.1.1", "2001:db8:1::1"}
        assert f"192.0.2.1 {answers[0].name}\n" in texts(artifacts)["dnsmasq/names"]
        names.add(answers[0].name)
    assert len(names) == 4


def test_options_parse_back() -> None:
    tagged = [line.split(",") for line in lines(texts(rendered(NAME, WHOLE))["dnsmasq/options"])]
    options = {(words[0], words[1]): words[2:] for words in tagged}
    network, host = "tag:net-10.1.1.0", "tag:host-02004c000002"
    assert options[network, "option:router"] == ["10.1.1.1"]
    assert options[network, "option:mtu"] == ["1450"]
    assert options[network, "option:dns-server"] == ["10.1.1.1"]
    # RFC 3442: who takes option 121 ignores option 3.
    assert options[network, "option:classless-static-route"] == [
        "0.0.0.0/0", "10.1.1.1", "192.168.50.0/24", "10.1.1.254",
    ]  # fmt: skip
    assert options[host, "option:router"] == []
    assert options[host, "option:ntp-server"] == ["10.1.1.5"]


def test_guest_without_default_gateway_gets_none_by_a_route_either() -> None:
    options = texts(rendered(NAME, WHOLE))["dnsmasq/options"]
    assert (
        "tag:host-02004c000002,option:classless-static-route,192.168.50.0/24,10.1.1.254\n"
        in options
    )


def test_dns_off_closes_the_port_and_tells_guests_of_no_server() -> None:
    artifacts = rendered(NAME, changed(dns={"enabled": False}))
    assert {o.protocol for o in artifacts.openings} == {Protocol.UDP}
    assert {str(o.ports) for o in artifacts.openings} == {"67"}
    found = texts(artifacts)
    assert "tag:net-10.1.1.0,option:dns-server\n" in found["dnsmasq/options"]
    assert len(list(lines(found["dnsmasq/names"]))) == 1  # the witness


def test_dhcp_off_promises_no_lease_and_still_knows_names() -> None:
    artifacts = rendered(NAME, {"dhcp": {"enabled": False}, "hosts": WHOLE["hosts"]})
    assert artifacts.leases == ()
    assert "dhcp-range" not in texts(artifacts)["dnsmasq/dnsmasq.conf"]
    assert "10.1.1.10 vm1.net1.example vm1\n" in texts(artifacts)["dnsmasq/names"]
    assert {str(o.ports) for o in artifacts.openings} == {"53"}


def test_leases_are_the_hosts() -> None:
    artifacts = rendered(NAME, WHOLE)
    assert [(lease.mac, str(lease.address)) for lease in artifacts.leases] == [
        ("02:00:4c:00:00:01", "10.1.1.10"),
        ("02:00:4c:00:00:02", "10.1.1.11"),
    ]
    assert all(isinstance(lease, Lease) for lease in artifacts.leases)


def host(address: str, name: str = "vm", **more: Any) -> dict[str, Any]:
    return {"address": address, "name": name, **more}


A, B = "02:00:4c:00:00:01", "02:00:4c:00:00:02"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"hosts": {A: host("10.1.2.10")}}, f"/dhcp_dns/hosts/{A}/address"),
        ({"hosts": {A: host("10.1.1.1")}}, f"/dhcp_dns/hosts/{A}/address"),
        ({"hosts": {A: host("10.1.1.0")}}, f"/dhcp_dns/hosts/{A}/address"),
        ({"hosts": {A: host("10.1.1.255")}}, f"/dhcp_dns/hosts/{A}/address"),
        ({"hosts": {A: host("10.9.0.1")}}, f"/dhcp_dns/hosts/{A}/address"),
        (
            {"hosts": {A: host("10.1.1.10"), B: host("10.1.1.10", "vm2")}},
            f"/dhcp_dns/hosts/{B}/address",
        ),
        (
            {"hosts": {A: host("10.1.1.10"), B: host("10.1.1.11", "VM")}},
            f"/dhcp_dns/hosts/{B}/name",
        ),
        ({"hosts": {A: host("10.1.1.10", "data-server")}}, f"/dhcp_dns/hosts/{A}/name"),
        ({"hosts": {A: host("10.1.1.10", "R-1-VM")}}, f"/dhcp_dns/hosts/{A}/name"),
        (
            {"ranges": {"p": {"first": "10.1.1.20", "last": "10.1.1.10"}}},
            "/dhcp_dns/ranges/p",
        ),
        (
            {"ranges": {"p": {"first": "10.1.1.20", "last": "10.1.2.10"}}},
            "/dhcp_dns/ranges/p/last",
        ),
        (
            {"ranges": {"p": {"first": "10.8.1.20", "last": "10.8.1.30"}}},
            "/dhcp_dns/ranges/p/first",
        ),
        (
            {"ranges": {"p": {"first": "10.1.1.1", "last": "10.1.1.30"}}},
            "/dhcp_dns/ranges/p/first",
        ),
        (
            {
                "ranges": {
                    "p": {"first": "10.1.1.20", "last": "10.1.1.30"},
                    "q": {"first": "10.1.1.30", "last": "10.1.1.40"},
                }
            },
            "/dhcp_dns/ranges/q",
        ),
        (
            {
                "dhcp": {"enabled": False},
                "ranges": {"p": {"first": "10.1.1.20", "last": "10.1.1.30"}},
            },
            "/dhcp_dns/ranges",
        ),
        (
            {
                "hosts": {A: host("10.1.1.10", "db")},
                "dns": {"records": {"db.net1.example": {"addresses": ["10.1.1.9"]}}},
            },
            "/dhcp_dns/dns/records/db.net1.example",
        ),
        (
            {"dns": {"records": {"x.witness.invalid": {"addresses": ["10.1.1.9"]}}}},
            "/dhcp_dns/dns/records/x.witness.invalid",
        ),
        (
            {"options": {"domain_search": [f"{'a' * 60}.example"] * 5}},
            "/dhcp_dns/options/domain_search",
        ),
    ],
)
def test_lint_names_the_place(value: Any, path: str) -> None:
    assert [problem.path for problem in linted(NAME, value)] == [path]


def test_router_in_the_middle_of_a_range_is_found() -> None:
    nic = Nic("eth1", "02:00:00:00:00:02", NicRole.GUEST, (ip_interface("10.1.1.50/24"),))
    value = {"ranges": {"p": {"first": "10.1.1.10", "last": "10.1.1.90"}}}
    assert [p.path for p in linted(NAME, value, context(nic))] == ["/dhcp_dns/ranges/p"]


def test_network_too_small_for_dhcp_is_found() -> None:
    nic = Nic("eth1", "02:00:00:00:00:02", NicRole.GUEST, (ip_interface("10.1.1.0/31"),))
    value = {"hosts": {A: host("10.1.1.1")}}
    assert "too small" in linted(NAME, value, context(nic))[0].message


HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "vm\nserver=6.6.6.6", "vm\r", "vm\u0085x", "vm\u2028x", "vm\0", "vm#", "{{7*7}}",
            "{% raw %}", "$(id)", "`id`", "vm,set:x", "vm ", " vm", "vm\t", "vm\n", "-vm", "vm-",
        ]
    ),
)  # fmt: skip


@given(name=HOSTILE, boot=HOSTILE, zone=HOSTILE, search=HOSTILE)
def test_strings_are_refused_or_come_back_as_they_were(
    name: str, boot: str, zone: str, search: str
) -> None:
    value = {
        "hosts": {A: host("10.1.1.10", name)},
        "options": {"bootfile_name": boot, "timezone": zone, "domain_search": [search]},
    }
    plain = texts(rendered(NAME, {"hosts": {A: host("10.1.1.10")}}))
    for field, given_value in (
        ("name", {"hosts": value["hosts"]}),
        ("options", {"hosts": {A: host("10.1.1.10")}, "options": value["options"]}),
    ):
        try:
            section = dhcp_dns.Section.model_validate(given_value)
        except pydantic.ValidationError:
            continue
        if any(dhcp_dns.lint(section, context())):
            continue
        found = texts(dhcp_dns.render(section, context()))
        if field == "name":
            assert list(lines(found["dnsmasq/hosts"])) == [f"{A},10.1.1.10,{name},86400"]
            assert len(found["dnsmasq/names"].splitlines()) == len(
                plain["dnsmasq/names"].splitlines()
            )
        else:
            mine = [line.split(",", 1)[1] for line in lines(found["dnsmasq/options"])]
            assert f"option:bootfile-name,{boot}" in mine
            assert f"option:tzdb-timezone,{zone}" in mine
            assert f"option:domain-search,{search}" in mine
            assert len(mine) == len(list(lines(plain["dnsmasq/options"]))) + 3


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed")
def test_dnsmasq_accepts_what_is_rendered(tmp_path: Path) -> None:
    for file in rendered(NAME, WHOLE).files:
        path = tmp_path / file.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.content.replace(CURRENT.encode(), str(tmp_path).encode()))
    checked = subprocess.run(
        ["dnsmasq", "--test", f"--conf-file={tmp_path}/dnsmasq/dnsmasq.conf"],
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
